"""RewardFunction: what is paid for a transition, as an object apart from any environment."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from ..registration import register_reward
from ..transition import Obs, Transition

if TYPE_CHECKING:
    from .compose import Sum


class Spaces(NamedTuple):
    """The spaces of one environment of the batch, and the environment that has them.

    ``env`` is for what its dynamics offer by name (``Potential(phi="optimal_value")``), never for a
    look at their state.
    """

    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    env: Any = None

    @property
    def dynamics(self) -> Any:
        """What offers things by name: functional dynamics; without them the (first) environment."""
        env = getattr(self.env, "unwrapped", self.env)
        if hasattr(env, "envs"):
            env = env.envs[0].unwrapped
        return getattr(env, "func", env)


class RewardFunction:
    """Pays each row of a transition.

    A subclass writes ``__call__``, and, only where it needs them, ``reset`` (clear memory),
    ``bind`` (create memory with leading axis N) and ``observe`` and ``update`` (learn).

    Every attribute that is a tensor, a ``torch.nn.Module``, a ``torch.optim.Optimizer`` or another
    reward function is part of ``state_dict``: memory and parameters are saved without being
    listed.

    Attributes:
        gamma: the discount that the reward depends on; ``"agent"`` takes the agent's. None where
            it depends on none.
        markov: False where the reward depends on memory, so that stored transitions cannot be
            scored again alone.
        rowwise: False where rows share statistics, so that a row's reward depends on the others.
        numpy: True where ``__call__`` also takes NumPy arrays, and gives the same: on NumPy
            environments that spares the way through torch, which is most of a small batch's time.
        version: counts updates, so that caches and logged rewards can be matched.

    A reward function never reads ``info["objective"]``: that is for measuring.
    """

    gamma: float | str | None = None
    markov: bool = True
    rowwise: bool = True
    numpy: bool = False
    version: int = 0

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Create memory for ``num_envs`` rows on ``device``; called before the first reset."""
        for child in self._children().values():
            child.bind(num_envs, device, spaces)
        for name, value in vars(self).items():
            if isinstance(value, nn.Parameter):  # stays the same object: optimisers hold it
                value.data = value.data.to(device)
            elif isinstance(value, (Tensor, nn.Module)):
                setattr(self, name, value.to(device))

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Clear the memory of the rows in ``mask`` (N,) bool; ``obs`` begins their episodes."""
        for child in self._children().values():
            child.reset(mask, obs)

    def __call__(self, transition: Transition) -> Tensor:
        """The reward of each row, (N,) float32; advances memory by one environment step.

        Rows with ``valid`` False are dead: their reward is not paid, and they must not touch
        memory or statistics.
        """
        raise NotImplementedError

    def relabel(self, transition: Transition) -> Tensor:
        """Score stored transitions with the function as it is now, (N,) float32; changes nothing.

        Raises:
            RuntimeError: if ``markov`` is False and the subclass has no way to do it.
        """
        if not self.markov:
            raise RuntimeError(
                f"{self.name}: its reward depends on memory, so stored transitions cannot be "
                "scored again; use an on-policy agent, or put the memory into the observation "
                "with AppendRewardState"
            )
        return self(transition)

    def observation_features(self) -> Tensor | None:
        """Memory that an observation should carry, (N, K) float32, or None."""
        features = [child.observation_features() for child in self._children().values()]
        found = [f for f in features if f is not None]
        return torch.cat(found, 1) if found else None

    def observe(self, transition: Transition) -> None:
        """Collect what the function learns from; cheap, without gradient, every step."""
        for child in self._children().values():
            child.observe(transition)

    def update(self) -> dict[str, float | Tensor]:
        """Improve; called at the agent's update boundary. Returns metrics to log."""
        metrics: dict[str, float | Tensor] = {}
        for key, child in self._children().items():
            metrics.update({f"{key}/{k}": v for k, v in child.update().items()})
        return metrics

    def match_gamma(self, gamma: float) -> None:
        """Take or check the agent's discount.

        Raises:
            ValueError: if ``self.gamma`` is another number.
        """
        if self.gamma == "agent":
            self.gamma = gamma
        elif isinstance(self.gamma, (int, float)) and not math.isclose(self.gamma, gamma):
            raise ValueError(
                f"gamma={self.gamma} of reward function {self.name}: the agent's is {gamma}; "
                "with two discounts the optimum moves. Give both the same, or gamma='agent'"
            )
        for child in self._children().values():
            child.match_gamma(gamma)

    @property
    def name(self) -> str:
        """The registered name, or the class name in snake case."""
        own: str | None = type(self).__dict__.get("registered_name")
        return own or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def terms(self) -> dict[str, Tensor]:
        """What each composed term paid in the last call, by name; empty for a single one."""
        return {}

    def check_gamma(self) -> float:
        """The discount as a number.

        Raises:
            ValueError: if ``gamma="agent"`` and no agent has given its discount yet.
        """
        if not isinstance(self.gamma, (int, float)):
            raise ValueError(
                f"gamma={self.gamma!r} of reward function {self.name}: no agent has given its "
                "discount; give a number, or call match_gamma(0.99) first"
            )
        return self.gamma

    # ---- saving ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Parameters and memory, as a flat dict of tensors and plain numbers."""
        state: dict[str, Any] = {"version": self.version}
        for key, value in vars(self).items():
            if isinstance(value, Tensor):
                state[key] = value.detach().clone()
            elif isinstance(value, (nn.Module, torch.optim.Optimizer)):
                state[key] = copy.deepcopy(value.state_dict())
        for key, child in self._children().items():
            state[key] = child.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken; call after ``bind``.

        Raises:
            ValueError: if it was saved from another reward function or another ``num_envs``.
        """
        own = self.state_dict()
        if set(own) != set(state_dict):
            raise ValueError(
                f"state_dict of {self.name}: keys {sorted(state_dict)}, expected {sorted(own)}"
            )
        children = self._children()
        for key, value in state_dict.items():
            if key == "version":
                self.version = int(value)
            elif key in children:
                children[key].load_state_dict(value)
            elif isinstance(value, Tensor):
                current = getattr(self, key)
                if current.shape != value.shape:
                    raise ValueError(
                        f"state_dict of {self.name}: {key} is {tuple(value.shape)}, "
                        f"expected {tuple(current.shape)}"
                    )
                if isinstance(current, nn.Parameter):
                    current.data.copy_(value)
                else:
                    setattr(self, key, value.to(current.device, current.dtype, copy=True))
            else:
                getattr(self, key).load_state_dict(copy.deepcopy(value))

    def _children(self) -> dict[str, RewardFunction]:
        """The reward functions this one is made of, by attribute name."""
        found: dict[str, RewardFunction] = {}
        for key, value in vars(self).items():
            if isinstance(value, RewardFunction):
                found[key] = value
            elif isinstance(value, (list, tuple)):
                found.update(
                    (f"{key}.{i}", v) for i, v in enumerate(value) if isinstance(v, RewardFunction)
                )
        return found

    def functions(self) -> Iterator[RewardFunction]:
        """This function and all that it is made of."""
        yield self
        for child in self._children().values():
            yield from child.functions()

    def overrides(self, hook: str) -> bool:
        """Whether this function or one that it is made of writes its own method ``hook``."""
        return any(
            getattr(type(fn), hook) is not getattr(RewardFunction, hook) for fn in self.functions()
        )

    # ---- arithmetic --------------------------------------------------------------------------

    def __add__(self, other: RewardFunction) -> Sum:
        from .compose import Sum

        return Sum(self, other)

    def __sub__(self, other: RewardFunction) -> Sum:
        return self + (-1.0) * other

    def __mul__(self, weight: float) -> RewardFunction:
        from .compose import Scale

        return Scale(self, weight)

    __rmul__ = __mul__

    def __neg__(self) -> RewardFunction:
        return self * -1.0


@register_reward("objective")
class EnvReward(RewardFunction):
    """What the wrapped environment pays: the objective, or the reward of an inner wrapper.

    Example:
        >>> from rewardzoo.rewards import Novelty, env_reward
        >>> (env_reward + 0.1 * Novelty()).name
        'objective + novelty'
    """

    numpy = True

    def __call__(self, t: Transition) -> Tensor:
        """``t.reward``."""
        return t.reward


env_reward = EnvReward()


def number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, hint: str = ""
) -> float:
    """``value`` as a float, for constructors.

    Raises:
        ValueError: unless it is a finite number in [low, high]; ``hint`` says what to do.
    """
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if real and math.isfinite(value) and low <= value <= high:
        return float(value)
    bounds = ""
    if math.isfinite(low) or math.isfinite(high):
        bounds = f" in [{low:g}, {high:g}]" if math.isfinite(high) else f" >= {low:g}"
    advice = f" ({hint})" if hint else ""
    raise ValueError(f"{name}={value!r}: expected a finite number{bounds}{advice}")


def integer(name: str, value: Any, low: int) -> int:
    """``value``, for constructors.

    Raises:
        ValueError: unless it is an integer >= low.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name}={value!r}: expected an integer >= {low}")
    return value


def discount(gamma: Any) -> float | str:
    """A discount for a constructor: a number in [0, 1], or "agent".

    Raises:
        ValueError: for anything else.
    """
    if gamma == "agent":
        return "agent"
    return number("gamma", gamma, 0.0, 1.0, "the agent's discount, or 'agent'")


class RewardError(ValueError):
    """A reward function failed, or returned something that cannot be paid."""
