"""Delay: rewards that come late and in sums."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, integer
from .compose import Unary


@register_reward("delay")
class Delay(Unary):
    """Pays the sum of the inner reward's last ``k`` steps every ``k`` steps.

    What is owed when an episode ends, either way, is paid on its last step. What an agent needs to
    know for the reward to be Markov is in ``observation_features``: the sum owed, and how much of
    the wait is over, (N, 2).

    Args:
        inner: the reward function to delay.
        k: steps between payments, >= 1; more than an episode's length pays its sum at the end.

    Paper: Arjona-Medina et al. (2019), "RUDDER: return decomposition for delayed rewards".
    """

    markov = False

    def __init__(self, inner: RewardFunction, k: int) -> None:
        super().__init__(inner)
        self.k = integer("k", k, 1)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Nothing is owed yet."""
        self._owed = torch.zeros(num_envs)
        self._waited = torch.zeros(num_envs, dtype=torch.int64)
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Forget what is owed to the rows in ``mask``."""
        super().reset(mask, obs)
        self._owed = self._owed.masked_fill(mask, 0.0)
        self._waited = self._waited.masked_fill(mask, 0)

    def __call__(self, t: Transition) -> Tensor:
        """The sum where it is due, else 0."""
        reward = self.inner(t)
        owed = torch.where(t.valid, self._owed + reward, self._owed)
        waited = self._waited + t.valid
        due = ((waited == self.k) | t.done) & t.valid
        self._owed = owed.detach().masked_fill(due, 0.0)
        self._waited = waited.masked_fill(due, 0)
        return owed.masked_fill(due.logical_not(), 0.0)

    def relabel(self, t: Transition) -> Tensor:
        """Refused: a stored step does not say what was owed."""
        return RewardFunction.relabel(self, t)

    def observation_features(self) -> Tensor:
        """The sum owed and the part of the wait that is over, with the inner function's."""
        own = torch.stack((self._owed, self._waited / self.k), 1)
        inner = self.inner.observation_features()
        return own if inner is None else torch.cat((own, inner), 1)
