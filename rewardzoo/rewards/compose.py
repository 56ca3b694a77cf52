"""Arithmetic of reward functions: ``env_reward + 0.1 * Potential(phi)`` is a reward function."""

from __future__ import annotations

import math

from torch import Tensor

from ..transition import Transition
from .base import RewardFunction


class _Unary(RewardFunction):
    """A function of one other reward function's value; memory and state are the child's."""

    def __init__(self, inner: RewardFunction) -> None:
        self.inner = inner

    @property
    def markov(self) -> bool:  # type: ignore[override]
        """Whether the inner function is."""
        return self.inner.markov

    @property
    def name(self) -> str:
        """The inner function's."""
        return self.inner.name

    def transform(self, reward: Tensor) -> Tensor:
        """The new reward from the inner one, (N,) both."""
        raise NotImplementedError

    def __call__(self, t: Transition) -> Tensor:
        """The transformed reward."""
        return self.transform(self.inner(t))

    def relabel(self, t: Transition) -> Tensor:
        """The transformed relabelled reward."""
        return self.transform(self.inner.relabel(t))


class Scale(_Unary):
    """``weight * inner``."""

    def __init__(self, inner: RewardFunction, weight: float) -> None:
        if not (isinstance(weight, (int, float)) and math.isfinite(weight)):
            raise ValueError(f"weight={weight!r}: expected a finite number")
        super().__init__(inner)
        self.weight = float(weight)

    def transform(self, reward: Tensor) -> Tensor:
        """Scaled."""
        return self.weight * reward


class Sum(RewardFunction):
    """The sum of several reward functions, each logged by its own name."""

    def __init__(self, *parts: RewardFunction) -> None:
        for part in parts:
            if not isinstance(part, RewardFunction):
                raise TypeError(f"Sum: expected reward functions, got {part!r}")
        self.parts = tuple(
            inner for part in parts for inner in (part.parts if isinstance(part, Sum) else (part,))
        )
        self._paid: dict[str, Tensor] = {}

    @property
    def markov(self) -> bool:  # type: ignore[override]
        """Whether all parts are."""
        return all(part.markov for part in self.parts)

    def __call__(self, t: Transition) -> Tensor:
        """The sum; ``terms()`` has the parts."""
        self._paid = {}
        total: Tensor | None = None
        for part in self.parts:
            paid = part(t)
            key, count = part.name, 2
            while key in self._paid:
                key, count = f"{part.name}_{count}", count + 1
            self._paid[key] = paid
            total = paid if total is None else total + paid
        assert total is not None
        return total

    def relabel(self, t: Transition) -> Tensor:
        """The sum of the relabelled parts."""
        first, *rest = (part.relabel(t) for part in self.parts)
        return sum(rest, first)

    def terms(self) -> dict[str, Tensor]:
        """What each part paid in the last call."""
        return self._paid
