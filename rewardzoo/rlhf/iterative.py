"""Iterative trainer: sample, keep the best, fit; and best-of-n without training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from .decoder import LanguageModel
from .sampling import Prompts, repeated, sample
from .sequences import Sequences, completion_logits, gather_logps
from .trainer import Metrics, Trainer

DIRECTIONS = ("forward", "reverse")


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
    best = reward(batch).view(-1, n).argmax(1)
    return batch.rows(best + n * torch.arange(len(best), device=best.device))


class SuperHF(Trainer):
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
        kl: coefficient of the KL, a mean over tokens.
        kl_direction: "forward", KL(ref || pi), as the released code has it, or "reverse".
        seed: of prompts and samples.

    Paper: Mukobi et al. (2023), "SuperHF: supervised iterative learning from human feedback".
    """

    kind = "superhf"

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
        if kl_direction not in DIRECTIONS:
            raise ValueError(f"kl_direction={kl_direction!r}: expected forward or reverse")
        self.policy, self.reward, self.prompts = policy, reward, prompts
        self.ref = copy.deepcopy(policy) if ref is None else ref
        self.n, self.batch_size, self.new_tokens = n, batch_size, new_tokens
        self.kl, self.kl_direction, self.seed = kl, kl_direction, seed
        self.optimizer = torch.optim.AdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=learning_rate,
            weight_decay=0.0,
            fused=True,
        )
        self.parts = {"policy": policy, "optimizer": self.optimizer}

    def train(self, steps: int) -> Metrics:
        """Make ``steps`` more steps; the metrics of the last one."""
        metrics: Metrics = {}
        for _ in range(steps):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.num_steps)
            prompts = self.prompts(self.batch_size, generator)
            best = best_of_n(self.policy, prompts, self.reward, self.n, self.new_tokens, generator)
            loss = self.loss(best)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimizer.step()
            self.num_steps += 1
            metrics = {"train/loss": float(loss.detach())}
        return metrics

    def loss(self, batch: Sequences) -> Tensor:
        """Nats a token of the kept completions, and the penalty on KL, a scalar."""
        mask, n = batch.completion_mask, batch.completion_mask.sum()
        logits = completion_logits(self.policy, batch)
        nll = -(gather_logps(logits, batch.completions) * mask).sum() / n
        with torch.no_grad():
            ref = completion_logits(self.ref, batch).log_softmax(-1)
        logp = logits.log_softmax(-1)
        first, second = (ref, logp) if self.kl_direction == "forward" else (logp, ref)
        kl = (first.exp() * (first - second)).sum(-1)
        return nll + self.kl * (kl * mask).sum() / n
