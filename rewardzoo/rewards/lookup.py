"""What is known about byte strings that were seen before: a table on the device, by 64-bit hash."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_PLACE = 0x9E3779B97F4A7C15 - (1 << 64)
_UNUSED = (1 << 63) - 1  # no key: a hash is one of 2**64


def hash_rows(*parts: Tensor) -> Tensor:
    """(N,) int64 from rows of integers (N, ...); equal rows alone are equal, up to 2**-64.

    Every place is mixed with its position and added up (SplitMix64's finaliser twice).
    """
    rows = [p.reshape(len(p), math.prod(p.shape[1:])).to(torch.int64) for p in parts]
    x = rows[0] if len(rows) == 1 else torch.cat(rows, 1)
    place = torch.arange(1, x.shape[1] + 1, device=x.device) * _PLACE
    return _mix(_mix(x + place).sum(1))


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64; the masks make torch's arithmetic shifts logical."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


class Lookup:
    """Rows of numbers by hash; looking up neither loops nor asks the device.

    Args:
        width: numbers a key.
    """

    def __init__(self, width: int = 1) -> None:
        self.width = width
        self.keys = torch.full((1,), _UNUSED, dtype=torch.int64)
        self.values = torch.zeros(1, width)

    def to(self, device: torch.device) -> None:
        """Move to ``device``."""
        self.keys, self.values = self.keys.to(device), self.values.to(device)

    def set(self, keys: Tensor, values: Tensor) -> None:
        """Replace everything.

        Args:
            keys: (K,) int64, distinct.
            values: (K, width) float32.
        """
        device = self.keys.device
        unused = torch.full((1,), _UNUSED, dtype=torch.int64, device=device)
        keys = torch.cat([keys.to(device), unused])
        values = torch.cat([values.to(device, torch.float32), torch.zeros_like(self.values[:1])])
        order = keys.argsort()
        self.keys, self.values = keys[order], values[order]

    def get(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(N, width) float32, 0 for unknown keys, and (N,) bool, which are known."""
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        known = self.keys[place] == keys
        return torch.where(known.unsqueeze(1), self.values[place], 0.0), known

    def state_dict(self) -> dict[str, Tensor]:
        """Everything."""
        return {"keys": self.keys.clone(), "values": self.values.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue."""
        device = self.keys.device
        self.keys = state["keys"].to(device, copy=True)
        self.values = state["values"].to(device, copy=True)
