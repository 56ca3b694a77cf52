"""Rewards of whole trajectories: functions of the return, or of everything that happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, integer, number
from .compose import Unary


class InnerNonlinear(Unary):
    """Pays the growth of a function of the return: ``f(G_{t+1}) - f(G_t)``.

    ``G_t`` is the inner reward's discounted sum so far, so an episode's (undiscounted) sum is
    ``f(G) - f(0)``, and what is maximised is the expectation of ``f`` of the return: a utility, a
    target that is reached or not, an aversion to risk. The agent's discount must be 1: another
    would weigh growth by when it comes. ``G_t`` and ``gamma^t`` are in ``observation_features``,
    (N, 2): with them the reward is Markov.

    Args:
        inner: the reward function whose return it is.
        f: from (N,) to (N,), by torch operations.
        inner_gamma: discount inside of the return, in [0, 1].

    Paper: Subramani et al. (2024), "On the expressivity of objective-specification formalisms in
    reinforcement learning" (inner nonlinear Markov rewards).
    """

    markov = False
    gamma = 1.0

    def __init__(
        self, inner: RewardFunction, f: Callable[[Tensor], Tensor], inner_gamma: float = 1.0
    ) -> None:
        super().__init__(inner)
        self.f = f
        self.inner_gamma = number("inner_gamma", inner_gamma, 0.0, 1.0)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Nothing has been paid yet."""
        self._sum = torch.zeros(num_envs)
        self._factor = torch.ones(num_envs)
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Begin the return of the rows in ``mask`` anew."""
        super().reset(mask, obs)
        self._sum = self._sum.masked_fill(mask, 0.0)
        self._factor = self._factor.masked_fill(mask, 1.0)

    def __call__(self, t: Transition) -> Tensor:
        """How much ``f`` of the return has grown in this step."""
        before = self._sum
        after = before + self._factor * self.inner(t).detach()
        self._sum = torch.where(t.valid, after, before)
        self._factor = torch.where(t.valid, self._factor * self.inner_gamma, self._factor)
        grown: Tensor = self.f(after) - self.f(before)
        return grown.to(torch.float32)

    def relabel(self, t: Transition) -> Tensor:
        """Refused: a stored step does not say what the return was."""
        return RewardFunction.relabel(self, t)

    def observation_features(self) -> Tensor:
        """The return so far and the discount's power, with the inner function's memory."""
        own = torch.stack((self._sum, self._factor), 1)
        inner = self.inner.observation_features()
        return own if inner is None else torch.cat((own, inner), 1)


class TrajectoryReward(RewardFunction):
    """Pays any function of an episode's observations and actions, when the episode ends.

    Args:
        f: of observations (N, T, ...), actions (N, T, ...) and (N,) int64, how many of the T steps
            were made (the rest is 0), to (N,): the value of each trajectory. It is called at every
            step, for all rows, and its value is paid where one ends.
        steps: T, the most that an episode can have; later ones are not kept.

    Paper: Subramani et al. (2024), "On the expressivity of objective-specification formalisms in
    reinforcement learning" (functions from trajectories to reals).
    """

    markov = False

    def __init__(self, f: Callable[[Tensor, Tensor, Tensor], Tensor], steps: int) -> None:
        self.f = f
        self.steps = integer("steps", steps, 1)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Empty trajectories."""
        self._obs = _empty(spaces.observation, num_envs, self.steps)
        self._action = _empty(spaces.action, num_envs, self.steps)
        self._length = torch.zeros(num_envs, dtype=torch.int64)
        self._place = torch.arange(self.steps)
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Forget the trajectories of the rows in ``mask``."""
        self._obs = self._obs.masked_fill(_like(mask, self._obs), 0)
        self._action = self._action.masked_fill(_like(mask, self._action), 0)
        self._length = self._length.masked_fill(mask, 0)

    def __call__(self, t: Transition) -> Tensor:
        """The value of the trajectory where it ends, else 0."""
        here = (self._place == self._length.unsqueeze(1)) & t.valid.unsqueeze(1)
        self._obs = torch.where(_like(here, self._obs), t.obs.unsqueeze(1), self._obs)
        action = t.action.to(self._action.dtype).unsqueeze(1)
        self._action = torch.where(_like(here, self._action), action, self._action)
        self._length = self._length + t.valid
        value = self.f(self._obs, self._action, self._length.clamp(max=self.steps))
        return torch.where(t.done, value, 0.0).to(torch.float32)


@register_reward("average")
class AverageReward(Unary):
    """Pays the inner reward less its average per step, for agents that maximise the average.

    The differential return of these rewards is finite without discount, so the agent's discount may
    be near 1, or 1 where the critic's values stay bounded. The average moves at the agent's update
    boundary, towards that of the steps since the last one.

    Args:
        inner: the reward function.
        rate: how far it moves, in (0, 1].

    Paper: Mahadevan (1996), "Average reward reinforcement learning"; Zhang, Ross (2021), "On-policy
    deep reinforcement learning for the average-reward criterion".
    """

    def __init__(self, inner: RewardFunction, rate: float = 0.1) -> None:
        super().__init__(inner)
        self.rate = number("rate", rate, 0.0, 1.0)
        self.average = torch.zeros(())

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Nothing is counted yet."""
        self._paid, self._steps = torch.zeros(()), torch.zeros(())
        super().bind(num_envs, device, spaces)

    def __call__(self, t: Transition) -> Tensor:
        """The inner reward less the average; counts the valid rows."""
        reward = self.inner(t)
        self._paid = self._paid + torch.where(t.valid, reward.detach(), 0.0).sum()
        self._steps = self._steps + t.valid.sum()
        return self.transform(reward)

    def transform(self, reward: Tensor) -> Tensor:
        """Less the average as it is now."""
        return reward - self.average

    def update(self) -> dict[str, float | Tensor]:
        """Move the average."""
        metrics = super().update()
        gap = self._paid / self._steps.clamp(min=1.0) - self.average
        self.average = torch.where(self._steps > 0, self.average + self.rate * gap, self.average)
        self._paid, self._steps = torch.zeros_like(self._paid), torch.zeros_like(self._steps)
        self.version += 1
        return {**metrics, "average": self.average}


def _empty(space: Any, num_envs: int, steps: int) -> Tensor:
    if isinstance(space, (gym_spaces.Dict, gym_spaces.Tuple)):
        raise ValueError(f"trajectory: {space} is not one array; give its parts a reward each")
    dtype = torch.from_numpy(np.zeros(1, space.dtype)).dtype
    return torch.zeros((num_envs, steps, *(space.shape or ())), dtype=dtype)


def _like(mask: Tensor, x: Tensor) -> Tensor:
    """``mask`` with axes of length 1 behind, as many as ``x`` has."""
    return mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
