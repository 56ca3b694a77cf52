"""How the reward's slope is held matters little, that it is held does: variants of the penalty.

Blondé, Strasser, Kalousis (2022): over a wide range of k, and one- or two-sided, the penalty does
what it should; penalties around the expert's or the agent's rows alone, and bounding the reward
instead of its slope, do less. Their preconditioner, which pays less where the dynamics amplify, is
an arm too, and one more in which it does so: with their k = 9 it pays everything here (on a tuning
seed the model's slope goes from 4 to 8 while learning). Scaled down as in ``lipschitz_gail``, of
which every arm changes one thing.

Three arms ask what the reward's sign does. A fall ends an episode, so a reward that is never
negative pays for not falling, whatever else it says, and one that is never positive for falling at
once; absorbing states, which are paid too, should remove that. And one arm has no adversary: random
expert distillation (Wang et al. 2019), a reward that is fixed before learning.

What is said to do better does so by more than .1 of the expert's return. (Until all variants had
been run any difference counted, and one of .0003 held.)
"""

from __future__ import annotations

import functools
import math
from dataclasses import fields
from typing import Any

import numpy as np

from rewardzoo.agents.gail import GAILHyperparameters
from rewardzoo.agents.td3 import TD3, TD3Hyperparameters
from rewardzoo.demonstrations import load_demonstrations
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import iqm, paired_difference
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.red import RandomExpertDistillation
from rewardzoo.verdicts import above, within

from .lipschitz_gail import COLUMNS, PAPER, imitate, learn

TASK = "InvertedDoublePendulum"
METHOD, CLIPPED = "k = 1", "no penalty, reward clipped"
BITES = "preconditioned, k = 6"
DEADLY, ABSORBED = "never positive", "never positive, absorbing states"
DISTILLED = "random expert distillation"
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
    "absorbing states": {"absorbing": True},
    DEADLY: {"form": "nonsaturating"},
    ABSORBED: {"form": "nonsaturating", "absorbing": True},
}
EQUIVALENT = 0.1  # of the expert's return, fixed before looking


def distil(trial: Any, compile: bool = True) -> dict[str, float]:
    """The same learner on a reward that random expert distillation fixed beforehand."""
    demos = load_demonstrations(TASK)
    learner = {f.name: getattr(GAILHyperparameters, f.name) for f in fields(TD3Hyperparameters)}

    def pays(envs: Any) -> RandomExpertDistillation:
        return RandomExpertDistillation(demos, seed=trial.seed)

    found = learn(trial, TASK, demos, pays, TD3, compile, **learner)
    return {name: x for name, x in found.items() if not math.isnan(x)}  # no discriminator's numbers


def _difference(results: Results, one: str, other: str) -> Any:
    """Shares of the expert's return of one arm less those of another."""
    return paired_difference(results[one].final["objective"], results[other].final["objective"])


def _detail(results: Results, *arms: str) -> str:
    one, other = (iqm(results[arm].final["objective"]) for arm in arms)
    return f"share of the expert's return, paired by seed: IQM {one:.2f} against {other:.2f}"


def same(arm: str) -> Any:
    """A check that an arm does as well as the method."""

    def check(results: Results) -> Verdict:
        return within(
            f"With {arm} imitation ends where it does with k = 1, one-sided.",
            _difference(results, METHOD, arm),
            _detail(results, METHOD, arm),
            EQUIVALENT,
        )

    return check


def better(sentence: str, one: str, other: str) -> Any:
    """A check that an arm does better than another, by more than what counts as the same."""

    def check(results: Results) -> Verdict:
        difference = _difference(results, one, other)
        detail = f"{_detail(results, one, other)}; holds above {EQUIVALENT}"
        return above(sentence, difference, detail, EQUIVALENT)

    return check


def worse(arm: str) -> Any:
    """A check that an arm does less well than the method."""
    sentence = f"With k = 1, one-sided, between agent and expert, imitation ends well above {arm}."
    return better(sentence, METHOD, arm)


def draw(figure: Any, results: Results) -> None:
    """Returns while learning, the median over seeds of each arm."""
    ax = figure.subplots()
    for i, arm in enumerate((*ARMS, DISTILLED)):
        curves = results[arm].curves
        seen = np.isfinite(curves["objective"]).any(0)  # an episode of any seed had ended
        middle = np.nanmedian(curves["objective"][:, seen], 0)
        ax.plot(curves["step"][0][seen], middle, color=colour(i), label=arm)
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
    ]
    + [Measure(DISTILLED, distil)],
    budgets={
        "smoke": Budget(total_timesteps=2_048, num_envs=16, eval_episodes=16, seeds=2),
        "quick": Budget(total_timesteps=32_768, num_envs=16, eval_episodes=16, seeds=5),
        "full": Budget(total_timesteps=250_000, num_envs=16, eval_episodes=32, seeds=10),
    },
    claims=[
        *(Claim(f"As good: {arm}", same(arm)) for arm in ("k = 0.1", "k = 10", "two-sided", BITES)),
        *(
            Claim(f"Less good: {arm}", worse(arm))
            for arm in ("dragan", "nagard", CLIPPED, DISTILLED)
        ),
        Claim(
            "A reward that is never positive pays for falling",
            better(
                "Paid a reward that is never positive, imitation ends well below what it reaches "
                "with one that is never negative.",
                METHOD,
                DEADLY,
            ),
        ),
        Claim(
            "Absorbing states remove it",
            better(
                "Paid a reward that is never positive, imitation ends well higher with absorbing "
                "states than without.",
                ABSORBED,
                DEADLY,
            ),
        ),
    ],
    seeds=tuple(range(300, 310)),
    tuning_seeds=(0, 1),
    columns=COLUMNS,
    figures=[
        Figure("Returns while learning", "Medians over seeds of each way to hold the slope.", draw)
    ],
)
