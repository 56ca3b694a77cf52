"""SubmodularItems: collect so many of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rewardzoo.rewards.base import integer
from rewardzoo.rewards.submodular_coverage import check_shape
from rewardzoo.rewards.submodular_items import Items

from .walk import Walk, WalkParams, grid_moves, grid_places, start_cell


@dataclass(frozen=True)
class ItemsParams(WalkParams):
    """The store and the shopping list."""

    shape: tuple[int, int] = (7, 15)
    """Rows and columns."""
    start: tuple[int, int] = (2, 4)
    """Row and column where an episode begins."""
    stock: tuple[int, ...] = (18, 14, 13, 16, 18, 14)
    """Items of each kind, at most one in a cell."""
    demands: tuple[int, ...] = (3, 2, 3, 4, 6, 3)
    """How many of each kind are wanted."""
    instance: int = 0
    """Which random placement."""

    def __post_init__(self) -> None:
        """Check the stock."""
        super().__post_init__()
        rows, columns = check_shape(self.shape)
        integer("instance", self.instance, 0)
        if len(self.stock) != len(self.demands):
            raise ValueError(
                f"demands={self.demands}: expected {len(self.stock)}, one for each kind in stock"
            )
        for kind, count in enumerate(self.stock):
            integer(f"stock[{kind}]", count, 0)
        if sum(self.stock) > rows * columns:
            raise ValueError(
                f"stock: {sum(self.stock)} items, and {rows * columns} cells that hold one each"
            )


class SubmodularItems(Walk):
    """Collect items in a store by a list; more than the list asks for is worth nothing.

    Dynamics: a walk on a grid, as in SubmodularCoverage.

    Observation: as in SubmodularCoverage; ``obs="augmented"`` shows the cells visited and how much
    of each demand is met.

    Action: Discrete(5): stay, right, down, left, up.

    Objective: 1 for an item that is still wanted, on the first visit of its cell:
    ``F(S) = sum_k min(items of kind k in S, demand_k)``.

    Start state: ``start``.

    End of episode: terminated after ``horizon - 1`` steps.

    Arguments: ``shape``, ``start``, ``stock``, ``demands``, ``instance``, ``horizon``, ``slip``,
    ``obs``.

    Reference returns: F is at most the sum of demands, 21, which some paths attain; greedy gets
    18.9 on the first instance, the uniform policy 12.8.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Params = ItemsParams

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: ItemsParams = self.params
        self.shape = check_shape(p.shape)
        cells = self.shape[0] * self.shape[1]
        kinds = np.full(cells, -1)
        kinds[: sum(p.stock)] = np.repeat(np.arange(len(p.stock)), p.stock)
        kinds = np.random.default_rng(p.instance).permutation(kinds)
        self._build(
            Items(kinds.tolist(), p.demands),
            grid_moves(self.shape),
            grid_places(self.shape),
            [start_cell(p.start, self.shape)],
        )
