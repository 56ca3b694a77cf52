"""Count-based novelty (Strehl, Littman 2008; Bellemare et al. 2016; Tang et al. 2017)."""

from __future__ import annotations

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, integer, number
from .lookup import hash_rows


@register_reward("novelty")
class Novelty(RewardFunction):
    """Pays ``1 / sqrt(n)`` for the ``n``-th visit of an observation.

    Rows that arrive at the same observation in the same step are counted together. The first
    observation of an episode is counted as a visit and pays nothing. ``Discrete`` observations
    are counted exactly; others are hashed into buckets, so that two observations share a count
    with probability about ``1 / buckets``.

    Args:
        resolution: floating-point observations are rounded to multiples of it before they are
            hashed; None takes them as they are.
        per_episode: count each row's visits within its episode instead of those of all rows for
            ever; memory is then ``4 * N * buckets`` bytes.
        buckets: size of the table of counts.

    Paper: Strehl, Littman (2008), "An analysis of model-based interval estimation"; hashing: Tang
    et al. (2017), "#Exploration".
    """

    def __init__(
        self, resolution: float | None = None, per_episode: bool = False, buckets: int = 16384
    ) -> None:
        self.resolution = resolution
        if resolution is not None and not number("resolution", resolution) > 0:
            raise ValueError(f"resolution={resolution}: expected a number > 0")
        self.per_episode = bool(per_episode)
        self.buckets = integer("buckets", buckets, 2)
        self.markov = not per_episode
        self.rowwise = self.per_episode

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Nothing was visited yet."""
        observation, size = spaces.observation, self.buckets
        self._exact = isinstance(observation, gym_spaces.Discrete)
        if isinstance(observation, gym_spaces.Discrete):
            self._start, size = int(observation.start), int(observation.n)
        if self.per_episode:
            self._counts = torch.zeros(num_envs * size, dtype=torch.int32)
            self._offset = torch.arange(num_envs) * size
        else:
            self._counts = torch.zeros(size, dtype=torch.int32)
            self._offset = torch.zeros((), dtype=torch.int64)
        self._size = size
        super().bind(num_envs, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Count the first observations of the rows in ``mask``."""
        if self.per_episode:
            rows = self._counts.view(-1, self._size)
            rows.masked_fill_(mask.unsqueeze(1), 0)
        self._visit(self._bucket(obs), mask)

    def __call__(self, t: Transition) -> Tensor:
        """Novelty of the successor, (N,) float32 in (0, 1]."""
        bucket = self._bucket(t.next_obs)
        self._visit(bucket, t.valid)
        return self._pay(bucket)

    def relabel(self, t: Transition) -> Tensor:
        """Novelty with the counts as they are now; a successor never visited pays 1."""
        if self.per_episode:
            return super().relabel(t)
        return self._pay(self._bucket(t.next_obs))

    def _visit(self, bucket: Tensor, rows: Tensor) -> None:
        self._counts.scatter_add_(0, bucket, rows.to(torch.int32))

    def _pay(self, bucket: Tensor) -> Tensor:
        return self._counts[bucket].clamp(min=1).to(torch.float32).rsqrt()

    def _bucket(self, obs: Obs) -> Tensor:
        """Where each row is counted, (N,) int64."""
        if self._exact:
            bucket = obs - self._start
        else:
            bucket = (self._hash(obs) & 0x7FFFFFFFFFFFFFFF) % self._size
        found: Tensor = self._offset + bucket
        return found

    def _hash(self, obs: Obs) -> Tensor:
        """(N,) int64."""
        if isinstance(obs, dict):
            parts = torch.stack([self._hash(obs[key]) for key in sorted(obs)], 1)
        elif isinstance(obs, tuple):
            parts = torch.stack([self._hash(part) for part in obs], 1)
        else:
            parts = self._integers(obs.reshape(len(obs), -1))
        return hash_rows(parts)

    def _integers(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x.to(torch.int64)
        if self.resolution is not None:
            return torch.round(x / self.resolution).to(torch.int64)
        x = x.to(torch.float64) + 0.0  # -0.0 becomes 0.0, which has other bits
        return x.view(torch.int64)
