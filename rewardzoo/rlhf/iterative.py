"""Iterative trainer: sample, score, keep or relabel, fit; and best-of-n without training.

A method is something that selects and something that fits:

| method | select | fit |
|---|---|---|
| SuperHF | ``best`` | ``Cloning(policy, ref, kl=.35)`` |
| best-of-n cloning | ``best`` | ``Cloning(policy)`` |
| DNO | ``Duels()`` | ``Contrast(policy, loss="dno")``: the reference is the last iterate |
| DNO-Prct | ``Duels(margin)`` | ``Contrast(policy, loss="dpo")`` |
| online DPO | ``Duels()`` | ``Contrast(policy, ref, loss="dpo")`` |
| online VPO, ``other=ref`` | ``against_other`` | ``Optimism(policy, ref)`` |
"""

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
from .sampling import Prompts, repeated, sample
from .sequences import (
    Sequences,
    completion_logits,
    concatenate,
    gather_logps,
    moved,
    sequence_logps,
)
from .trainer import Metrics, Trainer, finite

DIRECTIONS = ("forward", "reverse")
# (completions (B), n a prompt next to each other; scores (B,); n) to what is fitted, None for none.
Select = Callable[[Sequences, Tensor, int], Any]
# (what was selected, number of the round) to metrics; it changes the policy.
Fit = Callable[[Any, int], Metrics]


class IterativeTrainer(Trainer):
    """Rounds in which a policy is fitted to what is made of its own samples.

    Args:
        policy: what is sampled from, and what ``fit`` trains in place.
        reward: scores (B,) of ``Sequences``.
        prompts: (n, generator) to prompts (n, P), or to those and their mask.
        select: keeps or relabels, as ``best`` and ``Duels`` do.
        fit: learns, as ``Cloning`` and ``Contrast`` do; one with ``state_dict`` is saved with the
            trainer.
        n: own samples a prompt.
        batch_size: prompts a round.
        new_tokens: longest completion.
        other: another policy, a teacher or the reference, whose samples stand behind the own ones.
        n_other: its samples a prompt.
        seed: of prompts and samples.
    """

    kind = "iterative"

    def __init__(
        self,
        policy: LanguageModel,
        reward: Callable[[Sequences], Tensor],
        prompts: Prompts,
        select: Select,
        fit: Fit,
        n: int = 16,
        batch_size: int = 32,
        new_tokens: int = 16,
        other: LanguageModel | None = None,
        n_other: int = 0,
        seed: int = 0,
    ) -> None:
        counts = (("n", n), ("batch_size", batch_size), ("new_tokens", new_tokens))
        for name, value in counts:
            if value < 1:
                raise ValueError(f"{name}={value}: expected a whole number >= 1")
        if (other is None) != (n_other == 0):
            raise ValueError(f"n_other={n_other}: expected samples of other, and only of it")
        self.policy, self.reward, self.prompts = policy, reward, prompts
        self.select, self.fit, self.seed = select, fit, seed
        self.n, self.batch_size, self.new_tokens = n, batch_size, new_tokens
        self.other, self.n_other = other, n_other
        self.parts = {"policy": policy}
        if hasattr(fit, "state_dict"):
            self.parts["fit"] = fit

    def train(
        self, steps: int, callback: Callable[[IterativeTrainer, Metrics], None] | None = None
    ) -> Metrics:
        """Make ``steps`` more rounds; the metrics of the last one."""
        metrics: Metrics = {}
        for _ in range(steps):
            metrics = self.step()
            self.num_steps += 1
            if callback is not None:
                callback(self, metrics)
        return metrics

    def step(self) -> Metrics:
        """One round."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.num_steps)
        batch = self._sample(self.prompts(self.batch_size, generator), generator)
        with torch.no_grad():
            scores = finite(moved(self.reward(batch).float(), batch.ids.device))
            selected = self.select(batch, scores, self.n + self.n_other)
        metrics = {
            "rollout/reward": float(scores.mean()),
            "rollout/length": float(batch.lengths.float().mean()),
        }
        if selected is not None:
            metrics.update(self.fit(selected, self.num_steps))
        return metrics

    def _sample(
        self, prompts: Tensor | tuple[Tensor, Tensor], generator: torch.Generator
    ) -> Sequences:
        """Completions, those of a prompt next to each other, the own ones first."""
        rows, mask = repeated(prompts, self.n)
        own = sample(self.policy, rows, self.new_tokens, generator, mask)
        if self.other is None:
            return own
        rows, mask = repeated(prompts, self.n_other)
        theirs = sample(self.other, rows, self.new_tokens, generator, mask)
        place = torch.arange(len(own.ids) + len(theirs.ids), device=own.ids.device)
        first, second = place[: len(own.ids)], place[len(own.ids) :]
        order = torch.cat([first.view(-1, self.n), second.view(-1, self.n_other)], 1)
        return concatenate(own, theirs).rows(order.flatten())


# ------------------------------------------------------------------------------------- selecting


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
    rows, mask = repeated(prompts, n)
    batch = sample(policy, rows, new_tokens, generator, mask)
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


# --------------------------------------------------------------------------------------- fitting


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


# --------------------------------------------------------------------------------------- methods


class SuperHF(IterativeTrainer):
    """Fits a policy to the best of its own samples, held near where it began.

    Args:
        policy: trained in place.
        ref: reference policy; None copies the policy.
        reward: scores (B,) of ``Sequences``.
        prompts: (n, generator) to prompts (n, P), or to those and their mask.
        n: samples a prompt.
        batch_size: prompts a step.
        new_tokens: longest completion.
        learning_rate: of AdamW.
        kl: coefficient of the KL, a mean over tokens; 0 is best-of-n cloning.
        kl_direction: "forward", KL(ref || pi), as the released code has it, or "reverse".
        seed: of prompts and samples.

    Paper: Mukobi et al. (2023), "SuperHF: supervised iterative learning from human feedback".
    """

    kind = "superhf"
    fit: Cloning

    def __init__(
        self,
        policy: LanguageModel,
        ref: LanguageModel | None,
        reward: Callable[[Sequences], Tensor],
        prompts: Prompts,
        n: int = 16,
        batch_size: int = 32,
        new_tokens: int = 16,
        learning_rate: float = 2e-4,
        kl: float = 0.35,
        kl_direction: str = "forward",
        seed: int = 0,
    ) -> None:
        fit = Cloning(policy, ref, learning_rate, kl, kl_direction)
        super().__init__(policy, reward, prompts, best, fit, n, batch_size, new_tokens, seed=seed)
