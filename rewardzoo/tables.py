"""A table of arms for the terminal that never cuts a number: what is too wide becomes several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_FRAME = 3  # what a column costs beside its text: a rule and a space on either side
_LABELS = 0.3  # of the width that labels, which may be broken, can always have

Column = tuple[str, list[str]]


def fitting_tables(
    title: str, labels: Sequence[str], columns: Sequence[Column], width: int
) -> list[Table]:
    """The arms and their columns as tables, each with every arm, that fit.

    Args:
        title: of the first table.
        labels: of the arms; broken over lines where there is little room.
        columns: each a heading, broken between words, and the cell of each arm, never broken
            where the terminal is as wide as one label and one cell.
        width: of the terminal, in characters.
    """
    from rich.text import Text

    longest = max(map(len, [*labels, "arm"]))
    least = min(longest, int(_LABELS * width))
    groups: list[list[Column]] = [[]]
    for column in columns:
        if groups[-1] and least + _taken([*groups[-1], column]) > width:
            groups.append([])
        groups[-1].append(column)
    tables = [_table(labels, g, max(least, min(longest, width - _taken(g)))) for g in groups]
    tables[0].title = Text(title, style="bold")
    return tables


def _taken(columns: Sequence[Column]) -> int:
    """The characters of a table's line that are not the label."""
    return sum(map(_width, columns)) + _FRAME * len(columns) + _FRAME + 1


def _width(column: Column) -> int:
    heading, cells = column
    return max(map(len, [*heading.split(), *cells]), default=0)


def _table(labels: Sequence[str], columns: Sequence[Column], first: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title_justify="left")
    # A terminal too narrow even for this breaks numbers over lines rather than cutting them.
    table.add_column("arm", width=first, overflow="fold")
    for column in columns:
        heading = Text(column[0])
        table.add_column(heading, justify="right", width=_width(column), overflow="fold")
    for i, label in enumerate(labels):
        table.add_row(Text(label), *(Text(cells[i]) for _, cells in columns))
    return table
