"""``python -m rewardzoo.experiments.benchmarks [--only NAME] [--json FILE]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import BENCHMARKS, main


def command(
    only: Annotated[str | None, typer.Option(help=f"One of {', '.join(BENCHMARKS)}.")] = None,
    json: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure speed as ratios to peers in the same run; exit code 1 where a bar is missed."""
    try:
        met = main(only, json)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if not met:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(command)
