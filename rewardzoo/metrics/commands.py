"""``rewardzoo compare-rewards``: how far apart reward functions are on an environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from ..settings import parse_settings
from .comparison import LETTERS, Comparison

_RECORDED = 64  # rows of a recording
_DEFAULT = ("val", "l2", "l2")
_PICTURES = (".svg", ".png", ".pdf")
_SAID = {
    "starc": "STARC distance ({}): 0 the same order of policies, {}",
    "epic": "EPIC distance: looks at impossible transitions too",
    "dard": "DARD distance: looks at some impossible transitions",
    "regret": "worst-case regret: row meant, column optimised; 1 is the whole range of returns",
}


class Method(str, Enum):
    """How distances are found."""

    auto = "auto"
    exact = "exact"
    sampled = "sampled"


class Canonical(str, Enum):
    """The canonical reward."""

    val = "val"
    minimal = "minimal"
    none = "none"
    dard = "dard"


class Norm(str, Enum):
    """By which canonical rewards are made one long."""

    l1 = "l1"
    l2 = "l2"
    linf = "linf"
    range = "range"


class Metric(str, Enum):
    """Of the distance itself."""

    l1 = "l1"
    l2 = "l2"
    linf = "linf"


def compare_rewards(
    rewards: Annotated[list[str], typer.Argument(help="Reward expressions, two or more.")],
    env: Annotated[str, typer.Option(help="Environment id.")],
    gamma: Annotated[float, typer.Option(help="Discount, in [0, 1).")] = 0.99,
    method: Annotated[
        Method, typer.Option(help="auto is exact where states can be counted.")
    ] = Method.auto,
    samples: Annotated[int, typer.Option(help="States and actions sampled.", min=2)] = 512,
    rollouts: Annotated[int, typer.Option(help="Of each estimate.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    canonical: Annotated[
        Canonical, typer.Option(help="Of STARC; dard is sampled only.")
    ] = Canonical.val,
    norm: Annotated[Norm, typer.Option(help="Of STARC; sampled it is l2.")] = Norm.l2,
    metric: Annotated[Metric, typer.Option(help="Of STARC; sampled it is l2.")] = Metric.l2,
    critic: Annotated[
        bool, typer.Option("--critic", help="Sampled val by fitted values, not rollouts.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="The environment's parameter, name=value; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Heat map to write: .svg, .png or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Print the distances between reward functions, and draw them.

    Exact STARC, EPIC and DARD distances, worst-case regrets and what STARC distances say of these
    where the environment is enumerable; elsewhere STARC distances from samples, with 95 %
    intervals. On a simulator, which cannot go on from a state twice, EPIC distances from random
    steps instead.

    Example: rewardzoo compare-rewards objective "objective + 0.1*novelty()" --env
    rewardzoo/GridWorld-v0 --out distances.svg

    Example: rewardzoo --plugin mine.py compare-rewards objective mine --env rewardzoo/Pendulum-v0
    """
    if len(rewards) > len(LETTERS):
        raise ValueError(f"rewards: {len(rewards)} given, expected at most {len(LETTERS)}")
    if out is not None and out.suffix not in _PICTURES:
        raise ValueError(f"--out {out}: expected a name that ends in {', '.join(_PICTURES)}")
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"--gamma {gamma}: expected a number in [0, 1), the agent's discount")
    found = compare(
        env, rewards, gamma, method, samples, rollouts, seed, setting or [], canonical, norm,
        metric, critic,
    )  # fmt: skip
    if out is not None:
        from .comparison import draw

        out.parent.mkdir(parents=True, exist_ok=True)
        draw(found, out)
    if as_json:
        typer.echo(json.dumps(_plain(found, env, seed), indent=1))
        return
    _print(found, Console())
    if out is not None:
        typer.echo(f"heat map: {out}")


def compare(
    env: str,
    rewards: list[str],
    gamma: float,
    method: Method = Method.auto,
    samples: int = 512,
    rollouts: int = 4,
    seed: int = 0,
    settings: Sequence[str] = (),
    canonical: Canonical = Canonical.val,
    norm: Norm = Norm.l2,
    metric: Metric = Metric.l2,
    critic: bool = False,
) -> Comparison:
    """What the command prints; see its arguments.

    Raises:
        ValueError: naming the argument that is wrong, and what to give.
    """
    import gymnasium

    from ..functional import load
    from ..registration import EXPERIMENTS, check_env_id, functional_ids, nearest
    from ..rewards.parse import make_reward
    from .comparison import compare_by_recording, compare_by_samples, compare_exactly, enumerable

    check_env_id(env)
    _ = list(EXPERIMENTS)  # an experiment may bring its own reward functions
    made = [make_reward(text) for text in rewards]
    given = parse_settings(settings)
    kwargs = {**gymnasium.spec(env).kwargs, **given}
    how = canonical.value, norm.value, metric.value
    if "dynamics" not in kwargs:
        if how != _DEFAULT or critic:
            raise ValueError(
                f"--canonical {how[0]} --norm {how[1]} --metric {how[2]}"
                f"{' --critic' if critic else ''}: not on {env}, which has EPIC distances only; "
                "leave them out"
            )
        if method is Method.exact:
            raise ValueError(
                f"--method exact: not on {env}, which is no functional environment; "
                + nearest(env, functional_ids())
            )
        envs = gymnasium.make_vec(env, _RECORDED, **given)
        try:
            return compare_by_recording(envs, made, rewards, gamma, samples, rollouts, seed)
        finally:
            envs.close()
    func = load(kwargs.pop("dynamics"))(**kwargs)
    reason = enumerable(func)
    if method is Method.exact and reason:
        raise ValueError(f"--method exact: not on {env}: {reason}; use --method sampled")
    if method is Method.exact or (method is Method.auto and not reason):
        if canonical is Canonical.dard:
            raise ValueError(
                "--canonical dard: exact DARD distances are printed beside STARC's; leave it out, "
                "or use --method sampled"
            )
        if critic:
            raise ValueError("--critic: exact values need none; leave it out, or --method sampled")
        return compare_exactly(func, made, rewards, gamma, *how)
    if how[1:] != _DEFAULT[1:]:
        raise ValueError(
            f"--norm {how[1]} --metric {how[2]}: samples give l2 (noise biases the others); leave "
            "them out, or use --method exact on an environment whose states can be counted"
        )
    return compare_by_samples(
        func, made, rewards, gamma, samples, rollouts, seed, canonical=canonical.value,
        critic=critic,
    )  # fmt: skip


def _print(found: Comparison, console: Console) -> None:
    """A table a measure; rewards by letters, which stand for them below."""
    letters = LETTERS[: len(found.labels)]
    for name, values in found.matrices.items():
        canonical, *lengths = found.how
        kind = ", ".join((canonical, *dict.fromkeys(lengths))).upper()
        most = "2 the opposite" if len(set(lengths)) == 1 else "of no fixed greatest value"
        console.print(_SAID[name].format(kind, most), highlight=False)
        table = Table(box=None, padding=(0, 1))
        table.add_column("")
        for letter in letters:
            table.add_column(letter, justify="right")
        for i, letter in enumerate(letters):
            table.add_row(letter, *(_cell(found, values, i, j) for j in range(len(letters))))
        console.print(table)
        console.print()
    for letter, label in zip(letters, found.labels, strict=True):
        console.print(f"{letter}  {label}", markup=False, highlight=False, soft_wrap=True)
    if found.bounds is not None:
        low, high = (f"{bound:.3g}" for bound in found.bounds)
        console.print(
            f"bounds: for all rewards {low} STARC <= regret <= {high} STARC", highlight=False
        )
    way = "exact" if found.exact else "sampled, with 95 % intervals"
    console.print(f"{way}; {found.n:,} states and actions; discount {found.gamma:g}")
    for note in found.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _cell(found: Comparison, values: Any, i: int, j: int) -> str:
    if found.low is None or found.high is None or i == j:
        return "?" if np.isnan(values[i, j]) else f"{values[i, j]:.3f}"
    if np.isnan(values[i, j]):
        return "?"
    return f"{values[i, j]:.2f} [{found.low[i, j]:.2f}, {found.high[i, j]:.2f}]"


def _plain(found: Comparison, env: str, seed: int) -> dict[str, Any]:
    """For JSON: nan and infinity become null."""

    def numbers(x: Any) -> Any:
        if x is None:
            return None
        return [numbers(v) for v in x] if np.ndim(x) else (float(x) if np.isfinite(x) else None)

    return {
        "env": env,
        "rewards": found.labels,
        "gamma": found.gamma,
        "method": "exact" if found.exact else "sampled",
        "n": found.n,
        **({} if found.exact else {"seed": seed}),
        **{name: numbers(values) for name, values in found.matrices.items()},
        **({"starc_is": list(found.how)} if "starc" in found.matrices else {}),
        **({"bounds": numbers(found.bounds)} if found.exact else {}),
        **{k: numbers(getattr(found, k)) for k in ("low", "high", "noise") if not found.exact},
        "notes": found.notes,
    }
