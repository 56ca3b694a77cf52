"""Is a judge good enough to shape rewards? Speed and judgement on labelled messages."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .judges import Judge

GOOD_ENOUGH = 0.85
"""Balanced accuracy from which a judge is recommended: with it a reward model that learns from its
labels can reach what ONI's experiments here need."""
_CHANCE = 0.5


@dataclass(frozen=True)
class Quality:
    """What a judge did on labelled messages.

    Args:
        name: of the judge.
        n: messages asked about.
        answered: messages with a verdict; the rest count as judged not helpful.
        seconds: for all of them.
        auc: probability that a helpful message gets a higher score than another.
        precision: share of the messages called helpful that are.
        recall: share of the helpful messages that were called so.
        f1: harmonic mean of the two.
        balanced_accuracy: mean of recall and of the share of others called so; .5 is chance.
        low: lower end of its 95 % interval.
        high: upper end.
        yes_rate: share of messages called helpful.
    """

    name: str
    n: int
    answered: int
    seconds: float
    auc: float
    precision: float
    recall: float
    f1: float
    balanced_accuracy: float
    low: float
    high: float
    yes_rate: float

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.n / self.seconds if self.seconds > 0 else math.inf

    @property
    def verdict(self) -> str:
        """What this means for a user, in one sentence."""
        figure = f"balanced accuracy {self.balanced_accuracy:.2f} [{self.low:.2f}, {self.high:.2f}]"
        if self.low >= GOOD_ENOUGH:
            return f"good enough to shape rewards: {figure}, expected >= {GOOD_ENOUGH}"
        if self.low > _CHANCE and self.high >= GOOD_ENOUGH:
            return f"undecided: {figure} includes {GOOD_ENOUGH}; check on more messages"
        if self.low > _CHANCE:
            return (
                f"not good enough to shape rewards: {figure}, expected >= {GOOD_ENOUGH}; better "
                "than chance, so fit for trying things out: use a larger model or the rules"
            )
        return (
            f"not good enough to shape rewards: {figure} includes chance; use a larger model "
            "(--endpoint) or the rules"
        )


def assess(judge: Judge, labels: Mapping[str, float]) -> Quality:
    """Ask ``judge`` about every message and compare with its label.

    Raises:
        LLMError: if the judge is away.
        ValueError: unless both labels occur.
    """
    messages = list(labels)
    truth = np.array([labels[m] for m in messages]) > 0.5
    start = time.perf_counter()
    answers = dict(judge.judge(messages))
    seconds = time.perf_counter() - start
    scores = np.array([answers.get(m) if answers.get(m) is not None else 0.0 for m in messages])
    called = scores.astype(np.float64) > 0.5
    precision, recall, f1 = precision_recall_f1(truth, called)
    balanced, low, high = balanced_accuracy(truth, called)
    return Quality(
        name=judge.name,
        n=len(messages),
        answered=sum(a is not None for a in answers.values()),
        seconds=seconds,
        auc=area_under_curve(truth, scores.astype(np.float64)),
        precision=precision,
        recall=recall,
        f1=f1,
        balanced_accuracy=balanced,
        low=low,
        high=high,
        yes_rate=float(called.mean()),
    )


Flags = NDArray[np.bool_] | Sequence[bool]


def precision_recall_f1(truth: Flags, called: Flags) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where nothing was called or nothing is true."""
    t, c = np.asarray(truth, bool), np.asarray(called, bool)
    hits = float((t & c).sum())
    precision = hits / max(1.0, float(c.sum()))
    recall = hits / max(1.0, float(t.sum()))
    total = precision + recall
    return precision, recall, 2.0 * precision * recall / total if total else 0.0


def balanced_accuracy(truth: Flags, called: Flags) -> tuple[float, float, float]:
    """Mean of the two classes' accuracies, with a 95 % interval.

    The interval adds the classes' binomial variances, each at Wilson's midpoint, which stays
    honest near 0 and 1.

    Raises:
        ValueError: unless both classes occur.
    """
    t, c = np.asarray(truth, bool), np.asarray(called, bool)
    if t.all() or not t.any():
        raise ValueError("labels: expected helpful messages and others, there is one kind only")
    rates, variances = [], []
    for mine, right in ((t, c), (~t, ~c)):
        n, hits = float(mine.sum()), float((mine & right).sum())
        rates.append(hits / n)
        middle = (hits + 2.0) / (n + 4.0)
        variances.append(middle * (1.0 - middle) / (n + 4.0))
    value = sum(rates) / 2.0
    half = 1.96 * math.sqrt(sum(variances)) / 2.0
    return value, max(0.0, value - half), min(1.0, value + half)


def area_under_curve(truth: Flags, scores: NDArray[np.float64]) -> float:
    """Probability that a true one's score is above a false one's, ties counted half."""
    t = np.asarray(truth, bool)
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    mean_rank = last - (counts - 1) / 2.0
    positive = int(t.sum())
    total = float(mean_rank[ranks][t].sum()) - positive * (positive + 1) / 2.0
    return total / (positive * (len(t) - positive))
