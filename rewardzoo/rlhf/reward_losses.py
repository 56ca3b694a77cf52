"""Losses of reward models, as pure functions of scores; each returns B losses.

``REWARD_LOSSES`` compare the two responses of a pair, ``RATING_LOSSES`` judge one response.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def bt(chosen: Tensor, rejected: Tensor, strength: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``-log sigmoid(chosen - rejected)``, smoothed (Bradley, Terry 1952)."""
    d = chosen - rejected
    return -(1 - label_smoothing) * F.logsigmoid(d) - label_smoothing * F.logsigmoid(-d)


def margin(chosen: Tensor, rejected: Tensor, strength: Tensor) -> Tensor:
    """``-log sigmoid(chosen - rejected - strength)`` (Touvron et al. 2023, Llama 2)."""
    return -F.logsigmoid(chosen - rejected - strength)


def scaled_bt(chosen: Tensor, rejected: Tensor, strength: Tensor) -> Tensor:
    """``-strength * log sigmoid(chosen - rejected)`` (Wang et al. 2025, HelpSteer2-Preference)."""
    return -strength * F.logsigmoid(chosen - rejected)


def soft_bt(chosen: Tensor, rejected: Tensor, strength: Tensor) -> Tensor:
    """Cross-entropy with a target of each pair's own: ``strength`` is P(chosen is better).

    1 is ``bt``, 1 - e smooths by e, 0 exchanges the two: what a doubtful label calls for (Wang et
    al. 2024, Secrets of RLHF II).
    """
    d = chosen - rejected
    return -strength * F.logsigmoid(d) - (1 - strength) * F.logsigmoid(-d)


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """``(chosen + rejected)**2``, which takes the free offset of scores away."""
    return (chosen + rejected) ** 2


REWARD_LOSSES: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (bt, margin, scaled_bt, soft_bt)
}


def regression(predicted: Tensor, rating: Tensor) -> Tensor:
    """Squared error against ratings (B, attributes), a mean over the attributes, (B,)."""
    return ((predicted - rating) ** 2).mean(-1)


def cross_entropy(predicted: Tensor, rating: Tensor) -> Tensor:
    """Of outcome labels in [0, 1] given logits, (B, attributes) to (B,) (Cobbe et al. 2021)."""
    each = F.binary_cross_entropy_with_logits(predicted, rating, reduction="none")
    return each.mean(-1)


RATING_LOSSES: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (regression, cross_entropy)
}


def bradley_terry_mm(wins: Tensor, iterations: int = 10_000) -> Tensor:
    """Maximum-likelihood Bradley-Terry scores (V,), mean 0, from counts of wins (V, V).

    Zermelo's iterations; ``wins[i, j]`` counts how often i beat j. Finite where the comparisons
    connect every item with every other in both directions.
    """
    counts = wins + wins.T
    won = wins.sum(1)
    p = torch.ones(len(wins), dtype=torch.float64)
    for _ in range(iterations):
        p = won / (counts / (p[:, None] + p[None, :])).sum(1)
        p = p / p.log().mean().exp()
    return p.log()
