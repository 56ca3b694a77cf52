"""Normalise: rewards in units of the spread of their discounted return."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, discount, number
from .compose import Unary


@register_reward("normalise")
class Normalise(Unary):
    """Divides the inner reward by the running standard deviation of its discounted return.

    Each row carries ``G = gamma * G + r``. Its running variance is taken over the valid rows of
    every step so far, and a row's ``G`` is cleared only after the last reward of its episode was
    counted. The mean is not subtracted: that would pay for living longer or shorter.

    Args:
        inner: the reward function to normalise.
        gamma: discount of the return; "agent" takes the agent's.
        epsilon: added to the variance.

    Paper: Engstrom et al. (2020), "Implementation matters in deep policy gradients", section 3.
    """

    def __init__(
        self, inner: RewardFunction, gamma: float | str = "agent", epsilon: float = 1e-8
    ) -> None:
        super().__init__(inner)
        self.gamma = discount(gamma)
        self.epsilon = number("epsilon", epsilon, 0.0)

    @property
    def rowwise(self) -> bool:  # type: ignore[override]
        """False: all rows share the running variance."""
        return False

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Start every return at 0, and the variance at 1 with the weight of 1e-4 steps."""
        # Count, mean, sum of squares about the mean; the start is Gymnasium's.
        self._moments = torch.tensor([1e-4, 0.0, 1e-4], dtype=torch.float64)
        self._return = torch.zeros(num_envs)
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Start the returns of the rows in ``mask`` at 0."""
        super().reset(mask, obs)
        self._return = self._return.masked_fill(mask, 0.0)

    def match_gamma(self, gamma: float) -> None:
        """Take the agent's discount for "agent"; another one is no error, for it only scales."""
        if self.gamma == "agent":
            self.gamma = gamma
        self.inner.match_gamma(gamma)

    def __call__(self, t: Transition) -> Tensor:
        """The inner reward over the scale that it has itself just been counted into."""
        reward = self.inner(t)
        with torch.no_grad():
            total = self.check_gamma() * self._return + reward.detach().to(torch.float32)
            total = torch.where(t.valid, total, self._return)
            self._moments = _merge(self._moments, total, t.valid)
            self._return = total  # reset() clears it, after this step was counted
        return self.transform(reward)

    def transform(self, reward: Tensor) -> Tensor:
        """In units of the present scale."""
        variance = self._moments[2] / self._moments[0]
        return reward * torch.rsqrt(variance + self.epsilon).to(torch.float32)


def _merge(moments: Tensor, x: Tensor, valid: Tensor) -> Tensor:
    """Count, mean and sum of squares about it, with the valid rows of ``x`` added (Chan et al.)."""
    weight, x = valid.to(torch.float64), x.to(torch.float64)
    count, mean, squares = moments.unbind()
    n = weight.sum()
    x_mean = (weight * x).sum() / n.clamp(min=1.0)
    x_squares = (weight * (x - x_mean) ** 2).sum()
    total = count + n
    delta = x_mean - mean
    return torch.stack(
        (total, mean + delta * n / total, squares + x_squares + delta**2 * count * n / total)
    )
