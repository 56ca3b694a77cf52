"""Rewards of steps: what a process reward model says of a solution's steps, beside its outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .policy_gradient import at_the_end
from .sequences import Sequences

# Sequences to scores (B, S) of steps, columns (B, S) or (S,) of their last tokens, mask (B, S).
Steps = Callable[[Sequences], tuple[Tensor, Tensor, Tensor]]
Shape = Callable[[Tensor, Tensor], Tensor]


class StepReward:
    """Pays a step where it ends, and a solution's outcome at its end: (B, T) of ``Sequences``.

    The plain scores of steps reward long solutions, for every good step adds to the sum. With
    ``clip_steps`` none does, and with ``delta_steps`` the sum is the first step's score; with both,
    in this order, it is at most 0.

    Args:
        outcome: scores (B,) of ``Sequences``, as 1 of right and 0 of wrong solutions.
        steps: what is said of the steps; those behind the end of a completion are none.
        weight: of the steps, >= 0; the paper's are .02 to 1.
        shapes: from scores (B, S) and mask (B, S) to what is paid, one after the other.

    Paper: Gao et al. (2024), "On designing effective RL reward at training time for LLM reasoning".
    """

    def __init__(
        self,
        outcome: Callable[[Sequences], Tensor],
        steps: Steps,
        weight: float = 1.0,
        shapes: Sequence[Shape] = (),
    ) -> None:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight={weight}: expected a finite number >= 0")
        self.outcome, self.steps, self.weight, self.shapes = outcome, steps, weight, shapes

    @torch.no_grad()
    def __call__(self, batch: Sequences) -> Tensor:
        """The rewards (B, T), float32; 0 after the end."""
        score, ends, mask = self.steps(batch)
        ends = ends.expand_as(score)
        mask = mask & (ends < batch.lengths.unsqueeze(1))
        for shape in self.shapes:
            score = shape(score, mask)
        paid = at_the_end(self.outcome(batch).float(), batch.completion_mask)
        each = self.weight * score.float().masked_fill(~mask, 0.0)
        return paid.scatter_add(1, ends.masked_fill(~mask, 0), each)
