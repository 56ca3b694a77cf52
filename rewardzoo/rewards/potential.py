"""Potential-based shaping (Ng, Harada, Russell 1999)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..metrics.planning import best_policy, check_model
from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardError, RewardFunction, Spaces, discount


@register_reward("potential")
class Potential(RewardFunction):
    """Pays ``gamma * phi(s') - phi(s)``: advice that leaves the optimal policies as they are.

    The potential of a terminated successor is 0; a truncated one keeps that of the true
    successor, which the agent's bootstrap cancels. So the discounted sum over an episode is
    ``-phi(s_0)`` when it terminates and ``gamma**T * phi(s_T) - phi(s_0)`` when it is cut off.

    Args:
        phi: the potential: a function of a batch of observations that returns (N,) (one that takes
            NumPy arrays too, as ``lambda obs: abs(obs[:, 2])``, is called with them on NumPy
            environments, which is faster); a table of S numbers for ``Discrete(S)`` observations;
            or the name of a potential that the environment offers: where its method
            ``potential(name, gamma)`` knows it, one of the former is returned; where it has a
            ``transition_matrix``, "optimal_value" is that of its objective.
        gamma: the agent's discount, or "agent" to take it when training starts.

    Example:
        >>> import torch
        >>> from rewardzoo import Transition
        >>> no = torch.tensor([False])
        >>> step = dict(action=no, reward=torch.zeros(1), truncated=no, valid=~no, episode_step=no)
        >>> s, s2 = torch.tensor([0]), torch.tensor([1])
        >>> shaping = Potential([1.0, 2.0], gamma=0.9)
        >>> shaping(Transition(obs=s, next_obs=s2, terminated=no, **step))
        tensor([0.8000])
        >>> shaping(Transition(obs=s, next_obs=s2, terminated=~no, **step))
        tensor([-1.])

    Paper: Ng, Harada, Russell (1999), "Policy invariance under reward transformations".
    """

    def __init__(
        self,
        phi: Callable[[Any], Tensor] | Tensor | Sequence[float] | str,
        gamma: float | str = "agent",
    ) -> None:
        self.gamma = discount(gamma)
        self.phi: Any = phi if callable(phi) or isinstance(phi, str) else _table(phi)
        self._offer: Callable[[str, float], Any] | None = None
        self._cache: tuple[Any, Any, Any, tuple[Any, Any]] | None = None
        # (A partial, so that a module is saved once, as ``phi``.)
        self._value = functools.partial(phi) if callable(phi) else self._look_up

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Move a table to ``device``; find the environment's offer for a name."""
        super().bind(num_envs, device, spaces)
        self._device, self._states = device, spaces.observation
        self.numpy = callable(self.phi) and _takes_numpy(self.phi, spaces.observation)
        if isinstance(self.phi, Tensor):
            _check_table(self.phi, self._states)
        if isinstance(self.phi, str):
            self._offer = _offer(spaces.dynamics)
            if self._offer is None:
                raise ValueError(
                    f"phi={self.phi!r}: this environment offers no potential by name; give a "
                    "function of the observation, or a table for Discrete observations"
                )
            if self.gamma != "agent":
                self._accept()

    def match_gamma(self, gamma: float) -> None:
        """Take or check the agent's discount, which a named potential may depend on."""
        super().match_gamma(gamma)
        if self._offer is not None:
            self._accept()

    def __call__(self, t: Transition) -> Any:
        """Shaping of each row, (N,) float32."""
        now: Any = self._value(t.obs)
        then: Any = self._value(t.next_obs)
        ended = t.terminated
        kind, shape = type(ended), ended.shape
        if type(now) is not kind or type(then) is not kind or not now.shape == then.shape == shape:
            value = now if type(now) is not kind or now.shape != shape else then
            raise RewardError(
                f"phi: returned {type(value).__name__} {tuple(getattr(value, 'shape', ()))}, "
                f"expected {tuple(shape)}, one number a row, of the observations' kind, "
                f"{kind.__name__}"
            )
        zero, discount = self._constants(now, kind)
        # A choice and not a product: an infinite potential of a terminated state is 0 too.
        if kind is not np.ndarray:
            return torch.where(ended, zero, then) * discount - now
        then = then * discount
        if 1 in ended.tobytes():  # type: ignore[attr-defined]  # dearest where rarest
            then[ended] = zero
        return then - now

    def _constants(self, like: Any, kind: type) -> tuple[Any, Any]:
        """0 and gamma as arrays of ``like``'s kind: plain numbers take twice as long."""
        device = None if kind is np.ndarray else like.device
        if self._cache is not None:
            gamma, dtype, where, found = self._cache
            if gamma is self.gamma and dtype is like.dtype and where == device:
                return found
        real = like * 1.0  # of whole numbers too, whose own type cannot hold gamma
        make: Any = np.asarray if kind is np.ndarray else real.new_tensor
        found = make(0, dtype=like.dtype), make(self.check_gamma(), dtype=real.dtype)
        self._cache = self.gamma, like.dtype, device, found
        return found

    def _look_up(self, obs: Obs) -> Tensor:
        value: Tensor = self.phi.index_select(0, obs)
        return value

    def _accept(self) -> None:
        """Take the environment's potential of this name; it is no state, so it is not saved."""
        assert self._offer is not None
        offered = self._offer(self.phi, self.check_gamma())
        if callable(offered):
            self._value = offered
        else:
            table = _table(offered).to(self._device)
            _check_table(table, self._states)
            self._value = functools.partial(_row, table)


def _offer(dynamics: Any) -> Callable[[str, float], Any] | None:
    """What knows potentials by name: the dynamics' method, or else the solution of their model."""
    if hasattr(dynamics, "transition_matrix") and not hasattr(dynamics, "potential"):
        return functools.partial(_solve, dynamics)
    return getattr(dynamics, "potential", None)


def _solve(dynamics: Any, name: str, gamma: float) -> np.ndarray:
    """The optimal value of every state, (S,)."""
    transition, reward, _ = dynamics.transition_matrix()
    if name != "optimal_value" or not reward.any():
        known = "'optimal_value'" if reward.any() else "nothing: its objective is no table"
        raise ValueError(f"phi={name!r}: the model of this environment offers {known}")
    check_model(transition, gamma)
    return best_policy(reward, transition, gamma)[0]


def _takes_numpy(phi: Callable[[Any], Any], space: spaces.Space[Any]) -> bool:
    """Whether ``phi`` says the same of NumPy arrays as of tensors, on a few made-up observations.

    (Names that both have need not mean the same: a deviation is unbiased in torch alone.)
    """
    if not isinstance(space, (spaces.Box, spaces.Discrete)):
        return False
    draw = np.random.default_rng(0)
    if isinstance(space, spaces.Box):
        obs = draw.normal(size=(4, *space.shape)).astype(space.dtype)
    else:
        obs = draw.integers(space.start, space.start + space.n, 4)
    try:
        with np.errstate(all="ignore"), torch.no_grad():
            ours, theirs = phi(obs), phi(torch.from_numpy(obs))
    except Exception:  # whatever a stranger's function raises, it does not take NumPy
        return False
    if not (isinstance(ours, np.ndarray) and isinstance(theirs, Tensor)):
        return False
    return ours.shape == (4,) and np.allclose(ours, theirs.numpy(), equal_nan=True)


def _row(table: Tensor, obs: Tensor) -> Tensor:
    return table.index_select(0, obs)


def _table(phi: Any) -> Tensor:
    try:
        table = torch.as_tensor(phi, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"phi={phi!r}: expected a function, a table or a name") from None
    if table.ndim != 1 or table.device.type != "meta" and not bool(torch.isfinite(table).all()):
        raise ValueError(
            f"phi: a table of shape {tuple(table.shape)}, expected (S,) finite numbers, one a state"
        )
    return table


def _check_table(phi: Tensor, states: spaces.Space[Any]) -> None:
    if not isinstance(states, spaces.Discrete) or int(states.start) != 0:
        raise ValueError(f"phi: a table needs Discrete observations, these are {states}")
    if len(phi) != states.n:
        raise ValueError(f"phi: a table of {len(phi)} numbers, expected {states.n}, one a state")
