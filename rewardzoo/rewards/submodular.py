"""Set functions of what an episode has visited, and the reward that pays their marginal gains.

``SubmodularReward`` makes any environment a submodular one: Prajapat, Mutný, Zeilinger, Krause
(2024), "Submodular reinforcement learning". The functions have a file each:
``submodular_coverage``, ``submodular_items``, ``submodular_information``, ``submodular_facility``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition, select
from .base import RewardFunction, Spaces, integer

F = TypeVar("F", bound="SetFunction")


class SetFunction:
    """A monotone submodular function of sets of the elements 0 .. ``size - 1``.

    ``F(empty) = 0``, more elements are worth no less, and what an element adds, its *gain*,
    never grows with the set. What was added so far is a NamedTuple of tensors (N, ...), so that N
    sets grow side by side; nothing here is changed in place.

    Attributes:
        size: how many elements there are.
        Memory: the NamedTuple.
    """

    size: int
    Memory: type[Any]

    def empty(self, num_rows: int) -> Any:
        """The memory of ``num_rows`` empty sets."""
        raise NotImplementedError

    def add(self, memory: Any, element: Tensor) -> tuple[Any, Tensor]:
        """Add an element (N,) int64 to each set: the new memory, and the gain (N,) float64."""
        raise NotImplementedError

    def gain(self, memory: Any, element: Tensor) -> Tensor:
        """What ``element`` (N,) int64 would add, (N,) float64."""
        return self.add(memory, element)[1]

    def gains(self, memory: Any) -> Tensor:
        """What each of all elements would add, (N, size) float64."""
        rows = memory[0].shape[0]
        element = torch.arange(self.size, device=self.device)
        many = _rows(memory, torch.arange(rows, device=self.device).repeat_interleave(self.size))
        return self.gain(many, element.repeat(rows)).reshape(rows, self.size)

    def features(self, memory: Any) -> Tensor:
        """The memory for an observation, (N, K) float32 in [0, 1]: it tells all future gains."""
        raise NotImplementedError

    def value(self, elements: Sequence[int]) -> float:
        """F of a set, from its definition and not from gains."""
        raise NotImplementedError

    def signature(self, elements: Sequence[int]) -> Hashable:
        """Equal for sets of equal value and equal future gains: exact solvers merge them."""
        return frozenset(elements)

    def singles(self) -> Tensor:
        """F of each single element, (size,) float64: the weights of the modular surrogate."""
        element = torch.arange(self.size, device=self.device)
        return self.gain(self.empty(self.size), element)

    def curvature(self) -> float:
        """``1 - min_v F(v | rest) / F({v})``, 0 for a modular function, at most 1.

        Elements that are worth nothing alone are left out.
        """
        singles = self.singles().tolist()
        everything = list(range(self.size))
        whole = self.value(everything)
        ratios = [
            (whole - self.value(everything[:v] + everything[v + 1 :])) / alone
            for v, alone in enumerate(singles)
            if alone > 0
        ]
        return 1.0 - min(ratios) if ratios else 0.0

    def to(self: F, device: torch.device | str) -> F:
        """The same function with its tables on ``device``."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(other, name, value.to(device))
        return other

    @property
    def device(self) -> torch.device:
        """Where its tables are."""
        return next(v.device for v in vars(self).values() if isinstance(v, Tensor))


@register_reward("submodular")
class SubmodularReward(RewardFunction):
    """Pays what the element reached adds to a submodular function of all that was visited.

    The first observation of an episode is visited too, and pays nothing; so an episode's sum is
    ``F(visited) - F({first})``. Such a reward depends on the past: put ``observation_features``
    into the observation with ``AppendRewardState`` to make it Markov again.

    Args:
        function: a SetFunction, or "environment" for the one that the environment offers.
        key: from a batch of observations to elements (N,) int64; None takes ``Discrete``
            observations as they are, or the environment's own ``element_of``.

    Example:
        >>> import gymnasium, rewardzoo
        >>> from rewardzoo.rewards import SubmodularReward, VectorRewardWrapper
        >>> from rewardzoo.rewards.submodular_coverage import Coverage
        >>> envs = gymnasium.make_vec("rewardzoo/GridWorld-v0", num_envs=2, slip=0.0)
        >>> envs = VectorRewardWrapper(envs, SubmodularReward(Coverage((3, 4), footprint="cell")))
        >>> _ = envs.reset(seed=0)
        >>> [envs.step([1, 2])[1].tolist() for _ in range(2)]
        [[1.0, 0.0], [1.0, 0.0]]

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning".
    """

    markov = False

    def __init__(
        self,
        function: SetFunction | str = "environment",
        key: Callable[[Any], Tensor] | None = None,
    ) -> None:
        _check(function)
        self.function = function
        self.key = key
        self._names: list[str] = []

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Empty sets, on ``device``."""
        self._function, self._key = resolve(self.function, self.key, device, spaces)
        self._store(self._function.empty(num_envs))
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """The rows in ``mask`` have visited ``obs`` alone."""
        first, _ = self._function.add(self._function.empty(mask.shape[0]), self._key(obs))
        self._store(select(mask, first, self.memory))

    def __call__(self, t: Transition) -> Tensor:
        """The gain of the successor's element, (N,) float32, >= 0."""
        memory = self.memory
        grown, gain = self._function.add(memory, self._key(t.next_obs))
        self._store(select(t.valid, grown, memory))
        return gain.to(torch.float32)

    def observation_features(self) -> Tensor:
        """The memory, (N, K) float32 in [0, 1]."""
        return self._function.features(self.memory)

    @property
    def memory(self) -> Any:
        """What each row has visited, as the set function remembers it."""
        return self._function.Memory(*(getattr(self, name) for name in self._names))

    def _store(self, memory: Any) -> None:
        # Tensors in attributes of their own are saved with the function.
        self._names = [f"visited_{name}" for name in memory._fields]
        for name, value in zip(self._names, memory, strict=True):
            setattr(self, name, value)


@register_reward("modular_surrogate")
class ModularSurrogate(RewardFunction):
    """Pays ``F({element reached})``, whatever was visited before: repeats are paid again.

    The additive reward that a set function is easily mistaken for; an agent trained on it is the
    baseline MODPO of the paper.

    Args:
        function: a SetFunction, or "environment" for the one that the environment offers.
        key: from a batch of observations to elements (N,) int64, as in ``submodular``.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning".
    """

    def __init__(
        self,
        function: SetFunction | str = "environment",
        key: Callable[[Any], Tensor] | None = None,
    ) -> None:
        _check(function)
        self.function = function
        self.key = key

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Take the weights of single elements."""
        found, self._key = resolve(self.function, self.key, device, spaces)
        self.weights = found.singles().to(torch.float32)

    def __call__(self, t: Transition) -> Tensor:
        """The weight of the successor's element, (N,) float32."""
        return self.weights[self._key(t.next_obs)]


class Bins:
    """A key for ``Box`` observations: the cell, row by row, of a grid over two or more columns.

    Args:
        shape: cells along each column.
        low: lower edges of the grid.
        high: upper edges; what lies outside counts to the nearest cell.
        columns: which columns of the observation; None takes the first ones.

    Raises:
        ValueError: unless there is a low < high for every axis.

    Example:
        >>> Bins((2, 4), (0.0, 0.0), (1.0, 1.0))(torch.tensor([[0.9, 0.3], [-5.0, 0.8]]))
        tensor([5, 3])
    """

    def __init__(
        self,
        shape: Sequence[int],
        low: Sequence[float],
        high: Sequence[float],
        columns: Sequence[int] | None = None,
    ) -> None:
        axes = {len(shape), len(low), len(high), len(shape if columns is None else columns)}
        if len(axes) > 1:
            raise ValueError(
                f"low={low}, high={high}, columns={columns}: expected {len(shape)} each, one for "
                "every axis of shape"
            )
        for a, b in zip(low, high, strict=True):
            if not (math.isfinite(a) and math.isfinite(b) and a < b):
                raise ValueError(f"low={low}, high={high}: expected finite numbers, low < high")
        self.shape = tuple(integer("shape", int(n), 1) for n in shape)
        self.low, self.high = tuple(map(float, low)), tuple(map(float, high))
        self.columns = tuple(columns) if columns is not None else tuple(range(len(shape)))

    def __call__(self, obs: Tensor) -> Tensor:
        """The cell, (N,) int64."""
        cell = torch.zeros(obs.shape[0], dtype=torch.int64, device=obs.device)
        for column, n, a, b in zip(self.columns, self.shape, self.low, self.high, strict=True):
            place = ((obs[:, column] - a) * (n / (b - a))).floor().to(torch.int64)
            cell = cell * n + place.clamp(0, n - 1)
        return cell


def resolve(
    function: SetFunction | str,
    key: Callable[[Any], Tensor] | None,
    device: torch.device,
    spaces: Spaces,
) -> tuple[SetFunction, Callable[[Any], Tensor]]:
    """The set function on ``device`` and the key, the environment's where none is given.

    Raises:
        ValueError: if the environment offers none, or its observations do not fit.
    """
    offer = spaces.dynamics
    if not isinstance(getattr(offer, "set_function", None), SetFunction):
        offer = None
    if isinstance(function, SetFunction):
        found = function
    elif offer is not None:
        found = offer.set_function
    else:
        raise ValueError(
            f"function={function!r}: this environment offers no set function; give one"
        )
    if key is None:
        states = spaces.observation
        if offer is not None:
            key = offer.element_of
        elif isinstance(states, gym_spaces.Discrete) and int(states.n) == found.size:
            key = _Shift(int(states.start))
        else:
            raise ValueError(
                f"key=None: expected Discrete({found.size}) observations, one an element, these "
                f"are {states}; give a function from observations to elements, such as Bins"
            )
    return found.to(device), key


class _Shift:
    """The key of Discrete observations."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __call__(self, obs: Tensor) -> Tensor:
        return obs if self.start == 0 else obs - self.start


def _check(function: Any) -> None:
    if not isinstance(function, SetFunction) and function != "environment":
        raise ValueError(f"function={function!r}: expected a SetFunction, or 'environment'")


def _rows(memory: Any, index: Tensor) -> Any:
    return type(memory)(*(x[index] for x in memory))
