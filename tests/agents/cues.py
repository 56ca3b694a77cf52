"""Environments that show a cue: to be recalled, or matched in any space, for tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv
from rewardzoo.random import Rng


class RecallState(NamedTuple):
    cue: Tensor
    time: Tensor


class Recall(FuncEnv):
    """Shows one of two cues at the start, nothing for three steps, then asks which it was.

    No policy without memory does better than chance: all observations but the first are equal.
    """

    delay = 3

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def initial(self, rng: Rng, params: Any = None) -> RecallState:
        cue = rng.integers(0, 2)
        return RecallState(cue, torch.zeros_like(cue))

    def transition(self, state: RecallState, action: Tensor, rng: Rng, params: Any = None) -> Any:
        return RecallState(state.cue, state.time + 1)

    def observation(self, state: RecallState, rng: Rng, params: Any = None) -> Tensor:
        shown = torch.where(state.time == 0, state.cue * 2 - 1, 0)
        asked = state.time == self.delay
        return torch.stack([shown, asked], 1).to(torch.float32)

    def reward(
        self, state: RecallState, action: Tensor, next_state: Any, rng: Rng, params: Any = None
    ) -> Tensor:
        return ((state.time == self.delay) & (action == state.cue)).to(torch.float32)

    def terminal(self, state: RecallState, rng: Rng, params: Any = None) -> Tensor:
        return state.time > self.delay


class Contextual(Recall):
    """One step: match a cue, in any of PPO's action and observation spaces."""

    delay = 0

    def __init__(self, kind: str, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.kind = kind
        if kind == "multi_discrete":
            self.action_space = spaces.MultiDiscrete([2, 3])
        if kind == "continuous":
            self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
        if kind == "start":
            self.action_space = spaces.Discrete(2, start=5)
        if kind == "mask":
            self.action_space = spaces.Discrete(4)
            self.observation_space = spaces.Dict(
                observation=spaces.Box(-1.0, 1.0, (2,), np.float32),
                action_mask=spaces.MultiBinary(4),
            )
        if kind == "index":
            self.observation_space = spaces.Discrete(2)
        if kind == "dict":
            self.observation_space = spaces.Dict(
                a=spaces.Discrete(2), b=spaces.Box(-1.0, 1.0, (2, 2), np.float32)
            )
        if kind == "image":
            self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)

    def observation(self, state: RecallState, rng: Rng, params: Any = None) -> Any:
        obs = super().observation(state, rng)
        if self.kind == "mask":
            allowed = torch.tensor([True, True, False, False], device=obs.device)
            return {"observation": obs, "action_mask": allowed.expand(len(obs), 4)}
        if self.kind == "index":
            return state.cue
        if self.kind == "dict":
            return {"a": state.cue, "b": torch.zeros(len(obs), 2, 2, device=obs.device)}
        if self.kind == "image":
            return (state.cue * 255).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 36, 36, 1)
        return obs

    def reward(
        self, state: RecallState, action: Tensor, next_state: Any, rng: Rng, params: Any = None
    ) -> Tensor:
        if self.kind == "multi_discrete":
            return ((action[:, 0] == state.cue) & (action[:, 1] == 2)).to(torch.float32)
        if self.kind == "continuous":
            return 1.0 - (action[:, 0] - (state.cue * 2 - 1)).abs().clamp(max=1.0)
        if self.kind == "start":
            return (action - 5 == state.cue).to(torch.float32)
        return (action == state.cue).to(torch.float32)
