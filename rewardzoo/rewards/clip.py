"""Clip: keep a reward inside an interval."""

from __future__ import annotations

from torch import Tensor

from ..registration import register_reward
from .base import RewardFunction, number
from .compose import Unary


@register_reward("clip")
class Clip(Unary):
    """Pays the inner reward, limited to [low, high].

    Args:
        inner: the reward function to limit.
        low: least reward.
        high: greatest reward.

    Paper: Mnih et al. (2015), "Human-level control through deep reinforcement learning" (rewards
    clipped to [-1, 1]).
    """

    def __init__(self, inner: RewardFunction, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(inner)
        self.low = number("low", low)
        self.high = number("high", high)
        if not self.low < self.high:
            raise ValueError(f"high={high}: expected a number above low={low}")

    def transform(self, reward: Tensor) -> Tensor:
        """Limited."""
        return reward.clip(self.low, self.high)

    @property
    def numpy(self) -> bool:  # type: ignore[override]
        """Whether the inner function is."""
        return self.inner.numpy
