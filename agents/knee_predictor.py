"""Predictor: says whether a progression is to be expected, and visits where it is.

The supervised baselines of active sensing (Nguyen et al. 2024): logistic regression, a linear
support vector machine and a perceptron with a head for each visit, and bidirectional recurrent
networks over the record so far, all with class weights balanced visit by visit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .common.layers import MLP

KINDS = ("logistic", "svm", "mlp", "gru", "lstm")


class Recurrent(nn.Module):
    """A bidirectional recurrent network over the observations so far, and a prediction head.

    Args:
        num_features: F.
        kind: ``gru`` or ``lstm``.
        size: width of each direction.
    """

    def __init__(self, num_features: int, kind: str, size: int) -> None:
        super().__init__()
        cell = {"gru": nn.GRU, "lstm": nn.LSTM}[kind]
        self.core = cell(num_features, size, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * size, 1)

    def forward(self, record: Tensor) -> Tensor:
        """(N, k + 1, F) observations up to decision k to (N,) logits of a progression."""
        _, last = self.core(record)
        hidden = last[0] if isinstance(last, tuple) else last
        return self.head(torch.cat([hidden[0], hidden[1]], 1)).squeeze(1)


class Predictor:
    """Says for every decision whether a progression is to be expected at the visit.

    Args:
        kind: one of ``KINDS``.
        num_features: F.
        visits: T.
        seed: of parameters and batches.
        size: width of each direction of a recurrent network.
    """

    def __init__(
        self, kind: str, num_features: int, visits: int, seed: int = 0, size: int = 128
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: expected one of {KINDS}")
        self.kind, self.visits = kind, visits
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if kind in ("gru", "lstm"):
                self.network: nn.Module = Recurrent(num_features, kind, size)
            elif kind == "mlp":
                self.network = MLP([num_features, 64, 64, visits], "relu", 1.0)
            else:
                self.network = MLP([num_features, visits], "relu", 0.01)

    def logits(self, record: Tensor) -> Tensor:
        """(N, k + 1, F) observations up to decision k to (N,) logits for that decision."""
        if isinstance(self.network, Recurrent):
            return self.network(record)
        return self.network(record[:, -1])[:, record.shape[1] - 1]

    def fit(
        self,
        obs: Tensor,
        progressed: Tensor,
        epochs: int = 10,
        batch_size: int = 2048,
        learning_rate: float = 3e-3,
        callback: Callable[[int, float], Any] = lambda epoch, loss: None,
    ) -> Predictor:
        """Learn from N patients.

        Args:
            obs: (N, T, F) observations at each decision.
            progressed: (N, T) bool, whether there was a progression at the visit decided on.
            epochs: passes over the patients.
            batch_size: patients of a gradient step.
            learning_rate: step size of Adam, falling to 0 along a cosine.
            callback: called after every epoch with its number and mean loss.

        Raises:
            ValueError: if a visit has no progression, or nothing else.
        """
        share = progressed.double().mean(0)
        if bool(((share == 0) | (share == 1)).any()):
            raise ValueError("progressed: a visit has only one class, which cannot be balanced")
        weight = torch.where(progressed, 0.5 / share, 0.5 / (1.0 - share)).float()
        decay = 1e-3 if self.kind == "svm" else 0.0
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=learning_rate, weight_decay=decay
        )
        steps = epochs * math.ceil(len(obs) / batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(epochs):
            losses = []
            order = torch.randperm(len(obs), generator=self.generator)
            for rows in order.to(obs.device).split(batch_size):
                loss = self.loss(obs[rows], progressed[rows], weight[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())
            callback(epoch + 1, float(torch.stack(losses).mean()))
        return self

    def loss(self, obs: Tensor, progressed: Tensor, weight: Tensor) -> Tensor:
        """Weighted cross entropy, or hinge loss of the support vector machine; mean over all."""
        logits = torch.stack([self.logits(obs[:, : k + 1]) for k in range(obs.shape[1])], 1)
        if self.kind == "svm":
            side = progressed.float() * 2.0 - 1.0
            return (weight * functional.relu(1.0 - side * logits)).mean()
        return functional.binary_cross_entropy_with_logits(logits, progressed.float(), weight)

    def policy(self, cut: float = 0.0) -> Callable[[Tensor, Any], tuple[Tensor, Tensor]]:
        """The policy that visits where the logit exceeds ``cut``; 0 is the balanced decision.

        It remembers the observations that it was given since decision 0.
        """
        record: list[Tensor] = []

        @torch.no_grad()
        def act(obs: Tensor, state: Any) -> tuple[Tensor, Tensor]:
            if len(record) == self.visits or (record and len(record[0]) != len(obs)):
                record.clear()
            record.append(obs)
            logits = self.logits(torch.stack(record, 1))
            return (logits > cut).long(), logits.sigmoid()

        return act
