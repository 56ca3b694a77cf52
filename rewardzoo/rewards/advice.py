"""Potential-based advice: potentials of states and actions (Wiewiora, Cottrell, Elkan 2003).

Advice ``phi(s, a)`` comes in two forms. Look-ahead, ``gamma * phi(s', a') - phi(s, a)``, shifts
``Q(s, a)`` by ``-phi(s, a)``, so that the greedy policy changes unless the agent acts on ``Q +
phi``: that is a change of the agent, and no reward function alone can do it. Look-back, below,
shifts all actions of a state alike, so that it suits any agent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardError, RewardFunction, Spaces, discount, number


class _LookBack(RewardFunction):
    """What look-back advice remembers: the advice of the step before, over the discount."""

    markov = False

    def __init__(self, gamma: float | str) -> None:
        if gamma == 0.0:
            raise ValueError("gamma=0.0: look-back advice divides by it; expected a number > 0")
        self.gamma = discount(gamma)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Nothing was advised yet."""
        self._before = torch.zeros(num_envs)
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """An episode begins without a step before."""
        super().reset(mask, obs)
        self._before = self._before.masked_fill(mask, 0.0)

    def observation_features(self) -> Tensor:
        """What the next step will be charged, (N, 1) float32."""
        return self._before.unsqueeze(1)

    def pay(self, advice: Tensor, t: Transition) -> Tensor:
        """``phi(s, a) - phi(s_before, a_before) / gamma``; what was advised last is taken back."""
        advice = advice.to(torch.float32)
        reward = torch.where(t.terminated, 0.0, advice) - self._before
        self._before = torch.where(t.valid, advice / self.check_gamma(), self._before).detach()
        return reward


@register_reward("look_back_advice")
class LookBackAdvice(_LookBack):
    """Pays ``phi(s, a) - phi(s_before, a_before) / gamma``: advice on actions, the optimum kept.

    The first step of an episode has no step before. A step that terminates is paid no advice of its
    own, since no step after it would take that back. So the discounted sum of an episode that
    terminates is 0, whatever was done. The reward depends on the step before:
    ``AppendRewardState`` shows it to the agent's critic.

    Args:
        phi: a function of a batch of observations and actions that returns (N,), or a table (S, A)
            of numbers for ``Discrete`` observations and actions.
        gamma: the agent's discount, above 0, or "agent".

    Example:
        >>> from rewardzoo.rewards import make_reward
        >>> make_reward("objective + look_back_advice(phi=[[0, 1], [1, 0]], gamma=0.9)").name
        'objective + look_back_advice'

    Paper: Wiewiora, Cottrell, Elkan (2003), "Principled methods for advising reinforcement learning
    agents".
    """

    def __init__(
        self, phi: Callable[[Any, Any], Tensor] | Any, gamma: float | str = "agent"
    ) -> None:
        super().__init__(gamma)
        self.phi = phi if callable(phi) else _table(phi)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Check a table against the spaces."""
        super().bind(num_envs, device, spaces)
        if isinstance(self.phi, Tensor):
            size = _size(spaces, "phi: a table")
            if tuple(self.phi.shape) != size:
                raise ValueError(f"phi: a table {tuple(self.phi.shape)}, expected {size}")

    def __call__(self, t: Transition) -> Tensor:
        """Advice of each row, (N,) float32."""
        if isinstance(self.phi, Tensor):
            advice = self.phi[t.obs, t.action]
        else:
            advice = self.phi(t.obs, t.action)
        if not isinstance(advice, Tensor) or advice.shape != t.terminated.shape:
            raise RewardError(
                f"phi: returned {type(advice).__name__} {tuple(getattr(advice, 'shape', ()))}, "
                f"expected a tensor {tuple(t.terminated.shape)}, one number a row"
            )
        return self.pay(advice, t)


@register_reward("as_potential")
class AsPotential(_LookBack):
    """Pays any reward as look-back advice, so that it can guide and cannot be hacked.

    The advice is learned: ``phi`` is the action value of the agent's own policy for ``-inner``,
    hence ``gamma * phi(s', a') - phi(s, a)`` is ``inner`` on average once it is learned, and
    look-back advice pays that one step late, over gamma. While phi changes, each step takes back
    exactly what was paid before it, so the optimum is kept at all times.

    Args:
        inner: the reward to guide by.
        gamma: the agent's discount, above 0, or "agent".
        learning_rate: how far a value moves towards its mean target at an update, in (0, 1].

    Discrete observations and actions only: phi is a table.

    Paper: Harutyunyan et al. (2015), "Expressing arbitrary reward functions as potential-based
    advice".
    """

    rowwise = False

    def __init__(
        self, inner: RewardFunction, gamma: float | str = "agent", learning_rate: float = 0.2
    ) -> None:
        super().__init__(gamma)
        if not isinstance(inner, RewardFunction):
            raise TypeError(f"inner={inner!r}: expected a reward function")
        if not number("learning_rate", learning_rate, 0.0, 1.0) > 0:
            raise ValueError(f"learning_rate={learning_rate}: expected a number in (0, 1]")
        self.inner, self.learning_rate = inner, learning_rate

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """A table of zeros, and nothing to learn from."""
        states, self._actions = _size(spaces, "as_potential")
        self.phi = torch.zeros(states * self._actions)
        self._errors = torch.zeros(2, states * self._actions)  # sums, and how many
        self._cell = torch.zeros(num_envs, dtype=torch.int64)
        self._last_cell = torch.zeros(num_envs, dtype=torch.int64)
        self._paid = torch.zeros(num_envs)
        self._last_paid = torch.zeros(num_envs)
        self._going = torch.zeros(num_envs, dtype=torch.bool)
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """An episode begins without a step before."""
        super().reset(mask, obs)
        self._going = self._going & ~mask

    def __call__(self, t: Transition) -> Tensor:
        """Advice of each row, (N,) float32."""
        cell = t.obs * self._actions + t.action
        self._cell = torch.where(t.valid, cell, self._cell)
        self._paid = torch.where(t.valid, self.inner(t).detach().to(torch.float32), self._paid)
        return self.pay(self.phi[cell], t)

    def observe(self, t: Transition) -> None:
        """Temporal-difference errors of the step before, and of a last step."""
        super().observe(t)
        now = self.check_gamma() * self.phi[self._cell]
        self._collect(self._last_cell, now - self._last_paid, self._going & t.valid)
        self._collect(self._cell, -self._paid, t.terminated & t.valid)
        self._last_cell = torch.where(t.valid, self._cell, self._last_cell)
        self._last_paid = torch.where(t.valid, self._paid, self._last_paid)
        self._going = torch.where(t.valid, ~t.done, self._going)

    def update(self) -> dict[str, float | Tensor]:
        """Move every value that was seen towards its mean target."""
        metrics = super().update()
        error = self._errors[0] / self._errors[1].clamp(min=1.0)
        self.phi = self.phi + self.learning_rate * error
        self._errors = torch.zeros_like(self._errors)
        self.version += 1
        return {**metrics, "td_error": error.abs().max()}

    def _collect(self, cell: Tensor, target: Tensor, rows: Tensor) -> None:
        weight = rows.to(torch.float32)
        error = weight * (target - self.phi[cell])
        self._errors = self._errors.index_add(1, cell, torch.stack([error, weight]))


def _table(phi: Any) -> Tensor:
    try:
        table = torch.as_tensor(phi, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"phi={phi!r}: expected a function or a table") from None
    if table.ndim != 2 or not bool(torch.isfinite(table).all()):
        raise ValueError(f"phi: a table {tuple(table.shape)}, expected (S, A) finite numbers")
    return table


def _size(spaces: Spaces, what: str) -> tuple[int, int]:
    """(S, A) of discrete spaces that begin at 0."""
    both = (spaces.observation, spaces.action)
    if not all(isinstance(s, gym_spaces.Discrete) and int(s.start) == 0 for s in both):
        raise ValueError(
            f"{what} needs Discrete observations and actions from 0 on; these are "
            f"{spaces.observation} and {spaces.action}"
        )
    return int(both[0].n), int(both[1].n)  # type: ignore[attr-defined]
