"""Read delimited tables strictly; every fault names its file, row and column, and no value.

The tables hold patients' records. So a message says where to look and what is expected there,
never what was found.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MANY = 50  # faults listed of one kind; more are counted
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SEPARATORS = {",": "commas", "|": "vertical bars", "\t": "tabs", ";": "semicolons"}


@dataclass(frozen=True)
class Problem:
    """One fault of a table.

    Args:
        file: its name.
        row: line of the file, the header being 1; None where the fault is of the whole file.
        column: its name; None where the fault is of the whole row.
        message: what is expected, without what was found.
    """

    file: str
    row: int | None
    column: str | None
    message: str

    def __str__(self) -> str:
        where = [self.file]
        if self.row is not None:
            where.append(f"row {self.row}")
        if self.column is not None:
            where.append(f"column {self.column}")
        return f"{', '.join(where)}: {self.message}"


class TableError(ValueError):
    """A table cannot be used; its message is the first fault.

    Args:
        problems: all faults that were found, at least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        more = len(self.problems) - 1
        hint = f" (and {more} more: rewardzoo data check PATH lists them)" if more else ""
        super().__init__(f"{self.problems[0]}{hint}")


class Table:
    """The columns of a file, as text, and the faults found so far.

    Args:
        file: its name.
        columns: text of each column by name.
        rows: (N,) the line of the file where each row ends.
    """

    def __init__(self, file: str, columns: dict[str, list[str]], rows: list[int]) -> None:
        self.file = file
        self.columns = columns
        self.rows = rows
        self.problems: list[Problem] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: int | None, column: str | None, message: str) -> None:
        """Note a fault in the ``row``-th row (from 0) of the table."""
        line = None if row is None else self.rows[row]
        self.problems.append(Problem(self.file, line, column, message))

    def add_all(self, rows: Iterable[int], column: str | None, message: str) -> None:
        """Note a fault in each of ``rows``, the first ``MANY`` one by one."""
        found = list(rows)
        for row in found[:MANY]:
            self.add(row, column, message)
        if len(found) > MANY:
            self.add(found[MANY], column, f"{message} (here and in {len(found) - MANY - 1} more)")

    def text(self, column: str) -> list[str]:
        """A column, without surrounding blanks; empty cells are faults."""
        found = [cell.strip() for cell in self.columns[column]]
        self.add_all((i for i, x in enumerate(found) if not x), column, "expected a value")
        return found

    def choice(self, column: str, codes: dict[str, int]) -> NDArray[np.int64]:
        """A column of words as their codes; others are faults (and -1)."""
        cells = (cell.strip() for cell in self.columns[column])
        found = np.array([codes.get(cell, -1) for cell in cells], np.int64)
        expected = f"expected one of {', '.join(codes)}"
        self.add_all(np.flatnonzero(found < 0).tolist(), column, expected)
        return found

    def number(
        self,
        column: str,
        low: float = -math.inf,
        high: float = math.inf,
        integer: bool = False,
        missing: Callable[[str], bool] | None = None,
        strip_label: bool = False,
    ) -> Array:
        """A column of numbers; cells that hold none, or one out of bounds, are faults (and nan).

        Args:
            column: its name.
            low: least number.
            high: greatest number.
            integer: whether it must be whole.
            missing: which cells are missing, and become nan without being faults; None: no cell.
            strip_label: take the number before a colon, as in ``3: Grade 3``.
        """
        kind = "a whole number" if integer else "a finite number"
        if math.isfinite(low) and math.isfinite(high):
            kind += f" from {low:g} to {high:g}"
        elif math.isfinite(low):
            kind += f" >= {low:g}"
        seen: dict[str, float] = {}  # tables repeat values, and parsing costs more than a look-up
        values = np.empty(len(self))
        wrong: list[int] = []
        for i, cell in enumerate(self.columns[column]):
            value = seen.get(cell)
            if value is None:
                value = seen[cell] = _parse(cell, low, high, integer, missing, strip_label)
            if value == math.inf:
                wrong.append(i)
                value = math.nan
            values[i] = value
        self.add_all(wrong, column, f"expected {kind}")
        return values

    def raise_if_wrong(self) -> None:
        """Raise a ``TableError`` if there was any fault."""
        if self.problems:
            raise TableError(self.problems)


def _parse(
    cell: str,
    low: float,
    high: float,
    integer: bool,
    missing: Callable[[str], bool] | None,
    strip_label: bool,
) -> float:
    """The number in a cell; nan if it is missing, inf if it is wrong."""
    text = cell.strip()
    if missing is not None and missing(text):
        return math.nan
    if strip_label and ":" in text:
        text = text.split(":", 1)[0].strip()
    if not _NUMBER.fullmatch(text):
        return math.inf
    value = float(text)
    if not low <= value <= high or (integer and value != int(value)):
        return math.inf
    return value if math.isfinite(value) else math.inf


def blank(text: str) -> bool:
    """Whether a cell is empty."""
    return not text


def read_table(
    path: str | Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    delimiter: str = ",",
    ignore_case: bool = False,
    ignored: Callable[[str], bool] = lambda column: True,
) -> Table:
    """Read a delimited text file.

    Args:
        path: of the file.
        required: columns that it must have.
        optional: columns that it may have.
        delimiter: between cells.
        ignore_case: whether ``SIDE`` is as good as ``Side``; columns get the names asked for.
        ignored: which other columns it may have.

    Raises:
        TableError: for a missing, empty, cut-off or damaged file, a wrong delimiter, missing,
            repeated or unknown columns, and rows with too few or too many cells.
    """
    file = Path(path)

    def fail(row: int | None, column: str | None, message: str) -> TableError:
        return TableError([Problem(file.name, row, column, message)])

    text = _text(file, fail)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(lines)]
    except (csv.Error, StopIteration):
        raise fail(1, None, "expected column names") from None
    separator = _SEPARATORS.get(delimiter, repr(delimiter))
    if len(header) == 1 and len([*required, *optional]) > 1:
        raise fail(1, None, f"expected columns separated by {separator}")
    place = _places(file.name, header, required, optional, ignore_case, ignored)
    columns: dict[str, list[str]] = {name: [] for name in place}
    rows: list[int] = []
    problems: list[Problem] = []
    picked = [(columns[name], i) for name, i in place.items()]
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            break
        except csv.Error:
            problems.append(
                Problem(file.name, lines.line_num, None, "expected balanced quotation marks")
            )
            break
        if len(cells) != len(header):
            message = f"{len(cells)} cells, expected {len(header)}, as in the header"
            problems.append(Problem(file.name, lines.line_num, None, message))
            if len(problems) > MANY:
                break
            continue
        rows.append(lines.line_num)
        for column, i in picked:
            column.append(cells[i])
    if not problems and not text.endswith(("\n", "\r")):
        message = "the last line does not end: it seems cut off; if it is whole, end it"
        problems.append(Problem(file.name, lines.line_num, None, message))
    if not problems and not rows:
        problems.append(Problem(file.name, None, None, "it has column names and no rows"))
    if problems:
        raise TableError(problems)
    return Table(file.name, columns, rows)


def _text(file: Path, fail: Callable[[int | None, str | None, str], TableError]) -> str:
    if not file.exists():
        raise fail(None, None, "there is no such file")
    if not file.is_file():
        raise fail(None, None, "it is no file")
    try:
        content = file.read_bytes()
    except OSError:
        raise fail(None, None, "it cannot be read") from None
    if not content.strip():
        raise fail(None, None, "it is empty")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise fail(row, None, "not UTF-8 text: save it as UTF-8") from None
    for i, sign in enumerate(text):
        if sign < " " and sign not in "\n\r\t":
            raise fail(text.count("\n", 0, i) + 1, None, "a control character: it is no text")
    return text


def _places(
    file: str,
    header: list[str],
    required: Sequence[str],
    optional: Sequence[str],
    ignore_case: bool,
    ignored: Callable[[str], bool],
) -> dict[str, int]:
    """Where each wanted column stands."""
    fold = str.lower if ignore_case else str
    known = [fold(name) for name in header]
    problems: list[Problem] = []
    place: dict[str, int] = {}
    wanted = {fold(name) for name in (*required, *optional)}
    for name in (*required, *optional):
        found = [i for i, column in enumerate(known) if column == fold(name)]
        if len(found) > 1:
            problems.append(Problem(file, 1, name, "it appears twice"))
        elif found:
            place[name] = found[0]
        elif name in required:
            problems.append(Problem(file, 1, name, "it is missing"))
    for i, name in enumerate(header):
        if fold(name) not in wanted and not ignored(name):
            # By number: without a header line, its "name" is somebody's value.
            problems.append(Problem(file, 1, None, f"column {i + 1} is not part of this table"))
    if problems:
        raise TableError(problems)
    return place
