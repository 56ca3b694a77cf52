"""Logged episodes: what somebody else did, padded to equal length, with an explicit mask."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import torch
from torch import Tensor

from rewardzoo.random import Rng

_BEHAVIOUR_STREAM = 4


class LoggedEpisodes(NamedTuple):
    """N episodes of at most T steps."""

    obs: Tensor  # (N, T + 1, ...), the successor of the last step included
    action: Tensor  # (N, T) int64
    reward: Tensor  # (N, T) float32
    valid: Tensor  # (N, T) bool, False on padding: all-zero observations mean nothing by themselves
    terminated: Tensor  # (N,) bool, the episode's last step ended the task

    @property
    def length(self) -> Tensor:
        """(N,) int64."""
        return self.valid.sum(1)

    def rows(self, index: Any) -> LoggedEpisodes:
        """Some of the episodes."""
        return LoggedEpisodes(*(x[index] for x in self))


@torch.no_grad()
def log_episodes(
    envs: gymnasium.vector.VectorEnv[Any, Any, Any], policy: Tensor, seed: int
) -> LoggedEpisodes:
    """One episode of every environment under a tabular policy.

    Args:
        envs: with observations that number the states, returning tensors, in same-step mode.
        policy: (S, A).
        seed: of the environments and the actions.
    """
    obs, _ = envs.reset(seed=seed)
    seeds = torch.arange(envs.num_envs, device=obs.device) + seed
    cdf = policy.to(torch.float64).cumsum(1)
    cdf = cdf / cdf[:, -1:].clamp(min=1e-300)
    open_ = torch.ones_like(seeds, dtype=torch.bool)
    ended = torch.zeros_like(open_)
    columns: list[tuple[Tensor, ...]] = []
    seen = [obs]
    while bool(open_.any()):
        u = (Rng(seeds, 0 * seeds, len(columns), _BEHAVIOUR_STREAM).bits() + 0.5) * 2.0**-32
        action = (cdf[obs] <= u.unsqueeze(1)).sum(1).clamp(max=policy.shape[1] - 1)
        obs, reward, terminated, truncated, info = envs.step(action)
        columns.append((action, torch.where(open_, reward, 0.0), open_))
        seen.append(info["final_obs"])
        ended = ended | (terminated & open_)
        open_ = open_ & ~(terminated | truncated)
    action, reward, valid = (torch.stack(column, 1) for column in zip(*columns, strict=True))
    return LoggedEpisodes(torch.stack(seen, 1), action, reward, valid, ended)
