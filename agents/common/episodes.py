"""Whole episodes of many runs: how they are played, kept and drawn again; and their returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardzoo.random import Rng


class Episodes(NamedTuple):
    """E episodes of each of R runs, padded at their ends to T steps."""

    obs: Tensor  # (R, E, T, ...)
    action: Tensor  # (R, E, T, ...)
    rewards: Tensor  # (R, E, T, K), K kinds of reward, 0 on padding
    live: Tensor  # (R, E, T) float32, 1 on steps that were made, 0 on padding

    def first(self, steps: int) -> Episodes:
        """The first ``steps`` steps of each."""
        return Episodes(*(x[:, :, :steps] for x in self))


class EpisodeBuffer:
    """The last ``capacity`` episodes of every run.

    Args:
        capacity: of each run.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        """Episodes of each run that were ever added."""
        self._lengths: list[int] = []  # greatest of each addition that is still kept
        self._store: Episodes | None = None

    def add(self, episodes: Episodes, longest: int) -> None:
        """Keep E more of each run, forgetting the oldest.

        Args:
            episodes: E <= capacity.
            longest: steps of the longest.
        """
        runs, new = episodes.live.shape[:2]
        if self._store is None:
            blank = [x.new_zeros(runs, self.capacity, *x.shape[2:]) for x in episodes]
            self._store = Episodes(*blank)
        place = (self.count + torch.arange(new, device=episodes.live.device)) % self.capacity
        for kept, given in zip(self._store, episodes, strict=True):
            kept[:, place] = given
        self.count += new
        kept = (self.capacity + new - 1) // new
        self._lengths = [*self._lengths, longest][-kept:]

    def draw(self, rng: Rng, number: int, newest: int = 0) -> Episodes:
        """``number`` episodes of each run, with replacement, cut where the longest kept one ends.

        Args:
            rng: one row a run.
            number: of each run.
            newest: leave out so many that were added last, unless there are no others.
        """
        assert self._store is not None
        kept = min(self.count, self.capacity)
        among = kept - newest if kept > newest else kept
        # Counted from the oldest that is kept.
        index = (self.count - kept + rng.integers(0, among, number)) % self.capacity
        rows = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
        longest = max(self._lengths)
        return Episodes(*(x[:, :, :longest][rows, index] for x in self._store))

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        store = None if self._store is None else list(self._store)
        return {"count": self.count, "lengths": self._lengths, "store": store}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue."""
        self.count, self._lengths = state["count"], list(state["lengths"])
        self._store = None if state["store"] is None else Episodes(*state["store"])


def discounted_returns(reward: Tensor, gamma: Tensor | float) -> Tensor:
    """``G_t = sum_{j >= t} gamma^(j - t) r_j`` over the last axis, differentiable in both.

    Sums over 1, 2, 4, ... steps are each made of two of half the length, so that a thousand steps
    take ten operations.

    Args:
        reward: (..., T), 0 where an episode is over.
        gamma: one number, or broadcast against ``reward``.
    """
    total, span, power = reward, 1, torch.as_tensor(gamma, dtype=reward.dtype)
    while span < reward.shape[-1]:
        total = total + power * torch.nn.functional.pad(total[..., span:], (0, span))
        span, power = 2 * span, power * power
    return total
