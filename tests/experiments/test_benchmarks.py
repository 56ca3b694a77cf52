"""``rewardzoo bench``: a missed bar is a failure, and a file of readings is never left in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rewardzoo.experiments import benchmarks
from rewardzoo.experiments.benchmarks import timing
from rewardzoo.experiments.benchmarks.timing import Point, Row

SETTING = {
    "date": "2026-01-01",
    "hardware": {"processor": "Chip", "cores": 2, "system": "Linux", "load": 0.5},
    "versions": {"rewardzoo": "0.1.0 new", "torch": "2"},
}


def reading(name: str, value: float = 2.0, **rest: Any) -> Row:
    return Row(name, {}, "", [value], bar=1.0, **rest)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], list[Row]]]:
    """What each benchmark finds, for the test to fill in; each is quick."""
    found: dict[str, Callable[[], list[Row]]] = {}
    monkeypatch.setattr(benchmarks, "BENCHMARKS", ("first", "second", "soak"))
    monkeypatch.setattr(benchmarks, "rows_of", lambda name: found[name]())
    monkeypatch.setattr(benchmarks, "apart", lambda function, name: function(name))
    monkeypatch.setattr(timing, "setting", lambda: SETTING)
    for name in ("first", "second"):
        found[name] = lambda name=name: [reading(f"{name} a"), reading(f"{name} b")]  # type: ignore[misc]
    return found


def stored(path: Path) -> list[tuple[str, str, str]]:
    """Name, benchmark and revision of every row."""
    rows = json.loads(path.read_text())["rows"]
    return [(row["name"], row["benchmark"], row["revision"]) for row in rows]


def test_a_missed_bar_is_an_exit_code(bench: dict[str, Any], cli: Any, tmp_path: Path) -> None:
    from rewardzoo.experiments.benchmarks.__main__ import command

    assert cli("bench").code == 0
    bench["second"] = lambda: [reading("slow", 0.5), reading("fast")]
    file = tmp_path / "here.json"
    done = cli("bench", "--out", file)
    assert done.code == 1 and "MISSED" in done.out and done.err == ""
    assert [row["met"] for row in json.loads(file.read_text())["rows"]] == [True, True, False, True]
    import typer

    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["--only", "second"]).exit_code == 1
    assert CliRunner().invoke(app, ["--only", "first"]).exit_code == 0


def test_one_benchmark_replaces_its_own_rows_alone(bench: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "here.json"
    benchmarks.main(out=file)
    old = json.loads(file.read_text())
    for row in old["rows"]:
        row["revision"] = "0.1.0 old"
    old["rows"].append({**old["rows"][0], "name": "soak", "benchmark": "soak"})
    old["rows"].append({**old["rows"][0], "name": "gone", "benchmark": "gone"})
    file.write_text(json.dumps(old))
    point = Point("A step", "environments", 8)
    bench["first"] = lambda: [reading("first b", point=point), reading("first c")]
    benchmarks.main("first", file)
    assert stored(file) == [
        ("first b", "first", "0.1.0 new"),
        ("first c", "first", "0.1.0 new"),
        ("second a", "second", "0.1.0 old"),
        ("second b", "second", "0.1.0 old"),
        ("soak", "soak", "0.1.0 old"),
    ]
    document = json.loads(file.read_text())
    assert document["versions"] == {"rewardzoo": "0.1.0 new, 0.1.0 old", "torch": "2"}
    benchmarks.main("second", file)  # what is read again is what was written
    assert json.loads(file.read_text())["rows"][0] == document["rows"][0]
    benchmarks.main(out=file)  # all but what is run by its name alone
    assert stored(file)[-1] == ("soak", "soak", "0.1.0 old") and len(stored(file)) == 5


def test_rows_of_before_they_told_their_benchmark_are_known_by_name(
    bench: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "here.json"
    rows = [reading("first a", 9.0), reading("other")]
    timing.write_json(file, rows, {**SETTING, "versions": {"rewardzoo": "0.1.0 old"}})
    document = json.loads(file.read_text())
    for row in document["rows"]:
        del row["benchmark"], row["revision"]
    file.write_text(json.dumps(document))
    benchmarks.main("first", file)
    assert stored(file) == [
        ("first a", "first", "0.1.0 new"),
        ("first b", "first", "0.1.0 new"),
        ("other", "", "0.1.0 old"),
    ]


@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupted_run_leaves_the_file_as_it_was(
    exists: bool, bench: dict[str, Any], cli: Any, tmp_path: Path
) -> None:
    file = tmp_path / "here.json"
    if exists:
        benchmarks.main(out=file)
    before = file.read_bytes() if exists else None
    bench["first"] = lambda: [reading("first a", 3.0)]

    def interrupted() -> Any:
        raise KeyboardInterrupt

    bench["second"] = interrupted
    done = cli("bench", "--out", file)
    assert done.code == 130 and done.err == "stopped\n"
    assert (file.read_bytes() if file.exists() else None) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "it holds no readings; use another file"),
        ("[]", "it holds no readings; use another file"),
        (
            json.dumps({**SETTING, "hardware": {**SETTING["hardware"], "cores": 8}, "rows": []}),  # type: ignore[dict-item]
            r"its readings are of another machine \(cores 8, here 2\); use another file",
        ),
    ],
)
def test_a_file_that_is_not_this_machines_is_left_alone(
    content: str, message: str, bench: dict[str, Any], tmp_path: Path
) -> None:
    def never() -> Any:
        raise AssertionError

    bench["first"] = never
    file = tmp_path / "here.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        benchmarks.main("first", file)
    assert file.read_text() == content
    with pytest.raises(ValueError, match="its folder does not exist; make it first"):
        benchmarks.main("first", tmp_path / "nowhere/here.json")
