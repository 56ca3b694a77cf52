"""Paying for subgoals solves the key room that the sparse reward does not.

Pignatelli et al. (2024) let a language model say which transitions achieve a subgoal and pay for
them. Scaled down: MiniHack's KeyRoom-S5, PPO without memory and 120,000 steps instead of ten
million; the judge is the rule-based oracle (an ideal language model), chance, or the embedded
model. That one answers in the background: of a run's transitions some 190 differ in what it is
shown; in the first run it judged less than half of them by the end, in the others nearly all, from
the cache that runs share (so that no two runs are alike). What is kept is the question: does this
advice change what is learned? (``calm_eval`` measures the judges themselves.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.base import RewardFunction, env_reward
from rewardzoo.rewards.calm import Calm
from rewardzoo.verdicts import decided, within

from .common.keyroom import train_in_key_room
from .common.successes import curves_of_success, does_not_help, success

SPARSE, ONCE, POTENTIAL, RANDOM, EMBEDDED = (
    "sparse",
    "oracle, paid once",
    "oracle, potential",
    "random labels",
    "embedded model",
)
ENOUGH, GAIN, SAME = 0.8, 0.5, 0.15  # success; fixed before looking


def reward_of(label: str) -> RewardFunction:
    """The reward function of an arm."""
    if label == SPARSE:
        return 1.0 * env_reward
    if label == POTENTIAL:
        return env_reward + Calm("oracle", pay="potential")
    return env_reward + Calm({ONCE: "oracle", RANDOM: "random", EMBEDDED: "smollm2"}[label])


def train(trial: Any, label: str) -> dict[str, float]:
    """PPO on the environment's reward and .5 for a detected subgoal."""
    return train_in_key_room(trial, reward_of(label))


def shaping_solves_it(results: Results) -> Verdict:
    """Success with the oracle is at least .8, and at least .5 above the sparse reward's."""
    shaped = success(results, ONCE)
    d = paired_difference(shaped, success(results, SPARSE), np.mean)
    enough = float(shaped.mean()) >= ENOUGH
    if enough and d.low >= GAIN:
        outcome = "holds"
    elif d.high < GAIN or not enough and d.n >= 5:
        outcome = "fails"
    else:
        outcome = "inconclusive"
    return decided(
        f"Paid once for each subgoal, PPO reaches the stairs in at least {ENOUGH:.0%} of "
        f"episodes and at least {GAIN:.0%} more of them than with the sparse reward.",
        outcome,
        d,
        f"mean difference of success, paired by seed; shaped {shaped.mean():.3f}, sparse "
        f"{success(results, SPARSE).mean():.3f} over the last quarter of training",
    )


def potential_does_as_well(results: Results) -> Verdict:
    """The policy-invariant payment ends within .15 of the one that pays once."""
    d = paired_difference(success(results, POTENTIAL), success(results, ONCE))
    return within(
        "Paid by a potential, which keeps the optimal policy, it learns as well.",
        d,
        f"difference of success, paired by seed; as well means within {SAME}",
        SAME,
    )


EXPERIMENT = Experiment(
    name="calm_keyroom",
    title="Paying for subgoals in a locked room",
    paper="Pignatelli et al. (2024), Assessing the zero-shot capabilities of LLMs for action "
    "evaluation in RL",
    grid=[
        Measure(label, partial(train, label=label))
        for label in (SPARSE, ONCE, RANDOM, POTENTIAL, EMBEDDED)
    ],
    budgets={
        "smoke": Budget(total_timesteps=2_048, num_envs=8, eval_episodes=0, seeds=2),
        "quick": Budget(total_timesteps=120_000, num_envs=8, eval_episodes=0, seeds=5),
        "full": Budget(total_timesteps=1_000_000, num_envs=8, eval_episodes=0, seeds=10),
    },
    claims=[
        Claim("Paying for subgoals solves the key room", shaping_solves_it),
        Claim("The potential does as well", potential_does_as_well),
        Claim(
            "Random labels do not help",
            does_not_help(
                RANDOM, SPARSE, "Paid for subgoals found by chance, it learns no more than without."
            ),
        ),
    ],
    seeds=tuple(range(300, 310)),
    tuning_seeds=(0, 200),
    columns={"success": "success", "objective": "objective", "return": "specified"},
    figures=[
        Figure(
            "Success while training",
            "Share of episodes that reach the stairs, over the last tenth of the run: "
            "interquartile mean and 95 % interval over seeds.",
            curves_of_success,
        )
    ],
)
