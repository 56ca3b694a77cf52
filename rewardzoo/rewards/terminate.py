"""TerminateTask: an episode ends where the task of its reward machine is over.

A reward function pays and does not say when episodes end; a wrapper around it can. Only the episode
ends, not what the environment simulates: it is reset, as after any end.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from ..transition import to_numpy
from .base import RewardFunction
from .passing import PassesOn
from .reward_machine import RewardMachine
from .wrappers import RewardWrapper, VectorRewardWrapper


class TerminateTask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sets ``terminated`` in the step that ends the task of ``RewardMachine(terminate=True)``.

    Args:
        env: a RewardWrapper that pays such a machine, alone or among others; or a wrapper around
            one, as AppendRewardState.

    Raises:
        ValueError: if it pays none.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._machines = _machines(env, RewardWrapper)
        self._sums = {"r": 0.0, "objective": 0.0, "l": 0}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode."""
        self._sums = {"r": 0.0, "objective": 0.0, "l": 0}
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; the sums of an episode come with its end, as from a RewardWrapper."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        paid, meant = float(reward), float(info["objective"])
        sums = self._sums
        self._sums = sums = {
            "r": sums["r"] + paid, "objective": sums["objective"] + meant, "l": sums["l"] + 1,
        }  # fmt: skip
        if bool(_over(self._machines)):
            terminated, info = True, {**info, "episode": sums}
        return obs, reward, terminated, truncated, info


class VectorTerminateTask(PassesOn):
    """``TerminateTask`` for vector environments whose rows are reset by those who step them.

    Args:
        envs: a VectorRewardWrapper, or a wrapper around one, as VectorAppendRewardState, in the
            autoreset mode ``DISABLED``: others reset a row only where the environment itself has
            ended its episode. (This project's agents take it.)

    Raises:
        ValueError: if it is in another mode or pays no machine with ``terminate=True``.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.DISABLED:
            raise ValueError(
                f"envs: autoreset_mode is {getattr(mode, 'name', mode)}, expected DISABLED: make "
                "them with autoreset_mode='DISABLED'"
            )
        super().__init__(envs)
        self._machines = _machines(envs, VectorRewardWrapper)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every row."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        over: Any = _over(self._machines)
        if not isinstance(terminated, Tensor):
            over = to_numpy(over)
        info = {**info, "_episode": info["_episode"] | over}
        return obs, reward, terminated | over, truncated, info


def ends_tasks(fn: RewardFunction) -> bool:
    """Whether a machine of a reward function ends episodes: then a wrapper of here is needed."""
    return bool(_terminating(fn))


def _machines(env: Any, kind: type) -> list[RewardMachine]:
    while not isinstance(env, kind):
        if not hasattr(env, "env"):
            raise ValueError(f"env: it pays no reward function; wrap it with {kind.__name__}")
        env = env.env
    fn: RewardFunction = env.reward_function  # type: ignore[attr-defined]
    found = _terminating(fn)
    if not found:
        raise ValueError(
            f"reward function {fn.name}: no reward machine of it ends episodes; give it "
            "terminate=True"
        )
    return found


def _terminating(fn: RewardFunction) -> list[RewardMachine]:
    return [f for f in fn.functions() if isinstance(f, RewardMachine) and f.terminate]


def _over(machines: list[RewardMachine]) -> Tensor:
    """(N,) bool, whether a row's task is over in any of them."""
    return torch.stack([machine.over() for machine in machines]).any(0)
