"""Iterative trainer: sample, score, keep or relabel (``selecting``), fit (``fitting``).

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

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .decoder import LanguageModel
from .fitting import Cloning
from .sampling import Prompts, sample, with_mask
from .selecting import best
from .sequences import (
    Sequences,
    concatenate,
    moved,
)
from .trainer import Metrics, Trainer, finite

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
        asked, mask = with_mask(prompts)
        own = sample(self.policy, asked, self.new_tokens, generator, mask, copies=self.n)
        if self.other is None:
            return own
        theirs = sample(self.other, asked, self.new_tokens, generator, mask, copies=self.n_other)
        place = torch.arange(len(own.ids) + len(theirs.ids), device=own.ids.device)
        first, second = place[: len(own.ids)], place[len(own.ids) :]
        order = torch.cat([first.view(-1, self.n), second.view(-1, self.n_other)], 1)
        return concatenate(own, theirs).rows(order.flatten())


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
