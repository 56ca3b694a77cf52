"""AlignmentMaze: a square room with a goal and, half way, a lure (Gupta et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, box, positive
from rewardzoo.random import Rng
from rewardzoo.rewards.base import integer, number

DIRECTIONS = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
GOAL = (0.75, 0.99)
"""The goal's extent on both axes."""


@dataclass(frozen=True)
class AlignmentMazeParams:
    """Constants of the maze; lengths are shares of the room's side."""

    start: float = 0.125
    """Both coordinates of the start."""
    sub_step: float = 0.045
    """Length of a sub-step."""
    sub_steps: int = 4
    """Sub-steps of a move; a wall or the goal stops it."""
    slip: float = 0.1
    """Probability that a move goes in a random direction."""
    step_cost: float = 0.1
    """Objective lost per move."""
    goal_reward: float = 100.0
    """Objective for entering the goal."""

    def __post_init__(self) -> None:
        """Check the values."""
        number("start", self.start, 0.0, GOAL[0])
        positive("sub_step", self.sub_step)
        integer("sub_steps", self.sub_steps, 1)
        number("slip", self.slip, 0.0, 1.0)
        number("step_cost", self.step_cost, 0.0)
        number("goal_reward", self.goal_reward)


class AlignmentMazeState(NamedTuple):
    """Where the agent is."""

    position: Tensor  # (N, 2) float32


class AlignmentMaze(FuncEnv):
    """Walk from one corner of a square room to a goal near the opposite one.

    Dynamics: a move is four sub-steps of 0.045 in one direction, stopped by walls and by the goal;
    with probability 0.1 the direction is random.

    Observation: Box (2,) float32: the position in [0, 1]^2.

    Action: Discrete(4): 0 right, 1 left, 2 up, 3 down.

    Objective: 100 for entering the goal, [0.75, 0.99]^2, less 0.1 for every move.

    Advice: ``maze_goal_distance()`` pays minus the squared distance to the goal at every sub-step;
    ``maze_lure()`` pays 50 for every sub-step that ends inside [0.4, 0.6]^2, on the way: its
    optimum is never to leave.

    Start state: (0.125, 0.125).

    End of episode: terminated in the goal; truncated after 50 moves.

    Reference returns: uniform policy 15.3, right until below the goal and then up, and back where a
    slip has led too far, 99.1 (means of 20,000 episodes); 99.2, eight moves, is the most without
    slips.

    Paper: Gupta, Chandak, Jordan, Thomas, Castro da Silva (2023), "Behavior Alignment via Reward
    Function Optimization".
    """

    Params = AlignmentMazeParams
    render_modes = ("rgb_array",)

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        self.observation_space = box(0.0, 1.0, (2,))
        self.action_space = spaces.Discrete(len(DIRECTIONS))
        self._directions = torch.tensor(DIRECTIONS, device=self.device)

    def initial(self, rng: Rng, params: Any = None) -> AlignmentMazeState:
        """At the start."""
        p: AlignmentMazeParams = params or self.params
        return AlignmentMazeState(torch.full_like(rng.uniform(2), p.start))

    def transition(
        self, state: AlignmentMazeState, action: Tensor, rng: Rng, params: Any = None
    ) -> AlignmentMazeState:
        """One move."""
        p: AlignmentMazeParams = params or self.params
        slips = rng.uniform() < p.slip
        action = torch.where(slips, rng.integers(0, len(DIRECTIONS)), action)
        stride = self._directions[action] * p.sub_step
        position = state.position
        for _ in range(p.sub_steps):
            moved = (position + stride).clamp(0.0, 1.0)
            position = torch.where(in_goal(position).unsqueeze(1), position, moved)
        return AlignmentMazeState(position)

    def observation(self, state: AlignmentMazeState, rng: Rng, params: Any = None) -> Tensor:
        """The position."""
        return state.position

    def reward(
        self,
        state: AlignmentMazeState,
        action: Tensor,
        next_state: AlignmentMazeState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """The goal's, less the move's cost."""
        p: AlignmentMazeParams = params or self.params
        return in_goal(next_state.position) * p.goal_reward - p.step_cost

    def terminal(self, state: AlignmentMazeState, rng: Rng, params: Any = None) -> Tensor:
        """In the goal."""
        return in_goal(state.position)

    def render_image(self, state: AlignmentMazeState, i: int) -> np.ndarray:
        """A frame (400, 400, 3) uint8."""
        from .render import frame

        return frame(*state.position[i].tolist())


def in_goal(position: Tensor) -> Tensor:
    """(...,) bool, of positions (..., 2)."""
    return ((position >= GOAL[0]) & (position <= GOAL[1])).all(-1)
