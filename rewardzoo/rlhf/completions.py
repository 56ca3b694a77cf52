"""Completions of many prompts, sampled a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .decoder import LanguageModel
from .prompts import padded
from .sampling import sample

AT_ONCE = 64


def complete(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    batch_size: int = AT_ONCE,
) -> Iterator[list[int]]:
    """The completion of each prompt, with its end where it has one.

    Args:
        model: what to sample from.
        prompts: token ids of each.
        new_tokens: longest completion.
        generator: of the randomness; None takes the likeliest token at every step.
        temperature: of the softmax, > 0.
        batch_size: completions at once; memory does not grow with the number of prompts.
    """
    for start in range(0, len(prompts), batch_size):
        ids, mask = padded(prompts[start : start + batch_size])
        batch = sample(model, ids, new_tokens, generator, mask, temperature)
        for row, length in zip(batch.completions.tolist(), batch.lengths.tolist(), strict=True):
            yield row[:length]
