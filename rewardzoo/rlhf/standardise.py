"""The scale of a reward model: mean 0 and deviation 1 on samples of its base policy."""

from __future__ import annotations

import torch

from .completions import AT_ONCE, complete
from .decoder import LanguageModel
from .prompts import RandomPrompts
from .reward_models import RewardModel
from .sequences import pack


@torch.no_grad()
def standardise(
    model: RewardModel,
    policy: LanguageModel,
    prompts: RandomPrompts,
    n: int,
    new_tokens: int,
    seed: int,
) -> None:
    """``fit_normaliser`` on samples that are drawn and scored a few at a time.

    Args:
        model: changed in place.
        policy: the base policy.
        prompts: what it completes.
        n: completions, 2 or more.
        new_tokens: longest completion.
        seed: of prompts and samples.
    """
    generator = torch.Generator().manual_seed(seed)
    asked = prompts.draw(n, generator)
    answers = list(complete(policy, asked, new_tokens, generator))
    scores = []
    for start in range(0, n, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        scores.append(model.raw(pack(asked[part], answers[part]).to(policy.device)))
    every = torch.cat(scores)
    model.mean.copy_(every.mean())
    model.std.copy_(every.std().clamp(min=1e-6))
