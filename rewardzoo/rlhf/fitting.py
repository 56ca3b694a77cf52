"""How a round of an iterative trainer learns from what was selected."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .decoder import LanguageModel
from .losses import Scores, vpo
from .offline import OfflineTrainer
from .pairs import PairBatch
from .sequences import (
    Sequences,
    completion_logits,
    concatenate,
    gather_logps,
    sequence_logps,
)
from .trainer import Metrics

DIRECTIONS = ("forward", "reverse")


class Cloning:
    """Maximum likelihood of what was selected, held near a reference: one step a round.

    Args:
        policy: trained in place.
        ref: reference policy; None copies the policy.
        learning_rate: of AdamW.
        kl: coefficient of the KL, a mean over tokens, >= 0.
        kl_direction: "forward", KL(ref || pi), or "reverse".
    """

    def __init__(
        self,
        policy: LanguageModel,
        ref: LanguageModel | None = None,
        learning_rate: float = 2e-4,
        kl: float = 0.0,
        kl_direction: str = "forward",
    ) -> None:
        if kl_direction not in DIRECTIONS:
            raise ValueError(f"kl_direction={kl_direction!r}: expected forward or reverse")
        if not kl >= 0:
            raise ValueError(f"kl={kl}: expected a number >= 0")
        self.policy, self.kl, self.kl_direction = policy, kl, kl_direction
        self.ref = copy.deepcopy(policy) if ref is None else ref
        self.optimizer = torch.optim.AdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=learning_rate,
            weight_decay=0.0,
            fused=True,
        )
        self.state_dict = self.optimizer.state_dict
        self.load_state_dict = self.optimizer.load_state_dict

    def __call__(self, batch: Sequences, number: int) -> Metrics:
        """One step of the optimiser."""
        loss = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        return {"train/loss": float(loss.detach())}

    def loss(self, batch: Sequences) -> Tensor:
        """Nats a token of the completions, and the penalty on KL, a scalar."""
        mask, n = batch.completion_mask, batch.completion_mask.sum()
        logits = completion_logits(self.policy, batch)
        nll = -(gather_logps(logits, batch.completions) * mask).sum() / n
        with torch.no_grad():
            ref = completion_logits(self.ref, batch).log_softmax(-1)
        logp = logits.log_softmax(-1)
        first, second = (ref, logp) if self.kl_direction == "forward" else (logp, ref)
        kl = (first.exp() * (first - second)).sum(-1)
        return nll + self.kl * (kl * mask).sum() / n


class Contrast:
    """An offline trainer's passes over a round's pairs, each round with a fresh optimiser.

    Args:
        policy: trained in place.
        ref: reference policy; None takes the last iterate, the policy as the round finds it.
        loss: one of ``LOSSES``, or a function of ``Scores``.
        epochs: passes over a round's pairs.
        seed: of their order.
        **kwargs: of ``OfflineTrainer`` and of the loss.
    """

    def __init__(
        self,
        policy: LanguageModel,
        ref: LanguageModel | None = None,
        loss: str | Callable[..., Tensor] = "dpo",
        epochs: int = 1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if epochs < 1:
            raise ValueError(f"epochs={epochs}: expected a whole number >= 1")
        self.policy, self.ref, self.loss = policy, ref, loss
        self.epochs, self.seed, self.kwargs = epochs, seed, kwargs

    def __call__(self, pairs: PairBatch, number: int) -> Metrics:
        """The passes of round ``number``."""
        ref = self.policy if self.ref is None else self.ref
        seed = self.seed * 1_000_003 + number
        trainer = OfflineTrainer(self.policy, ref, pairs, self.loss, seed=seed, **self.kwargs)
        return trainer.train(self.epochs * (len(pairs) // trainer.batch_size))


class Optimism:
    """VPO's passes over the pairs of all rounds, with a term against the reference's samples.

    It drives the policy to what the reference does not try, and the pairs say whether that was any
    good.

    Args:
        policy: trained in place.
        ref: reference policy.
        beta: of DPO.
        alpha: of the term, >= 0; 0 is online DPO.
        **kwargs: of ``Contrast``.

    Paper: Cen et al. (2024), "Value-incentivized preference optimization", algorithm 1.
    """

    def __init__(
        self,
        policy: LanguageModel,
        ref: LanguageModel,
        beta: float = 0.1,
        alpha: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if not alpha >= 0:
            raise ValueError(f"alpha={alpha}: expected a number >= 0")
        self.policy, self.ref, self.beta, self.alpha = policy, ref, beta, alpha
        self.kwargs = kwargs
        self.seen: PairBatch | None = None

    def __call__(self, selected: tuple[PairBatch, Sequences], number: int) -> Metrics:
        """The passes of round ``number``, on its pairs and samples of the reference."""
        pairs, samples = selected
        self.seen = pairs if self.seen is None else both(self.seen, pairs)
        with torch.no_grad():
            before = sequence_logps(self.ref, samples)

        def loss(s: Scores) -> Tensor:
            ratio = sequence_logps(self.policy, samples) - before
            return vpo(s, self.beta, self.alpha, ratio)

        return Contrast(self.policy, self.ref, loss, **self.kwargs)(self.seen, number)

    def state_dict(self) -> dict[str, Any]:
        """The pairs seen so far."""
        if self.seen is None:
            return {}
        chosen, rejected = (list(x) for x in (self.seen.chosen, self.seen.rejected))
        about = {"strength": self.seen.strength, "weight": self.seen.weight}
        return {"chosen": chosen, "rejected": rejected, **about}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.seen = None
        if state:
            chosen, rejected = (Sequences(*state[name]) for name in ("chosen", "rejected"))
            self.seen = PairBatch(chosen, rejected, state["strength"], state["weight"])


def both(a: PairBatch, b: PairBatch) -> PairBatch:
    """The pairs of ``a``, then those of ``b``; shorter prompts are padded."""
    return PairBatch(
        joined(a.chosen, b.chosen),
        joined(a.rejected, b.rejected),
        torch.cat([a.strength, b.strength]),
        torch.cat([a.weight, b.weight]),
    )


def joined(a: Sequences, b: Sequences) -> Sequences:
    """The rows of ``a``, then those of ``b``, with prompts of their own."""
    p = max(a.prompt_length, b.prompt_length)
    if a.prompt_mask is None and b.prompt_mask is None and a.prompt_length == b.prompt_length:
        return concatenate(a, b)
    padded = []
    for each in (a, b):
        extra = (p - each.prompt_length, 0)
        mask = each.prompt_mask
        if mask is None:
            mask = torch.ones_like(each.prompts, dtype=torch.bool)
        ids = torch.nn.functional.pad(each.ids, extra)
        mask = torch.nn.functional.pad(mask, extra)
        padded.append(Sequences(ids, each.completion_mask, mask))
    return concatenate(*padded)
