"""Reward models: a language model's backbone with a scalar head, and how they are trained."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..rewards.base import RewardFunction
from ..transition import Transition
from .decoder import LanguageModel
from .pairs import PairBatch, RatingBatch, minibatches
from .reward_losses import RATING_LOSSES, REWARD_LOSSES, centring
from .sequences import Sequences
from .trainer import Metrics, Trainer


class RewardModel(nn.Module):
    """A scalar read at the last token of a completion, standardised on samples of a base policy.

    Args:
        backbone: copied, not shared.
        seed: of the head.
        attributes: numbers read, as helpfulness and correctness; the score is their mean, or what
            ``weights`` makes of them.
    """

    mean: Tensor
    std: Tensor
    weights: Tensor

    def __init__(self, backbone: LanguageModel, seed: int = 0, attributes: int = 1) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.value = nn.Linear(backbone.width, attributes, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.value.weight.normal_(std=0.02, generator=generator)
        self.register_buffer("weights", torch.full((attributes,), 1 / attributes))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.eval()

    def attributes(self, batch: Sequences) -> Tensor:
        """What is read at the last token, (B, attributes)."""
        last = batch.prompt_length + batch.lengths - 1
        out: Tensor = self.value(self.backbone.hidden_at(batch.ids, last, batch.attention_mask))
        return out

    def raw(self, batch: Sequences) -> Tensor:
        """Scores (B,) in the units of the training loss."""
        return self.attributes(batch) @ self.weights

    def forward(self, batch: Sequences) -> Tensor:
        """Scores (B,) in units of the base samples' standard deviation."""
        return (self.raw(batch) - self.mean) / self.std

    @property
    def standardised(self) -> bool:
        """Whether ``fit_normaliser`` was called: no scores have mean 0 and deviation 1 by chance.

        The same is true of a model whose normaliser was loaded.
        """
        return bool((self.mean != 0) | (self.std != 1))

    @torch.no_grad()
    def fit_normaliser(self, base: Sequences) -> None:
        """Take mean and standard deviation of the scores of a base policy's samples."""
        scores = self.raw(base)
        self.mean.copy_(scores.mean())
        self.std.copy_(scores.std().clamp(min=1e-6))

    @torch.no_grad()
    def extrapolate(self, start: RewardModel, share: float) -> RewardModel:
        """A model ``share`` of the way from ``start`` to this one further on (ExPO).

        Paper: Wang et al. (2025), "HelpSteer2-Preference", section 4.
        """
        further = copy.deepcopy(self)
        pairs = zip(further.parameters(), start.parameters(), strict=True)
        for p, before in pairs:
            p.add_(p - before, alpha=share)
        return further


class RewardTrainer(Trainer):
    """Fits a reward model to pairs, or to ratings of single responses.

    Args:
        model: trained in place.
        data: pairs or ratings.
        loss: one of ``REWARD_LOSSES`` for pairs, of ``RATING_LOSSES`` for ratings.
        seed: of the order of the data.
        batch_size: rows a step.
        learning_rate: of AdamW.
        score_l2: weight of the scores' squares; without it scores grow without bound on pairs
            that can be separated.
        centre: weight of ``centring``, for pairs.
        ties: what to do with pairs of strength 0, whose order says nothing: "drop" leaves them out
            (``dropped`` counts them), "half" gives them an even chance of either order; without,
            the first of a pair is the better one whatever its strength.
        **loss_kwargs: of the loss.
    """

    kind = "reward trainer"

    def __init__(
        self,
        model: RewardModel,
        data: PairBatch | RatingBatch,
        loss: str = "bt",
        seed: int = 0,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        score_l2: float = 1e-3,
        centre: float = 0.0,
        ties: str | None = None,
        **loss_kwargs: Any,
    ) -> None:
        losses = REWARD_LOSSES if isinstance(data, PairBatch) else RATING_LOSSES
        if loss not in losses:
            raise ValueError(f"loss={loss!r}: expected one of {', '.join(losses)}")
        if ties is not None:
            check_ties(ties, data, loss)
        self.ties, self.dropped = ties, 0
        if ties == "drop" and isinstance(data, PairBatch):
            kept = (data.strength != 0).nonzero().squeeze(1)
            self.dropped = len(data) - len(kept)
            data = data.take(kept)
        self.model, self.data, self.loss, self.seed = model, data, losses[loss], seed
        self.loss_kwargs, self.score_l2, self.centre = loss_kwargs, score_l2, centre
        self.batch_size = min(batch_size, len(data))
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=learning_rate, fused=True)
        self.parts = {"model": model, "optimizer": self.optimizer}

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see nearly every row once."""
        return len(self.data) // self.batch_size

    def train(self, steps: int) -> Metrics:
        """Make ``steps`` more steps; the metrics of the last one."""
        self.model.train()
        numbers: dict[str, Tensor] = {}
        last = self.num_steps + steps
        for index in minibatches(len(self.data), self.batch_size, self.seed, self.num_steps, last):
            batch = self.data.take(index)
            if isinstance(batch, PairBatch):
                total, numbers = self._pairs(batch)
            else:
                predicted = self.model.attributes(batch.responses)
                each = self.loss(predicted, batch.ratings, **self.loss_kwargs)
                total = (each * batch.weight).mean() + self.score_l2 * (predicted**2).mean()
            numbers["train/loss"] = total.detach()
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.num_steps += 1
        self.model.eval()
        return {k: float(v) for k, v in numbers.items()}

    def _pairs(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = self.model.raw(batch.both).chunk(2)
        each = self.loss(chosen, rejected, batch.strength, **self.loss_kwargs)
        if self.ties == "half":
            other = self.loss(rejected, chosen, batch.strength, **self.loss_kwargs)
            each = torch.where(batch.strength == 0, (each + other) / 2, each)
        total = (each * batch.weight).mean()
        total = total + self.score_l2 * (chosen**2 + rejected**2).mean()
        total = total + self.centre * centring(chosen, rejected).mean()
        return total, {"train/accuracy": (chosen > rejected).float().mean().detach()}


def check_ties(ties: str, data: PairBatch | RatingBatch, loss: str) -> None:
    """Raise ValueError unless pairs of strength 0 can be treated so."""
    if ties not in ("drop", "half"):
        raise ValueError(f"ties={ties!r}: expected drop or half")
    if not isinstance(data, PairBatch) or loss == "soft_bt":
        raise ValueError(f"ties={ties!r}: loss={loss!r} reads no strength that is 0 in a tie")
    if ties == "drop" and not data.strength.any():
        raise ValueError(f"ties={ties!r}: all {len(data)} pairs have strength 0, none is left")


def train_reward_model(
    data: PairBatch | RatingBatch,
    backbone: LanguageModel | RewardModel,
    loss: str = "bt",
    seed: int = 0,
    epochs: int = 3,
    **kwargs: Any,
) -> RewardModel:
    """Fit a reward model.

    Args:
        data: pairs, or ratings.
        backbone: where it starts; a reward model goes on from its head too, as scaled
            Bradley-Terry does best from a regression (Wang et al. 2025, HelpSteer2-Preference).
        loss: one of ``REWARD_LOSSES`` for pairs, of ``RATING_LOSSES`` for ratings.
        seed: of the head and of the order of the data.
        epochs: over the data.
        **kwargs: of ``RewardTrainer`` and of the loss.
    """
    if isinstance(backbone, RewardModel):
        model = copy.deepcopy(backbone)
    else:
        attributes = data.ratings.shape[1] if isinstance(data, RatingBatch) else 1
        model = RewardModel(backbone, seed, attributes)
    trainer = RewardTrainer(model, data, loss, seed, **kwargs)
    trainer.train(epochs * trainer.steps_per_epoch)
    return model


@torch.no_grad()
def margins(model: RewardModel, data: PairBatch, batch_size: int = 1024) -> Tensor:
    """Score of the chosen minus score of the rejected, (N,)."""
    found = []
    for index in torch.split(torch.arange(len(data)), batch_size):
        chosen, rejected = model.raw(data.take(index).both).chunk(2)
        found.append(chosen - rejected)
    return torch.cat(found)


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
