"""``rewardzoo zoo``: list, show, train, play and evaluate the trained agents."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..disk import check_writable

app = typer.Typer(no_args_is_help=True, help="Trained agents, loaded by name.")
console = Console()

Name = Annotated[str, typer.Argument(help="Of the policy; see rewardzoo zoo list.")]


@app.command("list")
def list_() -> None:
    """List the policies with what they were paid and what they reach of the objective."""
    from .manifest import TRAINED, names, recipe
    from .policies import read_policy

    table = Table(box=None, padding=(0, 2))
    table.add_column("policy", no_wrap=True)
    for heading in ("return", "objective", ""):
        table.add_column(heading)
    for name in names():
        scores = read_policy(TRAINED / name)[2]["scores"]
        means = [f"{scores[k]['mean']:.4g}" for k in ("return", "objective")]
        table.add_row(name, *means, Text(recipe(name).title))
    console.print(table)


@app.command()
def show(name: Name) -> None:
    """Show a policy's model card."""
    from .manifest import TRAINED, recipe
    from .policies import CARD

    recipe(name)
    console.print((TRAINED / name / CARD).read_text(encoding="utf-8"), markup=False)


@app.command()
def train(
    policies: Annotated[list[str] | None, typer.Argument(help="Names; default: all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the policies' folders.")] = Path("runs/zoo"),
) -> None:
    """Train policies of the zoo again, with their recipes.

    Example: rewardzoo zoo train ppo-cartpole
    """
    from .manifest import names, recipe
    from .manifest import train as train_policy
    from .policies import read_policy

    chosen = policies or names()
    for name in chosen:
        recipe(name)
    check_writable("--out", out)
    for name in chosen:
        start = time.monotonic()
        folder = train_policy(name, out, progress_bar=console.is_terminal)
        scores = read_policy(folder)[2]["scores"]
        text = "  ".join(f"{k} {v['mean']:.4g}" for k, v in scores.items())
        console.print(f"{name}: {text}  ({time.monotonic() - start:.0f} s)", highlight=False)


@app.command()
def play(
    name: Name,
    out: Annotated[Path | None, typer.Option(help="GIF to write; default: text.")] = None,
    steps: Annotated[int, typer.Option(help="At most so many.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of the episode.")] = 0,
) -> None:
    """Watch one episode of a policy, in the terminal or as a GIF."""
    from ..video import check_gif, record_episode, show
    from .manifest import load, recipe

    made = recipe(name)
    if out is not None:
        check_gif(out)
    show(record_episode(made.env, load(name), steps, seed, out, made.reward), out, console)


@app.command()
def evaluate(
    name: Name,
    episodes: Annotated[int, typer.Option(help="Fresh ones.", min=1)] = 1000,
) -> None:
    """Play fresh episodes, and compare them with what the policy's card says."""
    from .manifest import TRAINED, load, recipe
    from .policies import read_policy, score

    scores = score(load(name), recipe(name), episodes, episodes)
    said = read_policy(TRAINED / name)[2]["scores"]
    table = Table(box=None, padding=(0, 2))
    for heading in ("", "mean", "standard deviation", "mean on the card"):
        table.add_column(heading)
    for key, x in scores.items():
        spread = float(x.double().std(unbiased=False))
        table.add_row(key, f"{float(x.mean()):.4g}", f"{spread:.4g}", f"{said[key]['mean']:.4g}")
    console.print(table)
