"""FunctionalVectorEnv: many environments in one tensor program, for ``gymnasium.make_vec``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from .autoreset import parse_autoreset_mode
from .compiled import Program, flattener
from .functional import FuncEnv, check_render_mode, load, overrides
from .random import Rng, row_seeds
from .transition import select, to_torch


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
        check_render_mode(self.func, render_mode)
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
        self._has_state_info = overrides(self.func, "state_info")
        self._has_transition_info = overrides(self.func, "transition_info")
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
                seeds = torch.from_numpy(row_seeds(self, seed)).to(self.device)
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


def _check_limit(max_episode_steps: int | None) -> None:
    if max_episode_steps is not None and not max_episode_steps >= 1:
        raise ValueError(f"max_episode_steps={max_episode_steps}: expected an integer >= 1")
