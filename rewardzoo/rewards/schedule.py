"""Schedule: a weight that moves while training goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registration import register_reward
from ..transition import Transition
from .base import RewardFunction, Spaces, integer, number
from .compose import Unary


@register_reward("schedule")
class Schedule(Unary):
    """Pays the inner reward times a weight that moves linearly from ``start`` to ``end``.

    Args:
        inner: the reward function to weigh.
        steps: environment steps, over all rows, after which the weight is ``end``.
        start: weight of the first step.
        end: weight from then on.

    An optimum moves with the weight unless the inner function is a potential's shaping whose
    weight moves too slowly to matter (Devlin, Kudenko 2012).
    """

    def __init__(
        self, inner: RewardFunction, steps: int, start: float = 1.0, end: float = 0.0
    ) -> None:
        super().__init__(inner)
        self.steps = integer("steps", steps, 1)
        self.start = number("start", start)
        self.end = number("end", end)

    @property
    def rowwise(self) -> bool:  # type: ignore[override]
        """False: the weight depends on the steps of all rows."""
        return False

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Nothing is counted yet."""
        self._count = torch.zeros((), dtype=torch.int64)
        super().bind(num_envs, device, spaces)

    def __call__(self, t: Transition) -> Tensor:
        """The weighted reward; counts the valid rows."""
        reward = self.transform(self.inner(t))
        self._count = self._count + t.valid.sum()
        return reward

    def transform(self, reward: Tensor) -> Tensor:
        """With the present weight."""
        done = (self._count / self.steps).clamp(max=1.0)
        return (self.start + (self.end - self.start) * done) * reward
