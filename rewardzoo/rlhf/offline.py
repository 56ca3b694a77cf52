"""Offline trainer: one loop for every preference loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .decoder import LanguageModel, evaluating
from .losses import LOSSES, Scores
from .pairs import PairBatch, minibatches
from .sequences import moved, sequence_logps
from .trainer import Metrics, Trainer


class OfflineTrainer(Trainer):
    """Trains a policy on pairs, on its device; what the reference says of them is computed once.

    Args:
        policy: trained in place.
        ref: reference policy; it may be the policy itself, for it is read before training.
        data: pairs.
        loss: one of ``LOSSES``, or a function of ``Scores`` that returns a loss a pair, (B,).
        learning_rate: of AdamW.
        batch_size: pairs a step.
        max_grad_norm: clips gradients.
        seed: of the order of the data.
        dropout: leave the policy's on while it trains. Off, its log-probabilities are those that
            the reference's are compared with: DPO begins at ln 2.
        **loss_kwargs: of the loss, as ``beta=.1``.
    """

    kind = "offline"

    def __init__(
        self,
        policy: LanguageModel,
        ref: LanguageModel,
        data: PairBatch,
        loss: str | Callable[..., Tensor] = "dpo",
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        max_grad_norm: float = 1.0,
        seed: int = 0,
        dropout: bool = False,
        **loss_kwargs: Any,
    ) -> None:
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"loss={loss!r}: expected one of {', '.join(LOSSES)}")
        if ref.vocab_size != policy.vocab_size:
            raise ValueError(
                f"ref: a vocabulary of {ref.vocab_size}, the policy's is {policy.vocab_size}"
            )
        device = policy.device
        self.policy, self.data, self.seed = policy, data.to(device), seed
        self.dropout = dropout
        self.batch_size, self.max_grad_norm = min(batch_size, len(data)), max_grad_norm
        self.loss = LOSSES[loss] if isinstance(loss, str) else loss
        self.loss_kwargs = loss_kwargs
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0, fused=True)
        self.parts = {"policy": policy, "optimizer": self.optimizer}
        found = reference_logps(ref, data, self.batch_size)
        self.ref_chosen, self.ref_rejected = (moved(logps, device) for logps in found)

    def train(
        self, steps: int, callback: Callable[[OfflineTrainer, Metrics], None] | None = None
    ) -> Metrics:
        """Make ``steps`` more steps; the metrics of the last one, read once at the end of each."""
        metrics: Metrics = {}
        self.policy.train(self.dropout)
        first = self.num_steps
        for index in minibatches(len(self.data), self.batch_size, self.seed, first, first + steps):
            numbers = self.step(index)
            self.num_steps += 1
            if callback is not None or self.num_steps == first + steps:
                metrics = {k: float(v) for k, v in numbers.items()}
            if callback is not None:
                callback(self, metrics)
        self.policy.eval()
        return metrics

    def step(self, index: Tensor) -> dict[str, Tensor]:
        """One update on the pairs ``index``."""
        index = moved(index, self.ref_chosen.device)
        batch = self.data.take(index)
        chosen, rejected = sequence_logps(self.policy, batch.both).chunk(2)
        scores = Scores(
            chosen,
            rejected,
            self.ref_chosen[index],
            self.ref_rejected[index],
            batch.chosen.lengths,
            batch.rejected.lengths,
            batch.strength,
        )
        loss = (self.loss(scores, **self.loss_kwargs) * batch.weight).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            return {
                "train/loss": loss.detach(),
                "train/chosen_ratio": scores.chosen_ratio.mean(),
                "train/rejected_ratio": scores.rejected_ratio.mean(),
                "train/accuracy": (scores.delta > 0).float().mean(),
                "train/grad_norm": norm,
            }


@torch.no_grad()
def reference_logps(
    ref: LanguageModel, data: PairBatch, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N,) of the chosen and of the rejected under the reference.

    Args:
        ref: read with its dropout off, on its device.
        data: pairs, on any device.
        batch_size: pairs that are read at once: twice as many rows of logits are held.
    """
    rows = torch.arange(len(data), device=data.strength.device)
    with evaluating(ref):
        found = [
            sequence_logps(ref, data.take(index).both.to(ref.device)).chunk(2)
            for index in torch.split(rows, batch_size)
        ]
    chosen, rejected = zip(*found, strict=True)
    return torch.cat(chosen), torch.cat(rejected)
