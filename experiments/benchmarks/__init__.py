"""Speed, as ratios to peers measured in the same run: ``rewardzoo bench``.

Nothing here is imported by the rest of the project, and importing it imports no peer. Each
benchmark has a process to itself: what one leaves behind would slow the next one's small steps.
"""

from __future__ import annotations

import importlib
import multiprocessing
import pkgutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .timing import Row

T = TypeVar("T")

_SHARED = ("contenders", "stored", "timing", "__main__")
BENCHMARKS = tuple(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if not module.ispkg and module.name not in _SHARED
)
"""Every other file here with a function ``run``."""

BY_NAME_ALONE = ("soak",)
"""Those that last so long that they are run only when they are asked for."""


def main(only: str | None = None, out: str | Path | None = None, console: Any = None) -> bool:
    """Run the benchmarks, print a table, write a JSON file.

    Args:
        only: one of ``BENCHMARKS``; None runs all but those of ``BY_NAME_ALONE``.
        out: JSON file with hardware, versions and every reading. In one that is there, the rows of
            what is run are replaced, when all of it has run; the others stay.
        console: a rich console.

    Returns:
        Whether every bar that could be measured is met.

    Raises:
        ValueError: for an unknown benchmark, or a file that cannot be written or is of another
            machine.
    """
    from rich.console import Console

    from rewardzoo.registration import UnknownNameError, unknown

    from .stored import check_place, put
    from .timing import missing, setting, table

    if only is not None and only not in BENCHMARKS:
        raise UnknownNameError(unknown("benchmark", only, BENCHMARKS))
    measured = setting()  # before anything is: the load is that of others
    if out is not None:
        check_place(Path(out), measured["hardware"])
    console = console or Console()
    found: dict[str, list[Row]] = {}
    for name in [only] if only else [x for x in BENCHMARKS if x not in BY_NAME_ALONE]:
        console.print(f"{name} ...", highlight=False)
        try:
            found[name] = rows_of(name) if only else apart(rows_of, name)
        except Exception as error:  # whatever one raises, the others are worth having
            if only:
                raise
            found[name] = [missing(name, f"{type(error).__name__}: {error}")]
    rows = [row for part in found.values() for row in part]
    console.print(table(rows))
    if out is not None:  # all of it at once: an interrupted run leaves the file as it was
        put(Path(out), found, measured, BENCHMARKS)
    return all(row.met is not False for row in rows)


def rows_of(name: str) -> list[Row]:
    """What a benchmark finds."""
    found: list[Row] = importlib.import_module(f"{__name__}.{name}").run(
        lambda line: print(f"  {line}", flush=True)
    )
    return found


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
