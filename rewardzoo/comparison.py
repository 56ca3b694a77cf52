"""A comparison: one environment, one agent, many reward functions, each judged by the objective.

``rewardzoo compare`` writes such an experiment as a file and runs it. What it asks of each reward
function: does an agent that is trained on it end with more of the objective than one that is
trained on the objective itself?
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium

from .experiment import Arm, Budget, Claim, Experiment
from .files import write_atomic
from .metrics.statistics import paired_difference
from .registration import EXPERIMENTS, REWARDS, check_env_id
from .results import Results, Verdict
from .rewards.parse import RewardSyntaxError, make_reward
from .rewards.wrappers import VectorRewardWrapper
from .verdicts import above

OBJECTIVE = "objective"
ENOUGH = 5  # seeds


def comparison(
    name: str,
    env: str,
    rewards: Sequence[str],
    agent: str = "ppo",
    total_timesteps: int = 100_000,
    num_envs: int = 64,
    seeds: int = 5,
    agent_kwargs: Mapping[str, Any] | None = None,
) -> Experiment:
    """An experiment with an arm a reward function, the objective first.

    Its one budget is named after its steps. An arm that is finished is not run again when others
    are added.

    Args:
        name: of the experiment.
        env: id of an environment.
        rewards: reward expressions; ``"objective"`` comes first whether it is among them or not.
        agent: a registered agent.
        total_timesteps: environment steps of each run.
        num_envs: environments of a run.
        seeds: runs of an arm.
        agent_kwargs: hyperparameters, the same for all.
    """
    return Experiment(
        name=name,
        title=f"What reward functions teach {agent} on {env}",
        paper="a comparison of your own",
        grid=[
            Arm(reward, env, reward, agent, agent_kwargs=dict(agent_kwargs or {}))
            for reward in dict.fromkeys([OBJECTIVE, *rewards])
        ],
        budgets={str(total_timesteps): Budget(total_timesteps, num_envs, 512, seeds)},
        claims=[
            Claim(f"{reward} teaches more", functools.partial(teaches_more, reward=reward))
            for reward in dict.fromkeys(rewards)
            if reward != OBJECTIVE
        ],
        seeds=tuple(range(100, 100 + seeds)),
    )


def teaches_more(results: Results, reward: str) -> Verdict:
    """Whether training on ``reward`` ends with more of the objective than on the objective.

    Undecided with fewer than five seeds, whatever the interval: so few resample to nothing else.
    """
    found = paired_difference(
        results[reward].final["objective"], results[OBJECTIVE].final["objective"]
    )
    verdict = above(
        f"Trained on {reward}, the agent ends with more of the objective than trained on the "
        "objective.",
        found,
        "difference of the objective's return after training, paired by seed",
    )
    if found.n < ENOUGH:
        detail = f"{verdict.detail}; undecided with fewer than {ENOUGH} seeds"
        return replace(verdict, outcome="inconclusive", detail=detail)
    return verdict


@dataclass(frozen=True)
class Fitting:
    """Which registered reward functions can be put on an environment as they are.

    Attributes:
        fits: names of those that pay it with the defaults of their arguments.
        unspecified: names of those that need arguments.
        unfit: what the others say, by their names.
    """

    fits: list[str]
    unspecified: list[str]
    unfit: dict[str, str]


def fitting(env: str) -> Fitting:
    """Try every registered reward function on ``env``, for three random steps.

    Raises:
        UnknownNameError: for an unknown environment.
    """
    check_env_id(env)
    envs = gymnasium.make_vec(env, num_envs=2)
    envs.action_space.seed(0)
    found = Fitting([], [], {})
    _ = list(EXPERIMENTS)  # an experiment may bring reward functions of its own
    for name in REWARDS:
        if name == OBJECTIVE:
            continue
        try:
            fn = make_reward(name)
        except RewardSyntaxError:
            found.unspecified.append(name)
            continue
        try:
            paid = VectorRewardWrapper(envs, fn)
            paid.reset(seed=0)
            for _step in range(3):
                paid.step(envs.action_space.sample())
        except Exception as error:  # whatever a reward function raises, it does not fit
            found.unfit[name] = " ".join(str(error).split()) or type(error).__name__
        else:
            found.fits.append(name)
    envs.close()
    return found


def check_pays(env: str, reward: str) -> None:
    """Raise what ``reward`` raises when it is put on ``env``, before anything is trained."""
    envs = gymnasium.make_vec(env, num_envs=2)
    VectorRewardWrapper(envs, make_reward(reward)).reset(seed=0)
    envs.close()


def write_comparison(path: Path, arguments: Mapping[str, Any]) -> None:
    """A Python file that makes the comparison, to be run and edited like any experiment."""
    lines = "".join(f"    {key}={_literal(value)},\n" for key, value in arguments.items())
    text = f'''"""Reward functions on {arguments["env"]}: what `rewardzoo compare` was asked for."""

from rewardzoo.comparison import comparison

EXPERIMENT = comparison(
{lines})
'''
    write_atomic(path, text)


def _literal(value: Any) -> str:
    """``value`` as Python, a list with an item a line."""
    if isinstance(value, list):
        return "[\n" + "".join(f"        {_literal(item)},\n" for item in value) + "    ]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
