"""Put a reward function on an environment: ``RewardWrapper``, ``VectorRewardWrapper``.

Both keep what the environment paid as ``info["objective"]`` (an inner wrapper's is kept, so the
objective is never lost), what each composed term paid as ``info["reward_terms"]``, and at the end
of an episode its sums as ``info["episode"]``: ``r`` (specified return), ``objective``, ``l``.

Gymnasium's own reward wrappers and vector episode statistics are not built upon: in Gymnasium 1.2
they pay the dead step of next-step autoreset and lose the first reward of an episode under
same-step autoreset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from ..autoreset import StepTracker
from ..transition import Transition, to_numpy, to_torch, zeroed
from .base import RewardError, RewardFunction, Spaces
from .pay import pay, unpayable

_CPU = torch.device("cpu")


class RewardWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays ``fn`` instead of the environment's reward, on a single environment.

    Args:
        env: any Gymnasium environment.
        fn: the reward function; it is bound to a batch of one on the CPU. To add to the
            environment's reward and not replace it, give ``env_reward + fn``.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], fn: RewardFunction) -> None:
        if not isinstance(env, gymnasium.Env):
            raise TypeError(f"env={env!r}: expected an env; VectorRewardWrapper takes many")
        _check(fn)
        super().__init__(env)
        self.reward_function = fn
        fn.bind(1, _CPU, Spaces(env.observation_space, env.action_space, env))
        self._obs: Any = None
        self._steps = 0
        self._return = self._objective = 0.0
        self._every: Any = torch.ones(1, dtype=torch.bool)
        self._arrays = _NUMPY if _stays_numpy(fn) else _TORCH
        if self._arrays is _NUMPY:
            self._every = self._every.numpy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and the reward function's memory."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._obs = self._arrays.row(obs)
        self._steps = 0
        self._return = self._objective = 0.0
        with torch.no_grad():
            self.reward_function.reset(self._every, self._obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, paid by the reward function."""
        obs, inner, terminated, truncated, info = self.env.step(action)
        row, one, float32 = self._arrays
        next_obs = row(obs)
        with torch.no_grad():
            transition = Transition(
                obs=self._obs,
                action=row(action),
                next_obs=next_obs,
                reward=one([float(inner)], dtype=float32),
                terminated=one([bool(terminated)]),
                truncated=one([bool(truncated)]),
                valid=self._every,
                episode_step=one([self._steps]),
                info=_rows(info, row),
            )
            reward = pay(self.reward_function, transition, all_valid=True).item()
            self.reward_function.observe(transition)
        self._obs, self._steps = next_obs, self._steps + 1
        objective = float(info.get("objective", inner))
        self._return += reward
        self._objective += objective
        info = {**info, "objective": objective}
        if terms := self.reward_function.terms():
            info["reward_terms"] = {k: v.item() for k, v in terms.items()}
        if terminated or truncated:
            info["episode"] = {"r": self._return, "objective": self._objective, "l": self._steps}
        return obs, reward, terminated, truncated, info


class VectorRewardWrapper(gymnasium.vector.VectorWrapper):
    """Pays ``fn`` instead of the environments' reward, on any vector environment.

    Takes every autoreset mode and Dict observations. Where the inner environment returns NumPy
    arrays, so does this wrapper; where it returns tensors, everything stays on their device.

    Args:
        envs: any Gymnasium vector environment.
        fn: the reward function; it is bound to ``envs.num_envs`` rows. To add to the
            environments' reward and not replace it, give ``env_reward + fn``.
        device: where the reward is computed; default: the environments' device, or the CPU.
    """

    def __init__(
        self,
        envs: gymnasium.vector.VectorEnv[Any, Any, Any],
        fn: RewardFunction,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(envs, gymnasium.vector.VectorEnv):
            raise TypeError(f"envs={envs!r}: expected many; RewardWrapper takes a single one")
        _check(fn)
        super().__init__(envs)
        self.reward_function = fn
        self.device = torch.device(device or getattr(envs, "device", None) or _CPU)
        spaces = Spaces(envs.single_observation_space, envs.single_action_space, envs)
        fn.bind(envs.num_envs, self.device, spaces)
        # Asked once: walking the tree of a composed function every step costs more than its sums.
        self._resets, self._observes = fn.overrides("reset"), fn.overrides("observe")
        self._on_cpu = self.device.type == "cpu"
        tensors = not self._on_cpu or getattr(envs, "device", None) is not None
        self._numpy = not tensors and _stays_numpy(fn)
        self._tracker = StepTracker(envs, None if self._numpy else self.device)
        self._where: Any = np.where if self._numpy else torch.where
        self._zeros: Any = torch.zeros(envs.num_envs, device=self.device)
        self._bad = self._zeros.to(torch.bool)
        if self._numpy:
            self._zeros = self._zeros.numpy()
        self._return = self._objective = self._zeros
        self._every = np.ones(envs.num_envs, dtype=bool)
        self.transition: Transition | None = None
        """The last step."""
        self.keep_features = False
        """Whether ``final_features`` is wanted."""
        self.final_features: Tensor | None = None
        """``observation_features`` of the last step's true successors, before any was cleared."""

    def __del__(self) -> None:
        """Close nothing: the environments close themselves, unless somebody still holds them.

        (Gymnasium's closes them even where wrapping failed.)
        """

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environments, and the memory of the rows that begin an episode."""
        # A copy, because Gymnasium's vector environments take reset_mask out of the dict.
        obs, info = self.env.reset(seed=seed, options=options and dict(options))  # type: ignore[arg-type]
        with torch.no_grad():
            self._tracker.reset(obs, options)
            self._clear()
        return obs, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step, paid by the reward function."""
        obs, inner, terminated, truncated, info = self.env.step(actions)
        if self._numpy:
            t = self._tracker.step(actions, obs, inner, terminated, truncated, info)
            reward, added = self._pay(t)
        else:
            # What ``with torch.no_grad()`` does, in half the time.
            grad = torch.is_grad_enabled()
            torch.set_grad_enabled(False)
            try:
                t = self._tracker.step(actions, obs, inner, terminated, truncated, info)
                reward, added = self._pay(t)
            finally:
                torch.set_grad_enabled(grad)
            if isinstance(inner, Tensor):
                return obs, reward, terminated, truncated, {**info, **added}
            reward, added = reward.numpy(force=True), to_numpy(added)
        added["_objective"] = self._every
        if isinstance(info.get("final_info"), dict):
            # Where Gymnasium keeps what an ended row's last step said: ours belongs there too.
            added["final_info"] = {**info["final_info"], **added}
        return obs, reward, terminated, truncated, {**info, **added}

    def _pay(self, t: Transition) -> tuple[Any, dict[str, Any]]:
        """The reward of a step and what it adds to ``info``."""
        fn, tracker = self.reward_function, self._tracker
        self.transition = t
        reward = pay(fn, t, all_valid=not tracker.some_dead)
        if not self._on_cpu:
            self._bad = self._bad | unpayable(reward)
        if self._observes:
            fn.observe(t)
        objective = tracker.objective(t)
        self._return = self._return + reward
        if tracker.counted:
            total = t.info["episode"]["objective"]
        else:
            self._objective = total = self._objective + objective
        added: dict[str, Any] = {
            "objective": objective,
            "episode": {"r": self._return, "objective": total, "l": tracker.steps},
            "_episode": tracker.done,
        }
        if terms := fn.terms():
            if tracker.some_dead:
                terms = {k: self._where(t.valid, v, 0.0) for k, v in terms.items()}
            added["reward_terms"] = terms
        if self.keep_features:
            self.final_features = fn.observation_features()
        if tracker.some_began:
            self._clear()
        return reward, added

    def raise_if_unpayable(self) -> None:
        """On devices where checking every step would stall: raise if any reward was not finite.

        Raises:
            RewardError: naming the first row that was paid a non-finite number.
        """
        if not self._on_cpu and bool(self._bad.any()):
            row = int(self._bad.nonzero()[0, 0])
            raise RewardError(
                f"reward function {self.reward_function.name}: paid a non-finite number in row "
                f"{row}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on, the inner environment's included."""
        if not hasattr(self.env, "state_dict"):
            raise RuntimeError(
                f"{self.env}: this environment cannot save its state, so a run on it resumes "
                "with new episodes"
            )
        return {
            "env": self.env.state_dict(),
            "reward": self.reward_function.state_dict(),
            "tracker": to_torch(self._tracker.state_dict()),
            "sums": to_torch({"r": self._return, "objective": self._objective}),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self.env.load_state_dict(state_dict["env"])  # type: ignore[attr-defined]
        self.reward_function.load_state_dict(state_dict["reward"])
        self._tracker.load_state_dict(state_dict["tracker"])
        sums = to_torch(state_dict["sums"], self.device)
        if self._numpy:
            sums = to_numpy(sums)
        self._return, self._objective = sums["r"], sums["objective"]

    def _clear(self) -> None:
        began = self._tracker.began
        if self._resets:
            self.reward_function.reset(began, self._tracker.obs)
        self._return = zeroed(self._return, began)
        if self._objective is not self._zeros:  # else the environment keeps that sum
            self._objective = zeroed(self._objective, began)


def _check(fn: Any) -> None:
    if not isinstance(fn, RewardFunction):
        raise TypeError(f"fn={fn!r}: expected a RewardFunction")


def _stays_numpy(fn: RewardFunction) -> bool:
    """Whether ``fn`` takes NumPy arrays, and has no hook that takes tensors."""
    hooks = ("reset", "observe", "observation_features")
    return fn.numpy and not any(fn.overrides(hook) for hook in hooks)


def _row(x: Any) -> Any:
    """A batch of one."""
    if isinstance(x, dict):
        return {k: _row(v) for k, v in x.items()}
    if isinstance(x, tuple):
        return tuple(_row(v) for v in x)
    if isinstance(x, Tensor):
        return x.unsqueeze(0)
    return torch.from_numpy(np.array(x)).unsqueeze(0)


def _numpy_row(x: Any) -> Any:
    """A batch of one, of NumPy arrays."""
    if isinstance(x, dict):
        return {k: _numpy_row(v) for k, v in x.items()}
    if isinstance(x, tuple):
        return tuple(_numpy_row(v) for v in x)
    return np.array(x)[None]


class _Arrays(NamedTuple):
    """How a batch of one is made: of an observation, of a number."""

    row: Callable[[Any], Any]
    one: Callable[..., Any]
    float32: Any


_TORCH = _Arrays(_row, torch.tensor, torch.float32)
_NUMPY = _Arrays(_numpy_row, np.array, np.float32)


def _rows(info: dict[str, Any], row: Callable[[Any], Any]) -> dict[str, Any]:
    """A batch of one from an info: numbers and arrays get the axis that a batch of them has."""
    out: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, dict):
            out[key] = _rows(value, row)
        elif isinstance(value, (bool, int, float, np.number, np.bool_, np.ndarray, Tensor)):
            objects = isinstance(value, np.ndarray) and value.dtype == object
            out[key] = np.asarray(value)[None] if objects else row(value)
        else:
            out[key] = np.array([value, None], dtype=object)[:1]
    return out
