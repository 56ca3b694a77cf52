"""Several runs at once: the scoreboard of their claims, and their arms as one comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from .results import OUTCOMES, Results, Verdict, read_json

_HEADINGS = {"holds": "hold", "fails": "fail", "inconclusive": "open"}


def scoreboard(folders: Sequence[Path]) -> Table:
    """How many claims of each run hold, fail and are open.

    Args:
        folders: of runs; one without results, or with a damaged file, has a line that says so.
    """
    table = Table(title="Claims", title_justify="left")
    table.add_column("experiment", overflow="fold")
    table.add_column("question", overflow="fold")
    for outcome in OUTCOMES:
        table.add_column(_HEADINGS[outcome], justify="right")
    total: Counter[str] = Counter()
    for folder in folders:
        name = f"{folder.parent.name} {folder.name}"
        if not (folder / "results.json").is_file():
            table.add_row(name, "not run", *["" for _ in OUTCOMES])
            continue
        try:
            results, verdicts = read_json(folder / "results.json")
        except ValueError:
            table.add_row(name, "results.json is damaged: run it again", *["" for _ in OUTCOMES])
            continue
        found = Counter(v.outcome for v in verdicts)
        total.update(found)
        table.add_row(name, results.title, *[str(found[outcome]) for outcome in OUTCOMES])
    table.add_section()
    table.add_row("all", "", *[str(total[outcome]) for outcome in OUTCOMES])
    return table


def run_in(folder: Path) -> Path:
    """The folder of a run: this one, or that of the only budget below it."""
    below = [path.parent for path in folder.glob("*/results.json")]
    return below[0] if len(below) == 1 and not (folder / "results.json").is_file() else folder


def merged(runs: Sequence[Results]) -> Results:
    """The arms of several runs as those of one, each named by its run.

    Raises:
        ValueError: if the runs measure nothing in common, or one is there twice.
    """
    names = names_of(runs)
    columns = {  # a heading may hold a unit that other runs do not share
        k: v if all(r.columns[k] == v for r in runs) else k
        for k, v in runs[0].columns.items()
        if all(k in r.columns for r in runs)
    }
    if not columns:
        raise ValueError(
            f"folders: {' and '.join(r.name for r in runs)} have no column in common, so there is "
            "nothing to compare"
        )
    arms = [
        replace(arm, label=f"{arm.label} ({name})")
        for run, name in zip(runs, names, strict=True)
        for arm in run.arms
    ]
    shared = runs[0].references.items()
    return Results(
        name="comparison",
        paper="; ".join(dict.fromkeys(run.paper for run in runs)),
        title=" and ".join(dict.fromkeys(run.title for run in runs)),
        arms=arms,
        budget="; ".join(names),
        command="; ".join(dict.fromkeys(run.command for run in runs)),
        references={k: v for k, v in shared if all(r.references.get(k) == v for r in runs)},
        columns=columns,
    )


def carried(runs: Sequence[tuple[Results, Sequence[Verdict]]]) -> list[Verdict]:
    """The verdicts of several runs as each was judged, each claim with its run's name."""
    names = names_of([results for results, _ in runs])
    return [
        replace(verdict, claim=f"{name}: {verdict.claim}")
        for name, (_, verdicts) in zip(names, runs, strict=True)
        for verdict in verdicts
    ]


def names_of(runs: Sequence[Results]) -> list[str]:
    """Short names that tell runs apart: experiment and budget, or where their folders part.

    Raises:
        ValueError: if a run is there twice.
    """
    names = [f"{run.name}, {run.budget.partition(' (')[0]}" for run in runs]
    if len(set(names)) == len(names):
        return names
    folders = [run.root.resolve() for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(f"folders: {str(folder)!r} is there twice; name two different runs")
    paths = [folder.parts for folder in folders]
    apart = (i for i, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1)
    start = next(apart, min(map(len, paths)) - 1)
    short = [parts[start:] for parts in paths]
    while len({parts[-1] for parts in short}) == 1 and all(len(parts) > 1 for parts in short):
        short = [parts[:-1] for parts in short]
    return ["/".join(parts) for parts in short]
