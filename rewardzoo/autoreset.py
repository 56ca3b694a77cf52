"""StepTracker: what a vector environment returns, in any autoreset mode, as transitions.

The one place that knows autoreset. Reward wrappers and the agents' collector both use it.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from .transition import Obs, Transition, select, to_torch


class StepTracker:
    """Remembers what a transition needs from one step to the next.

    After ``reset`` and after each ``step``, ``obs`` is what the agent acts on next and ``began``
    (N,) bool marks the rows whose episode begins with it (None after a step in which it is known
    that no episode began).

    Args:
        envs: the vector environment; its ``metadata["autoreset_mode"]`` says what to expect.
        device: where transitions live.
    """

    def __init__(
        self, envs: gymnasium.vector.VectorEnv[Any, Any, Any], device: torch.device
    ) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"envs.metadata['autoreset_mode'] is {mode!r}: expected a gymnasium AutoresetMode"
            )
        self.mode = mode
        self.device = device
        self._ones = torch.ones(envs.num_envs, dtype=torch.bool, device=device)
        self._over = ~self._ones
        self._episode_step = torch.zeros(envs.num_envs, dtype=torch.int64, device=device)
        self.obs: Obs = None
        self.began: Tensor = self._ones

    @property
    def always_valid(self) -> bool:
        """Whether no step is ever dead."""
        return self.mode is not AutoresetMode.NEXT_STEP

    def reset(self, obs: Obs, options: dict[str, Any] | None = None) -> None:
        """After ``envs.reset(options=options)`` returned ``obs``."""
        mask = (options or {}).get("reset_mask")
        self.began = self._ones if mask is None else to_torch(mask, self.device)
        self.obs = to_torch(obs, self.device)
        self._over = self._over & ~self.began
        self._episode_step = torch.where(self.began, 0, self._episode_step)

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
        obs = to_torch(obs, self.device)
        reward = to_torch(reward, self.device).to(torch.float32)
        terminated = to_torch(terminated, self.device)
        truncated = to_torch(truncated, self.device)
        done = terminated | truncated
        valid, next_obs = self._ones, obs
        if self.mode is AutoresetMode.SAME_STEP:
            next_obs = final_obs(obs, info, self.device)
            self.began = done
        elif self.mode is AutoresetMode.NEXT_STEP:
            valid, self.began = ~self._over, self._over
            # The dead step of a row starts its next episode: it has no predecessor.
            reward = torch.where(valid, reward, 0.0)
        else:
            self.began = ~self._ones
        transition = Transition(
            obs=self.obs,
            action=to_torch(action, self.device),
            next_obs=next_obs,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            episode_step=self._episode_step,
            info=info,
        )
        self.obs = obs
        self._over = done
        self._episode_step = torch.where(self.began, 0, self._episode_step + 1)
        return transition

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on, beyond the environment's own state."""
        return {"obs": self.obs, "over": self._over, "episode_step": self._episode_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        self.obs = to_torch(state_dict["obs"], self.device)
        self._over = to_torch(state_dict["over"], self.device)
        self._episode_step = to_torch(state_dict["episode_step"], self.device)


def final_obs(obs: Obs, info: dict[str, Any], device: torch.device) -> Obs:
    """The true successors under same-step autoreset: ``obs`` with the ended rows' last ones.

    Accepts the dense form of this project's environments and the forms of Gymnasium's: an object
    array of arrays (or of dicts), or a dict of arrays, with mask ``info["_final_obs"]``.
    """
    last = info.get("final_obs")
    if last is None:
        return obs
    if isinstance(last, Tensor) or (isinstance(last, dict) and isinstance(_leaf(last), Tensor)):
        return last
    mask = np.asarray(info["_final_obs"])
    rows = np.flatnonzero(mask)
    if isinstance(last, np.ndarray) and last.dtype == object:
        return _replace_rows(obs, rows, [last[i] for i in rows])
    if isinstance(last, dict):
        last = {k: v for k, v in last.items() if not k.startswith("_")}
    return select(to_torch(mask, device), to_torch(last, device), obs)


def _leaf(x: Any) -> Any:
    return next((_leaf(v) for v in x.values()), None) if isinstance(x, dict) else x


def _replace_rows(obs: Obs, rows: Any, values: list[Any]) -> Obs:
    if isinstance(obs, dict):
        return {k: _replace_rows(v, rows, [value[k] for value in values]) for k, v in obs.items()}
    out = obs.clone()
    for i, value in zip(rows, values, strict=True):
        out[i] = torch.as_tensor(np.asarray(value), dtype=obs.dtype, device=obs.device)
    return out
