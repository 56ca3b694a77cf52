"""What gives completions a score: a reward model, or a policy by its log-ratio to a reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .folders import TextModel, load_model, load_reward_model
from .sequences import Sequences, sequence_logps
from .templates import ChatTemplate


@dataclass(frozen=True)
class Scorer:
    """Scores of completions.

    Args:
        text: the model, for its tokens.
        score: scores (B,) of ``Sequences``, in nats for a policy, for a reward model in standard
            deviations of the base policy's samples.
        device: of the model.
    """

    text: TextModel
    score: Callable[[Sequences], Tensor]
    device: torch.device

    @torch.no_grad()
    def scores(self, batch: Sequences, batch_size: int = 64) -> Tensor:
        """Scores (B,) of any number of completions, on the CPU."""
        parts = torch.split(torch.arange(len(batch.ids)), batch_size)
        return torch.cat([self.score(batch.rows(part).to(self.device)).cpu() for part in parts])


def read_scorer(
    reward: Path | None,
    model: str | None,
    ref: str | None,
    template: Callable[[TextModel], ChatTemplate],
    device: torch.device,
) -> Scorer:
    """The scorer of folders.

    Args:
        reward: folder of a reward model; or
        model: of a policy, whose log-ratio to
        ref: the reference policy is the score.
        template: of the data's messages, given the model.
        device: for the models.

    Raises:
        ValueError: unless either ``reward``, or ``model`` and ``ref``, are given; for a reward
            model that was trained with another template.
    """
    if (reward is None) == (model is None) or (model is None) != (ref is None):
        raise ValueError("--reward: expected a folder, or else --model and --ref")
    if reward is not None:
        learned, text, trained_with = load_reward_model(reward)
        trained_with.check_same(template(text))
        return Scorer(text, learned.to(device), device)
    text, other = load_model(str(model)), load_model(str(ref))
    policy, before = text.model.to(device), other.model.to(device)
    if policy.vocab_size != before.vocab_size:
        raise ValueError(
            f"--ref {ref}: a vocabulary of {before.vocab_size}, --model's is {policy.vocab_size}"
        )
    return Scorer(text, lambda x: sequence_logps(policy, x) - sequence_logps(before, x), device)
