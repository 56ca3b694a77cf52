"""Rewards that steer by expected returns: outer nonlinear objectives, and constraints.

Both pay a weighted sum of given reward functions whose weights follow estimates of their expected
discounted returns, renewed at the agent's update boundary from the episodes that have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, discount, number


class ExpectedReturns(RewardFunction):
    """Keeps each part's discounted return, and its mean over the episodes that ended.

    A truncated episode counts as far as it went.

    Args:
        parts: reward functions.
        gamma: the agent's discount, or "agent".
        weights: (K,), what the parts are weighed with at first.
    """

    def __init__(self, parts: Sequence[RewardFunction], gamma: float | str, weights: Any) -> None:
        self.parts = tuple(parts)
        for part in self.parts:
            if not isinstance(part, RewardFunction):
                raise TypeError(f"{type(self).__name__}: expected reward functions, got {part!r}")
        self.gamma = discount(gamma)
        self.weights = torch.as_tensor(weights, dtype=torch.float32)
        self.returns = torch.zeros(len(self.parts))
        """(K,) the latest estimates."""

    @property
    def markov(self) -> bool:  # type: ignore[override]
        """Whether the parts are."""
        return all(part.markov for part in self.parts)

    @property
    def rowwise(self) -> bool:  # type: ignore[override]
        """Whether the parts are."""
        return all(part.rowwise for part in self.parts)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Nothing has been paid yet."""
        count = len(self.parts)
        self._running = torch.zeros(num_envs, count)  # what its episode has been paid so far
        self._factor = torch.ones(num_envs)
        self._sums = torch.zeros(count)
        self._episodes = torch.zeros(())
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Begin the sums of the rows in ``mask`` anew."""
        super().reset(mask, obs)
        self._running = self._running.masked_fill(mask.unsqueeze(1), 0.0)
        self._factor = self._factor.masked_fill(mask, 1.0)

    def __call__(self, t: Transition) -> Tensor:
        """The weighted sum; adds what each part paid to the row's return."""
        paid = torch.stack([part(t) for part in self.parts], 1)
        gained = paid.detach() * (self._factor * t.valid).unsqueeze(1)
        self._running = self._running + gained
        self._factor = torch.where(t.valid, self._factor * self.check_gamma(), self._factor)
        ended = (t.done & t.valid).to(torch.float32)
        self._sums = self._sums + ended @ self._running
        self._episodes = self._episodes + ended.sum()
        return paid @ self.weights

    def relabel(self, t: Transition) -> Tensor:
        """With the weights as they are now."""
        return torch.stack([part.relabel(t) for part in self.parts], 1) @ self.weights

    def update(self) -> dict[str, float | Tensor]:
        """Renew the estimates, if an episode has ended, and then the weights."""
        metrics = super().update()
        ended = self._episodes > 0
        mean = self._sums / self._episodes.clamp(min=1.0)
        self.returns = torch.where(ended, mean, self.returns)
        self.weights = torch.where(ended, self.reweigh(), self.weights)
        self._sums = torch.zeros_like(self._sums)
        self._episodes = torch.zeros_like(self._episodes)
        self.version += 1
        for k in range(len(self.parts)):
            metrics[f"expected_return/{k}"] = self.returns[k]
            metrics[f"weight/{k}"] = self.weights[k]
        return metrics

    def reweigh(self) -> Tensor:
        """(K,) the weights that go with ``returns``."""
        raise NotImplementedError


class OuterNonlinear(ExpectedReturns):
    """Pays the gradient of a function of expected returns: ``sum_k df/dJ_k (J) r_k``.

    By the chain rule a policy gradient of this reward is one of ``f(J_1, ..., J_K)``; between two
    updates the weights stand still. With one reward and a nonlinear ``f`` this is the outer
    nonlinear formalism, with several the outer multi-objective one (``f`` = min: what the worst off
    of several parties gets).

    Args:
        f: from (K,) to a scalar, by torch operations.
        parts: the reward functions.
        gamma: the agent's discount, or "agent".

    Example:
        >>> from rewardzoo.rewards import Novelty, env_reward
        >>> OuterNonlinear(lambda j: j.log().sum(), [env_reward, Novelty()]).weights
        tensor([0.5000, 0.5000])

    Paper: Zhang et al. (2020), "Variational policy gradient method for reinforcement learning with
    general utilities".
    """

    def __init__(
        self,
        f: Callable[[Tensor], Tensor],
        parts: Sequence[RewardFunction],
        gamma: float | str = "agent",
    ) -> None:
        # Until an episode has ended nothing is known of J: all parts count alike.
        super().__init__(parts, gamma, torch.full((len(parts),), 1.0 / max(1, len(parts))))
        self.f = f

    def reweigh(self) -> Tensor:
        """The gradient of ``f`` at the estimates."""
        with torch.enable_grad():
            j = self.returns.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.f(j), j)
        return gradient


@register_reward("constrained")
class Constrained(ExpectedReturns):
    """Pays a reward less the price of its costs, and raises prices until the limits are kept.

    ``(r - sum_k lambda_k c_k) / (1 + sum_k lambda_k)``, the Lagrangian of "maximise the return,
    with each expected cost within its limit". Each update moves ``prices`` by ``step`` times the
    excess of the expected discounted cost over its limit, and never below 0; ``lambda`` is the
    price plus ``damping`` times the present excess, and never below 0: an agent answers late to a
    price, and without damping both swing.

    Args:
        reward: what is to be maximised.
        costs: what is limited: a reward function, or several.
        limits: of the expected discounted sum of each cost over an episode: a number, or several.
        step: of a price at an update.
        damping: how much of the present excess is added to a price; 0 is plain dual ascent.
        gamma: the agent's discount, or "agent".

    Example:
        >>> from rewardzoo.rewards import make_reward
        >>> make_reward("constrained(objective, novelty(), 0.5, step=0.1)").limits
        tensor([0.5000])

    Paper: Altman (1999), "Constrained Markov decision processes"; Stooke et al. (2020), "Responsive
    safety in reinforcement learning by PID Lagrangian methods".
    """

    def __init__(
        self,
        reward: RewardFunction,
        costs: RewardFunction | Sequence[RewardFunction],
        limits: float | Sequence[float],
        step: float = 0.05,
        damping: float = 0.0,
        gamma: float | str = "agent",
    ) -> None:
        costs = [costs] if isinstance(costs, RewardFunction) else list(costs)
        limits = [limits] if isinstance(limits, (int, float)) else list(limits)
        if len(costs) != len(limits) or not costs:
            raise ValueError(f"limits={limits!r}: expected one for each of {len(costs)} costs")
        first = [1.0] + [0.0] * len(costs)
        super().__init__([reward, *costs], gamma, first)
        self.limits = torch.tensor([number("limits", x) for x in limits])
        self.step = number("step", step, 0.0)
        self.damping = number("damping", damping, 0.0)
        self.prices = torch.zeros(len(costs))

    def reweigh(self) -> Tensor:
        """1 and minus the prices, scaled to sum to 1 in absolute value."""
        excess = self.returns[1:] - self.limits
        moved = (self.prices + self.step * excess).clamp(min=0.0)
        self.prices = torch.where(self._episodes > 0, moved, self.prices)
        asked = (self.prices + self.damping * excess).clamp(min=0.0)
        return torch.cat((torch.ones_like(asked[:1]), -asked)) / (1.0 + asked.sum())
