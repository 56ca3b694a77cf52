"""GridWorld's dynamics: a maze drawn as text, with a slip (after Russell and Norvig)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv
from rewardzoo.random import Rng
from rewardzoo.rewards.base import number

_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


@dataclass(frozen=True)
class GridWorldParams:
    """The map and the chances."""

    map: str = "...G\n.#.T\nS..."
    """Rows of the maze: ``S`` a start, ``G`` a goal, ``T`` a trap, ``#`` a wall, ``.`` free."""
    slip: float = 0.2
    """Chance that a move goes to one of the two sides instead, half each."""
    goal_reward: float = 1.0
    """Objective on entering a goal."""
    trap_reward: float = -1.0
    """Objective on entering a trap."""

    def __post_init__(self) -> None:
        """Check the map and the chances."""
        if not isinstance(self.map, str):
            raise ValueError(f"map={self.map!r}: expected rows of text, separated by newlines")
        rows = self.map.split("\n")
        if len({len(row) for row in rows}) != 1 or not rows[0]:
            raise ValueError("map: expected rows of one length, separated by newlines")
        if wrong := set(self.map) - set("SGT#.\n"):
            raise ValueError(f"map: unknown cell {min(wrong)!r}; expected S, G, T, # or .")
        if "S" not in self.map:
            raise ValueError("map: expected at least one start, S")
        number("slip", self.slip, 0.0, 1.0)
        number("goal_reward", self.goal_reward)
        number("trap_reward", self.trap_reward)


class GridWorldState(NamedTuple):
    """Where each row is."""

    cell: Tensor  # (N,) int64, row-major


class GridWorld(FuncEnv):
    """Walk through a small maze to a goal, past traps.

    Dynamics: a move succeeds with probability ``1 - slip`` and goes to either side with
    ``slip / 2`` each; walls and borders stop it.

    Observation: Discrete(rows * columns), the cell's number, row by row.

    Action: Discrete(4): up, right, down, left.

    Objective: 1 on entering a goal, -1 on entering a trap.

    Start state: a start cell, uniformly.

    End of episode: terminated in a goal or a trap; truncated after 100 steps.

    Arguments: ``map``, ``slip``, ``goal_reward``, ``trap_reward``.

    Reference returns: on the default map the uniform policy gets -0.29 (mean of 20,000 episodes);
    the optimum is 1 without discount (bumping into walls avoids the trap) and .936 with discount
    .99. ``transition_matrix`` and ``rewardzoo.agents.tabular`` give it for any map.

    Paper: after Russell and Norvig, "Artificial Intelligence: A Modern Approach", section 17.1.
    """

    Params = GridWorldParams
    render_modes = ("rgb_array", "ansi")
    render_fps = 4

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: GridWorldParams = self.params
        self.rows = p.map.split("\n")
        flat = "".join(self.rows)
        self._height, self._width = len(self.rows), len(self.rows[0])
        self.observation_space = spaces.Discrete(len(flat))
        self.action_space = spaces.Discrete(4)
        cells = np.array(list(flat))
        self._end = torch.tensor((cells == "G") | (cells == "T"), device=self.device)
        worth = np.where(cells == "G", p.goal_reward, np.where(cells == "T", p.trap_reward, 0.0))
        self._worth = torch.tensor(worth, dtype=torch.float32, device=self.device)
        self._starts = torch.tensor(np.flatnonzero(cells == "S"), device=self.device)
        self._next = torch.tensor(self._moves(), device=self.device)

    def initial(self, rng: Rng, params: Any = None) -> GridWorldState:
        """A start cell."""
        return GridWorldState(self._starts[rng.integers(0, len(self._starts))])

    def transition(
        self, state: GridWorldState, action: Tensor, rng: Rng, params: Any = None
    ) -> GridWorldState:
        """A move, perhaps to the side."""
        slip = self.params.slip
        u = rng.uniform()
        turn = (u < slip / 2).to(torch.int64) - ((u >= slip / 2) & (u < slip)).to(torch.int64)
        return GridWorldState(self._next[state.cell, (action + turn) % 4])

    def observation(self, state: GridWorldState, rng: Rng, params: Any = None) -> Tensor:
        """The cell's number, (N,) int64."""
        return state.cell

    def reward(
        self,
        state: GridWorldState,
        action: Tensor,
        next_state: GridWorldState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """What the entered cell is worth."""
        return self._worth[next_state.cell]

    def terminal(self, state: GridWorldState, rng: Rng, params: Any = None) -> Tensor:
        """In a goal or a trap."""
        return self._end[state.cell]

    def transition_matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The model for exact solvers: P (S, A, S), R (S, A), start distribution (S,), float64."""
        count = self._end.shape[0]
        moves, end = self._next.cpu().numpy(), self.terminal_states
        transition = np.zeros((count, 4, count))
        slip = self.params.slip
        for action in range(4):
            for turn, chance in ((0, 1.0 - slip), (1, slip / 2), (-1, slip / 2)):
                successor = moves[:, (action + turn) % 4]
                np.add.at(transition, (np.arange(count), action, successor), chance)
        transition[end] = np.eye(count)[end][:, None]
        reward = transition @ self._worth.cpu().double().numpy()
        reward[end] = 0.0
        initial = np.zeros(count)
        initial[self._starts.cpu().numpy()] = 1.0 / len(self._starts)
        return transition, reward, initial

    @property
    def terminal_states(self) -> np.ndarray:
        """(S,) bool."""
        return self._end.cpu().numpy()

    def render_image(self, state: GridWorldState, i: int) -> np.ndarray:
        """A frame, 48 pixels a cell, uint8."""
        from .render import frame

        return frame(self.rows, int(state.cell[i]))

    def render_text(self, state: GridWorldState, i: int) -> str:
        """The map, with the agent as ``@``."""
        flat = "".join(self.rows)
        cell = int(state.cell[i])
        flat = f"{flat[:cell]}@{flat[cell + 1 :]}"
        return "\n".join(flat[k : k + self._width] for k in range(0, len(flat), self._width))

    def _moves(self) -> np.ndarray:
        """(S, 4) int64, where each move leads."""
        moves = np.empty((self._height * self._width, 4), dtype=np.int64)
        for y in range(self._height):
            for x in range(self._width):
                for action, (dy, dx) in enumerate(_MOVES):
                    v, u = y + dy, x + dx
                    inside = 0 <= v < self._height and 0 <= u < self._width
                    if not inside or self.rows[v][u] == "#":
                        v, u = y, x
                    moves[y * self._width + x, action] = v * self._width + u
        return moves
