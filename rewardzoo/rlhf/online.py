"""Online trainer: roll out, score, learn; each algorithm is an advantage and a loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .decoder import LanguageModel
from .losses import chi2_penalty
from .policy_gradient import (
    clipped,
    gae,
    grpo,
    grpo_loss,
    kept_by_accuracy,
    kept_by_filter,
    kl_estimates,
    p3o,
    rloo,
    rloo_loss,
    token_mean,
    whiten,
)
from .process_rewards import pairwise_accuracy, prime_advantage
from .sampling import Prompts, repeated, sample
from .sequences import Sequences, token_logps
from .trainer import Metrics, Trainer

ALGORITHMS = ("rloo", "grpo", "ppo", "p3o", "prime")
FILTERS = ("all", "best", "best_random", "best_worst")
KL_LOSSES = ("reward", "k2", "k3")


@dataclass(frozen=True)
class OnlineConfig:
    """Hyperparameters of ``OnlineTrainer``.

    Args:
        algorithm: rloo, grpo, ppo (with a critic), p3o (k = 2), or prime, whose reward has
            ``token_rewards`` of its own as ``Prime`` does.
        k: completions a prompt.
        prompts: a step.
        new_tokens: longest completion.
        learning_rate: of AdamW.
        kl: coefficient of the KL from the reference.
        kl_loss: reward (k1, in the reward), or an estimate in the loss, summed over tokens: k2,
            which has the gradient of every step's KL(pi || ref), or k3, as in GRPO, which has
            that of KL(ref || pi).
        chi2: coefficient of the square root of the chi-squared penalty, in the loss.
        epochs: passes over a rollout.
        clip: of probability ratios.
        gae_lambda: of ppo.
        process: weight of prime's process advantages.
        keep: policy filtration: all, best, best_random or best_worst of the k.
        accuracy: prompt filtration, for rewards of 0 and 1: the least and the largest share of
            right completions of prompts that are learned from, as PRIME's (.2, .8); a rollout
            without any moves nothing. None keeps all.
        missing_eos: taken from the reward of completions that do not end.
        max_grad_norm: clips gradients.
        seed: of prompts and samples.
    """

    algorithm: str = "rloo"
    k: int = 4
    prompts: int = 32
    new_tokens: int = 16
    learning_rate: float = 2e-4
    kl: float = 0.0
    kl_loss: str = "reward"
    chi2: float = 0.0
    epochs: int = 1
    clip: float = 0.2
    gae_lambda: float = 0.95
    process: float = 1.0
    keep: str = "all"
    accuracy: tuple[float, float] | None = None
    missing_eos: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            expected = ", ".join(ALGORITHMS)
            raise ValueError(f"algorithm={self.algorithm!r}: expected one of {expected}")
        if self.keep not in FILTERS:
            raise ValueError(f"keep={self.keep!r}: expected one of {', '.join(FILTERS)}")
        if self.kl_loss not in KL_LOSSES:
            raise ValueError(f"kl_loss={self.kl_loss!r}: expected one of {', '.join(KL_LOSSES)}")
        if self.k < 2 or (self.algorithm == "p3o" and (self.k != 2 or self.keep != "all")):
            raise ValueError(f"k={self.k}: expected 2 for p3o, which keeps all, else 2 or more")
        if self.accuracy is not None and not 0 <= self.accuracy[0] < self.accuracy[1] <= 1:
            raise ValueError(f"accuracy={self.accuracy}: expected 0 <= least < largest <= 1")
        for name in ("kl", "chi2", "missing_eos", "process"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number >= 0")


class OnlineTrainer(Trainer):
    """Trains a policy on rewards of its own samples.

    Args:
        policy: trained in place.
        ref: reference policy, frozen.
        reward: scores (B,) of ``Sequences``; one with ``update`` learns after each step from what
            it scored, and one with ``state_dict`` is saved with the trainer.
        prompts: (n, generator) to prompts (n, P), or to those and their mask (n, P) where some
            are padded on the left.
        config: hyperparameters.
    """

    kind = "online"

    def __init__(
        self,
        policy: LanguageModel,
        ref: LanguageModel,
        reward: Callable[[Sequences], Tensor],
        prompts: Prompts,
        config: OnlineConfig,
    ) -> None:
        if ref.vocab_size != policy.vocab_size:
            raise ValueError(
                f"ref: a vocabulary of {ref.vocab_size}, the policy's is {policy.vocab_size}"
            )
        self.policy, self.ref, self.reward = policy, ref, reward
        self.prompts, self.config = prompts, config
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.critic: Critic | None = None
        if config.algorithm == "ppo":
            self.critic = Critic(policy)
            trained += list(self.critic.parameters())
        self.optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=0.0, fused=True
        )
        self._trained = trained
        self.parts = {"policy": policy, "optimizer": self.optimizer}
        if self.critic is not None:
            self.parts["critic"] = self.critic
        if hasattr(reward, "update") and hasattr(reward, "state_dict"):  # it learns here
            self.parts["reward"] = reward

    def train(
        self, steps: int, callback: Callable[[OnlineTrainer, Metrics], None] | None = None
    ) -> Metrics:
        """Make ``steps`` more steps; the metrics of the last one."""
        metrics: Metrics = {}
        for _ in range(steps):
            numbers = self.step()
            self.num_steps += 1
            metrics = {k: float(v) for k, v in numbers.items()}
            if callback is not None:
                callback(self, metrics)
        return metrics

    def step(self) -> dict[str, Any]:
        """One rollout and the updates on it."""
        c = self.config
        generator = torch.Generator().manual_seed(c.seed * 1_000_003 + self.num_steps)
        prompts, prompt_mask = repeated(self.prompts(c.prompts, generator), c.k)
        batch = sample(self.policy, prompts, c.new_tokens, generator, prompt_mask)
        with torch.no_grad():
            scores = self.reward(batch).float()
            if not bool(torch.isfinite(scores).all()):
                row = int((~torch.isfinite(scores)).nonzero()[0, 0])
                raise ValueError(f"reward: {float(scores[row])} in row {row}, expected a number")
            old = token_logps(self.policy, batch)
            ref = token_logps(self.ref, batch)
            ended = (batch.completions == self.policy.eos).any(1)
            outcome = scores - c.missing_eos * (~ended).float()
        metrics: dict[str, Any] = {
            "rollout/reward": scores.mean(),
            "rollout/kl": (old - ref).sum(1).mean(),
            "rollout/length": batch.lengths.float().mean(),
        }
        if c.accuracy is not None:
            found = kept_by_accuracy(scores, c.k, *c.accuracy)
            metrics["rollout/kept"] = len(found) / len(scores)
            if not len(found):
                return metrics
            batch, old, ref, outcome = batch.rows(found), old[found], ref[found], outcome[found]
        with torch.no_grad():
            advantage, total, about = self._advantage(batch, outcome, old - ref)
            metrics.update(about)
            kept = kept_by_filter(total, c.k, c.keep, generator)
        rows = batch.rows(kept)
        for _ in range(c.epochs):
            learned = self._update(
                rows, old[kept], ref[kept], advantage[kept], total[kept], outcome[kept]
            )
        metrics.update(learned)
        if hasattr(self.reward, "update"):
            metrics.update(self.reward.update())
        return metrics

    @property
    def _paid_kl(self) -> float:
        return self.config.kl if self.config.kl_loss == "reward" else 0.0

    def _advantage(
        self, batch: Sequences, outcome: Tensor, log_ratio: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Advantages (B, T), the sequences' rewards with the penalty on KL (B,), and metrics."""
        c, mask = self.config, batch.completion_mask
        paid_kl = self._paid_kl
        total = outcome - paid_kl * log_ratio.sum(1)
        if self.critic is not None:
            reward = -paid_kl * log_ratio
            last = (batch.lengths - 1).unsqueeze(1)
            reward = reward.scatter_add(1, last, outcome.unsqueeze(1))
            return gae(reward, self.critic(batch), mask, c.gae_lambda), total, {}
        if c.algorithm == "prime":
            paid: Tensor = self.reward.token_rewards(batch)  # type: ignore[attr-defined]
            agree = pairwise_accuracy(paid.sum(1), outcome > 0.5, c.k)
            about = {"process/pairwise_accuracy": agree}
            return prime_advantage(paid, total, mask, c.k, c.process), total, about
        each = grpo(total, c.k) if c.algorithm == "grpo" else rloo(total, c.k)
        return each.unsqueeze(1) * mask, total, {}

    def _update(
        self,
        batch: Sequences,
        old: Tensor,
        ref: Tensor,
        advantage: Tensor,
        total: Tensor,
        outcome: Tensor,
    ) -> dict[str, Any]:
        c, mask = self.config, batch.completion_mask
        logp = token_logps(self.policy, batch)
        if c.algorithm == "p3o":
            loss = p3o((logp - old).sum(1), total, c.clip).mean()
        elif c.algorithm == "grpo":
            loss = grpo_loss(logp, old, advantage, mask, c.clip)
        elif c.algorithm in ("ppo", "prime"):
            used = whiten(advantage, mask)
            loss = token_mean(clipped(logp, old, used, mask, c.clip), mask)
        else:
            # A completion's tokens share its advantage, and its first is always there.
            loss = rloo_loss(logp, old, advantage[:, 0], mask, c.clip)
        if self.critic is not None:
            value = self.critic(batch)
            # Undiscounted rewards to go; the penalty on KL is part of them.
            paid = -self._paid_kl * (old - ref) * mask
            to_go = paid.flip(1).cumsum(1).flip(1) + outcome.unsqueeze(1)
            loss = loss + 0.1 * (((value - to_go) ** 2) * mask).sum() / mask.sum()
        if c.kl_loss != "reward":
            each = kl_estimates((logp - ref) * mask)[c.kl_loss]
            loss = loss + c.kl * each.sum(1).mean()
        if c.chi2:
            chi = chi2_penalty((logp - ref).sum(1)).mean()
            loss = loss + c.chi2 * chi.clamp(min=1e-4).sqrt()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._trained, c.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            ratio = ((logp - old) * mask).exp()
            moved = ((ratio - 1).abs() > c.clip) & mask
        return {
            "train/loss": loss.detach(),
            "train/grad_norm": norm,
            "train/clip_fraction": moved.sum() / mask.sum(),
        }


class Critic(nn.Module):
    """Values (B, T) of the states in which a completion's tokens are chosen."""

    def __init__(self, backbone: LanguageModel) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.value = nn.Linear(backbone.width, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, batch: Sequences) -> Tensor:
        """The values."""
        hidden = self.backbone.hidden(batch.ids, batch.attention_mask)
        out: Tensor = self.value(hidden[:, batch.prompt_length - 1 : -1]).squeeze(-1)
        return out
