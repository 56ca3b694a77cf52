"""Process rewards without labels of steps: implicit reward models, and PRIME, which trains online.

A language model phi that is trained to tell right from wrong completions by the log-ratio of
itself to a reference says, by the same log-ratio token by token, what each token contributed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .decoder import LanguageModel
from .pairs import minibatches
from .policy_gradient import groups_of, rloo
from .reward_models import RewardModel
from .sequences import Sequences, token_logps

AGGREGATES = ("min", "sum", "mean", "last")


class ImplicitReward:
    """``beta * log phi / ref``: a reward of completions, and of each of their tokens.

    Args:
        model: phi; copied, not shared.
        ref: the reference policy, frozen.
        beta: scale of the reward.

    Paper: Yuan et al. (2024), "Free process rewards without process labels".
    """

    def __init__(self, model: LanguageModel, ref: LanguageModel, beta: float = 0.05) -> None:
        if not beta > 0:
            raise ValueError(f"beta={beta}: expected a number > 0")
        self.model, self.ref, self.beta = copy.deepcopy(model), ref, beta

    def token_rewards(self, batch: Sequences) -> Tensor:
        """Rewards (B, T) of the tokens; 0 after the end."""
        with torch.no_grad():
            ref = token_logps(self.ref, batch)
        return self.beta * (token_logps(self.model, batch) - ref)

    def raw(self, batch: Sequences) -> Tensor:
        """Rewards (B,) of completions: log-odds of being right, once trained."""
        return self.token_rewards(batch).sum(1)

    @torch.no_grad()
    def __call__(self, batch: Sequences) -> Tensor:
        """The same without a gradient."""
        return self.raw(batch)


class TokenRewardModel(RewardModel):
    """An outcome reward model that is a sum of scalars read at every token, not one at the last.

    In a small model the last token cannot see what every step was worth.
    """

    def token_rewards(self, batch: Sequences) -> Tensor:
        """Rewards (B, T) of the tokens; 0 after the end."""
        hidden = self.backbone.hidden(batch.ids, batch.attention_mask)
        out: Tensor = self.value(hidden[:, batch.prompt_length :]).squeeze(-1)
        return out * batch.completion_mask

    def raw(self, batch: Sequences) -> Tensor:
        """Scores (B,) in the units of the training loss."""
        return self.token_rewards(batch).sum(1)


def step_rewards(token_rewards: Tensor, ends: Tensor) -> Tensor:
    """Rewards (B, S + 1) of steps and of what follows the last one; they sum to the whole's.

    Args:
        token_rewards: (B, T).
        ends: (S,) int64, column of each step's last token, rising.

    Example:
        >>> step_rewards(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([1, 2]))
        tensor([[3., 3., 4.]])
    """
    total = token_rewards.cumsum(1)
    reached = torch.cat([total[:, ends], total[:, -1:]], 1)
    return torch.diff(reached, dim=1, prepend=torch.zeros_like(reached[:, :1]))


def aggregate(scores: Tensor, how: str = "min") -> Tensor:
    """One score (B,) of a completion from those of its steps (B, S)."""
    if how not in AGGREGATES:
        raise ValueError(f"how={how!r}: expected one of {', '.join(AGGREGATES)}")
    if how == "last":
        return scores[:, -1]
    if how == "min":
        return scores.amin(1)
    return scores.sum(1) if how == "sum" else scores.mean(1)


def fit_outcomes(
    reward: ImplicitReward | RewardModel,
    batch: Sequences,
    right: Tensor,
    epochs: int = 3,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Train a reward's log-odds on which completions are right, by cross entropy.

    Args:
        reward: implicit, or an outcome reward model.
        batch: completions (N).
        right: (N,) bool.
        epochs: over the completions.
        batch_size: completions a step.
        learning_rate: of AdamW.
        seed: of the order.
    """
    model = reward.model if isinstance(reward, ImplicitReward) else reward
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    size = min(batch_size, len(right))
    steps = epochs * (len(right) // size)
    for index in minibatches(len(right), size, seed, 0, steps):
        loss = outcome_loss(reward.raw(batch.rows(index)), right[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def outcome_loss(log_odds: Tensor, right: Tensor) -> Tensor:
    """Cross entropy, a mean, of log-odds (B,) and what came out (B,) bool."""
    return F.binary_cross_entropy_with_logits(log_odds, right.to(log_odds.dtype))


def prime_advantage(
    token_rewards: Tensor, outcome: Tensor, mask: Tensor, k: int, weight: float = 1.0
) -> Tensor:
    """PRIME's advantages (B, T): of outcomes, and of process rewards to go, each without its own.

    A token's process reward loses the mean, over the other completions of its prompt, of their
    means over tokens, and a share of its own distance from its completion's mean; what is left is
    summed from the token to the end. Process rewards are first scaled so that no sum from a token
    to the end exceeds 1 in the batch.

    Args:
        token_rewards: (B, T), K completions a prompt next to each other.
        outcome: (B,) of completions.
        mask: (B, T) bool.
        k: K.
        weight: of the process advantages; 0 leaves the leave-one-out advantages of outcomes. The
            paper weighs both by 5 and whitens their sum.

    Paper: Cui et al. (2025), "Process reinforcement through implicit rewards", eq. 5.
    """
    reward = token_rewards * mask
    reward = reward / (_to_go(reward).abs().max() + 1e-6)
    own = groups_of(reward.sum(1) / mask.sum(1), k)
    shared = (own.sum(1, keepdim=True) / (k - 1)).expand(-1, k).reshape(-1, 1)
    process = _to_go((reward * (k / (k - 1)) - shared) * mask)
    return (rloo(outcome, k).unsqueeze(1) + weight * process) * mask


def pairwise_accuracy(score: Tensor, right: Tensor, k: int) -> Tensor:
    """How often a right completion scores above a wrong one of its prompt, a scalar.

    Ties count half; NaN where no prompt has both.

    Args:
        score: (B,), K completions a prompt next to each other.
        right: (B,) bool.
        k: K.

    Example:
        >>> right = torch.tensor([True, False, False])
        >>> pairwise_accuracy(torch.tensor([0.5, 0.1, 0.9]), right, 3)
        tensor(0.5000)
    """
    groups, right = groups_of(score, k), right.view(-1, k)
    above = groups.unsqueeze(2) - groups.unsqueeze(1)
    pairs = right.unsqueeze(2) & ~right.unsqueeze(1)
    wins = (above > 0).float() + 0.5 * (above == 0).float()
    return (wins * pairs).sum() / pairs.sum()


def _to_go(reward: Tensor) -> Tensor:
    return reward.flip(1).cumsum(1).flip(1)


class Prime:
    """Outcome rewards for the online trainer, with an implicit reward model that learns beside it.

    Give it to a trainer with ``algorithm="prime"``. Each batch is scored before the model learns
    from it.

    Args:
        verify: which of ``Sequences`` are right, (B,) bool.
        implicit: phi, at the base policy or fitted before.
        learning_rate: of AdamW; 0 freezes phi.

    Paper: Cui et al. (2025), "Process reinforcement through implicit rewards", algorithm 1.
    """

    def __init__(
        self,
        verify: Callable[[Sequences], Tensor],
        implicit: ImplicitReward,
        learning_rate: float = 1e-3,
    ) -> None:
        self.verify, self.implicit, self.learning_rate = verify, implicit, learning_rate
        self.optimizer = torch.optim.AdamW(
            implicit.model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
        )
        self._scored: Sequences | None = None

    def __call__(self, batch: Sequences) -> Tensor:
        """1 for the right ones, 0 for the others, (B,)."""
        return self.verify(batch).float()

    @torch.no_grad()
    def token_rewards(self, batch: Sequences) -> Tensor:
        """Process rewards (B, T) of what the policy learns from, and phi in ``update``."""
        self._scored = batch
        return self.implicit.token_rewards(batch)

    def update(self) -> dict[str, Any]:
        """One step of phi on the batch of the last process rewards; its loss before it."""
        if self._scored is None or not self.learning_rate:
            return {}
        batch, self._scored = self._scored, None
        right = self.verify(batch)
        log_odds = self.implicit.raw(batch)
        loss = outcome_loss(log_odds, right)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.implicit.model.parameters(), 10.0)
        self.optimizer.step()
        agree = ((log_odds.detach() > 0) == right).float().mean()
        return {"process/loss": loss.detach(), "process/accuracy": agree}

    def state_dict(self) -> dict[str, Any]:
        """Phi and its optimiser."""
        return {
            "model": self.implicit.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.implicit.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
