"""FunctionalEnv: a single environment from batched dynamics, for ``gymnasium.make``."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .compiled import Program, flattener
from .functional import FuncEnv, check_render_mode, load, overrides
from .random import Rng


class FunctionalEnv(gymnasium.Env[Any, Any]):
    """The single-environment face: a batch of one, with NumPy at its edge.

    Truncation is left to Gymnasium's ``TimeLimit``, which ``gymnasium.make`` adds.

    Args:
        dynamics: a FuncEnv class, or ``"module:Class"``.
        render_mode: one of the dynamics' ``render_modes``.
        device: where the dynamics run.
        compile: fuse the step with ``torch.compile`` (needs a C++ compiler on CPU; the first step
            takes some seconds; results may differ from the plain step in the last bit).
        **params: the dynamics' parameters.
    """

    # Of all dynamics: ``gymnasium.make`` looks here, before there is an instance.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 30}

    def __init__(
        self,
        dynamics: str | type[FuncEnv],
        render_mode: str | None = None,
        device: torch.device | str = "cpu",
        compile: bool = False,
        **params: Any,
    ) -> None:
        self.func = load(dynamics)(device=device, **params)
        check_render_mode(self.func, render_mode)
        self.render_mode = render_mode
        self.metadata = {
            "render_modes": list(self.func.render_modes),
            "render_fps": self.func.render_fps,
        }
        self.observation_space = self.func.observation_space
        self.action_space = self.func.action_space
        self._has_state_info = overrides(self.func, "state_info")
        self._has_transition_info = overrides(self.func, "transition_info")
        self._on_cpu = self.func.device.type == "cpu"
        self._program = Program(self._outcome_of) if compile else None
        self._spec: TreeSpec | None = None
        self._seed: Tensor | None = None
        self._episode: Tensor | None = None
        self._time = 0
        self.state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode; ``seed`` starts the sequence of episodes anew."""
        super().reset(seed=seed)
        if seed is not None or self._seed is None:
            start = seed if seed is not None else int(self.np_random.integers(2**31))
            self._seed = torch.tensor([start], device=self.func.device)
            self._episode = None
        self._episode = torch.zeros_like(self._seed) if self._episode is None else self._episode + 1
        self._time = 0
        with torch.no_grad():
            rng = Rng(*self._counters())
            self.state = self.func.initial(rng)
            obs = self._edge(self.func.observation(self.state, rng), self.observation_space)
            info = self._edge(self.func.state_info(self.state)) if self._has_state_info else {}
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; ``info["objective"]`` repeats the reward, and survives reward wrappers."""
        if self.state is None:
            raise gymnasium.error.ResetNeeded("call env.reset() before env.step(action)")
        self._time += 1
        grad = torch.is_grad_enabled()
        torch.set_grad_enabled(False)  # what ``with torch.no_grad()`` does, in half the time
        try:
            act = torch.from_numpy(np.array(action)[None])
            if not self._on_cpu:
                act = act.to(self.func.device)
            self.state, objective, over, observation, details = self._advance(act)
            reward = objective.item()
            terminated = bool(over)
            obs = self._edge(observation, self.observation_space)
            info = {"objective": reward, **self._edge(details)}
        finally:
            torch.set_grad_enabled(grad)
        return obs, reward, terminated, False, info

    def render(self) -> Any:
        """A frame (H, W, 3) uint8, or text, by ``render_mode``."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode: gym.make(id, render_mode=...)")
            return None
        if self.state is None:
            raise gymnasium.error.ResetNeeded("call env.reset() before env.render()")
        return self.func.render(self.state, 0, self.render_mode)

    def _counters(self) -> tuple[Tensor, Tensor, int]:
        assert self._seed is not None and self._episode is not None
        return self._seed, self._episode, self._time

    def _advance(self, action: Tensor) -> tuple[Any, ...]:
        seed, episode, time = self._counters()
        if self._program is None:
            return self._outcome(self.state, action, Rng(seed, episode, time))
        if self._spec is None:
            self._spec = tree_flatten(self.state)[1]
            self._leaves = flattener(self._spec)
        now = torch.from_numpy(np.array([time]))
        if not self._on_cpu:
            now = now.to(self.func.device)
        leaves = self._leaves(self.state)
        return cast("tuple[Any, ...]", self._program(action, seed, episode, now, *leaves))

    def _outcome_of(
        self, action: Tensor, seed: Tensor, episode: Tensor, time: Tensor, *state: Tensor
    ) -> tuple[Any, ...]:
        """``_outcome`` as a function of tensors, which can be compiled."""
        assert self._spec is not None
        return self._outcome(tree_unflatten(state, self._spec), action, Rng(seed, episode, time))

    def _outcome(self, state: Any, action: Tensor, rng: Rng) -> tuple[Any, ...]:
        """The successor, its objective, whether it is terminal, its observation and its info."""
        func = self.func
        following = func.transition(state, action, rng)
        reward = func.reward(state, action, following, rng)
        info: dict[str, Any] = {}
        if self._has_state_info:
            info.update(func.state_info(following))
        if self._has_transition_info:
            info.update(func.transition_info(state, action, following))
        return (
            following,
            reward,
            func.terminal(following, rng),
            func.observation(following, rng),
            info,
        )

    def _edge(self, x: Any, space: spaces.Space[Any] | None = None) -> Any:
        if isinstance(x, dict):
            inner = space.spaces if isinstance(space, spaces.Dict) else {}
            return {k: self._edge(v, inner.get(k)) for k, v in x.items()}
        row = (x.numpy() if self._on_cpu else x.cpu().numpy())[0]
        return np.int64(row) if isinstance(space, spaces.Discrete) else row.copy()
