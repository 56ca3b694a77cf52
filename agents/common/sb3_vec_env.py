"""``SB3VecEnv``: any Gymnasium vector environment, as Stable-Baselines3 wants to see it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rewardzoo.autoreset import StepTracker
from rewardzoo.transition import to_numpy


class SB3VecEnv(VecEnv):
    """A Stable-Baselines3 ``VecEnv`` over any Gymnasium vector environment with autoreset.

    Rewards are what the vector environment pays (wrap it in ``VectorRewardWrapper`` first).
    ``info["terminal_observation"]`` and ``info["TimeLimit.truncated"]`` are set where an episode
    ends, and ``info["episode"]`` has ``r``, ``l`` and ``objective``.

    Args:
        envs: a vector environment in same-step mode.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        if envs.metadata["autoreset_mode"] is not gymnasium.vector.AutoresetMode.SAME_STEP:
            raise ValueError(
                f"envs: autoreset mode {envs.metadata['autoreset_mode'].value}, expected SameStep, "
                "which Stable-Baselines3 assumes; make them with autoreset_mode='SAME_STEP'"
            )
        self.envs = envs
        self._tracker = StepTracker(envs, torch.device(getattr(envs, "device", "cpu")))
        self._sums = np.zeros((2, envs.num_envs))
        self._tensors = False
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(envs.num_envs)]
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """Begin new episodes; ``seed`` called before sets their seeds."""
        seed = self._seeds[0]
        obs, _ = self.envs.reset(seed=seed)
        self._reset_seeds()
        self._tensors = isinstance(
            next(iter(obs.values())) if isinstance(obs, dict) else obs, Tensor
        )
        self._tracker.reset(obs)
        self._sums[:] = 0.0
        return to_numpy(obs)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for ``step_wait``."""
        self._actions = torch.as_tensor(actions) if self._tensors else actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One step, in Stable-Baselines3's form."""
        out = self.envs.step(self._actions)
        step = self._tracker.step(self._actions, *out)
        reward, truncated, terminated = (
            to_numpy(x) for x in (step.reward, step.truncated, step.terminated)
        )
        done = terminated | truncated
        objective = to_numpy(self._tracker.objective(step))
        self._sums += np.stack([reward, objective])
        infos: list[dict[str, Any]] = [{"objective": float(x)} for x in objective]
        rows = np.flatnonzero(done)
        if len(rows):
            last, lengths = to_numpy(step.next_obs), to_numpy(self._tracker.steps)
            for i in rows:
                infos[i]["terminal_observation"] = (
                    {k: v[i] for k, v in last.items()} if isinstance(last, dict) else last[i]
                )
                infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
                paid, meant = self._sums[:, i]
                infos[i]["episode"] = {
                    "r": paid,
                    "objective": meant,
                    "l": int(lengths[i]),
                    "t": 0.0,
                }
            self._sums[:, rows] = 0.0
        return to_numpy(out[0]), reward, done, infos

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the vector environment, once for each row asked for."""
        value = getattr(self.envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the vector environment; rows share it."""
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list:
        """Call a method of the vector environment once; its result for each row asked for."""
        value = getattr(self.envs, method_name)(*args, **kwargs)
        return [value for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never by Stable-Baselines3's single-environment wrappers."""
        return [False for _ in self._get_indices(indices)]
