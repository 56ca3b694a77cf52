"""FuncEnv, dynamics written once in batched torch, and its two faces for Gymnasium.

``FunctionalEnv`` is the batch of one with NumPy at its edge (``gymnasium.make``);
``FunctionalVectorEnv`` is the batch of N with tensors that stay on the device
(``gymnasium.make_vec``). Both draw from counter-based random numbers (``random.py``), so row ``i``
of a batch seeded with ``s`` is the single environment seeded with ``s + i``.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from .compiled import Program, flattener
from .random import Rng
from .transition import select, to_torch


@dataclasses.dataclass(frozen=True)
class NoParams:
    """The parameters of dynamics without constants."""


class FuncEnv:
    """Dynamics of a batch of N environments, as functions of state, action and random numbers.

    A subclass sets ``Params`` (a frozen dataclass of documented constants), builds
    ``observation_space`` and ``action_space`` (of one environment) in its constructor, and writes
    the five functions below. A state is a NamedTuple of tensors with leading axis N. Nothing may
    depend on other rows, copy to the host, or branch on a tensor's value.

    Args:
        device: where tables and states live.
        **params: overrides of fields of ``Params``.

    Raises:
        TypeError: for a name that ``Params`` does not have.
    """

    Params: type[Any] = NoParams
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    render_modes: tuple[str, ...] = ()
    render_fps: int = 30

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        self.device = check_device(device)
        names = [f.name for f in dataclasses.fields(self.Params)]
        for name in params:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}: {hint}")
        self.params: Any = self.Params(**params)

    def initial(self, rng: Rng, params: Any = None) -> Any:
        """States at the start of an episode, one for each row of ``rng``."""
        raise NotImplementedError

    def transition(self, state: Any, action: Tensor, rng: Rng, params: Any = None) -> Any:
        """The successor states."""
        raise NotImplementedError

    def observation(self, state: Any, rng: Rng, params: Any = None) -> Any:
        """What the agent sees: a tensor (N, ...) or a dict of them."""
        raise NotImplementedError

    def reward(
        self, state: Any, action: Tensor, next_state: Any, rng: Rng, params: Any = None
    ) -> Tensor:
        """(N,) the objective: what the designer truly meant."""
        raise NotImplementedError

    def terminal(self, state: Any, rng: Rng, params: Any = None) -> Tensor:
        """(N,) bool, whether the task is over in ``state``."""
        raise NotImplementedError

    def state_info(self, state: Any, params: Any = None) -> dict[str, Tensor]:
        """Extra (N, ...) tensors about ``state`` for ``info``."""
        return {}

    def transition_info(
        self, state: Any, action: Tensor, next_state: Any, params: Any = None
    ) -> dict[str, Tensor]:
        """Extra (N, ...) tensors about a step for ``info``."""
        return {}

    def render_image(self, state: Any, i: int) -> np.ndarray[Any, Any]:
        """Row ``i`` as a picture, (H, W, 3) uint8."""
        raise NotImplementedError

    def render_text(self, state: Any, i: int) -> str:
        """Row ``i`` as text."""
        raise NotImplementedError

    def render(self, state: Any, i: int, mode: str) -> Any:
        """Row ``i`` in one of ``render_modes``."""
        return self.render_text(state, i) if mode == "ansi" else self.render_image(state, i)


def check_device(device: torch.device | str) -> torch.device:
    """The device, or a ValueError that says why it cannot be used."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r}: expected 'cpu', 'cuda' or 'cuda:0'") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={str(device)!r}: this PyTorch sees no CUDA device; use device='cpu'"
        )
    return found


def load(dynamics: str | type[FuncEnv]) -> type[FuncEnv]:
    """The FuncEnv class from ``"module:Class"``."""
    if not isinstance(dynamics, str):
        return dynamics
    module, _, name = dynamics.partition(":")
    return cast("type[FuncEnv]", getattr(importlib.import_module(module), name))


def _overrides(func: FuncEnv, method: str) -> bool:
    return getattr(type(func), method) is not getattr(FuncEnv, method)


def _check_render_mode(func: FuncEnv, render_mode: str | None) -> None:
    if render_mode is not None and render_mode not in func.render_modes:
        raise ValueError(
            f"render_mode={render_mode!r}: {type(func).__name__} has {list(func.render_modes)}"
        )


def _check_limit(max_episode_steps: int | None) -> None:
    if max_episode_steps is not None and not max_episode_steps >= 1:
        raise ValueError(f"max_episode_steps={max_episode_steps}: expected an integer >= 1")


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
        _check_render_mode(self.func, render_mode)
        self.render_mode = render_mode
        self.metadata = {
            "render_modes": list(self.func.render_modes),
            "render_fps": self.func.render_fps,
        }
        self.observation_space = self.func.observation_space
        self.action_space = self.func.action_space
        self._has_state_info = _overrides(self.func, "state_info")
        self._has_transition_info = _overrides(self.func, "transition_info")
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


class _Carry(NamedTuple):
    """All that a batch remembers between steps."""

    state: Any
    obs: Any  # what was returned last
    seed: Tensor  # (N,) int64
    episode: Tensor  # (N,) int64
    time: Tensor  # (N,) int64, steps since the reset
    episode_return: Tensor  # (N,) float32
    over: Tensor  # (N,) bool, the last step ended the row's episode


class FunctionalVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """The batched face: N environments in one tensor program, nothing leaves the device.

    ``step`` returns tensors on ``device``: observations (N, ...), rewards (N,) float32,
    ``terminated`` and ``truncated`` (N,) bool, and in ``info``, dense over all rows:
    ``objective`` (N,) float32; ``episode``, a dict of ``r`` (return so far), ``objective`` (its
    sum) and ``l`` (length), meaningful where ``_episode`` (N,) bool marks an episode's end; in
    same-step mode ``final_obs`` (the true successor of every row) with mask ``_final_obs``, and
    ``final_info``, the dynamics' ``state_info`` of the true successors (in ``info`` itself it is
    that of the states to act on).

    Args:
        num_envs: N.
        dynamics: a FuncEnv class, or ``"module:Class"``.
        device: where everything lives.
        max_episode_steps: truncate after so many steps; None never truncates.
        autoreset_mode: one of Gymnasium's three modes, by value or by name.
        render_mode: one of the dynamics' ``render_modes``; frames come as a tuple of N.
        compile: fuse the step with ``torch.compile`` (needs a C++ compiler on CPU; the first step
            takes some seconds; results may differ from the plain step in the last bit).
        **params: the dynamics' parameters.
    """

    def __init__(
        self,
        num_envs: int,
        dynamics: str | type[FuncEnv],
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        compile: bool = False,
        **params: Any,
    ) -> None:
        if not num_envs >= 1:
            raise ValueError(f"num_envs={num_envs}: expected an integer >= 1")
        _check_limit(max_episode_steps)
        self.func = load(dynamics)(device=device, **params)
        self.device = self.func.device
        _check_render_mode(self.func, render_mode)
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.autoreset_mode = parse_autoreset_mode(autoreset_mode)
        self.metadata = {
            "autoreset_mode": self.autoreset_mode,
            "render_modes": list(self.func.render_modes),
            "render_fps": self.func.render_fps,
        }
        self.single_observation_space = self.func.observation_space
        self.single_action_space = self.func.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._carry: _Carry | None = None
        self._has_state_info = _overrides(self.func, "state_info")
        self._has_transition_info = _overrides(self.func, "transition_info")
        self._on_cpu = self.device.type == "cpu"
        self._spec: TreeSpec | None = None
        self._program = Program(self._advance_leaves)
        if compile:
            self._advance = self._advance_compiled
        elif self._on_cpu:
            self._advance = self._advance_looking
        else:
            self._advance = self.advance

    @property
    def state(self) -> Any:
        """The dynamics' state, a NamedTuple of (N, ...) tensors."""
        return self._live().state

    @property
    def carry(self) -> Any:
        """All that the batch remembers between steps, a NamedTuple of tensors; can be set."""
        return self._live()

    @carry.setter
    def carry(self, carry: Any) -> None:
        self._carry = carry

    def advance(self, carry: Any, action: Tensor) -> tuple[Any, ...]:
        """``step`` as a pure function, for programs that compile it: looks at no value.

        Returns:
            The next carry, reward, terminated, truncated, info.
        """
        return self._advance_rows(carry, action, self._restart)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode of every row, or of the rows in ``options["reset_mask"]``.

        Args:
            seed: one int ``s`` (row ``i`` gets ``s + i``) or N of them: start the sequences of
                episodes anew. None continues them.
            options: ``{"reset_mask": (N,) bool}`` resets part of the batch.
        """
        mask = (options or {}).get("reset_mask")
        with torch.no_grad():
            if self._carry is None and mask is not None:
                raise gymnasium.error.ResetNeeded("the first reset cannot have a reset_mask")
            carry = self._carry or self._blank()
            rows = torch.ones_like(carry.over) if mask is None else self._mask(mask)
            if seed is not None or self._carry is None:
                seeds = self._seeds(seed)
                carry = carry._replace(
                    seed=torch.where(rows, seeds, carry.seed),
                    episode=torch.where(rows, -1, carry.episode),
                )
            self._carry = self._restart(carry, rows, every=mask is None)
            info = dict(self.func.state_info(self.state)) if self._has_state_info else {}
        return self._carry.obs, info

    def step(self, actions: Any) -> tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]:
        """One step of every row; see the class for what comes back."""
        with torch.no_grad():
            carry = self._live()
            action = to_torch(actions, self.device)
            if action.shape != self.action_space.shape:
                raise ValueError(
                    f"actions: shape {tuple(action.shape)}, expected {self.action_space.shape}"
                )
            if self.autoreset_mode is AutoresetMode.DISABLED and self._on_cpu:
                if bool(carry.over.any()):
                    raise gymnasium.error.ResetNeeded(
                        "autoreset is disabled and an episode is over: "
                        'call reset(options={"reset_mask": terminated | truncated}) first'
                    )
            self._carry, reward, terminated, truncated, info = self._advance(carry, action)
        return self._carry.obs, reward, terminated, truncated, info

    def render(self) -> tuple[Any, ...] | None:
        """N frames, by ``render_mode``."""
        if self.render_mode is None:
            return None
        state = self._live().state
        return tuple(self.func.render(state, i, self.render_mode) for i in range(self.num_envs))

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on."""
        leaves = tree_leaves(self._live())
        return {f"carry.{i}": leaf.clone() for i, leaf in enumerate(leaves)}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        with torch.no_grad():
            if self._carry is None:
                self.reset(seed=0)
            leaves, spec = tree_flatten(self._carry)
            if len(leaves) != len(state_dict):
                raise ValueError(
                    f"state_dict: {len(state_dict)} tensors, expected {len(leaves)}: "
                    "it was saved from another environment"
                )
            loaded = []
            for i, leaf in enumerate(leaves):
                value = state_dict[f"carry.{i}"]
                if value.shape != leaf.shape or value.dtype != leaf.dtype:
                    raise ValueError(
                        f"state_dict: tensor {i} is {tuple(value.shape)} {value.dtype}, expected "
                        f"{tuple(leaf.shape)} {leaf.dtype}: saved from another environment or "
                        "with another num_envs"
                    )
                loaded.append(value.to(self.device, copy=True))
            self._carry = tree_unflatten(loaded, spec)

    # ---- the step, as a pure function of the carry -------------------------------------------

    def _advance_rows(
        self, carry: _Carry, action: Tensor, restart: Callable[[_Carry, Tensor], _Carry]
    ) -> tuple[Any, ...]:
        func, mode = self.func, self.autoreset_mode
        time = carry.time + 1
        rng = Rng(carry.seed, carry.episode, time)
        state = func.transition(carry.state, action, rng)
        reward = func.reward(carry.state, action, state, rng).to(torch.float32)
        terminated = func.terminal(state, rng)
        obs = func.observation(state, rng)
        if self.max_episode_steps is None:
            truncated = torch.zeros_like(terminated)
        else:
            truncated = time >= self.max_episode_steps
        info: dict[str, Any] = {}
        if self._has_transition_info:
            info.update(func.transition_info(carry.state, action, state))

        dead = carry.over
        if mode is AutoresetMode.NEXT_STEP:
            terminated = terminated & dead.logical_not()
            truncated = truncated & dead.logical_not()
            reward = torch.where(dead, 0.0, reward)
        done = terminated | truncated
        episode_return = carry.episode_return + reward
        carry = _Carry(state, obs, carry.seed, carry.episode, time, episode_return, done)

        info["objective"] = reward
        info["episode"] = {"r": episode_return, "objective": episode_return, "l": time}
        info["_episode"] = done
        if mode is AutoresetMode.SAME_STEP:
            info["final_obs"] = obs
            info["_final_obs"] = done
            if self._has_state_info:
                info["final_info"] = func.state_info(state)
        if mode is not AutoresetMode.DISABLED:
            carry = restart(carry, done if mode is AutoresetMode.SAME_STEP else dead)
        if self._has_state_info:
            info.update(func.state_info(carry.state))
        return carry, reward, terminated, truncated, info

    def _restart(self, carry: _Carry, rows: Tensor, every: bool = False) -> _Carry:
        """Begin the next episode of ``rows``; ``every`` says that these are all of them."""
        episode = carry.episode + rows
        time = torch.where(rows, 0, carry.time)
        rng = Rng(carry.seed, episode, 0)
        state = self.func.initial(rng)
        if not every:
            state = select(rows, state, carry.state)
        drawn = rng.draws
        obs = self.func.observation(state, rng)
        # Of the other rows this is what was seen already, unless it is noisy.
        if not every and rng.draws != drawn:
            obs = select(rows, obs, carry.obs)
        episode_return = torch.where(rows, 0.0, carry.episode_return)
        over = carry.over & rows.logical_not()
        return _Carry(state, obs, carry.seed, episode, time, episode_return, over)

    def _advance_looking(self, carry: _Carry, action: Tensor) -> tuple[Any, ...]:
        """``advance``, skipping the resets where no episode ended: on the CPU looking is free."""

        def restart(carry: _Carry, rows: Tensor) -> _Carry:
            return self._restart(carry, rows) if bool(rows.any()) else carry

        return self._advance_rows(carry, action, restart)

    def _advance_compiled(self, carry: _Carry, action: Tensor) -> tuple[Any, ...]:
        """``advance`` as a compiled program."""
        if self._spec is None:
            self._spec = tree_flatten(carry)[1]
            self._leaves = flattener(self._spec)
        return cast("tuple[Any, ...]", self._program(action, *self._leaves(carry)))

    def _advance_leaves(self, action: Tensor, *leaves: Tensor) -> tuple[Any, ...]:
        assert self._spec is not None
        return self.advance(tree_unflatten(leaves, self._spec), action)

    # ---- edges -------------------------------------------------------------------------------

    def _live(self) -> _Carry:
        if self._carry is None:
            raise gymnasium.error.ResetNeeded("call envs.reset() before anything else")
        return self._carry

    def _blank(self) -> _Carry:
        zeros = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        over = torch.zeros_like(zeros, dtype=torch.bool)
        return _Carry((), (), zeros, zeros - 1, zeros, zeros.to(torch.float32), over)

    def _mask(self, mask: Any) -> Tensor:
        rows = cast(Tensor, to_torch(mask, self.device))
        if rows.shape != (self.num_envs,) or rows.dtype != torch.bool:
            raise ValueError(
                f"options['reset_mask']: {tuple(rows.shape)} {rows.dtype}, "
                f"expected ({self.num_envs},) bool"
            )
        return rows

    def _seeds(self, seed: int | Sequence[int] | None) -> Tensor:
        if seed is not None:
            self._np_random, self._np_random_seed = gymnasium.utils.seeding.np_random(
                seed if isinstance(seed, int) else int(seed[0])
            )
        start = seed if seed is not None else int(self.np_random.integers(2**31))
        if isinstance(start, (int, np.integer)):
            offset = torch.arange(self.num_envs, device=self.device)
            return offset + int(start)
        if len(start) != self.num_envs:
            raise ValueError(f"seed: {len(start)} seeds for {self.num_envs} environments")
        return torch.tensor([int(s) for s in start], device=self.device)


def parse_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """An AutoresetMode from itself, its name (``"SAME_STEP"``) or its value (``"SameStep"``)."""
    for known in AutoresetMode:
        if mode is known or mode in (known.name, known.value, known.name.lower()):
            return known
    raise ValueError(f"autoreset_mode={mode!r}: expected one of {[m.name for m in AutoresetMode]}")


def box(low: float, high: float, shape: tuple[int, ...]) -> spaces.Box:
    """A float32 Box with scalar bounds."""
    return spaces.Box(np.float32(low), np.float32(high), shape, np.float32)


def positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above 0; for ``Params.__post_init__``."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r}: expected a finite number > 0")
