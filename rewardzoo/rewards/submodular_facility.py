"""Facility location: every customer is served by the best facility opened so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .submodular import SetFunction
from .submodular_coverage import check_weights


class FacilityMemory(NamedTuple):
    """How well each customer is served."""

    best: Tensor  # (N, customers) float64


class FacilityLocation(SetFunction):
    """``F(S) = sum over customers j of max_{s in S} M[s, j]``, 0 for the empty set.

    Args:
        benefits: (elements, customers), M[s, j] >= 0: what ``s`` is worth to ``j``.

    Raises:
        ValueError: naming the benefit that is negative or not finite.

    Example:
        >>> FacilityLocation([[3.0, 0.0], [2.0, 2.0]]).value([0, 1])
        5.0
    """

    Memory = FacilityMemory

    def __init__(self, benefits: ArrayLike) -> None:
        table = check_weights(benefits)
        if table.ndim != 2 or not table.size:
            raise ValueError(f"benefits: shape {table.shape}, expected (elements, customers)")
        self.size = table.shape[0]
        self.benefits = torch.tensor(table)
        self._largest = torch.tensor(np.maximum(table.max(0), 1e-300))

    def empty(self, num_rows: int) -> FacilityMemory:
        """Nobody is served."""
        return FacilityMemory(self.benefits.new_zeros(num_rows, self.benefits.shape[1]))

    def add(self, memory: FacilityMemory, element: Tensor) -> tuple[FacilityMemory, Tensor]:
        """Open a facility."""
        best = torch.maximum(memory.best, self.benefits.index_select(0, element))
        return FacilityMemory(best), (best - memory.best).sum(1)

    def features(self, memory: FacilityMemory) -> Tensor:
        """How well each customer is served, as a share of the best possible."""
        return (memory.best / self._largest).to(torch.float32)

    def value(self, elements: Sequence[int]) -> float:
        """The sum of column maxima."""
        chosen = sorted(set(elements))
        return float(self.benefits[chosen].amax(0).sum()) if chosen else 0.0
