"""``rewardzoo data``: look at people's own tables before training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Check tables of your own before training.")


@app.callback()
def _group() -> None:
    """Keeps ``check`` a command of its own while it is the only one."""


@app.command("check")
def check_command(
    path: Annotated[Path, typer.Argument(help="A file or folder of tables.")],
    limit: Annotated[int, typer.Option(help="Faults to list.", min=1)] = 20,
) -> None:
    """List what is wrong with an export: file, row and column, never a value.

    Takes tables of the Osteoarthritis Initiative (a folder), a tidy table of knees (CSV), windows
    of MIMIC-III stays (CSV) and AI-Clinician tables (CSV).

    Example: rewardzoo data check exports/oai
    """
    from .check import check

    report = check(path)
    if report.kind:
        typer.echo(report.kind)
    for problem in report.problems[:limit]:
        typer.echo(str(problem))
    if len(report.problems) > limit:
        typer.echo(f"and {len(report.problems) - limit} more: --limit shows them")
    if report.problems:
        raise typer.Exit(1)
    for what, count in report.counts.items():
        typer.echo(f"{count:>8,}  {what}")
    typer.echo("no fault found")
