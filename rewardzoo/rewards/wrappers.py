"""Put a reward function on an environment: ``RewardWrapper``, ``VectorRewardWrapper``.

Both keep what the environment paid as ``info["objective"]`` (an inner wrapper's is kept, so the
objective is never lost), what each composed term paid as ``info["reward_terms"]``, and at the end
of an episode its sums as ``info["episode"]``: ``r`` (specified return), ``objective``, ``l``.

Gymnasium's own reward wrappers and vector episode statistics are not built upon: in Gymnasium 1.2
they pay the dead step of next-step autoreset and lose the first reward of an episode under
same-step autoreset.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from ..autoreset import StepTracker
from ..transition import Transition, select, to_numpy, to_torch
from .base import RewardError, RewardFunction, Spaces, pay, unpayable

_CPU = torch.device("cpu")


class RewardWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays ``fn`` instead of the environment's reward, on a single environment.

    Args:
        env: any Gymnasium environment.
        fn: the reward function; it is bound to a batch of one on the CPU.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], fn: RewardFunction) -> None:
        super().__init__(env)
        self.reward_function = fn
        fn.bind(1, _CPU, Spaces(env.observation_space, env.action_space))
        self._obs: Any = None
        self._steps = 0
        self._sums = (0.0, 0.0)
        self._every = torch.ones(1, dtype=torch.bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and the reward function's memory."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._obs = _row(obs)
        self._steps, self._sums = 0, (0.0, 0.0)
        self.reward_function.reset(self._every, self._obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, paid by the reward function."""
        obs, inner, terminated, truncated, info = self.env.step(action)
        next_obs = _row(obs)
        with torch.no_grad():
            transition = Transition(
                obs=self._obs,
                action=_row(action),
                next_obs=next_obs,
                reward=torch.tensor([float(inner)]),
                terminated=torch.tensor([bool(terminated)]),
                truncated=torch.tensor([bool(truncated)]),
                valid=self._every,
                episode_step=torch.tensor([self._steps]),
                info=info,
            )
            reward = float(pay(self.reward_function, transition))
            self.reward_function.observe(transition)
        self._obs, self._steps = next_obs, self._steps + 1
        objective = float(info.get("objective", inner))
        self._sums = (self._sums[0] + reward, self._sums[1] + objective)
        info = dict(info, objective=objective)
        terms = self.reward_function.terms()
        if terms:
            info["reward_terms"] = {k: float(v) for k, v in terms.items()}
        if terminated or truncated:
            info["episode"] = {"r": self._sums[0], "objective": self._sums[1], "l": self._steps}
        return obs, reward, terminated, truncated, info


class VectorRewardWrapper(gymnasium.vector.VectorWrapper):
    """Pays ``fn`` instead of the environments' reward, on any vector environment.

    Takes every autoreset mode and Dict observations. Where the inner environment returns NumPy
    arrays, so does this wrapper; where it returns tensors, everything stays on their device.

    Args:
        envs: any Gymnasium vector environment.
        fn: the reward function; it is bound to ``envs.num_envs`` rows.
        device: where the reward is computed; default: the environments' device, or the CPU.
    """

    def __init__(
        self,
        envs: gymnasium.vector.VectorEnv[Any, Any, Any],
        fn: RewardFunction,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(envs)
        self.reward_function = fn
        self.device = torch.device(device or getattr(envs, "device", None) or _CPU)
        spaces = Spaces(envs.single_observation_space, envs.single_action_space)
        fn.bind(envs.num_envs, self.device, spaces)
        self._tracker = StepTracker(envs, self.device)
        self._return = torch.zeros(envs.num_envs, device=self.device)
        self._objective = self._return
        self._length = torch.zeros(envs.num_envs, dtype=torch.int64, device=self.device)
        self._bad = self._return.to(torch.bool)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environments, and the memory of the rows that begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._tracker.reset(obs, options)
        self._clear(self._tracker.began)
        return obs, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step, paid by the reward function."""
        obs, inner, terminated, truncated, info = self.env.step(actions)
        tensors = isinstance(inner, Tensor)
        with torch.no_grad():
            t = self._tracker.step(actions, obs, inner, terminated, truncated, info)
            fn = self.reward_function
            reward = pay(fn, t)
            if reward.device.type != "cpu":
                self._bad = self._bad | unpayable(reward)
            fn.observe(t)
            # A nested wrapper has kept the objective; a stock environment's reward is it.
            objective = t.reward if "objective" not in info else to_torch(info["objective"])
            objective = torch.where(t.valid, objective.to(self.device, torch.float32), 0.0)
            self._return = self._return + reward
            self._objective = self._objective + objective
            self._length = self._length + t.valid
            added: dict[str, Any] = {
                "objective": objective,
                "episode": {"r": self._return, "objective": self._objective, "l": self._length},
                "_episode": t.done,
            }
            if terms := fn.terms():
                added["reward_terms"] = dict(terms)
            if self._tracker.mode is not AutoresetMode.DISABLED:
                self._clear(self._tracker.began)
        if not tensors:
            added = to_numpy(added)
            added["_objective"] = np.ones(self.num_envs, dtype=bool)
        return obs, reward if tensors else to_numpy(reward), terminated, truncated, {**info, **added}

    def raise_if_unpayable(self) -> None:
        """On devices where checking every step would stall: raise if any reward was not finite.

        Raises:
            RewardError: naming the first row that was paid a non-finite number.
        """
        if self._bad.device.type != "cpu" and bool(self._bad.any()):
            row = int(self._bad.nonzero()[0, 0])
            raise RewardError(
                f"reward function {self.reward_function.name}: paid a non-finite number in row {row}"
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
            "tracker": self._tracker.state_dict(),
            "sums": {"r": self._return, "objective": self._objective, "l": self._length},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self.env.load_state_dict(state_dict["env"])  # type: ignore[attr-defined]
        self.reward_function.load_state_dict(state_dict["reward"])
        self._tracker.load_state_dict(state_dict["tracker"])
        sums = to_torch(state_dict["sums"], self.device)
        self._return, self._objective, self._length = sums["r"], sums["objective"], sums["l"]

    def _clear(self, began: Tensor) -> None:
        self.reward_function.reset(began, self._tracker.obs)
        zeros = torch.zeros_like(self._return)
        self._return = select(began, zeros, self._return)
        self._objective = select(began, zeros, self._objective)
        self._length = torch.where(began, 0, self._length)


def _row(x: Any) -> Any:
    """A batch of one."""
    if isinstance(x, dict):
        return {k: _row(v) for k, v in x.items()}
    return torch.tensor(np.asarray(x)).unsqueeze(0)
