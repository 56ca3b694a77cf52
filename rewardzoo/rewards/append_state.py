"""AppendRewardState: put a reward function's memory into the observation.

With it, a reward that depends on the past (``markov = False``) is Markov again for the agent.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from torch import Tensor

from ..transition import to_numpy
from .base import RewardFunction
from .passing import PassesOn
from .wrappers import RewardWrapper, VectorRewardWrapper

KEY = "reward_state"


class AppendRewardState(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Appends ``observation_features()`` of the reward function to the observation.

    A Box of one axis becomes a longer one, float32; a Dict gets the key ``"reward_state"``; any
    other space becomes a Dict of ``"observation"`` and ``"reward_state"``.

    Args:
        env: a RewardWrapper.
    """

    def __init__(self, env: RewardWrapper) -> None:
        super().__init__(env)
        self._fn = env.reward_function
        width = _features(self._fn).shape[1]
        self.observation_space = _append_space(env.observation_space, width)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset, with the memory's first value."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._append(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, with the memory after it."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._append(obs), reward, terminated, truncated, info

    def _append(self, obs: Any) -> Any:
        return _append(self.env.observation_space, obs, to_numpy(_features(self._fn)[0]))


class VectorAppendRewardState(PassesOn):
    """``AppendRewardState`` for vector environments, in every autoreset mode.

    ``info["final_obs"]`` is dense and carries the memory as it was before the reset.

    Args:
        envs: a VectorRewardWrapper.
    """

    def __init__(self, envs: VectorRewardWrapper) -> None:
        super().__init__(envs)
        self._fn = envs.reward_function
        self._envs = envs
        envs.keep_features = True
        width = _features(self._fn).shape[1]
        self._inner_space = envs.single_observation_space
        self.single_observation_space = _append_space(self._inner_space, width)
        self.observation_space = batch_space(self.single_observation_space, envs.num_envs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset, with the memory's first value."""
        obs, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        return self.append(obs, _features(self._fn)), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, with the memory after it."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            last, features = self._envs.transition, self._envs.final_features
            assert last is not None and features is not None
            final = last.next_obs if _has_tensors(obs) else to_numpy(last.next_obs)
            info = {**info, "final_obs": self.append(final, features)}
        return self.append(obs, _features(self._fn)), reward, terminated, truncated, info

    def append(self, obs: Any, features: Tensor) -> Any:
        """Observations (N, ...) of the environment inside with a memory (N, K)."""
        extra = features if _has_tensors(obs) else to_numpy(features)
        return _append(self._inner_space, obs, extra)


def _features(fn: RewardFunction) -> Tensor:
    """(N, K) float32."""
    features = fn.observation_features()
    if features is None:
        raise ValueError(f"reward function {fn.name}: has no memory to put into the observation")
    return features.to(torch.float32)


def _append_space(inner: spaces.Space[Any], width: int) -> spaces.Space[Any]:
    extra = spaces.Box(-np.inf, np.inf, (width,), np.float32)
    if isinstance(inner, spaces.Dict):
        if KEY in inner.spaces:
            raise ValueError(f"the observation already has the key {KEY!r}: append state once")
        return spaces.Dict({**inner.spaces, KEY: extra})
    if isinstance(inner, spaces.Box) and len(inner.shape) == 1:
        low = np.concatenate([inner.low, extra.low]).astype(np.float32)
        high = np.concatenate([inner.high, extra.high]).astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32)
    return spaces.Dict({"observation": inner, KEY: extra})


def _append(inner: spaces.Space[Any], obs: Any, extra: Any) -> Any:
    if isinstance(inner, spaces.Dict):
        return {**obs, KEY: extra}
    if isinstance(inner, spaces.Box) and len(inner.shape) == 1:
        if isinstance(obs, Tensor):
            return torch.cat((obs.to(torch.float32), extra), -1)
        return np.concatenate((obs.astype(np.float32), extra), -1)
    return {"observation": obs, KEY: extra}


def _has_tensors(obs: Any) -> bool:
    if isinstance(obs, dict):
        return any(_has_tensors(value) for value in obs.values())
    return isinstance(obs, Tensor)
