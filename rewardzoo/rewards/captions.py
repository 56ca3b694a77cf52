"""Captions: the game's messages as bytes, text and counts within an episode."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor

from ..transition import Obs
from .base import Spaces, integer

KEY = "message"


def caption_width(spaces: Spaces) -> int:
    """How many bytes a message has.

    Raises:
        ValueError: unless the observation is a Dict with a ``message`` of bytes.
    """
    found = spaces.observation
    entry = found.spaces.get(KEY) if isinstance(found, gym_spaces.Dict) else None
    box = isinstance(entry, gym_spaces.Box) and entry.dtype == np.uint8
    if not box or entry is None or entry.shape is None or len(entry.shape) != 1:
        raise ValueError(
            f"observation {found}: expected a Dict with {KEY!r}, a flat Box of uint8; make the "
            f"environment with observation_keys=(..., {KEY!r})"
        )
    return int(entry.shape[0])


def captions(obs: Obs) -> Tensor:
    """(N, L) uint8."""
    found: Tensor = obs[KEY]
    return found


def decode(rows: Tensor) -> list[str]:
    """The texts of messages (K, L) uint8, padded with zeros."""
    data: list[bytes] = [bytes(row) for row in rows.cpu().numpy()]
    return [line.split(b"\0", 1)[0].decode("latin-1") for line in data]


def encode(texts: list[str], width: int) -> Tensor:
    """(K, width) uint8 from texts; what does not fit is cut off."""
    lines = [text.encode("latin-1", "replace")[:width].ljust(width, b"\0") for text in texts]
    return torch.frombuffer(bytearray(b"".join(lines)), dtype=torch.uint8).reshape(-1, width)


class EpisodeCounts:
    """How often a message was shown in a row's episode so far.

    Exact for the last ``slots`` distinct messages of an episode; an older one starts again at 1.

    Args:
        num_envs: N.
        device: where.
        slots: distinct messages remembered a row.
    """

    def __init__(self, num_envs: int, device: torch.device, slots: int = 256) -> None:
        shape = (num_envs, integer("slots", slots, 1))
        self.hashes = torch.zeros(shape, dtype=torch.int64, device=device)
        self.counts = torch.zeros(shape, dtype=torch.int32, device=device)
        self.next = torch.zeros(num_envs, dtype=torch.int64, device=device)

    def clear(self, mask: Tensor) -> None:
        """Forget the rows in ``mask`` (N,) bool."""
        self.counts = self.counts.masked_fill(mask.unsqueeze(1), 0)
        self.next = self.next.masked_fill(mask, 0)

    def visit(self, hashes: Tensor, rows: Tensor) -> Tensor:
        """Count a message a row.

        Args:
            hashes: (N,) int64, of the messages.
            rows: (N,) bool, which rows are counted.

        Returns:
            (N,) int32, occurrences including this one; in rows not counted as if they were.
        """
        same = (self.hashes == hashes.unsqueeze(1)) & (self.counts > 0)
        known = same.any(1)
        slot = torch.where(known, same.to(torch.int8).argmax(1), self.next).unsqueeze(1)
        old = self.counts.gather(1, slot).squeeze(1)
        count = torch.where(known, old, 0) + 1
        old_hash = self.hashes.gather(1, slot).squeeze(1)
        self.hashes = self.hashes.scatter(1, slot, torch.where(rows, hashes, old_hash).unsqueeze(1))
        self.counts = self.counts.scatter(1, slot, torch.where(rows, count, old).unsqueeze(1))
        new = rows & ~known
        self.next = torch.where(new, (self.next + 1) % self.counts.shape[1], self.next)
        return count

    def state_dict(self) -> dict[str, Tensor]:
        """Everything."""
        return {k: v.clone() for k, v in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue.

        Raises:
            ValueError: if it is of another number of rows.
        """
        for key, value in state.items():
            own: Tensor = getattr(self, key)
            if own.shape != value.shape:
                raise ValueError(
                    f"message counts: {key} is {tuple(value.shape)}, expected {tuple(own.shape)}"
                )
            setattr(self, key, value.to(own.device, copy=True))
