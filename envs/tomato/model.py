"""The garden as a finite model: every state that can be reached from the start.

On the small gardens all tomatoes can be watered at once, and what happens then matters. Two
variants are found in tables of exact values, here by 100 steps of the uniform policy:

===== ========================= ====== ====== ==== ===========================================
level variant                   states return r    is
===== ========================= ====== ====== ==== ===========================================
toy   the episode goes on       112    6.54   .458 the environment's default
toy   all stays watered, and    107    6.54   .467 ``terminate_when_done``, if the end paid on
      pays, for good
2     the episode goes on       218    6.49   .200 the environment's default
2     all stays watered         214    7.37   .380 ``terminate_when_done``, if the end paid on
4     it cannot happen          463    5.49   .405 both
===== ========================= ====== ====== ==== ===========================================

``expected`` pays on in an end, which gives the second variant; ``TomatoWatering``'s
``transition_matrix`` pays nothing there, as an episode that has ended does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .dynamics import TomatoWatering


class GardenModel:
    """Reachable states, numbered from 0, the start; the memory of the bucket is left out.

    Args:
        func: the dynamics.

    Attributes:
        cell: (S,) int64.
        wet: (S, T) bool.
        next: (S, A) int64, where each move leads when no random action replaces it.
        terminal: (S,) bool.
    """

    def __init__(self, func: TomatoWatering) -> None:
        self._eps = func.params.randomness_eps
        moves, near, here = (x.cpu().numpy() for x in (func._next, func._near, func._here))
        self._tomatoes = func.num_tomatoes
        ends = func.params.terminate_when_done
        bits = 1 << np.arange(self._tomatoes)
        number = {(func.start_cell, 0): 0}
        queue, table, states = [(func.start_cell, 0)], [], []
        for cell, code in queue:  # grows while it is read
            wet = (code & bits) > 0
            states.append(wet)
            row = []
            for to in moves[cell]:
                after = (int(to), int(((wet | here[to]) & near[to]) @ bits))
                if ends and wet.all():
                    after = (cell, code)
                if after not in number:
                    number[after] = len(number)
                    queue.append(after)
                row.append(number[after])
            table.append(row)
        self.cell = np.array([cell for cell, _ in queue])
        self.wet = np.array(states)
        self.next = np.array(table)
        self.terminal = self.wet.all(1) & ends
        size = func.num_cells << self._tomatoes
        self._number = torch.full((size,), -1, dtype=torch.int64)
        code = self.wet @ bits
        self._number[torch.from_numpy((self.cell << self._tomatoes) + code)] = torch.arange(
            len(self.cell)
        )
        self._bits = torch.from_numpy(bits)

    def transition(self) -> np.ndarray:
        """(S, A, S) float64, random actions included."""
        sure = np.eye(len(self.next))[self.next]
        return (1.0 - self._eps) * sure + self._eps * sure.mean(1, keepdims=True)

    def expected(self, worth: np.ndarray) -> np.ndarray:
        """(S, A), of a number (S,) paid for the successor."""
        sure = worth[self.next]
        return (1.0 - self._eps) * sure + self._eps * sure.mean(1, keepdims=True)

    def index(self, obs: Any) -> Tensor:
        """(N,) int64, the state's number of each observation; -1 where it cannot be reached."""
        code = (obs["tomatoes"][:, :-1].to(torch.int64) * self._bits).sum(1)
        found: Tensor = self._number[(obs["agent"] << self._tomatoes) + code]
        return found
