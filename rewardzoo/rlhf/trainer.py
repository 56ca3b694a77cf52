"""What all trainers are: steps that are counted, and checkpoints that training goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import load_checkpoint, save_checkpoint

Metrics = dict[str, float]


class Trainer:
    """A trainer that is saved and loaded goes on exactly as if it had never stopped.

    Attributes:
        kind: what its checkpoints are of.
        parts: what a checkpoint holds besides the step, by name: anything with a ``state_dict``.
        num_steps: made so far.
    """

    kind: str
    parts: dict[str, Any]
    num_steps: int = 0

    def train(self, steps: int) -> Metrics:
        """Make ``steps`` more steps; the metrics of the last one."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write everything that training depends on."""
        content = {name: part.state_dict() for name, part in self.parts.items()}
        save_checkpoint(path, self.kind, {**content, "num_steps": self.num_steps})

    def load(self, path: str | Path) -> None:
        """Go on from what ``save`` wrote; the arguments must be those of the saved trainer."""
        content = load_checkpoint(path, self.kind)
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        self.num_steps = content["num_steps"]


def finite(scores: Tensor) -> Tensor:
    """What a reward paid, (B,) or (B, T), or a ValueError that names the row that is no number."""
    if not bool(torch.isfinite(scores).all()):
        wrong = tuple((~torch.isfinite(scores)).nonzero()[0].tolist())
        raise ValueError(f"reward: {float(scores[wrong])} in row {wrong[0]}, expected a number")
    return scores
