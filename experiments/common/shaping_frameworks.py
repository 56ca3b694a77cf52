"""What Gymnasium's vector reward wrappers say of scripted episodes, against the truth and ours.

Every number of a scripted episode is known beforehand (``rewardzoo.testing.scripted``).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from rewardzoo.rewards import Normalise, VectorRewardWrapper, env_reward
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.testing.scripted import scripted_envs


def frameworks(trial: Any) -> dict[str, float]:
    """What Gymnasium's vector wrappers say of scripted episodes, against the truth and ours."""
    final = {**episode_sums(), **dead_steps(), **running_returns()}
    trial.log(trial.budget.total_timesteps, **final)
    return final


def scripted(mode: AutoresetMode, end: str = "terminated") -> gymnasium.vector.VectorEnv:
    """One environment: episodes of 2, 4, 2, … steps; step k of episode e pays ``10 e + k``."""
    return scripted_envs(1, mode, (end,))


def episode_sums() -> dict[str, float]:
    """Largest error of the return reported of a finished episode, in same-step mode."""
    theirs = gymnasium.wrappers.vector.RecordEpisodeStatistics(scripted(AutoresetMode.SAME_STEP))
    ours = VectorRewardWrapper(scripted(AutoresetMode.SAME_STEP), env_reward)
    errors: dict[str, list[float]] = {"sum_theirs": [], "sum_ours": []}
    for envs, key, name in ((theirs, "r", "sum_theirs"), (ours, "objective", "sum_ours")):
        envs.reset(seed=0)
        total = 0.0
        for _ in range(12):
            _, reward, terminated, _, info = envs.step(np.zeros(1, dtype=np.int64))
            total += float(reward[0])
            if terminated[0]:
                errors[name].append(abs(float(info["episode"][key][0]) - total))
                total = 0.0
    return {name: max(found) for name, found in errors.items()}


def dead_steps() -> dict[str, float]:
    """What a reward of 1 more a step pays on the dead step of next-step autoreset."""
    mode = AutoresetMode.NEXT_STEP
    theirs = gymnasium.wrappers.vector.TransformReward(scripted(mode), lambda r: r + 1.0)
    ours = VectorRewardWrapper(scripted(mode), env_reward + One())
    paid = {}
    for envs, name in ((theirs, "dead_theirs"), (ours, "dead_ours")):
        envs.reset(seed=0)
        found, dead = 0.0, False
        for _ in range(12):
            _, reward, terminated, _, _ = envs.step(np.zeros(1, dtype=np.int64))
            found = max(found, abs(float(reward[0]))) if dead else found
            dead = bool(terminated[0])
        paid[name] = found
    return paid


class One(RewardFunction):
    """Pays 1 a step."""

    def __call__(self, t: Any) -> Tensor:
        """Ones."""
        return torch.ones_like(t.reward)


def running_returns() -> dict[str, float]:
    """Error of the mean of running returns by which rewards are normalised, episodes truncated."""
    mode, gamma, steps = AutoresetMode.NEXT_STEP, 1.0, 600
    theirs = gymnasium.wrappers.vector.NormalizeReward(
        gymnasium.wrappers.vector.TransformReward(scripted(mode, "truncated"), np.ones_like), gamma
    )
    scale = Normalise(One(), gamma)
    ours = VectorRewardWrapper(scripted(mode, "truncated"), scale)
    for envs in (theirs, ours):
        envs.reset(seed=0)
        for _ in range(steps):
            envs.step(np.zeros(1, dtype=np.int64))
    truth = np.mean([1, 2, 1, 2, 3, 4])  # of episodes of 2 and of 4 steps, each paying 1
    return {
        "running_theirs": abs(float(theirs.return_rms.mean) - truth),
        "running_ours": abs(float(scale._moments[1]) - truth),
    }
