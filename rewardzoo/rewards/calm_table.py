"""A detector that knows what annotated transitions say: the paper's table of rewards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..transition import Transition
from .base import Spaces
from .calm_detectors import Detector, check_key_room
from .calm_transitions import AnnotatedTransition, as_batch, read_transitions
from .lookup import Lookup, hash_rows


class TableDetector(Detector):
    """Pays what annotated transitions say of the same window and action.

    The value of a window and an action is the number of subgoals mentioned over all transitions
    that begin so, scaled to [0, 1] over the table (1 where all have the same); anything else is
    worth 0.

    Args:
        source: a file of annotated transitions, or the transitions.
    """

    subgoals = ("as annotated",)

    def __init__(self, source: str | Path | Sequence[AnnotatedTransition]) -> None:
        given = read_transitions(source) if isinstance(source, (str, Path)) else source
        self.table = Lookup()
        batch = as_batch(given)
        mentions: dict[int, float] = defaultdict(float)
        for key, t in zip(_hash(batch).tolist(), given, strict=True):
            mentions[key] += sum(t.subgoals.values())
        keys, values = torch.tensor(list(mentions)), torch.tensor(list(mentions.values()))
        low, high = values.min(), values.max()
        scaled = (values - low) / (high - low) if high > low else torch.ones_like(values)
        self.table.set(keys, scaled.unsqueeze(1))

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Check the observation; move the table."""
        check_key_room(spaces)
        self.table.to(device)

    def detect(self, t: Transition) -> Tensor:
        """(N, 1) float32 in [0, 1]."""
        return self.table.get(_hash(t))[0]

    def state_dict(self) -> dict[str, Any]:
        """The table."""
        return dict(self.table.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue."""
        self.table.load_state_dict(state)


def _hash(t: Transition) -> Tensor:
    return hash_rows(t.obs["chars_crop"], t.action.reshape(-1, 1))
