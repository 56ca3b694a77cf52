"""Arithmetic of reward functions: ``env_reward + 0.1 * Potential(phi)`` is a reward function."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from ..transition import Transition
from .base import RewardFunction, number


class Unary(RewardFunction):
    """A function of one other reward function's value; memory and state are the child's.

    A subclass writes ``transform``, or, where it has memory of its own, ``__call__``.
    """

    def __init__(self, inner: RewardFunction) -> None:
        if not isinstance(inner, RewardFunction):
            raise TypeError(f"{type(self).__name__}: expected a reward function, got {inner!r}")
        self.inner = inner

    @property
    def markov(self) -> bool:  # type: ignore[override]
        """Whether the inner function is."""
        return self.inner.markov

    @property
    def rowwise(self) -> bool:  # type: ignore[override]
        """Whether the inner function is."""
        return self.inner.rowwise

    @property
    def name(self) -> str:
        """For instance ``clip(novelty)``."""
        return f"{super().name}({self.inner.name})"

    def transform(self, reward: Tensor) -> Tensor:
        """The new reward from the inner one, (N,) both."""
        raise NotImplementedError

    def __call__(self, t: Transition) -> Tensor:
        """The transformed reward."""
        return self.transform(self.inner(t))

    def relabel(self, t: Transition) -> Tensor:
        """The transformed relabelled reward."""
        return self.transform(self.inner.relabel(t))


class Scale(Unary):
    """``weight * inner``."""

    @property
    def numpy(self) -> bool:  # type: ignore[override]
        """Whether the inner function is."""
        return self.inner.numpy

    def __init__(self, inner: RewardFunction, weight: float) -> None:
        super().__init__(inner)
        self.weight = number("weight", weight)

    @property
    def name(self) -> str:
        """The inner function's."""
        return self.inner.name

    def transform(self, reward: Tensor) -> Tensor:
        """Scaled."""
        return self.weight * reward

    def __mul__(self, weight: float) -> RewardFunction:
        return Scale(self.inner, self.weight * number("weight", weight))

    __rmul__ = __mul__


class Sum(RewardFunction):
    """The sum of several reward functions, each logged by its own name.

    Raises:
        ValueError: if a function with memory stands in it twice: it would be advanced twice a step.
    """

    def __init__(self, *parts: RewardFunction) -> None:
        for part in parts:
            if not isinstance(part, RewardFunction):
                raise TypeError(
                    f"{part!r} cannot be added to a reward function: expected a reward function"
                )
        self.parts: tuple[RewardFunction, ...] = tuple(
            inner for part in parts for inner in (part.parts if isinstance(part, Sum) else (part,))
        )
        if not self.parts:
            raise TypeError("Sum: expected at least one reward function")
        _refuse_shared_memory(self)
        self._keys = _distinct([part.name for part in self.parts])
        self._paid: list[Tensor] = []

    @property
    def markov(self) -> bool:  # type: ignore[override]
        """Whether all parts are."""
        return all(part.markov for part in self.parts)

    @property
    def rowwise(self) -> bool:  # type: ignore[override]
        """Whether all parts are."""
        return all(part.rowwise for part in self.parts)

    @property
    def numpy(self) -> bool:  # type: ignore[override]
        """Whether all parts are."""
        return all(part.numpy for part in self.parts)

    @property
    def name(self) -> str:
        """For instance ``objective + potential``."""
        return " + ".join(part.name for part in self.parts)

    def __call__(self, t: Transition) -> Tensor:
        """The sum; ``terms()`` has the parts."""
        first, *rest = self._paid = [part(t) for part in self.parts]
        return sum(rest, first)

    def relabel(self, t: Transition) -> Tensor:
        """The sum of the relabelled parts."""
        first, *rest = (part.relabel(t) for part in self.parts)
        return sum(rest, first)

    def terms(self) -> dict[str, Tensor]:
        """What each part paid in the last call, (N,) each; a repeated name is numbered."""
        return dict(zip(self._keys, self._paid, strict=False))

    def __mul__(self, weight: float) -> RewardFunction:
        return Sum(*(part * weight for part in self.parts))

    __rmul__ = __mul__


def _distinct(names: list[str]) -> list[str]:
    """The names, with the second of a kind as ``name_2``."""
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return out


def _refuse_shared_memory(fn: RewardFunction) -> None:
    seen: set[int] = set()
    for part in fn.functions():
        # What neither remembers nor learns may stand in many places.
        plain = not any(part.overrides(hook) for hook in ("bind", "reset", "observe"))
        if id(part) in seen and not plain:
            raise ValueError(
                f"reward function {part.name}: the same object stands twice in a sum, so its "
                "memory would advance twice a step; make two objects"
            )
        seen.add(id(part))
