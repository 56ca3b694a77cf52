"""Reward models: a language model's backbone with a scalar head, and how they are trained."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..rewards.base import RewardFunction
from ..transition import Transition
from .decoder import LanguageModel
from .pairs import PairBatch, minibatches
from .reward_losses import REWARD_LOSSES, centring
from .sequences import Sequences


class RewardModel(nn.Module):
    """A scalar read at the last token of a completion, standardised on samples of a base policy.

    Args:
        backbone: copied, not shared.
        seed: of the head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: LanguageModel, seed: int = 0) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.value = nn.Linear(backbone.width, 1, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.value.weight.normal_(std=0.02, generator=generator)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.eval()

    def raw(self, batch: Sequences) -> Tensor:
        """Scores (B,) in the units of the training loss."""
        hidden = self.backbone.hidden(batch.ids, batch.attention_mask)
        last = batch.prompt_length + batch.lengths - 1
        rows = torch.arange(len(last), device=last.device)
        out: Tensor = self.value(hidden[rows, last]).squeeze(-1)
        return out

    def forward(self, batch: Sequences) -> Tensor:
        """Scores (B,) in units of the base samples' standard deviation."""
        return (self.raw(batch) - self.mean) / self.std

    @torch.no_grad()
    def fit_normaliser(self, base: Sequences) -> None:
        """Take mean and standard deviation of the scores of a base policy's samples."""
        scores = self.raw(base)
        self.mean.copy_(scores.mean())
        self.std.copy_(scores.std().clamp(min=1e-6))


def train_reward_model(
    data: PairBatch,
    backbone: LanguageModel,
    loss: str = "bt",
    seed: int = 0,
    epochs: int = 3,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    score_l2: float = 1e-3,
    centre: float = 0.0,
    **loss_kwargs: Any,
) -> RewardModel:
    """Fit a reward model to pairs.

    Args:
        data: the pairs.
        backbone: where it starts.
        loss: one of ``REWARD_LOSSES``.
        seed: of the head and of the order of the data.
        epochs: over the data.
        batch_size: pairs a step.
        learning_rate: of AdamW.
        score_l2: weight of the scores' squares; without it scores grow without bound on data
            that can be separated.
        centre: weight of ``centring``.
        **loss_kwargs: of the loss.
    """
    if loss not in REWARD_LOSSES:
        raise ValueError(f"loss={loss!r}: expected one of {', '.join(REWARD_LOSSES)}")
    model = RewardModel(backbone, seed)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    size = min(batch_size, len(data))
    steps = epochs * (len(data) // size)
    for index in minibatches(len(data), size, seed, 0, steps):
        batch = data.take(index)
        chosen, rejected = model.raw(batch.both).chunk(2)
        each = REWARD_LOSSES[loss](chosen, rejected, batch.strength, **loss_kwargs)
        total = (each * batch.weight).mean()
        total = total + score_l2 * (chosen**2 + rejected**2).mean()
        total = total + centre * centring(chosen, rejected).mean()
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


@torch.no_grad()
def margins(model: RewardModel, data: PairBatch, batch_size: int = 1024) -> Tensor:
    """Score of the chosen minus score of the rejected, (N,)."""
    found = []
    for index in torch.split(torch.arange(len(data)), batch_size):
        chosen, rejected = model.raw(data.take(index).both).chunk(2)
        found.append(chosen - rejected)
    return torch.cat(found)


def preference_strength(
    data: PairBatch, backbone: LanguageModel, models: int = 10, folds: int = 5, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N,) of the margin over models that did not see the pair.

    Without cross-fitting every model would agree with the labels that it was trained on.

    Paper: Wang et al. (2024), "Secrets of RLHF in large language models part II", section 2.
    """
    if folds < 2:
        raise ValueError(f"folds={folds}: expected at least 2, or a model scores its own pairs")
    per_fold = max(1, models // folds)
    found = torch.empty(per_fold, len(data))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    for i, held in enumerate(order.chunk(folds)):
        seen = torch.ones(len(data), dtype=torch.bool)
        seen[held] = False
        for j in range(per_fold):
            train = data.take(seen.nonzero().squeeze(1))
            model = train_reward_model(train, backbone, seed=i * per_fold + j, **kwargs)
            found[j, held] = margins(model, data.take(held))
    return found.mean(0), found.std(0) if per_fold > 1 else torch.zeros(len(data))


class SequenceReward(RewardFunction):
    """A reward model as a reward function on transitions whose action is a whole completion.

    ``obs`` holds prompts (N, P), ``action`` completions (N, T), both int64; a completion ends with
    its first ``eos``. So reward models compose as all reward functions do.

    Args:
        model: the reward model, or a function of ``Sequences``.
        eos: id of the token that ends a completion.
    """

    def __init__(self, model: Any, eos: int) -> None:
        self.model, self.eos = model, eos

    @torch.no_grad()
    def __call__(self, t: Transition) -> Tensor:
        """The score of each row, (N,) float32."""
        scores: Tensor = self.model(sequences_of(t.obs, t.action, self.eos))
        return scores.to(torch.float32)


def sequences_of(prompts: Tensor, completions: Tensor, eos: int) -> Sequences:
    """A batch from unpadded prompts (B, P) and completions (B, T) that end with ``eos``."""
    ends = completions == eos
    mask = (ends.cumsum(1) - ends.to(torch.int64)) == 0
    return Sequences(torch.cat([prompts, completions], 1), mask)
