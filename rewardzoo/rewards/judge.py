"""Judges of evidence, learned from preferences of one action over another (Bradley, Terry 1952).

Sukovic, Radanovic (2024), "Reward design for justifiable sequential decision-making", section 4.
Two traps, each with a test: with batch normalisation, preferred and rejected actions must go
through the network in one batch, else it normalises their difference away and is right half the
time; and without weights by action a judge mostly learns how popular each action is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import load_checkpoint, save_checkpoint
from .base import integer
from .evidence import Judging, evidence_of, random_evidence

METHODS = ("random", "offset", "exhaustive")
_LEVELS = 5  # of each of the two drugs


class Judge(nn.Module):
    """Scores an action by the evidence shown: a network on evidence, its mask, and the action.

    Args:
        feature_names: what the F inputs are, in order; a saved judge refuses another order.
        num_actions: A.
        hidden: width of both hidden layers.
    """

    def __init__(
        self, feature_names: Sequence[str], num_actions: int = 25, hidden: int = 256
    ) -> None:
        super().__init__()
        self.feature_names = tuple(feature_names)
        self.num_actions = integer("num_actions", num_actions, 2)
        self.hidden = integer("hidden", hidden, 1)
        width = 2 * len(self.feature_names) + num_actions
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.PReLU(), nn.BatchNorm1d(hidden),
            nn.Linear(hidden, hidden), nn.PReLU(), nn.BatchNorm1d(hidden),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def forward(self, evidence: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        """Scores (B,) float32."""
        own = torch.nn.functional.one_hot(action, self.num_actions)
        x = torch.cat([evidence, shown.to(evidence.dtype), own.to(evidence.dtype)], 1)
        score: Tensor = self.layers(x).squeeze(1)
        return score

    def save(self, path: str | Path) -> None:
        """Write the judge with the names of its features."""
        content = {
            "feature_names": list(self.feature_names),
            "hash": _hash(self.feature_names),
            "num_actions": self.num_actions,
            "hidden": self.hidden,
            "parameters": self.state_dict(),
        }
        save_checkpoint(path, "judge", content)

    @classmethod
    def load(cls, path: str | Path, feature_names: Sequence[str]) -> Judge:
        """Read a judge for features in the given order.

        Raises:
            ValueError: if it was saved for other features, or for the same in another order.
        """
        content = load_checkpoint(path, "judge")
        if content["hash"] != _hash(content["feature_names"]):
            raise ValueError(f"judge {str(path)!r}: its list of features was changed")
        if content["hash"] != _hash(feature_names):
            saved, given = content["feature_names"], list(feature_names)
            pairs = zip(saved + [None], given + [None], strict=False)
            place = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
            raise ValueError(
                f"judge {str(path)!r}: feature {place} is {(saved + [None])[place]!r}, and these "
                f"have {(given + [None])[place]!r} there; give the features in the saved order"
            )
        judge = cls(feature_names, content["num_actions"], content["hidden"])
        judge.load_state_dict(content["parameters"])
        return judge.eval()


class LinearJudge(nn.Module):
    """``bias[a] + sum over shown features of weight[a, f] * value``: no network, no training.

    Args:
        weight: (A, F).
        bias: (A,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(torch.float32))
        self.register_buffer("bias", bias.to(torch.float32))

    def forward(self, evidence: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        """Scores (B,) float32; ``evidence`` is 0 where nothing is shown."""
        return self.gains(evidence, action).sum(1) + self.bias[action]

    def gains(self, features: Tensor, action: Tensor) -> Tensor:
        """By how much showing each feature raises the score, (B, F)."""
        return features * self.weight[action]

    @classmethod
    def of_policy(
        cls,
        features: Tensor,
        policy: Tensor,
        visits: Tensor,
        balanced: bool = True,
        floor: float = 1e-4,
    ) -> LinearJudge:
        """The least-squares fit of the Bayes score of ``bayes_accuracy``.

        Args:
            features: (S, F).
            policy: (S, A), whose choices are the preferred actions.
            visits: (S,), how often each state is met.
            balanced: take away how popular each action is.
            floor: probabilities below it count as it: the logarithm of 0 fits nothing.
        """
        w = (visits / visits.sum()).to(torch.float64)
        x = torch.cat([features, torch.ones(len(features), 1)], 1).to(torch.float64)
        target = policy.to(torch.float64).clamp(min=floor).log()
        if balanced:
            target = target - (w @ policy.to(torch.float64)).clamp(min=floor).log()
        gram = x.T @ (w.unsqueeze(1) * x) + 1e-3 * torch.eye(x.shape[1], dtype=torch.float64)
        solved = torch.linalg.solve(gram, x.T @ (w.unsqueeze(1) * target))
        return cls(solved[:-1].T, solved[-1])


@dataclass(frozen=True)
class Preferences:
    """M pairs of actions in states: the preferred one was taken, the rejected one was not.

    Args:
        features: (M, F) float32.
        preferred: (M,) int64.
        rejected: (M,) int64, never the preferred one.
        group: (M,) int64, whose state it is; a split keeps groups whole.
    """

    features: Tensor
    preferred: Tensor
    rejected: Tensor
    group: Tensor

    @classmethod
    def of_choices(
        cls,
        features: Tensor,
        action: Tensor,
        group: Tensor,
        generator: torch.Generator,
        method: str = "random",
        num_actions: int = 25,
    ) -> Preferences:
        """Pairs from logged choices.

        Args:
            features: (M, F), the states.
            action: (M,), what was done.
            group: (M,), to whom.
            generator: draws the rejected actions.
            method: ``random`` rejects any other action; ``offset`` one that differs by a level in
                one drug (``action = 5 * fluids + vasopressor``); ``exhaustive`` all others.
            num_actions: A; 25 for ``offset``.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
        others = num_actions - 1
        if method == "exhaustive":
            shift = torch.arange(1, num_actions).repeat(len(action))
            rows = torch.arange(len(action)).repeat_interleave(others)
            rejected = (action[rows] + shift) % num_actions
            return cls(features[rows], action[rows], rejected, group[rows])
        if method == "random":
            shift = torch.randint(1, num_actions, action.shape, generator=generator)
            return cls(features, action, (action + shift) % num_actions, group)
        if num_actions != _LEVELS**2:
            raise ValueError(f"num_actions={num_actions}: method='offset' needs {_LEVELS**2}")
        return cls(features, action, _neighbour(action, generator), group)

    def __len__(self) -> int:
        return len(self.preferred)

    def rows(self, index: Tensor) -> Preferences:
        """Some of the pairs."""
        fields = (self.features, self.preferred, self.rejected, self.group)
        return Preferences(*(x[index] for x in fields))

    def split(self, *shares: float, generator: torch.Generator) -> list[Preferences]:
        """Parts of the given shares of the groups; no group is in two parts."""
        if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1.0):
            raise ValueError(f"shares={shares}: expected positive numbers that sum to 1")
        names, which = torch.unique(self.group, return_inverse=True)
        place = torch.randperm(len(names), generator=generator)[which]
        ends = (torch.tensor(shares).cumsum(0) * len(names)).round().to(torch.int64).tolist()
        starts = [0, *ends[:-1]]
        return [
            self.rows(((place >= start) & (place < end)).nonzero().squeeze(1))
            for start, end in zip(starts, ends, strict=True)
        ]

    def balance(self, num_actions: int = 25) -> Tensor:
        """Weights (M,) that sum to 1 and give every preferred action the same share."""
        counts = torch.bincount(self.preferred, minlength=num_actions).to(torch.float64)
        weight = 1.0 / counts[self.preferred]
        return weight / weight.sum()


def _neighbour(action: Tensor, generator: torch.Generator) -> Tensor:
    """One of the two to four actions that differ by one level in one drug, uniformly."""
    fluids, vasopressor = action // _LEVELS, action % _LEVELS
    moves = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])
    to_fluids = fluids.unsqueeze(1) + moves[:, 0]
    to_vaso = vasopressor.unsqueeze(1) + moves[:, 1]
    inside = (to_fluids >= 0) & (to_fluids < _LEVELS) & (to_vaso >= 0) & (to_vaso < _LEVELS)
    keys = torch.rand(inside.shape, generator=generator).masked_fill(~inside, -1.0)
    pick = keys.argmax(1, keepdim=True)
    found = _LEVELS * to_fluids.gather(1, pick) + to_vaso.gather(1, pick)
    return found.squeeze(1)


def bradley_terry_loss(preferred: Tensor, rejected: Tensor) -> Tensor:
    """``mean(-log sigmoid(preferred - rejected))`` of scores (B,)."""
    return nn.functional.softplus(rejected - preferred).mean()


def fit_judge(
    judge: nn.Module,
    preferences: Preferences,
    num_evidence: int,
    steps: int,
    seed: int = 0,
    batch_size: int = 256,
    learning_rate: float = 5e-4,
    balanced: bool = True,
    callback: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Fit a judge by cross entropy; fresh random evidence in every batch.

    Args:
        judge: trained in place and left in evaluation mode, without gradient.
        preferences: the training pairs.
        num_evidence: features shown; all of them train a judge of the full state.
        steps: of Adam.
        seed: of batches and evidence.
        batch_size: pairs a step.
        learning_rate: of Adam; there is no weight decay.
        balanced: draw every preferred action equally often.
        callback: called with the step and its loss a hundred times.
    """
    generator = torch.Generator().manual_seed(seed)
    cdf = preferences.balance().cumsum(0) if balanced else None
    optimizer = torch.optim.Adam(judge.parameters(), lr=learning_rate)
    judge.requires_grad_(True).train()
    size, every = preferences.features.shape[1], max(1, steps // 100)
    for step in range(1, steps + 1):
        rows = _draw(len(preferences), cdf, batch_size, generator)
        shown = random_evidence(batch_size, size, num_evidence, generator)
        evidence = evidence_of(preferences.features[rows], shown)
        # One batch of both actions: what batch normalisation subtracts is common to them.
        scores = judge(
            torch.cat([evidence, evidence]),
            torch.cat([shown, shown]),
            torch.cat([preferences.preferred[rows], preferences.rejected[rows]]),
        )
        loss = bradley_terry_loss(*scores.chunk(2))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if callback is not None and step % every == 0:
            callback(step, float(loss))
    return judge.requires_grad_(False).eval()


def _draw(count: int, cdf: Tensor | None, size: int, generator: torch.Generator) -> Tensor:
    if cdf is None:
        return torch.randint(count, (size,), generator=generator)
    u = torch.rand(size, generator=generator, dtype=torch.float64) * cdf[-1]
    return torch.searchsorted(cdf, u).clamp_(max=count - 1)


@torch.no_grad()
def accuracy(
    judge: Judging,
    preferences: Preferences,
    num_evidence: int,
    seed: int = 0,
    balanced: bool = True,
    draws: int = 1,
) -> tuple[float, float]:
    """How often the preferred action scores higher (ties count half), and the standard error.

    Args:
        judge: what is measured.
        preferences: held-out pairs.
        num_evidence: random features shown.
        seed: of the evidence.
        balanced: every preferred action counts the same.
        draws: of evidence a pair.
    """
    generator = torch.Generator().manual_seed(seed)
    count, size = preferences.features.shape
    right = torch.zeros(count, dtype=torch.float64)
    for _ in range(draws):
        shown = random_evidence(count, size, num_evidence, generator)
        evidence = evidence_of(preferences.features, shown)
        better = []
        for start in range(0, count, 65536):
            part = slice(start, start + 65536)
            e, m = evidence[part], shown[part]
            good = judge(e, m, preferences.preferred[part])
            better.append(good - judge(e, m, preferences.rejected[part]))
        right += (torch.cat(better).sign().to(torch.float64) + 1.0) / (2 * draws)
    weight = preferences.balance() if balanced else torch.full_like(right, 1.0 / count)
    mean = weight @ right
    error = (weight * weight) @ (right - mean) ** 2
    return float(mean), float(error.sqrt())


def bayes_accuracy(policy: Tensor, visits: Tensor, balanced: bool = True) -> float:
    """The accuracy that no judge of pairs with a random rejected action can exceed.

    The best full-state score is ``log pi(a|s)``, and ``log(pi(a|s) / pibar(a))`` where preferred
    actions are balanced, ``pibar`` being their marginal.

    Args:
        policy: (S, A), whose choices are the preferred actions.
        visits: (S,), how often each state is met; need not sum to 1.
        balanced: every preferred action counts the same.
    """
    joint = (visits / visits.sum()).unsqueeze(1).to(torch.float64) * policy.to(torch.float64)
    marginal = joint.sum(0)
    if balanced:
        taken = marginal > 0
        joint = joint[:, taken] / marginal[taken] / taken.sum()
        score = (policy[:, taken] / marginal[taken]).to(torch.float64)
        if not bool(taken.all()):  # never taken: rejected for certain
            joint = torch.cat([joint, joint.new_zeros(len(joint), int((~taken).sum()))], 1)
            score = torch.cat([score, score.new_zeros(len(score), int((~taken).sum()))], 1)
    else:
        score = policy.to(torch.float64)
    better = (score.unsqueeze(2) > score.unsqueeze(1)).to(torch.float64)
    better = better + 0.5 * (score.unsqueeze(2) == score.unsqueeze(1))
    wins = better.sum(2) - 0.5  # less the tie with itself
    return float((joint * wins).sum() / (policy.shape[1] - 1))


def popularity(preferences: Preferences, num_actions: int = 25) -> LinearJudge:
    """The judge that reads no evidence: it scores an action by how often it was preferred."""
    counts = torch.bincount(preferences.preferred, minlength=num_actions).to(torch.float32)
    size = preferences.features.shape[1]
    return LinearJudge(torch.zeros(num_actions, size), (counts + 0.5).log())


def _hash(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def as_judging(judge: Any) -> Judging:
    """``judge``, in evaluation mode and without gradient if it is a network."""
    if isinstance(judge, nn.Module):
        judge.requires_grad_(False).eval()
    if not callable(judge):
        raise TypeError(f"judge={judge!r}: expected a judge of (evidence, shown, action)")
    found: Judging = judge
    return found
