"""Tables are read strictly: every fault has its file, row and column, and no value."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rewardzoo.data import Problem, TableError, check, read_table
from rewardzoo.data.commands import app
from rewardzoo.data.tables import MANY, blank


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'b,x,a\n1,?,"2"\n3,?,4.5e0\n'), ["a", "b"])
    assert table.columns == {"a": ["2", "4.5e0"], "b": ["1", "3"]} and table.rows == [2, 3]
    np.testing.assert_array_equal(table.number("a"), [2.0, 4.5])
    table.raise_if_wrong()


@pytest.mark.parametrize(
    "content",
    ["a,b\n1,2\n", "\ufeffa,b\n1,2\n", "a,b\r\n1,2\r\n", " a ,b\n1, 2 \n", '"a","b"\n"1","2"\n'],
    ids=["plain", "byte order mark", "CRLF", "blanks", "quoted"],
)
def test_harmless_differences(tmp_path: Path, content: str) -> None:
    table = read_table(write(tmp_path, content), ["a", "b"])
    assert (table.number("a").tolist(), table.number("b").tolist()) == ([1.0], [2.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "t.csv: it is empty"),
        (" \n", "t.csv: it is empty"),
        ("a,b\n", "t.csv: it has column names and no rows"),
        ("a,c\n1,2\n", "t.csv, row 1, column b: it is missing"),
        ("a,b,a\n1,2,3\n", "t.csv, row 1, column a: it appears twice"),
        ("a,b,z\n1,2,3\n", "t.csv, row 1: column 3 is not part of this table"),
        ("a;b\n1;2\n", "t.csv, row 1: expected columns separated by commas"),
        ("a,b\n1,2\n3\n", "t.csv, row 3: 1 cells, expected 2"),
        ("a,b\n1,2,3\n", "t.csv, row 2: 3 cells, expected 2"),
        ("a,b\n1,2\n\n3,4\n", "t.csv, row 3: 0 cells, expected 2"),
        ("a,b\n1,2\n3,4", "t.csv, row 3: the last line does not end"),
        ('a,b\n1,"2\n', "t.csv, row 2: expected balanced quotation marks"),
        (b"a,b\n1,\xff\n", "t.csv, row 2: not UTF-8 text"),
        (b"a,b\n1,2\n3,\x00\n", "t.csv, row 3: a control character"),
    ],
    ids=repr,
)
def test_faults_of_files_are_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(TableError) as error:
        read_table(path, ["a", "b"], ignored=lambda column: False)
    assert str(error.value).startswith(message)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="gone.csv: there is no such file"):
        read_table(tmp_path / "gone.csv", ["a"])
    with pytest.raises(TableError, match="it is no file"):
        read_table(tmp_path, ["a"])


@pytest.mark.parametrize("cell", ["x", "", "nan", "inf", "1e999", "1_0", "0x1", "١", "1,5", "--1"])
def test_cells_that_hold_no_number(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path, f'a,b\n1,2\n"{cell}",2\n')
    table = read_table(path, ["a"])
    assert math.isnan(table.number("a")[1])
    with pytest.raises(TableError) as error:
        table.raise_if_wrong()
    assert str(error.value) == "t.csv, row 3, column a: expected a finite number"


def test_bounds_missing_values_and_labels(tmp_path: Path) -> None:
    cells = ["3", "3: Grade 3", "5", "2.5", "", "-1"]
    table = read_table(write(tmp_path, "a\n" + "".join(f'"{c}"\n' for c in cells)), ["a"])
    found = table.number("a", 0, 4, integer=True, missing=blank, strip_label=True)
    np.testing.assert_array_equal(found, [3, 3, np.nan, np.nan, np.nan, np.nan])
    assert [p.row for p in table.problems] == [4, 5, 7]
    assert str(table.problems[0]).endswith("expected a whole number from 0 to 4")


def test_many_faults_are_counted(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "a\n" + "x\n" * 500), ["a"])
    table.number("a")
    assert len(table.problems) == MANY + 1
    assert str(table.problems[-1]).endswith(f"(here and in {500 - MANY - 1} more)")
    with pytest.raises(TableError, match=f"and {MANY} more: rewardzoo data check PATH lists them"):
        table.raise_if_wrong()


def test_what_a_table_is_not_known_as(tmp_path: Path) -> None:
    report = check(write(tmp_path, "x,y\n1,2\n"))
    assert not report.ok and "not one of the known tables" in str(report.problems[0])
    assert "there is no such file or folder" in str(check(tmp_path / "gone").problems[0])
    assert not check(tmp_path).ok


def test_command(tmp_path: Path) -> None:
    run = CliRunner().invoke
    bad = run(app, ["check", str(write(tmp_path, "x,y\n1,2\n"))])
    assert bad.exit_code == 1 and "not one of the known tables" in bad.output
    assert run(app, ["check"]).exit_code == 2


def test_problems_read_well() -> None:
    assert str(Problem("f", 3, "c", "m")) == "f, row 3, column c: m"
    assert str(Problem("f", None, None, "m")) == "f: m"
