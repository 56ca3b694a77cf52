"""StepTracker: what a vector environment returns, in any autoreset mode, as transitions.

The one place that knows autoreset. Reward wrappers and the agents' collector both use it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from .transition import Obs, Transition, copied, select, to_torch, zeroed


class StepTracker:
    """Remembers what a transition needs from one step to the next.

    After ``reset`` and after each ``step``, ``obs`` is what the agent acts on next, ``began`` (N,)
    bool marks the rows whose episode begins with it, ``done`` (N,) bool those whose episode the
    step ended, and ``steps`` (N,) int64 counts the steps of each row's episode, the last one
    included. ``some_began`` and ``some_dead`` are False where it is known, without waiting for a
    device, that no episode began with the step or that no row of it is dead.

    Tensors that the environment returns are kept, not copied: it must return new ones each step.
    NumPy arrays that become tensors are copied.

    Args:
        envs: the vector environment; its ``metadata["autoreset_mode"]`` says what to expect.
        device: where transitions live; None leaves NumPy arrays what they are, and copies only the
            observation, which is remembered: the rest of a transition is good until the next step.

    Raises:
        ValueError: if the environment does not say how it resets, or overwrites its tensors.
    """

    def __init__(
        self, envs: gymnasium.vector.VectorEnv[Any, Any, Any], device: torch.device | None
    ) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"envs.metadata['autoreset_mode'] is {mode!r}: expected a gymnasium AutoresetMode"
            )
        if getattr(envs.unwrapped, "reuses_tensors", False):
            raise ValueError(
                "copy=False: reward functions and agents keep what a step returned, and this "
                "environment would overwrite it; make it with copy=True"
            )
        self.mode = mode
        self._same_step = mode is AutoresetMode.SAME_STEP
        self._next_step = mode is AutoresetMode.NEXT_STEP
        self.device = device
        self._on_cpu = device is None or torch.device(device).type == "cpu"
        self._ones: Any = torch.ones(envs.num_envs, dtype=torch.bool, device=device)
        self._one: Any = torch.ones((), dtype=torch.int64, device=device)
        self._episode_step: Any = torch.zeros(envs.num_envs, dtype=torch.int64, device=device)
        self._take: Callable[[Any], Any]
        self._where: Callable[..., Any]
        if device is None:
            self._take, self._where = copied, np.where
            self._ones, self._episode_step = self._ones.numpy(), self._episode_step.numpy()
            self._one = np.asarray(1)  # half the time of a plain number
        else:
            self._take, self._where = functools.partial(to_torch, device=device), torch.where
        self._none = ~self._ones
        self._some_over = False
        self.obs: Obs = None
        self.began: Any = self._ones
        self.done: Any = self._none
        self.steps: Any = self._episode_step
        self.some_began = True
        self.some_dead = False
        self.counted = False  # whether the environment keeps the sums of episodes itself

    @property
    def always_valid(self) -> bool:
        """Whether no step is ever dead."""
        return not self._next_step

    def reset(self, obs: Obs, options: dict[str, Any] | None = None) -> None:
        """After ``envs.reset(options=options)`` returned ``obs``.

        Gymnasium's vector environments take ``reset_mask`` out of the dict that they are given:
        give them a copy.
        """
        mask = (options or {}).get("reset_mask")
        self.began = self._ones if mask is None else self._take(mask)
        self.some_began = True
        self.obs = self._take(obs)
        self.done = self.done & ~self.began
        self._some_over = self._some(self.done)
        self._episode_step = zeroed(self._episode_step, self.began)

    def step(
        self,
        action: Any,
        obs: Obs,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: dict[str, Any],
    ) -> Transition:
        """After ``envs.step(action)`` returned the rest."""
        take, over, some_over = self._take, self.done, self._some_over
        obs = take(obs)
        reward = self._short(reward)
        if self.device is not None:
            action, terminated, truncated = take(action), take(terminated), take(truncated)
        episode: Any = info.get("episode")  # our environments have looked, and counted
        counted = isinstance(episode, dict) and isinstance(episode.get("objective"), Tensor)
        self.counted = counted
        self.done = done = info["_episode"] if counted else terminated | truncated
        valid, next_obs = self._ones, obs
        if self._same_step:
            self.began = done
            last = info.get("final_obs")
            if isinstance(last, Tensor):
                # Our own environments return one tensor for both where no row was reset.
                next_obs, self.some_began = last, last is not obs
            else:
                self.some_began = self._some(done)
                if last is not None:
                    next_obs = final_obs(obs, info, take)
            if "final_info" in info:
                info = final_info(info)
        elif self._next_step:
            self._some_over = self._some(done)
            if some_over:
                valid = ~over
                # The dead step of a row starts its next episode: it has no predecessor.
                reward = zeroed(reward, over)
            self.began, self.some_began, self.some_dead = over, some_over, some_over
        else:
            self.began, self.some_began = self._none, False
        transition = Transition(  # by position: names take twice as long
            self.obs,
            action,
            next_obs,
            reward,
            terminated,
            truncated,
            valid,
            self._episode_step,
            info,
        )
        self.obs = obs
        steps = episode["l"] if counted else self._episode_step + self._one
        self.steps = self._episode_step = steps
        if self.some_began:
            self._episode_step = zeroed(self.steps, self.began)
        return transition

    def objective(self, t: Transition) -> Any:
        """What the designer meant by the step ``t``, (N,) float32; dead rows 0.

        It is ``info["objective"]``, which this project's environments and reward wrappers give,
        else the reward. Measure with it; no reward function reads it.
        """
        found = t.info.get("objective")
        if found is None:
            return t.reward
        objective = self._short(found)
        if "_objective" in t.info:  # Gymnasium's: only some rows may have given it
            objective = self._where(self._take(t.info["_objective"]), objective, t.reward)
        if self.some_dead:
            objective = self._where(t.valid, objective, t.reward)  # which is 0 there
        return objective

    def _short(self, numbers: Any) -> Any:
        """(N,) float32."""
        if type(numbers) is np.ndarray:
            numbers = numbers.astype(np.float32)
            if self.device is None:
                return numbers
            numbers = torch.from_numpy(numbers)
        numbers = self._take(numbers)
        return numbers if numbers.dtype is torch.float32 else numbers.to(torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on, beyond the environment's own state."""
        return {
            "obs": self.obs,
            "over": self.done,
            "began": self.began,
            "episode_step": self._episode_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        self.obs = self._take(state_dict["obs"])
        self.done = self._take(state_dict["over"])
        self.began = self._take(state_dict["began"])
        self._episode_step = self._take(state_dict["episode_step"])
        self._some_over, self.some_began = self._some(self.done), self._some(self.began)

    def _some(self, mask: Any) -> bool:
        """Whether a row is set; True on devices where looking would stall."""
        if not self._on_cpu:
            return True
        # (The bytes: a tenth of what ``bool(mask.any())`` costs for small batches.)
        return 1 in (mask if self.device is None else mask.numpy()).tobytes()


def parse_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """An AutoresetMode from itself, its name (``"SAME_STEP"``) or its value (``"SameStep"``)."""
    for known in AutoresetMode:
        if mode is known or mode in (known.name, known.value, known.name.lower()):
            return known
    raise ValueError(f"autoreset_mode={mode!r}: expected one of {[m.name for m in AutoresetMode]}")


def final_obs(obs: Obs, info: dict[str, Any], take: Callable[[Any], Any]) -> Obs:
    """The true successors under same-step autoreset: ``obs`` with the ended rows' last ones.

    Accepts the dense form of this project's environments and the forms of Gymnasium's: an object
    array of arrays (or of dicts), or a dict of arrays, with mask ``info["_final_obs"]``. ``take``
    makes arrays what those of ``obs`` are.
    """
    last = info["final_obs"]
    if type(last) is np.ndarray and last.dtype.hasobject:  # first: Gymnasium's
        return _replace_rows(obs, info["_final_obs"].nonzero()[0].tolist(), last)
    if isinstance(_leaf(last), Tensor):
        return last
    mask = np.asarray(info["_final_obs"])
    if isinstance(last, dict):
        last = {k: v for k, v in last.items() if not k.startswith("_")}
    return select(take(mask), take(last), obs)


_MOVED = frozenset({"final_info", "_final_info", "final_obs", "_final_obs"})


def final_info(info: dict[str, Any]) -> dict[str, Any]:
    """``info`` of the step itself, where same-step autoreset has replaced it by the reset's.

    Gymnasium's vector environments move the info of an ended row into ``info["final_info"]``.
    """
    last = info["final_info"]
    if not isinstance(last, dict) or not last and info.keys() <= _MOVED:
        return info
    if isinstance(_leaf(last), Tensor):  # ours: dense, over all rows
        return {**info, **last}
    kept = {key: value for key, value in info.items() if key not in _MOVED}
    return {**info, **_overwrite(kept, last, np.asarray(info["_final_info"]))}


def _overwrite(info: dict[str, Any], last: dict[str, Any], ended: Any) -> dict[str, Any]:
    """``info`` with the ``ended`` rows of ``last``; a key that a row lacks is masked out."""
    out: dict[str, Any] = {}
    none = np.zeros(len(ended), dtype=bool)
    for key in {k for k in (*info, *last) if not k.startswith("_")}:
        now, then, mask = info.get(key), last.get(key), f"_{key}"
        if isinstance(now, dict) or isinstance(then, dict):
            out[key] = _overwrite(now or {}, then or {}, ended)
        elif isinstance(now, np.ndarray) and isinstance(then, np.ndarray):
            out[key] = np.where(ended.reshape(-1, *(1,) * (now.ndim - 1)), then, now)
        else:
            out[key] = now if then is None else then
        if mask in info or mask in last:
            out[mask] = np.where(ended, last.get(mask, none), info.get(mask, none))
    return out


def _leaf(x: Any) -> Any:
    if isinstance(x, dict):
        return next((_leaf(v) for v in x.values()), None)
    return _leaf(x[0]) if isinstance(x, tuple) else x


def _replace_rows(obs: Obs, rows: list[int], last: Any) -> Obs:
    """``obs`` with those of ``last``, by row, in the given rows."""
    if type(obs) is np.ndarray:  # first and apart: no other form is met as often
        out = obs.copy()
        for i in rows:
            out[i] = last[i]
        return out
    if isinstance(obs, (dict, tuple)):
        keys = obs if isinstance(obs, dict) else range(len(obs))
        parts = {k: _replace_rows(obs[k], rows, {i: last[i][k] for i in rows}) for k in keys}
        return parts if isinstance(obs, dict) else tuple(parts.values())
    return torch.from_numpy(_replace_rows(obs.numpy(force=True), rows, last)).to(obs.device)
