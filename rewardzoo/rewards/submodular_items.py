"""Items: collecting so many of each kind, and no credit for more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .base import integer
from .submodular import SetFunction


class ItemsMemory(NamedTuple):
    """What was collected."""

    collected: Tensor  # (N, places) bool
    counts: Tensor  # (N, kinds + 1) int64, the last for places without an item


class Items(SetFunction):
    """``F(S) = sum over kinds k of min(|S and places of k|, demand_k)``.

    Args:
        kinds: of each place, the kind of the item there, -1 where there is none.
        demands: of each kind, how many are wanted.

    Raises:
        ValueError: naming the place whose kind has no demand.

    Example:
        >>> Items([0, 0, 1, -1], demands=[1, 5]).value([0, 1, 2, 3])
        2.0

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning".
    """

    Memory = ItemsMemory

    def __init__(self, kinds: Sequence[int], demands: Sequence[int]) -> None:
        self._kinds = [int(k) for k in kinds]
        self._demands = [integer("demands", int(d), 0) for d in demands]
        self.size, self.num_kinds = len(self._kinds), len(self._demands)
        if not self.size or not self.num_kinds:
            raise ValueError("kinds, demands: expected at least one place and one kind")
        for place, kind in enumerate(self._kinds):
            if not -1 <= kind < self.num_kinds:
                raise ValueError(
                    f"kinds[{place}]={kind}: expected -1 (no item) to {self.num_kinds - 1}"
                )
        none = self.num_kinds
        self.kinds = torch.tensor([none if k < 0 else k for k in self._kinds])
        self.demands = torch.tensor([*self._demands, 0])

    def empty(self, num_rows: int) -> ItemsMemory:
        """Nothing is collected."""
        return ItemsMemory(
            torch.zeros(num_rows, self.size, dtype=torch.bool, device=self.kinds.device),
            torch.zeros(num_rows, self.num_kinds + 1, dtype=torch.int64, device=self.kinds.device),
        )

    def add(self, memory: ItemsMemory, element: Tensor) -> tuple[ItemsMemory, Tensor]:
        """Collect what lies there; 1 for an item that is still wanted."""
        place = element.unsqueeze(1)
        kind = self.kinds[place]
        new = memory.collected.gather(1, place).logical_not()
        wanted = memory.counts.gather(1, kind) < self.demands[kind]
        collected = memory.collected.scatter(1, place, True)
        counts = memory.counts.scatter_add(1, kind, new.to(torch.int64))
        gain = (new & wanted).squeeze(1).to(torch.float64)
        return ItemsMemory(collected, counts), gain

    def features(self, memory: ItemsMemory) -> Tensor:
        """The places visited, and how much of each demand is met."""
        met = memory.counts[:, :-1] / self.demands[:-1].clamp(min=1)
        return torch.cat([memory.collected.to(torch.float32), met.clamp(max=1.0).float()], 1)

    def value(self, elements: Sequence[int]) -> float:
        """Counted anew."""
        found = Counter(self._kinds[v] for v in set(elements))
        return float(sum(min(found[k], d) for k, d in enumerate(self._demands)))

    def signature(self, elements: Sequence[int]) -> Hashable:
        """The places emptied, of the kinds that are still wanted; the others are alike."""
        found = Counter(self._kinds[v] for v in set(elements))
        full = frozenset(k for k, d in enumerate(self._demands) if found[k] >= d)
        open_places = (v for v in set(elements) if self._kinds[v] >= 0)
        return full, frozenset(v for v in open_places if self._kinds[v] not in full)
