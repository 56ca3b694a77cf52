"""How the reward's slope is held matters little, that it is held does: variants of the penalty.

Blondé, Strasser, Kalousis (2022): over a wide range of k, and one- or two-sided, the penalty does
what it should; penalties around the expert's or the agent's rows alone, and bounding the reward
instead of its slope, do less. Their preconditioner, which pays less where the dynamics amplify, is
an arm too, and one more in which it does so: with their k = 9 it pays everything here (on a tuning
seed the model's slope goes from 4 to 8 while learning). Scaled down as in ``lipschitz_gail``, of
which every arm changes one thing.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import iqm, paired_difference
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.verdicts import above, within

from .lipschitz_gail import COLUMNS, PAPER, imitate

TASK = "InvertedDoublePendulum"
METHOD, CLIPPED = "k = 1", "no penalty, reward clipped"
BITES = "preconditioned, k = 6"
ARMS: dict[str, dict[str, Any]] = {
    METHOD: {},
    "k = 0.1": {"k": 0.1},
    "k = 10": {"k": 10.0},
    "two-sided": {"one_sided": False},
    "dragan": {"penalty": "dragan"},
    "nagard": {"penalty": "nagard"},
    "R1": {"penalty": "expert", "k": 0.0},
    "preconditioned, k = 9": {"precondition": 9.0},
    BITES: {"precondition": 6.0},
    "positive-unlabelled": {"positive_share": 0.25},
    CLIPPED: {"penalty": "none", "spectral_norm": False, "clip": 1.0},
}
EQUIVALENT = 0.1  # of the expert's return, fixed before looking


def _difference(results: Results, arm: str) -> Any:
    """Shares of the expert's return of the method less those of another arm."""
    return paired_difference(results[METHOD].final["objective"], results[arm].final["objective"])


def _detail(results: Results, arm: str) -> str:
    one, other = (iqm(results[a].final["objective"]) for a in (METHOD, arm))
    return f"share of the expert's return, paired by seed: IQM {one:.2f} against {other:.2f}"


def same(arm: str) -> Any:
    """A check that an arm does as well as the method."""

    def check(results: Results) -> Verdict:
        return within(
            f"With {arm} imitation ends where it does with k = 1, one-sided.",
            _difference(results, arm),
            _detail(results, arm),
            EQUIVALENT,
        )

    return check


def worse(arm: str) -> Any:
    """A check that an arm does less well than the method."""

    def check(results: Results) -> Verdict:
        return above(
            f"With k = 1, one-sided, between agent and expert, imitation ends above {arm}.",
            _difference(results, arm),
            _detail(results, arm),
        )

    return check


def draw(figure: Any, results: Results) -> None:
    """Returns while learning, the median over seeds of each arm."""
    ax = figure.subplots()
    for i, arm in enumerate(ARMS):
        curves = results[arm].curves
        middle = np.nanmedian(curves["objective"], 0)
        ax.plot(curves["step"][0], middle, color=colour(i), label=arm)
    ax.set_xlabel("environment steps")
    ax.set_ylabel("return of an episode, with exploration")
    ax.legend(fontsize=7)


EXPERIMENT = Experiment(
    name="lipschitz_gail_variants",
    title="Ways to hold the slope of an imitation reward",
    paper=PAPER,
    grid=[
        Measure(arm, functools.partial(imitate, task=TASK, **changed))
        for arm, changed in ARMS.items()
    ],
    budgets={
        "smoke": Budget(total_timesteps=2_048, num_envs=16, eval_episodes=16, seeds=2),
        "quick": Budget(total_timesteps=32_768, num_envs=16, eval_episodes=16, seeds=5),
        "full": Budget(total_timesteps=250_000, num_envs=16, eval_episodes=32, seeds=10),
    },
    claims=[
        *(Claim(f"As good: {arm}", same(arm)) for arm in ("k = 0.1", "k = 10", "two-sided", BITES)),
        *(Claim(f"Less good: {arm}", worse(arm)) for arm in ("dragan", "nagard", CLIPPED)),
    ],
    seeds=tuple(range(300, 310)),
    tuning_seeds=(0, 1),
    columns=COLUMNS,
    figures=[
        Figure("Returns while learning", "Medians over seeds of each way to hold the slope.", draw)
    ],
)
