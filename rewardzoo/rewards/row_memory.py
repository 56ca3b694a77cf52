"""RowMemory: the last rows that a learned reward function has seen; and rows as numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from ..transition import Obs


class RowMemory(nn.Module):
    """A ring of rows of numbers; new ones overwrite the oldest, dead ones are left out.

    Nothing waits for the device; the rows are part of a checkpoint.

    Args:
        capacity: rows kept.
        width: numbers a row.

    Example:
        >>> import torch
        >>> memory = RowMemory(4, 1)
        >>> memory.add(torch.arange(3.0).unsqueeze(1), torch.tensor([True, False, True]))
        >>> memory.rows[:, 0].tolist(), int(memory.size)
        ([0.0, 2.0, 0.0, 0.0], 2)
    """

    rows: Tensor
    place: Tensor
    size: Tensor

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("rows", torch.zeros(capacity, width))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.register_buffer("size", torch.zeros((), dtype=torch.int64))

    def add(self, rows: Tensor, valid: Tensor) -> None:
        """Store the valid ones of (N, width) rows, N <= capacity."""
        live = valid.to(torch.int64)
        count = live.sum()
        # Live rows take the next places in order; dead ones write back what lies behind those.
        order = torch.where(valid, live.cumsum(0) - 1, count + (1 - live).cumsum(0) - 1)
        where = (self.place + order) % self.capacity
        self.rows[where] = torch.where(valid.unsqueeze(1), rows, self.rows[where])
        self.place.copy_((self.place + count) % self.capacity)
        self.size.copy_((self.size + count).clamp(max=self.capacity))

    def share(self) -> Tensor:
        """Of the rows and as many more as the last column counts, these more."""
        more = self.rows[:, -1].sum()
        return more / (self.size + more).clamp(min=1.0)

    def at(self, uniform: Tensor) -> Tensor:
        """The rows (..., width) at uniform numbers (...) of [0, 1), drawn with replacement."""
        index = (uniform * self.size).to(torch.int64).clamp(max=self.capacity - 1)
        return self.rows[index]


class Moments(nn.Module):
    """Running mean and variance of each column (Chan et al. 1979).

    Args:
        width: columns.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(width, dtype=torch.float64))

    def add(self, rows: Tensor, valid: Tensor) -> None:
        """Take in the valid ones of (N, width) rows."""
        weight, x = valid.to(torch.float64).unsqueeze(1), rows.to(torch.float64)
        count = weight.sum()
        mean = (weight * x).sum(0) / count.clamp(min=1.0)
        squares = (weight * (x - mean) ** 2).sum(0)
        total = (self.count + count).clamp(min=1.0)
        delta = mean - self.mean
        self.squares += squares + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count += count

    def standard(self) -> tuple[Tensor, Tensor]:
        """Mean and one over the standard deviation, (width,) float32 each.

        A column that never varied keeps its unit.
        """
        deviation = (self.squares / self.count.clamp(min=1.0)).sqrt()
        scale = torch.where(deviation > 1e-6, 1.0 / deviation.clamp(min=1e-6), 1.0)
        return self.mean.to(torch.float32), scale.to(torch.float32)


class Encoding:
    """A space's values as rows of float32: a Box laid flat, a Discrete value as one of n.

    Args:
        space: Box or Discrete.
        what: its name in messages.
        bounded: scale a bounded Box to [-1, 1].

    Raises:
        ValueError: for another space.
    """

    def __init__(self, space: spaces.Space[Any], what: str, bounded: bool = False) -> None:
        self.start = 0
        self.discrete = isinstance(space, spaces.Discrete)
        self.middle = self.half = torch.zeros(0)
        if isinstance(space, spaces.Discrete):
            self.width, self.start = int(space.n), int(space.start)
        elif isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self.width = math.prod(space.shape)
            if bounded and space.is_bounded():
                low, high = (torch.tensor(x).flatten().float() for x in (space.low, space.high))
                self.middle, self.half = (low + high) / 2.0, (high - low) / 2.0
        else:
            raise ValueError(
                f"{what}: {space}, expected a float Box or Discrete (flatten others first)"
            )

    def to(self, device: torch.device) -> Encoding:
        """With its constants on ``device``."""
        self.middle, self.half = self.middle.to(device), self.half.to(device)
        return self

    def __call__(self, value: Obs) -> Tensor:
        """(B, ...) to (B, width) float32."""
        if self.discrete:
            choices = torch.arange(self.width, device=value.device)
            one_hot: Tensor = choices == value.reshape(-1, 1) - self.start
            return one_hot.to(torch.float32)
        flat: Tensor = value.reshape(value.shape[0], -1).to(torch.float32)
        if len(self.half):
            flat = (flat - self.middle) / self.half
        return flat
