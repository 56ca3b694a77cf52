"""Scripted environments: every number is known beforehand, so wrappers can be tested against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from ..functional import FuncEnv
from ..random import Rng

_SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(0.0, 1e6, (2,), np.float32),
    "discrete": spaces.Discrete(100),
    "dict": spaces.Dict({"x": spaces.Box(0.0, 1e6, (2,), np.float32), "n": spaces.Discrete(100)}),
    "tuple": spaces.Tuple((spaces.Discrete(100), spaces.Box(0.0, 1e6, (2,), np.float32))),
}


class ScriptedEnv(gymnasium.Env[Any, Any]):
    """Episode ``e`` lasts ``lengths[e]`` steps and step ``k`` of it pays ``10 * e + k``.

    Args:
        lengths: of the episodes, repeated for ever.
        ends: "terminated" or "truncated", for each of them, repeated for ever.
        observation: "box" gives ``[e, k]``, "discrete" ``k``, "dict" and "tuple" both.
    """

    def __init__(
        self,
        lengths: Sequence[int] = (3,),
        ends: Sequence[str] = ("terminated",),
        observation: str = "box",
    ) -> None:
        self.observation_space = _SPACES[observation]
        self.action_space = spaces.Discrete(2)
        self.lengths, self.ends, self.observation = tuple(lengths), tuple(ends), observation
        self.episode = -1
        self.k = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The next episode; with a seed the first."""
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else self.episode + 1
        self.k = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The next step, whatever the action."""
        self.k += 1
        reward = float(10 * self.episode + self.k)
        over = self.k == self.lengths[self.episode % len(self.lengths)]
        end = self.ends[self.episode % len(self.ends)] if over else ""
        return self._observe(), reward, end == "terminated", end == "truncated", {}

    def _observe(self) -> Any:
        x, n = np.array([self.episode, self.k], dtype=np.float32), np.int64(self.k)
        both = {"box": x, "discrete": n, "dict": {"x": x, "n": n}, "tuple": (n, x)}
        return both[self.observation]


def scripted_envs(
    num_envs: int,
    autoreset_mode: AutoresetMode,
    ends: Sequence[str] = ("terminated",),
    observation: str = "box",
) -> SyncVectorEnv:
    """Gymnasium's vector environment of scripted ones: row ``i`` has lengths 2 + i % 3, then 4."""
    makers = [lambda i=i: ScriptedEnv((2 + i % 3, 4), ends, observation) for i in range(num_envs)]
    return SyncVectorEnv(makers, autoreset_mode=autoreset_mode)


class ScriptedState(NamedTuple):
    """Steps so far, and the episode's length; each (N,) int64."""

    k: Tensor
    length: Tensor


class ScriptedFunc(FuncEnv):
    """The functional sibling: episodes of 2 to 5 steps; step ``k`` pays ``k``; observes ``k``."""

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        self.observation_space = spaces.Box(0.0, 1e6, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def initial(self, rng: Rng, params: Any = None) -> ScriptedState:
        """Step 0."""
        length = rng.integers(2, 6)
        return ScriptedState(torch.zeros_like(length), length)

    def transition(
        self, state: ScriptedState, action: Tensor, rng: Rng, params: Any = None
    ) -> ScriptedState:
        """One step on."""
        return state._replace(k=state.k + 1)

    def observation(self, state: ScriptedState, rng: Rng, params: Any = None) -> Tensor:
        """``k``, (N, 1) float32."""
        return state.k.unsqueeze(1).to(torch.float32)

    def reward(
        self,
        state: ScriptedState,
        action: Tensor,
        next_state: ScriptedState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """``k``."""
        return next_state.k.to(torch.float32)

    def terminal(self, state: ScriptedState, rng: Rng, params: Any = None) -> Tensor:
        """At the drawn length."""
        return state.k >= state.length
