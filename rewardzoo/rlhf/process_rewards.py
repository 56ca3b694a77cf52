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
from .pairs import PairBatch, minibatches
from .policy_gradient import groups_of, rloo
from .reward_models import RewardModel
from .sequences import Sequences, token_logps

AGGREGATES = ("min", "sum", "mean", "last", "prod")


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


def step_rewards(token_rewards: Tensor, ends: Tensor, mask: Tensor | None = None) -> Tensor:
    """Rewards (B, S + 1) of steps and of what follows the last one; they sum to the whole's.

    Args:
        token_rewards: (B, T).
        ends: (S,) or (B, S) int64, column of each step's last token, rising.
        mask: (B, S) bool, which steps a row has; the others get 0. Default: all.

    Example:
        >>> step_rewards(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([1, 2]))
        tensor([[3., 3., 4.]])
    """
    ends = ends.expand(len(token_rewards), -1)
    if mask is not None:  # a step that is not there ends where the one before it does
        ends = ends.masked_fill(~mask, -1).cummax(1).values
    total = token_rewards.cumsum(1)
    reached = torch.cat([F.pad(total, (1, 0)).gather(1, ends + 1), total[:, -1:]], 1)
    return torch.diff(reached, dim=1, prepend=torch.zeros_like(reached[:, :1]))


def aggregate(scores: Tensor, how: str = "min", mask: Tensor | None = None) -> Tensor:
    """One score (B,) of a completion from those of its steps.

    Args:
        scores: (B, S) of the steps, or (B, S + 1) of ``step_rewards``, where the last column is
            what follows the steps.
        how: one of ``AGGREGATES``; "prod" is for scores that are probabilities.
        mask: like ``scores``, bool, which of them a row has. Default: all.

    Raises:
        ValueError: for a row without a step, or another ``how``.
    """
    if how not in AGGREGATES:
        raise ValueError(f"how={how!r}: expected one of {', '.join(AGGREGATES)}")
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    count = mask.sum(1)
    if (count == 0).any():
        raise ValueError(f"mask, row {int(count.argmin())}: no step, expected at least 1")
    if how == "last":
        place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        last = (mask * place).argmax(1, keepdim=True)
        return scores.gather(1, last).squeeze(1)
    if how == "min":
        return scores.masked_fill(~mask, torch.inf).amin(1)
    if how == "prod":
        return scores.masked_fill(~mask, 1.0).prod(1)
    total = scores.masked_fill(~mask, 0.0).sum(1)
    return total if how == "sum" else total / count


def vote(answers: Tensor, k: int, weight: Tensor | None = None) -> Tensor:
    """The answer with the most votes in each group, as the index (B / K,) of its first completion.

    Args:
        answers: (B,) int64, equal where completions of a prompt say the same; K completions a
            prompt next to each other.
        k: K.
        weight: (B,) >= 0 of each vote, as sigmoid of a reward that is log-odds of being right.
            Default: one vote a completion, the majority (Wang et al. 2023, self-consistency).

    Returns:
        Rows of the batch, int64.

    Example:
        >>> vote(torch.tensor([7, 4, 4, 5, 5, 9]), 3, torch.tensor([0.9, 0.2, 0.3, 0.1, 0.1, 0.9]))
        tensor([0, 5])
    """
    weight = torch.ones_like(answers) if weight is None else weight
    if not (weight >= 0).all():
        row = int((~(weight >= 0)).nonzero()[0])
        raise ValueError(f"weight, row {row}: {float(weight[row])}, expected numbers >= 0")
    said = groups_of(answers, k)
    same = said.unsqueeze(2) == said.unsqueeze(1)
    votes = (same * groups_of(weight, k).unsqueeze(1)).sum(2)
    return votes.argmax(1) + k * torch.arange(len(votes), device=votes.device)


def fit_outcomes(
    reward: ImplicitReward | RewardModel,
    batch: Sequences,
    right: Tensor,
    epochs: int = 3,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    loss: str = "cross_entropy",
) -> None:
    """Train a reward on which completions are right.

    Args:
        reward: implicit, or an outcome reward model.
        batch: completions (N).
        right: (N,) bool.
        epochs: over the completions.
        batch_size: completions a step.
        learning_rate: of AdamW.
        seed: of the order.
        loss: "cross_entropy" of log-odds; or "kto" of an implicit reward, whose baseline is the
            mean reward of the step's completions under each other's prompts.
    """
    if loss not in ("cross_entropy", "kto"):
        raise ValueError(f"loss={loss!r}: expected cross_entropy or kto")
    if loss == "kto" and not isinstance(reward, ImplicitReward):
        raise ValueError(f"loss={loss!r}: expected an ImplicitReward, whose baseline is a KL")

    def mean_loss(index: Tensor) -> Tensor:
        rows = batch.rows(index)
        rewards = reward.raw(rows)
        if loss == "kto":
            return kto_loss(rewards, right[index], reward(_mismatched(rows)).mean())
        return outcome_loss(rewards, right[index])

    _fit(reward, mean_loss, len(right), epochs, batch_size, learning_rate, seed)


def fit_pairs(
    reward: ImplicitReward,
    pairs: PairBatch,
    loss: str = "dpo",
    epochs: int = 3,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Train an implicit reward on pairs of a right and a wrong completion of a prompt.

    Args:
        reward: implicit.
        pairs: as ``outcome_pairs`` makes of completions and what came out.
        loss: one of ``PAIR_LOSSES``; with "dpo", phi is a policy trained by DPO at the same beta.
        epochs: over the pairs.
        batch_size: pairs a step.
        learning_rate: of AdamW.
        seed: of the order.
    """
    if loss not in PAIR_LOSSES:
        raise ValueError(f"loss={loss!r}: expected one of {', '.join(PAIR_LOSSES)}")

    def mean_loss(index: Tensor) -> Tensor:
        rewards = reward.raw(pairs.take(index).both)
        return PAIR_LOSSES[loss](*rewards.chunk(2)).mean()

    _fit(reward, mean_loss, len(pairs), epochs, batch_size, learning_rate, seed)


def _fit(
    reward: ImplicitReward | RewardModel,
    loss_of: Callable[[Tensor], Tensor],
    rows: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Steps of AdamW on ``loss_of`` the indices of minibatches."""
    model = reward.model if isinstance(reward, ImplicitReward) else reward
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    size = min(batch_size, rows)
    for index in minibatches(rows, size, seed, 0, epochs * (rows // size)):
        loss = loss_of(index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def outcome_pairs(batch: Sequences, right: Tensor, k: int) -> PairBatch:
    """Pairs of right and wrong completions of one prompt, each completion in at most one of them.

    Args:
        batch: completions, K a prompt next to each other.
        right: (B,) bool.
        k: K.

    Raises:
        ValueError: if no prompt has both.
    """
    chosen, rejected = [], []
    for first, group in enumerate(groups_of(right, k).tolist()):
        rows = range(first * k, first * k + k)
        best = [row for row, is_right in zip(rows, group, strict=True) if is_right]
        other = [row for row, is_right in zip(rows, group, strict=True) if not is_right]
        for x, y in zip(best, other, strict=False):
            chosen.append(x)
            rejected.append(y)
    if not chosen:
        raise ValueError("right: no prompt has a right and a wrong completion")
    ones = torch.ones(len(chosen))
    return PairBatch(
        batch.rows(torch.tensor(chosen)), batch.rows(torch.tensor(rejected)), ones, ones
    )


def dpo(chosen: Tensor, rejected: Tensor) -> Tensor:
    """``-log sigmoid(chosen - rejected)`` of implicit rewards, (B,) (Rafailov et al. 2023)."""
    return -F.logsigmoid(chosen - rejected)


def nca(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Each reward against 0, which holds the chosen ones up where DPO lets them fall, (B,).

    ``-log sigmoid(chosen) - (log sigmoid(-chosen) + log sigmoid(-rejected)) / 2``.

    Paper: Chen et al. (2024), "Noise contrastive alignment of language models with explicit
    rewards", for pairs.
    """
    return -F.logsigmoid(chosen) - (F.logsigmoid(-chosen) + F.logsigmoid(-rejected)) / 2


PAIR_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {f.__name__: f for f in (dpo, nca)}


def outcome_loss(log_odds: Tensor, right: Tensor) -> Tensor:
    """Cross entropy, a mean, of log-odds (B,) and what came out (B,) bool."""
    return F.binary_cross_entropy_with_logits(log_odds, right.to(log_odds.dtype))


def kto_loss(rewards: Tensor, right: Tensor, baseline: Tensor) -> Tensor:
    """``1 - sigmoid(r - z)`` of right completions, ``1 - sigmoid(z - r)`` of wrong ones, a mean.

    Args:
        rewards: (B,) implicit rewards r.
        right: (B,) bool.
        baseline: a scalar that stands for the KL from the reference; z is it, at least 0, detached.

    Paper: Ethayarajh et al. (2024), "KTO: model alignment as prospect theoretic optimization", eq.
    7, with equal weights.
    """
    gain = rewards - baseline.detach().clamp(min=0)
    return torch.sigmoid(torch.where(right, -gain, gain)).mean()


def _mismatched(batch: Sequences) -> Sequences:
    """Each prompt with the completion of the row before."""
    ids = torch.cat([batch.prompts, batch.completions.roll(1, 0)], 1)
    return batch._replace(ids=ids, completion_mask=batch.completion_mask.roll(1, 0))


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
