"""Collector: plays a policy in any vector environment and returns the rollout as tensors.

Everything stays on the environments' device. Steps are kept as they come and stacked once at the
end: at few environments a copy a field and step would cost more than the policy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from rewardzoo.autoreset import StepTracker
from rewardzoo.compiled import Loop, Tensors
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.rewards.wrappers import VectorRewardWrapper
from rewardzoo.transition import Obs, to_numpy, to_torch

from . import trees

# (obs, memory, began, noise) to (the policy's action, the environment's action, the new memory)
Act = Callable[[Obs, Tensor, Tensor, Any], tuple[Tensor, Tensor, Tensor]]


class Rollout(NamedTuple):
    """T steps of N environments; ``obs`` and ``next_obs`` are tensors or dicts of them."""

    obs: Obs  # (T, N, ...)
    action: Tensor  # (T, N, ...), as the policy chose it
    next_obs: Obs  # (T, N, ...), the true successors
    reward: Tensor  # (T, N) float32
    objective: Tensor  # (T, N) float32
    terminated: Tensor  # (T, N) bool
    truncated: Tensor  # (T, N) bool
    valid: Tensor | None  # (T, N) bool; None where all are
    began: Tensor  # (T, N) bool, obs is the first of an episode
    memory: Tensor  # (N, M), the policy's memory before the first step
    term: Tensor | None = None  # (T, N), the part of the reward that was asked for

    @property
    def done(self) -> Tensor:
        """(T, N) bool."""
        return self.terminated | self.truncated


class EpisodeSums(NamedTuple):
    """Sums over the episodes that ended in a rollout, each a scalar tensor."""

    count: Tensor
    ep_return: Tensor
    ep_objective: Tensor
    ep_length: Tensor


class Collector:
    """Steps the environments and remembers where they are.

    Args:
        envs: any Gymnasium vector environment.
        device: where rollouts live.
        memory_size: of the policy, 0 for none.
        term: a name in ``info["reward_terms"]``, to be kept beside the reward.
    """

    def __init__(
        self,
        envs: gymnasium.vector.VectorEnv[Any, Any, Any],
        device: torch.device,
        memory_size: int = 0,
        term: str | None = None,
    ) -> None:
        self.envs = envs
        self.term = term
        self.device = device
        self.tracker = StepTracker(envs, device)
        self.memory = torch.zeros(envs.num_envs, memory_size, device=device)
        # Return, objective and length so far of the running episodes.
        self._running = torch.zeros(3, envs.num_envs, device=device)
        self._tensors = True

    def reset(self, seed: int) -> None:
        """Start the first episodes."""
        obs, _ = self.envs.reset(seed=seed)
        self._tensors = isinstance(trees.first(obs), Tensor)
        self.tracker.reset(obs)

    def collect(
        self, num_steps: int, act: Act, noise: Tensor | None = None
    ) -> tuple[Rollout, EpisodeSums]:
        """Play ``num_steps`` steps.

        Args:
            num_steps: T.
            act: the policy.
            noise: (T, N, ...), a row of which is given to ``act`` at each step.
        """
        steps: list[tuple[Any, ...]] = []
        terms: list[Tensor] = []
        first_memory = self.memory
        tracker = self.tracker
        for t in range(num_steps):
            began = tracker.began
            action, env_action, self.memory = act(
                tracker.obs, self.memory, began, None if noise is None else noise[t]
            )
            obs, reward, terminated, truncated, info = self.envs.step(
                env_action if self._tensors else to_numpy(env_action)
            )
            step = tracker.step(env_action, obs, reward, terminated, truncated, info)
            steps.append(
                (
                    step.obs,
                    action,
                    step.next_obs,
                    step.reward,
                    tracker.objective(step),
                    step.terminated,
                    step.truncated,
                    step.valid,
                    began,
                )
            )
            if self.term is not None:
                terms.append(self._term(info))
            if tracker.mode is AutoresetMode.DISABLED:
                self._reset_rows(step.done)
        fields = [trees.stack(list(column)) for column in zip(*steps, strict=True)]
        if tracker.always_valid:
            fields[7] = None
        rollout = Rollout(*fields, first_memory, torch.stack(terms) if terms else None)
        return rollout, self._episodes(rollout)

    def _term(self, info: dict[str, Any]) -> Tensor:
        terms = info.get("reward_terms", {})
        if self.term not in terms:
            raise ValueError(
                f"intrinsic={self.term!r}: the reward has no such term; "
                + (f"it has {', '.join(terms)}" if terms else "it is no sum of reward functions")
            )
        return to_torch(terms[self.term], self.device)

    def _reset_rows(self, done: Tensor) -> None:
        """Begin the next episodes where autoreset is disabled."""
        # Gymnasium refuses an empty mask; our own takes it, so that no device has to be asked.
        if (not self._tensors or self.device.type == "cpu") and not bool(done.any()):
            return
        options = {"reset_mask": done if self._tensors else to_numpy(done)}
        # A copy: Gymnasium's vector environments take the mask out of the dict.
        obs, _ = self.envs.reset(options=dict(options))
        self.tracker.reset(obs, options)

    def _episodes(self, rollout: Rollout) -> EpisodeSums:
        """Add up the episodes that ended, without a loop and without looking at a value."""
        done = rollout.done
        valid = torch.ones_like(rollout.reward) if rollout.valid is None else rollout.valid
        per_step = torch.stack([rollout.reward, rollout.objective, valid.to(torch.float32)])
        sums = per_step.to(torch.float64).cumsum(1) + self._running.unsqueeze(1)
        steps = torch.arange(1, done.shape[0] + 1, device=done.device).unsqueeze(1)
        # last[t]: the steps made when the episode that runs at step t began (0: before these).
        ended = torch.where(done, steps, 0).cummax(0).values
        last = torch.cat([torch.zeros_like(ended[:1]), ended])
        base = torch.cat([torch.zeros_like(sums[:, :1]), sums], 1)
        base = base.gather(1, last.expand(3, -1, -1))
        totals = (sums - base[:, :-1]) * done
        self._running = (sums[:, -1] - base[:, -1]).to(torch.float32)
        return EpisodeSums(done.sum(), *totals.sum((1, 2)))

    def state_dict(self) -> dict[str, Any]:
        """What the next rollout depends on; the environments' state if they can save it."""
        state: dict[str, Any] = {
            "tracker": self.tracker.state_dict(),
            "memory": self.memory,
            "running": self._running,
        }
        if hasattr(self.envs.unwrapped, "state_dict"):
            state["envs"] = self.envs.state_dict()
        else:  # a simulator's worlds cannot be saved, what was learned of their reward can
            state["rewards"] = [fn.state_dict() for fn in self._reward_functions()]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Continue, after ``reset``; returns False if the environments start new episodes."""
        if "envs" not in state:
            for fn, saved in zip(self._reward_functions(), state["rewards"], strict=True):
                fn.load_state_dict(saved)
                fn.reset(self.tracker.began, self.tracker.obs)
            return False
        self._running = state["running"].to(self.device)
        self.envs.load_state_dict(state["envs"])  # type: ignore[attr-defined]
        self.tracker.load_state_dict(state["tracker"])
        self.memory = state["memory"].to(self.device)
        return True

    def _reward_functions(self) -> list[Any]:
        """Of the wrappers around the environments, the outermost first."""
        found, env = [], self.envs
        while isinstance(env, gymnasium.vector.VectorWrapper):
            if isinstance(env, VectorRewardWrapper):
                found.append(env.reward_function)
            env = env.env
        return found


class CompiledCollector(Collector):
    """Plays a whole rollout as one compiled program, the environments' dynamics included.

    For this project's functional environments without wrappers, in same-step autoreset; the
    rollout is that of ``Collector``, up to rounding.
    """

    _loop: Loop | None = None

    @staticmethod
    def fits(envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> bool:
        """Whether these environments can be part of the program."""
        return (
            isinstance(envs, FunctionalVectorEnv) and envs.autoreset_mode is AutoresetMode.SAME_STEP
        )

    def collect(
        self, num_steps: int, act: Act, noise: Tensor | None = None
    ) -> tuple[Rollout, EpisodeSums]:
        """Play ``num_steps`` steps; ``act`` must be the same function at every call."""
        envs, memory = self.envs, self.memory
        assert isinstance(envs, FunctionalVectorEnv) and noise is not None
        leaves, spec = tree_flatten(envs.carry)
        if self._loop is None:

            def step(carry: Tensors, x: Tensors, _: Tensors) -> tuple[Tensors, Tensors]:
                *rows, memory = carry
                before = tree_unflatten(rows, spec)
                began = before.time == 0
                action, env_action, memory = act(before.obs, memory, began, x[0])
                after, reward, terminated, truncated, info = envs.advance(before, env_action)
                fields = (
                    before.obs, action, info["final_obs"], reward, info["objective"],
                    terminated, truncated, began,
                )  # fmt: skip
                out, self._fields = tree_flatten(fields)
                return [*tree_leaves(after), memory], out

            self._loop = Loop(step)
        (*leaves, self.memory), out = self._loop([*leaves, memory], [noise], [])
        envs.carry = carry = tree_unflatten(leaves, spec)
        *fields, began = tree_unflatten(out, self._fields)
        rollout = Rollout(*fields, None, began, memory)
        self.tracker.load_state_dict(
            {
                "obs": carry.obs,
                "over": rollout.done[-1],
                "began": carry.time == 0,
                "episode_step": carry.time,
            }
        )
        return rollout, self._episodes(rollout)
