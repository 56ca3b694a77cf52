"""Potential shaping whose potential changes while the agent learns (Devlin, Kudenko 2012)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardError, RewardFunction, Spaces, discount

_RELABEL = ("current", "stored")


@register_reward("dynamic_potential")
class DynamicPotential(RewardFunction):
    """Pays ``gamma * phi_now(s') - phi_then(s)``, phi of ``s`` as it was when ``s`` was reached.

    So the sums of an episode telescope whatever phi becomes, and the optimal policies stay. What is
    stored for replay must not mix two ages: either it keeps what was paid, or both potentials are
    taken anew, which is shaping by a fixed potential again.

    Args:
        phi: a function of a batch of observations that returns (N,), a module for instance, whose
            values may change between steps.
        gamma: the agent's discount, or "agent".
        relabel: "current" scores stored transitions with both potentials as they are now; "stored"
            refuses, so that they keep what was paid.

    Example:
        >>> import torch
        >>> from rewardzoo import Transition
        >>> from rewardzoo.rewards.dynamic_potential import DynamicPotential
        >>> level = torch.tensor([1.0])
        >>> fn = DynamicPotential(lambda s: level * s, gamma=0.5)
        >>> fn.bind(1, torch.device("cpu"), None)
        >>> no, s = torch.tensor([False]), torch.tensor([2.0])
        >>> fn.reset(~no, s)
        >>> level = torch.tensor([10.0])  # phi(4) is 40 now, and phi(2) was 2
        >>> flags = dict(terminated=no, truncated=no, valid=~no)
        >>> fn(Transition(s, no, 2 * s, s, **flags, episode_step=no))
        tensor([18.])

    Paper: Devlin, Kudenko (2012), "Dynamic potential-based reward shaping".
    """

    markov = False

    def __init__(
        self,
        phi: Callable[[Any], Tensor],
        gamma: float | str = "agent",
        relabel: str = "current",
    ) -> None:
        if not callable(phi):
            raise ValueError(f"phi={phi!r}: expected a function of observations")
        if relabel not in _RELABEL:
            raise ValueError(f"relabel={relabel!r}: expected one of {', '.join(_RELABEL)}")
        self.phi, self.gamma, self.how = phi, discount(gamma), relabel

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """No state was reached yet."""
        self._then = torch.zeros(num_envs)
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Remember the potential of the first observations."""
        self._then = torch.where(mask, self._value(obs, mask), self._then)

    def __call__(self, t: Transition) -> Tensor:
        """Shaping of each row, (N,) float32."""
        now = self._value(t.next_obs, t.valid)
        reward = self.check_gamma() * torch.where(t.terminated, 0.0, now) - self._then
        self._then = torch.where(t.valid, now, self._then).detach()
        return reward

    def relabel(self, t: Transition) -> Tensor:
        """Shaping by the potential as it is now, of both states.

        Raises:
            RuntimeError: for ``relabel="stored"``.
        """
        if self.how == "stored":
            raise RuntimeError(
                f"{self.name}: relabel='stored': stored transitions keep what was paid; to score "
                "them again give relabel='current'"
            )
        now = self._value(t.next_obs, t.valid)
        then = torch.where(t.terminated, 0.0, now)
        return self.check_gamma() * then - self._value(t.obs, t.valid)

    def _value(self, obs: Obs, rows: Tensor) -> Tensor:
        found = self.phi(obs)
        if not isinstance(found, Tensor) or found.shape != rows.shape:
            raise RewardError(
                f"phi: returned {type(found).__name__} {tuple(getattr(found, 'shape', ()))}, "
                f"expected a tensor {tuple(rows.shape)}, one number a row"
            )
        return found.to(torch.float32)
