"""Online trainer: roll out, score, learn; what it learns is an ``Algorithm``."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .algorithms import ALGORITHMS, Algorithm, Rollout
from .decoder import LanguageModel
from .losses import chi2_penalty
from .policy_gradient import (
    at_the_end,
    kept_by_accuracy,
    kept_by_filter,
    kl_estimates,
    value_loss,
)
from .process_rewards import pairwise_accuracy
from .sampling import Prompts, sample, with_mask
from .sequences import Sequences, moved, token_logps
from .trainer import Metrics, Trainer, finite

FILTERS = ("all", "best", "best_random", "best_worst")
KL_LOSSES = ("reward", "k2", "k3")
VALUE_WEIGHT = 0.1


@dataclass(frozen=True)
class OnlineConfig:
    """Hyperparameters of ``OnlineTrainer``.

    Args:
        algorithm: one of ``ALGORITHMS``, or one of your own: rloo, grpo, ppo (with a critic), p3o
            and p3o_joint (k = 2), or prime, whose reward has ``token_rewards`` of its own as
            ``Prime`` does.
        k: completions a prompt, >= 2.
        prompts: a step.
        new_tokens: longest completion.
        learning_rate: of AdamW.
        kl: coefficient of the KL from the reference.
        kl_loss: reward (k1, in the reward), or an estimate in the loss, summed over tokens: k2,
            which has the gradient of every step's KL(pi || ref), or k3, as in GRPO, which has
            that of KL(ref || pi). Logs say which: ``rollout/kl_k1`` of every rollout, and
            ``train/kl_k2`` or ``train/kl_k3`` of the penalty, all in nats a sequence.
        chi2: coefficient of the square root of the chi-squared penalty, in the loss.
        epochs: passes over a rollout; None takes the algorithm's own, 4 of ppo and 1 of others.
        clip: of probability ratios.
        value_clip: of ppo's values, how far they move from those of the rollout.
        gae_lambda: of ppo, in [0, 1].
        process: weight of prime's process advantages.
        keep: policy filtration, by the reward without the penalty on KL: all, best, best_random
            or best_worst of the k.
        accuracy: prompt filtration, for rewards of 0 and 1: the least and the largest share of
            right completions of prompts that are learned from, as PRIME's (.2, .8); a rollout
            without any moves nothing. None keeps all.
        missing_eos: taken from the reward of completions that do not end.
        mask_truncated: do not learn from completions that do not end; what they were paid still
            counts where the others are compared with them.
        max_grad_norm: clips gradients; inf does not.
        seed: of prompts and samples.
    """

    algorithm: str | Algorithm = "rloo"
    k: int = 4
    prompts: int = 32
    new_tokens: int = 16
    learning_rate: float = 2e-4
    kl: float = 0.0
    kl_loss: str = "reward"
    chi2: float = 0.0
    epochs: int | None = None
    clip: float = 0.2
    value_clip: float = 0.2
    gae_lambda: float = 0.95
    process: float = 1.0
    keep: str = "all"
    accuracy: tuple[float, float] | None = None
    missing_eos: float = 0.0
    mask_truncated: bool = False
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.algorithm, str) and self.algorithm not in ALGORITHMS:
            expected = ", ".join(ALGORITHMS)
            raise ValueError(f"algorithm={self.algorithm!r}: expected one of {expected}")
        if self.keep not in FILTERS:
            raise ValueError(f"keep={self.keep!r}: expected one of {', '.join(FILTERS)}")
        if self.kl_loss not in KL_LOSSES:
            raise ValueError(f"kl_loss={self.kl_loss!r}: expected one of {', '.join(KL_LOSSES)}")
        for name, least in (("k", 2), ("prompts", 1), ("new_tokens", 1), ("epochs", 1)):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value >= least):
                raise ValueError(f"{name}={value!r}: expected a whole number >= {least}")
        if type(self.seed) is not int:
            raise ValueError(f"seed={self.seed!r}: expected a whole number")
        for name in ("learning_rate", "clip", "value_clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value}: expected a finite number > 0")
        for name in ("kl", "chi2", "missing_eos", "process"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value}: expected a finite number >= 0")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm={self.max_grad_norm}: expected a number > 0")
        if not 0 <= self.gae_lambda <= 1:
            raise ValueError(f"gae_lambda={self.gae_lambda}: expected a number in [0, 1]")
        if self.accuracy is not None and not 0 <= self.accuracy[0] < self.accuracy[1] <= 1:
            raise ValueError(f"accuracy={self.accuracy}: expected 0 <= least < largest <= 1")
        if self.chosen.paired:
            if self.k != 2:
                raise ValueError(f"k={self.k}: expected 2 for {self.algorithm}")
            if self.keep != "all" or self.mask_truncated:
                raise ValueError(
                    f"keep={self.keep!r}, mask_truncated={self.mask_truncated}: expected all and "
                    f"False for {self.algorithm}, which compares both completions of a prompt"
                )

    @property
    def chosen(self) -> Algorithm:
        """The algorithm itself, where ``algorithm`` is a name."""
        return (
            self.algorithm if isinstance(self.algorithm, Algorithm) else ALGORITHMS[self.algorithm]
        )


class OnlineTrainer(Trainer):
    """Trains a policy on rewards of its own samples, on its device and with its dropout off.

    Args:
        policy: trained in place.
        ref: reference policy, frozen, on the policy's device.
        reward: scores (B,) of ``Sequences``, or rewards (B, T) of their tokens, as
            ``StepReward`` pays them; ppo learns when they were paid, the others their sum. One
            with ``update`` learns after each step from what it scored, and one with
            ``state_dict`` is saved with the trainer. ``CallableReward`` makes one of a function of
            texts.
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
        self.policy, self.ref, self.reward = policy.eval(), ref.eval(), reward
        self.prompts, self.config, self.algorithm = prompts, config, config.chosen
        if self.algorithm.process and not hasattr(reward, "token_rewards"):
            raise ValueError(
                f"reward: it has no token_rewards, which {config.algorithm} needs; give a Prime"
            )
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.critic: Critic | None = None
        if self.algorithm.critic:
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
            if not math.isfinite(metrics["rollout/reward"]):  # of an accelerator: see _paid
                raise ValueError(
                    f"reward: {metrics['rollout/reward']} on average in step {self.num_steps}, "
                    "expected numbers; the policy has learned from them, go on from a checkpoint"
                )
            if callback is not None:
                callback(self, metrics)
        return metrics

    def step(self) -> dict[str, Any]:
        """One rollout and the updates on it."""
        c = self.config
        generator = torch.Generator().manual_seed(c.seed * 1_000_003 + self.num_steps)
        prompts, mask = with_mask(self.prompts(c.prompts, generator))
        batch = sample(self.policy, prompts, c.new_tokens, generator, mask, copies=c.k)
        # Where every completion is learned from, the first pass over the rollout has its gradient.
        whole = c.keep == "all" and c.accuracy is None and not c.mask_truncated
        with torch.set_grad_enabled(whole):
            logp = token_logps(self.policy, batch)
        with torch.no_grad():
            paid = self._paid(batch)
            scores = paid if paid.dim() == 1 else paid.sum(1)
            old = logp.detach()
            ref = token_logps(self.ref, batch)
            ended = (batch.completions == self.policy.eos).any(1)
            unended = -c.missing_eos * (~ended).float()
            outcome = scores + unended
            if paid.dim() == 1:
                paid = at_the_end(outcome, batch.completion_mask)
            else:
                paid = paid + at_the_end(unended, batch.completion_mask)
            log_ratio = old - ref
            total = outcome - self._paid_kl * log_ratio.sum(1)
            paid = paid - self._paid_kl * log_ratio
            rollout = Rollout(batch, old, ref, paid, outcome, total)
        metrics: dict[str, Any] = {
            "rollout/reward": scores.mean(),
            "rollout/kl_k1": log_ratio.sum(1).mean(),
            "rollout/length": batch.lengths.float().mean(),
        }
        if c.accuracy is not None:
            found = kept_by_accuracy(scores, c.k, *c.accuracy)
            rollout, ended = rollout.rows(found), ended[found]
        if len(ended):
            with torch.no_grad():
                rollout, about = self._judged(rollout)
                advantage = self.algorithm.advantage(rollout, c)
                kept = kept_by_filter(rollout.outcome, c.k, c.keep, generator)
            metrics.update(about)
            if c.mask_truncated:
                kept = kept[ended[kept]]
            rollout, advantage = rollout.rows(kept), advantage[kept]
        if c.accuracy is not None or c.mask_truncated:
            metrics["rollout/kept"] = len(rollout.total) / len(scores)
        if len(rollout.total):
            for epoch in range(c.epochs or self.algorithm.epochs):
                if epoch or not whole:
                    logp = token_logps(self.policy, rollout.batch)
                learned = self._update(logp, rollout, advantage)
            metrics.update(learned)
        if hasattr(self.reward, "update"):
            metrics.update(self.reward.update())
        return metrics

    @property
    def _paid_kl(self) -> float:
        return self.config.kl if self.config.kl_loss == "reward" else 0.0

    def _paid(self, batch: Sequences) -> Tensor:
        """What the reward pays completions (B,) or their tokens (B, T), which must be numbers."""
        paid = self.reward(batch).float()
        mask = batch.completion_mask
        if paid.shape not in (mask.shape[:1], mask.shape):
            b, t = mask.shape
            raise ValueError(
                f"reward: shape {tuple(paid.shape)}, expected ({b},) of completions or ({b}, {t}) "
                "of their tokens"
            )
        paid = moved(paid, mask.device)
        if paid.dim() == 2:
            paid = paid.masked_fill(~mask, 0.0)
        # Only a CPU can be asked for free; others are when the step's metrics are read.
        return finite(paid) if paid.device.type == "cpu" else paid

    def _judged(self, rollout: Rollout) -> tuple[Rollout, dict[str, Tensor]]:
        """The rollout with what the algorithm asks for besides rewards, and metrics of that."""
        about = {}
        if self.algorithm.process:
            process: Tensor = self.reward.token_rewards(rollout.batch)  # type: ignore[attr-defined]
            right = rollout.outcome > 0.5
            agree = pairwise_accuracy(process.sum(1), right, self.config.k)
            about["process/pairwise_accuracy"] = agree
            rollout = rollout._replace(process=process)
        if self.critic is not None:
            rollout = rollout._replace(value=self.critic(rollout.batch))
        return rollout, about

    def _update(self, logp: Tensor, rollout: Rollout, advantage: Tensor) -> dict[str, Any]:
        c, batch, mask = self.config, rollout.batch, rollout.batch.completion_mask
        loss = self.algorithm.loss(logp, rollout, advantage, c)
        penalties = {}
        if self.critic is not None:
            assert rollout.value is not None
            # Undiscounted rewards to go; the penalty on KL is part of them.
            to_go = (rollout.paid * mask).flip(1).cumsum(1).flip(1)
            value = self.critic(batch)
            loss = loss + VALUE_WEIGHT * value_loss(value, rollout.value, to_go, mask, c.value_clip)
        if c.kl_loss != "reward":
            each = kl_estimates((logp - rollout.ref) * mask)[c.kl_loss].sum(1).mean()
            loss = loss + c.kl * each
            penalties[f"train/kl_{c.kl_loss}"] = each.detach()
        if c.chi2:
            chi = chi2_penalty((logp - rollout.ref).sum(1)).mean()
            loss = loss + c.chi2 * chi.clamp(min=1e-4).sqrt()
            penalties["train/chi2"] = chi.detach()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._trained, c.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            ratio = ((logp - rollout.logp) * mask).exp()
            moved = ((ratio - 1).abs() > c.clip) & mask
        return {
            "train/loss": loss.detach(),
            "train/grad_norm": norm,
            "train/clip_fraction": moved.sum() / mask.sum(),
            **penalties,
        }


class Critic(nn.Module):
    """Values (B, T) of the states in which a completion's tokens are chosen."""

    def __init__(self, backbone: LanguageModel) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.value = nn.Linear(backbone.width, 1, device=backbone.device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, batch: Sequences) -> Tensor:
        """The values."""
        hidden = self.backbone.hidden(batch.ids, batch.attention_mask)
        out: Tensor = self.value(hidden[:, batch.prompt_length - 1 : -1]).squeeze(-1)
        return out
