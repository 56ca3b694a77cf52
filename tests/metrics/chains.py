"""A finite MDP of given tables, and a reward of a table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv
from rewardzoo.random import Rng
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.transition import Transition


class Where(NamedTuple):
    s: Tensor


class Chain(FuncEnv):
    """A finite MDP; ``end``, if there is one, is terminal."""

    def __init__(self, moves: np.ndarray, initial: np.ndarray, end: int = -1) -> None:
        super().__init__()
        self.moves, self.start, self.end = torch.tensor(moves), torch.tensor(initial), end
        self.observation_space = spaces.Discrete(moves.shape[0])
        self.action_space = spaces.Discrete(moves.shape[1])

    def initial(self, rng: Rng, params: Any = None) -> Where:
        return Where(rng.categorical(self.start))

    def transition(self, state: Where, action: Tensor, rng: Rng, params: Any = None) -> Where:
        return Where(rng.categorical(self.moves[state.s, action]))

    def observation(self, state: Where, rng: Rng, params: Any = None) -> Tensor:
        return state.s

    def reward(self, state: Where, action: Tensor, next_state: Where, rng: Rng, params: Any = None) -> Tensor:  # fmt: skip
        return torch.zeros(len(action))

    def terminal(self, state: Where, rng: Rng, params: Any = None) -> Tensor:
        return state.s == self.end


class Table(RewardFunction):
    """R(s, a, s')."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.tensor(table)

    def __call__(self, t: Transition) -> Tensor:
        return self.table[t.obs, t.action, t.next_obs]
