"""Coverage: the weight of all cells that were seen, from wherever they were seen."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..registration import register_reward
from .base import integer, number
from .submodular import Bins, SetFunction, SubmodularReward

_BITS = 64
FOOTPRINTS = ("cell", "diag", "large", "disc", "square")


class CoverageMemory(NamedTuple):
    """Which cells are covered."""

    covered: Tensor  # (N, ceil(cells / 64)) int64, one bit a cell


class SetCover(SetFunction):
    """``F(S) = sum of w_j over the cells j that an element of S covers``.

    Cells are kept as bits, so that adding an element is one "or" of a few words, and its gain a
    look at the cells of its footprint alone: neither depends on what was added before.

    Args:
        footprints: for each element, the cells that it covers.
        weights: (cells,) of the cells, >= 0.

    Raises:
        ValueError: naming the cell with a bad weight, or the element with a bad footprint.
    """

    Memory = CoverageMemory

    def __init__(self, footprints: Sequence[Sequence[int]], weights: ArrayLike) -> None:
        w = check_weights(weights).reshape(-1)
        self.cells, self.size = len(w), len(footprints)
        if not self.size:
            raise ValueError("footprints: expected at least one element")
        self._footprints = [_check_footprint(v, f, self.cells) for v, f in enumerate(footprints)]
        width = max(1, *(len(f) for f in self._footprints))
        words = -(-self.cells // _BITS)
        cell = np.zeros((self.size, width), dtype=np.int64)
        weight = np.zeros((self.size, width))
        masks = np.zeros((self.size, words), dtype=np.uint64)
        for v, f in enumerate(self._footprints):
            cell[v, : len(f)] = f
            weight[v, : len(f)] = w[f]
            for j in f:
                masks[v, j // _BITS] |= np.uint64(1) << np.uint64(j % _BITS)
        self.weights = torch.tensor(w)
        self._word = torch.tensor(cell // _BITS)
        self._bit = torch.tensor(cell % _BITS)
        self._weight = torch.tensor(weight)
        self._mask = torch.tensor(masks.view(np.int64))

    def empty(self, num_rows: int) -> CoverageMemory:
        """Nothing is covered."""
        words = self._mask.shape[1]
        return CoverageMemory(
            torch.zeros(num_rows, words, dtype=torch.int64, device=self._mask.device)
        )

    def add(self, memory: CoverageMemory, element: Tensor) -> tuple[CoverageMemory, Tensor]:
        """Cover the footprint of ``element``."""
        covered = memory.covered | self._mask.index_select(0, element)
        return CoverageMemory(covered), self.gain(memory, element)

    def gain(self, memory: CoverageMemory, element: Tensor) -> Tensor:
        """The weight of the cells of the footprint that are not covered yet."""
        word = memory.covered.gather(1, self._word.index_select(0, element))
        old = (word >> self._bit.index_select(0, element)) & 1
        return (self._weight.index_select(0, element) * (1 - old)).sum(1)

    def covered(self, memory: CoverageMemory) -> Tensor:
        """Which cells are covered, (N, cells) bool."""
        bit = torch.arange(_BITS, device=memory.covered.device)
        return ((memory.covered.unsqueeze(-1) >> bit) & 1).flatten(1)[:, : self.cells].bool()

    def features(self, memory: CoverageMemory) -> Tensor:
        """The covered cells as zeros and ones."""
        return self.covered(memory).to(torch.float32)

    def value(self, elements: Sequence[int]) -> float:
        """The weight of the union of the footprints."""
        union = set().union(*(self._footprints[v] for v in elements))
        return math.fsum(float(self.weights[j]) for j in union)

    def signature(self, elements: Sequence[int]) -> Hashable:
        """The covered cells that weigh something."""
        union = set().union(*(self._footprints[v] for v in elements))
        return frozenset(j for j in union if float(self.weights[j]) > 0)


class Coverage(SetCover):
    """Coverage of a grid: every free cell is an element that covers its surroundings.

    Args:
        shape: rows and columns.
        footprint: "cell" covers the cell itself; "diag" also the ones to the right, below, and
            right below; "large" the same again from each of these; "disc" all cells whose
            distance is at most ``radius``; "square" all that are at most ``radius`` rows and
            columns away. Footprints end at the border and at walls: only free
            cells are covered.
        weights: "uniform", "bimodal" (two high corners), or an array of that shape, >= 0.
        radius: of the disc or square, in cells.
        walls: (rows, columns) bool; None where all cells are free. Walls weigh nothing and cover
            nothing.

    Example:
        >>> f = Coverage((5, 5))
        >>> f.value([0, 1])
        6.0

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning".
    """

    def __init__(
        self,
        shape: tuple[int, int],
        footprint: str = "diag",
        weights: Any = "uniform",
        radius: float = 1.0,
        walls: ArrayLike | None = None,
    ) -> None:
        self.shape = check_shape(shape)
        rows, columns = self.shape
        free = ~np.zeros(self.shape, bool) if walls is None else ~np.asarray(walls, dtype=bool)
        if free.shape != self.shape:
            raise ValueError(f"walls: shape {free.shape}, expected {self.shape}")
        grid = grid_weights(weights, self.shape)
        offsets = _offsets(footprint, radius)
        footprints = []
        for y in range(rows):
            for x in range(columns):
                seen = [(y + dy, x + dx) for dy, dx in offsets] if free[y, x] else []
                footprints.append(
                    [
                        v * columns + u
                        for v, u in seen
                        if 0 <= v < rows and 0 <= u < columns and free[v, u]
                    ]
                )
        super().__init__(footprints, np.where(free, grid, 0.0))


@register_reward("coverage")
class CoverageReward(SubmodularReward):
    """Pays the weight of the cells of a grid that are seen for the first time in the episode.

    Args:
        shape: rows and columns of the grid.
        footprint: what is seen from a cell: "cell", "diag", "large", "disc" or "square".
        weights: "uniform", "bimodal", or rows of numbers >= 0.
        radius: of the disc or square, in cells.
        low: lower edges of the grid in the observation's units; None where observations are
            ``Discrete``, cell by cell.
        high: upper edges.
        columns: which columns of a ``Box`` observation are the row's and the column's place.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning".
    """

    def __init__(
        self,
        shape: tuple[int, int],
        footprint: str = "cell",
        weights: Any = "uniform",
        radius: float = 1.0,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        if (low is None) != (high is None):
            raise ValueError(f"low={low}, high={high}: give both, or neither")
        key = None
        if low is not None and high is not None:
            key = Bins(shape, low, high, columns)
        super().__init__(Coverage(shape, footprint, weights, radius), key)


def check_shape(shape: Any) -> tuple[int, int]:
    """Rows and columns of a grid.

    Raises:
        ValueError: unless these are two integers >= 1.
    """
    try:
        rows, columns = shape
    except (TypeError, ValueError):
        raise ValueError(f"shape={shape!r}: expected (rows, columns)") from None
    return integer("shape", rows, 1), integer("shape", columns, 1)


def grid_weights(weights: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Weights of a grid by name, or checked; "bimodal" is ``sigmoid(x * y)`` on [-1, 1] squared.

    Raises:
        ValueError: for another name or shape, or naming the cell with a bad weight.
    """
    if isinstance(weights, str):
        if weights == "uniform":
            return np.ones(shape)
        if weights == "bimodal":
            y, x = (np.linspace(-1.0, 1.0, n) for n in shape)
            found: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.outer(y, x)))
            return found
        raise ValueError(f"weights={weights!r}: expected 'uniform', 'bimodal' or an array")
    grid = check_weights(weights)
    if grid.shape != shape:
        raise ValueError(f"weights: shape {grid.shape}, expected {shape}")
    return grid


def check_weights(weights: ArrayLike) -> NDArray[np.float64]:
    """``weights`` as an array of float64.

    Raises:
        ValueError: naming the first that is negative or not finite.
    """
    try:
        w = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("weights: expected numbers") from None
    wrong = ~(np.isfinite(w) & (w >= 0))
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"weights{list(where)}={w[where]:g}: expected a finite number >= 0")
    return w


def _check_footprint(element: int, footprint: Sequence[int], cells: int) -> list[int]:
    found = sorted(int(j) for j in footprint)
    for j in found:
        if not 0 <= j < cells:
            raise ValueError(f"footprints[{element}]: cell {j}, expected 0 to {cells - 1}")
    for a, b in zip(found, found[1:], strict=False):
        if a == b:
            raise ValueError(f"footprints[{element}]: cell {a} stands in it twice")
    return found


def _offsets(footprint: str, radius: float) -> list[tuple[int, int]]:
    """What is seen from (0, 0), as (row, column) offsets."""
    if footprint == "cell":
        return [(0, 0)]
    if footprint == "diag":
        return [(y, x) for y in range(2) for x in range(2)]
    if footprint == "large":
        return [(y, x) for y in range(3) for x in range(3)]
    if footprint in ("disc", "square"):
        r = number("radius", radius, 0.0)
        span = range(-int(r), int(r) + 1)
        if footprint == "square":
            return [(y, x) for y in span for x in span]
        return [(y, x) for y in span for x in span if y * y + x * x <= r * r]
    raise ValueError(f"footprint={footprint!r}: expected one of {', '.join(FOOTPRINTS)}")
