"""Walks on a graph that are paid for what is new: the dynamics that all of them share.

Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, box
from rewardzoo.random import Rng
from rewardzoo.rewards.base import integer, number
from rewardzoo.rewards.submodular import SetFunction

OBSERVATIONS = ("markov", "index", "history", "augmented")
MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # stay, right, down, left, up


@dataclass(frozen=True)
class WalkParams:
    """What every walk has."""

    horizon: int = 40
    """States in an episode, the first included: one more than there are actions."""
    slip: float = 0.0
    """Chance that the chosen action is replaced by one drawn uniformly."""
    obs: str = "markov"
    """"markov": place and time, scaled to [-1, 1]; "index": the same as one number; "history":
    also all places so far; "augmented": also what the set function remembers."""

    def __post_init__(self) -> None:
        """Check what all walks share."""
        integer("horizon", self.horizon, 1)
        number("slip", self.slip, 0.0, 1.0)
        if self.obs not in OBSERVATIONS:
            raise ValueError(f"obs={self.obs!r}: expected one of {', '.join(OBSERVATIONS)}")


class WalkState(NamedTuple):
    """Where each row is, where it was, and what that was worth."""

    cell: Tensor  # (N,) int64
    time: Tensor  # (N,) int64
    visited: Tensor  # (N, horizon) int64, -1 where not yet; (N, 0) unless observed
    memory: Any  # of the set function
    value: Tensor  # (N,) float64, F of the set of visited cells
    gain: Tensor  # (N,) float64, what the last step added


class Walk(FuncEnv):
    """The dynamics of a walk; a subclass calls ``_build`` in its constructor.

    Attributes:
        set_function: of the cells; ``submodular`` and ``modular_surrogate`` find it here.
        neighbours: (cells, actions) int64, where an action leads.
        places: (cells, D) float32 in [-1, 1], all different, where the cells are.
        starts: the cells in which an episode begins, uniformly.
        horizon: states in an episode.
    """

    Params = WalkParams
    render_modes = ("rgb_array", "ansi")
    render_fps = 8
    set_function: SetFunction

    def _build(
        self,
        function: SetFunction,
        neighbours: np.ndarray,
        places: np.ndarray,
        starts: Sequence[int],
    ) -> None:
        p = self.params
        self.set_function = function.to(self.device)
        self.neighbours = np.asarray(neighbours, dtype=np.int64)
        self.cells, self.actions = self.neighbours.shape
        self.places = np.asarray(places, dtype=np.float32)
        self.starts = [int(s) for s in starts]
        self.horizon = int(p.horizon)
        self._next = torch.tensor(self.neighbours.reshape(-1), device=self.device)
        self._places = torch.tensor(self.places, device=self.device)
        self._starts = torch.tensor(self.starts, device=self.device)
        self._width = self.horizon if p.obs == "history" else 0
        self.action_space = spaces.Discrete(self.actions)
        if p.obs == "index":
            self.observation_space: Any = spaces.Discrete(self.cells * self.horizon)
        else:
            size = self.places.shape[1] + 1
            if p.obs == "history":
                size += self.horizon * size
            elif p.obs == "augmented":
                size += self.set_function.features(self.set_function.empty(1)).shape[1]
            self.observation_space = box(-1.0, 1.0, (size,))

    def initial(self, rng: Rng, params: Any = None) -> WalkState:
        """At a start, which is visited."""
        cell = self._starts[rng.integers(0, len(self.starts))]
        rows = cell.shape[0]
        memory, value = self.set_function.add(self.set_function.empty(rows), cell)
        visited = torch.full((rows, self._width), -1, device=self.device)
        if self._width:
            visited[:, 0] = cell
        return WalkState(cell, torch.zeros_like(cell), visited, memory, value, value)

    def transition(
        self, state: WalkState, action: Tensor, rng: Rng, params: Any = None
    ) -> WalkState:
        """A move, perhaps another than the chosen one."""
        slip = self.params.slip
        if slip > 0:
            other = rng.integers(0, self.actions)
            action = torch.where(rng.uniform() < slip, other, action)
        cell = self._next.index_select(0, state.cell * self.actions + action)
        time = (state.time + 1).clamp(max=self.horizon - 1)
        visited = state.visited
        if self._width:
            visited = visited.scatter(1, time.unsqueeze(1), cell.unsqueeze(1))
        memory, gain = self.set_function.add(state.memory, cell)
        return WalkState(cell, time, visited, memory, state.value + gain, gain)

    def observation(self, state: WalkState, rng: Rng, params: Any = None) -> Tensor:
        """By ``obs``."""
        obs = self.params.obs
        if obs == "index":
            return state.time * self.cells + state.cell
        now = torch.cat(
            [self._places.index_select(0, state.cell), self._scaled(state.time).unsqueeze(1)], 1
        )
        if obs == "history":
            known = (state.visited >= 0).unsqueeze(2)
            places = self._places[state.visited.clamp(min=0)] * known
            return torch.cat([now, torch.cat([places, known], 2).flatten(1)], 1)
        if obs == "augmented":
            return torch.cat([now, self.set_function.features(state.memory)], 1)
        return now

    def reward(
        self,
        state: WalkState,
        action: Tensor,
        next_state: WalkState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """What the cell reached adds to F."""
        return next_state.gain

    def terminal(self, state: WalkState, rng: Rng, params: Any = None) -> Tensor:
        """At the horizon."""
        return state.time >= self.horizon - 1

    def state_info(self, state: WalkState, params: Any = None) -> dict[str, Tensor]:
        """``F``: the set function of all cells visited, the first one included."""
        return {"F": state.value}

    @property
    def episode_steps(self) -> int:
        """How many actions an episode has."""
        return self.horizon - 1

    def element_of(self, obs: Tensor) -> Tensor:
        """The cell, (N,) int64, from a batch of observations: reward functions ask for it."""
        if self.params.obs == "index":
            return obs % self.cells
        place = obs[:, None, : self.places.shape[1]] - self._places.to(obs.device)
        return place.square().sum(2).argmin(1)

    def _scaled(self, time: Tensor) -> Tensor:
        return time.to(torch.float32) * (2.0 / max(self.horizon - 1, 1)) - 1.0

    def render_image(self, state: WalkState, i: int) -> np.ndarray:
        """What is covered and where the walker is, uint8."""
        from .render import frame

        return frame(self, state, i)

    def render_text(self, state: WalkState, i: int) -> str:
        """Time, cell and F."""
        return (
            f"step {int(state.time[i])} of {self.horizon - 1}, cell {int(state.cell[i])}, "
            f"F = {float(state.value[i]):.3f}"
        )


def grid_moves(shape: tuple[int, int], walls: np.ndarray | None = None) -> np.ndarray:
    """(cells, 5) int64: stay, right, down, left, up; walls and borders stop a move."""
    rows, columns = shape
    moves = np.empty((rows * columns, len(MOVES)), dtype=np.int64)
    for y in range(rows):
        for x in range(columns):
            for action, (dy, dx) in enumerate(MOVES):
                v, u = y + dy, x + dx
                inside = 0 <= v < rows and 0 <= u < columns
                if not inside or walls is not None and walls[v, u]:
                    v, u = y, x
                moves[y * columns + x, action] = v * columns + u
    return moves


def grid_places(shape: tuple[int, int]) -> np.ndarray:
    """(cells, 2) float32 in [-1, 1], row and column."""
    y, x = (np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1) for n in shape)
    return np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)


def start_cell(
    start: tuple[int, int] | Sequence[int], shape: tuple[int, int], walls: np.ndarray | None = None
) -> int:
    """The number of the cell ``start``.

    Raises:
        ValueError: unless it is a free cell of the grid.
    """
    rows, columns = shape
    try:
        y, x = (int(v) for v in start)
    except (TypeError, ValueError):
        raise ValueError(f"start={start!r}: expected (row, column)") from None
    if not (0 <= y < rows and 0 <= x < columns):
        raise ValueError(f"start={start!r}: outside the grid of {rows} rows, {columns} columns")
    if walls is not None and walls[y, x]:
        raise ValueError(f"start={start!r}: there is a wall")
    return y * columns + x
