"""``rewardzoo demos``: record demonstrations of a trained agent; look at anybody's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Demonstrations: record them from a trained agent, check anybody's.",
    epilog="Example: rewardzoo demos check Hopper --env rewardzoo/Hopper-v0",
)


@app.command("record")
def record_command(
    env: Annotated[str, typer.Option(help="Environment id.")],
    checkpoint: Annotated[Path, typer.Option(help="Of the trained agent.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set, to be made.")],
    agent: Annotated[str, typer.Option(help="Whose checkpoint it is.")] = "td3",
    episodes: Annotated[int, typer.Option(help="How many.", min=1)] = 16,
    seed: Annotated[int, typer.Option(help="Of the first episode.")] = 0,
) -> None:
    """Play a trained agent's preferred actions and write them as a Minari data set.

    Example: rewardzoo demos record --env rewardzoo/Hopper-v0 --checkpoint best.pt --out hopper
    """
    import gymnasium

    from ..registration import AGENTS, check_env_id
    from .experts import record

    kind = AGENTS[agent]
    check_env_id(env)
    player = kind.load(checkpoint, env=gymnasium.make_vec(env, num_envs=1))
    typer.echo(f"{record(player, env, out, episodes, seed)}\n{out}")


@app.command()
def expert(
    name: Annotated[str, typer.Argument(help="Of a shipped task, for instance Hopper.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set, to be made.")],
    steps: Annotated[
        int | None, typer.Option(help="Of training; default: as for the shipped one.", min=1)
    ] = None,
    episodes: Annotated[int, typer.Option(help="To record.", min=1)] = 8,
) -> None:
    """Train the player of shipped demonstrations again, and record it.

    Example: rewardzoo demos expert InvertedDoublePendulum --out double
    """
    from .experts import train_expert

    typer.echo(f"{train_expert(name, out, steps, episodes)}\n{out}")


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="Name, file or folder.")],
    env: Annotated[str | None, typer.Option(help="Compare with its spaces.")] = None,
    time_limit: Annotated[
        int | None, typer.Option(help="Steps after which episodes were cut off.", min=1)
    ] = None,
) -> None:
    """Say what is in a set of demonstrations, and whether it fits an environment.

    Takes shipped names, Minari ids and folders, imitation's .npz and .h5 files.

    Example: rewardzoo demos check Hopper --env rewardzoo/Hopper-v0
    """
    import gymnasium
    import numpy as np

    from ..demonstrations import load_demonstrations
    from ..registration import check_env_id

    demos = load_demonstrations(source, time_limit)
    if env is not None:
        check_env_id(env)
        made = gymnasium.make(env)
        demos.check(made.observation_space, made.action_space)
        made.close()  # type: ignore[no-untyped-call]
    lengths = np.bincount(demos.episode)
    typer.echo(f"steps       {len(demos)} in {len(demos.returns)} episodes")
    typer.echo(f"lengths     {lengths.mean():.1f}, from {lengths.min()} to {lengths.max()}")
    typer.echo(
        f"returns     {demos.mean_return:.1f}, from {demos.returns.min():.1f} to "
        f"{demos.returns.max():.1f}"
    )
    typer.echo(f"terminated  {int(demos.terminated.sum())}")
    typer.echo(f"truncated   {int(demos.truncated.sum())}")
