"""A functional environment with messages and a map, so that caption rewards can be tested."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..functional import FuncEnv
from ..random import Rng

MESSAGES = (
    "",
    "It's a wall.",
    "You kill the newt!",
    "$ - 12 gold pieces.",
    "g - a key named The Master Key of Thievery.",
    "Never mind.",
)
"""What is shown; the third to the fifth are helpful."""
PICKUP, APPLY = 4, 5


class CaptionedState(NamedTuple):
    """Each (N,) int64."""

    k: Tensor  # steps so far
    shown: Tensor  # index of the message
    doors: Tensor  # closed doors on the map


class CaptionedFunc(FuncEnv):
    """Shows a message drawn at random, on a map with one closed door that APPLY opens for good.

    PICKUP always shows the message about the key. Episodes end after 9 steps; every step pays 1.
    """

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        self.observation_space = spaces.Dict(
            {
                "chars_crop": spaces.Box(0, 255, (9, 9), np.uint8),
                "message": spaces.Box(0, 255, (256,), np.uint8),
            }
        )
        self.action_space = spaces.Discrete(6)
        rows = [list(text.encode().ljust(256, b"\0")) for text in MESSAGES]
        self._messages = torch.tensor(rows, dtype=torch.uint8, device=device)

    def initial(self, rng: Rng, params: Any = None) -> CaptionedState:
        """A message, and the door closed."""
        shown = rng.integers(0, len(MESSAGES))
        return CaptionedState(torch.zeros_like(shown), shown, torch.ones_like(shown))

    def transition(
        self, state: CaptionedState, action: Tensor, rng: Rng, params: Any = None
    ) -> CaptionedState:
        """Another message; perhaps an open door."""
        shown = torch.where(action == PICKUP, 4, rng.integers(0, len(MESSAGES)))
        doors = torch.where(action == APPLY, 0, state.doors)
        return CaptionedState(state.k + 1, shown, doors)

    def observation(self, state: CaptionedState, rng: Rng, params: Any = None) -> Any:
        """The hero in the middle, the door beside, the number of steps in a corner."""
        n = len(state.k)
        crop = torch.full((n, 9, 9), ord("."), dtype=torch.uint8, device=state.k.device)
        crop[:, 4, 4] = ord("@")
        crop[:, 0, 0] = (ord("0") + state.k).to(torch.uint8)
        door = torch.where(state.doors > 0, ord("+"), ord("|"))
        crop[:, 4, 5] = door.to(torch.uint8)
        return {"chars_crop": crop, "message": self._messages[state.shown]}

    def reward(
        self,
        state: CaptionedState,
        action: Tensor,
        next_state: CaptionedState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """1."""
        return torch.ones_like(next_state.k, dtype=torch.float32)

    def terminal(self, state: CaptionedState, rng: Rng, params: Any = None) -> Tensor:
        """After 9 steps."""
        return state.k >= 9
