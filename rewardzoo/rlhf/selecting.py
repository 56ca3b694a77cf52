"""What a round of an iterative trainer keeps of its samples, or makes pairs of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .decoder import LanguageModel
from .pairs import PairBatch
from .sampling import sample, with_mask
from .sequences import (
    Sequences,
    moved,
)
from .trainer import finite


def best(batch: Sequences, scores: Tensor, n: int) -> Sequences:
    """The completion of each prompt with the highest score."""
    at = scores.view(-1, n).argmax(1)
    return batch.rows(at + n * torch.arange(len(at), device=at.device))


@torch.no_grad()
def best_of_n(
    policy: LanguageModel,
    prompts: Tensor | tuple[Tensor, Tensor],
    reward: Callable[[Sequences], Tensor],
    n: int,
    new_tokens: int,
    generator: torch.Generator,
) -> Sequences:
    """The best of ``n`` completions of each prompt; prompts as ``Prompts`` gives them."""
    asked, mask = with_mask(prompts)
    batch = sample(policy, asked, new_tokens, generator, mask, copies=n)
    return best(batch, finite(moved(reward(batch), batch.ids.device)), n)


def win_rates(scores: Tensor, n: int) -> Tensor:
    """How often a completion is preferred to one of its prompt, itself included, (B,).

    ``sigmoid`` of a difference of scores is the probability that one is preferred to the other.

    Example:
        >>> win_rates(torch.tensor([0.0, 0.0, 100.0]), 3)
        tensor([0.3333, 0.3333, 0.8333])
    """
    groups = scores.view(-1, n)
    return torch.sigmoid(groups.unsqueeze(2) - groups.unsqueeze(1)).mean(2).flatten()


class Duels:
    """Every pair of completions of a prompt, labelled by the reward.

    ``strength`` of a pair is the difference of the two ``win_rates``.

    Args:
        margin: least difference of scores of the pairs that are kept, >= 0.

    Paper: Rosset et al. (2024), "Direct Nash optimization", algorithms 1 and, with a margin, 2.
    """

    def __init__(self, margin: float = 0.0) -> None:
        if not margin >= 0:
            raise ValueError(f"margin={margin}: expected a number >= 0")
        self.margin = margin

    def __call__(self, batch: Sequences, scores: Tensor, n: int) -> PairBatch | None:
        """The pairs; None if the margin leaves none."""
        first = n * torch.arange(len(scores) // n, device=scores.device).unsqueeze(1)
        pairs = torch.combinations(torch.arange(n, device=scores.device)) + first.unsqueeze(2)
        a, b = pairs.view(-1, 2).T
        kept = (scores[a] - scores[b]).abs() >= self.margin
        if not bool(kept.any()):
            return None
        return paired(batch, scores, a[kept], b[kept], win_rates(scores, n))


def against_other(batch: Sequences, scores: Tensor, n: int) -> tuple[PairBatch, Sequences]:
    """Own completions against the other policy's, and the other's alone.

    The first half of a prompt's n are own ones, so that a trainer's ``n`` is its ``n_other``.
    """
    if n % 2:
        raise ValueError(f"n={n} samples a prompt: expected as many of other as own ones")
    own, theirs = torch.arange(len(scores), device=scores.device).view(-1, 2, n // 2).unbind(1)
    own, theirs = own.flatten(), theirs.flatten()
    return paired(batch, scores, own, theirs, scores), batch.rows(theirs)


def paired(batch: Sequences, scores: Tensor, a: Tensor, b: Tensor, worth: Tensor) -> PairBatch:
    """Pairs of completions, the one with the higher score chosen.

    Args:
        batch: completions (B).
        scores: (B,).
        a: (M,) int64, which completions are compared.
        b: (M,) int64, with which others.
        worth: (B,); a pair's strength is the difference of the two.
    """
    higher = scores[a] >= scores[b]
    chosen, rejected = torch.where(higher, a, b), torch.where(higher, b, a)
    strength = worth[chosen] - worth[rejected]
    return PairBatch(batch.rows(chosen), batch.rows(rejected), strength, torch.ones_like(strength))
