"""ReplayBuffer: the last transitions of many environments, on the device, sampled uniformly."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardzoo.random import Rng
from rewardzoo.transition import Obs

from . import trees


class Sample(NamedTuple):
    """B stored transitions."""

    obs: Obs  # (B, ...)
    action: Tensor  # (B, ...)
    reward: Tensor  # (B,) float32
    next_obs: Obs  # (B, ...), the true successors
    terminated: Tensor  # (B,) bool


class ReplayBuffer:
    """A ring of ``capacity`` transitions; new ones overwrite the oldest.

    Args:
        capacity: transitions kept, at least as many as are added at once.
        device: where they live.

    Example:
        >>> import torch
        >>> buffer = ReplayBuffer(4, torch.device("cpu"))
        >>> x = torch.arange(3.0)
        >>> buffer.add(Sample(x, x.long(), x, x + 1, x > 1))
        >>> buffer.add(Sample(x + 10, x.long(), x, x + 11, x > 1))
        >>> len(buffer), sorted(buffer.at(torch.arange(4)).obs.tolist())
        (4, [2.0, 10.0, 11.0, 12.0])
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        if not capacity >= 1:
            raise ValueError(f"capacity={capacity}: expected an integer >= 1")
        self.capacity = capacity
        self.device = device
        self._store: Sample | None = None
        self._size = 0
        self._next = 0

    def __len__(self) -> int:
        return self._size

    def add(self, rows: Sample) -> None:
        """Store B transitions.

        Raises:
            ValueError: for more than ``capacity`` at once.
        """
        count = rows.reward.shape[0]
        if count > self.capacity:
            raise ValueError(f"capacity={self.capacity}: expected at least {count}, added at once")
        if self._store is None:
            self._store = Sample(*(trees.mapped(x, self._room) for x in rows))
        place = (torch.arange(count, device=self.device) + self._next) % self.capacity
        for kept, new in zip(self._store, rows, strict=True):
            _write(kept, place, new)
        self._next = (self._next + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def at(self, index: Tensor) -> Sample:
        """The transitions at ``index`` (B,) int64."""
        if self._store is None:
            raise ValueError("buffer: it is empty; add transitions before sampling")
        return Sample(*(trees.rows(x, index) for x in self._store))

    def sample(self, count: int, rng: Rng) -> Sample:
        """``count`` transitions drawn uniformly, with replacement; ``rng`` has one row."""
        return self.at(rng.integers(0, max(self._size, 1), count)[0])

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and numbers."""
        store = None if self._store is None else dict(self._store._asdict())
        return {"store": store, "size": self._size, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken.

        Raises:
            ValueError: if it was saved with another capacity.
        """
        store = state["store"]
        if store is not None:
            self._store = Sample(**store)
            if len(self._store.reward) != self.capacity:
                raise ValueError(
                    f"state_dict: {len(self._store.reward)} places, expected {self.capacity}"
                )
        self._size, self._next = state["size"], state["next"]

    def _room(self, x: Tensor) -> Tensor:
        return x.new_zeros((self.capacity, *x.shape[1:]))


def _write(kept: Any, place: Tensor, new: Any) -> None:
    if isinstance(kept, dict):
        for key in kept:
            _write(kept[key], place, new[key])
    else:
        kept[place] = new.to(kept.dtype)
