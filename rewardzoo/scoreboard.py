"""Several runs at once: the scoreboard of their claims, and their arms as one comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from .results import OUTCOMES, Results, read_json

_HEADINGS = {"holds": "hold", "fails": "fail", "inconclusive": "open"}


def scoreboard(folders: Sequence[Path]) -> Table:
    """How many claims of each run hold, fail and are open.

    Args:
        folders: of runs; one without results has a line that says so.
    """
    table = Table(title="Claims", title_justify="left")
    table.add_column("experiment")
    table.add_column("question", overflow="fold")
    for outcome in OUTCOMES:
        table.add_column(_HEADINGS[outcome], justify="right")
    total: Counter[str] = Counter()
    for folder in folders:
        name = f"{folder.parent.name} {folder.name}"
        if not (folder / "results.json").is_file():
            table.add_row(name, "not run", *["" for _ in OUTCOMES])
            continue
        results, verdicts = read_json(folder / "results.json")
        found = Counter(v.outcome for v in verdicts)
        total.update(found)
        table.add_row(name, results.title, *[str(found[outcome]) for outcome in OUTCOMES])
    table.add_section()
    table.add_row("all", "", *[str(total[outcome]) for outcome in OUTCOMES])
    return table


def merged(runs: Sequence[Results]) -> Results:
    """The arms of several runs as those of one, each named by its run where names would clash.

    Raises:
        ValueError: if the runs measure nothing in common.
    """
    columns = {k: v for k, v in runs[0].columns.items() if all(k in r.columns for r in runs)}
    if not columns:
        raise ValueError(
            f"folders: {' and '.join(r.name for r in runs)} have no column in common, so there is "
            "nothing to compare"
        )
    names = [f"{run.name}, {run.budget}" for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.root) for run in runs]
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
