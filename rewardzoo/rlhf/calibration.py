"""Whether probabilities mean what they say: of preferences, and of confidence that is put in words.

The expected calibration error of Guo et al. (2017), "On calibration of modern neural networks", its
estimate without the bias of Kumar, Liang, Ma (2019), "Verified uncertainty calibration", and
rescaling on held-out data.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .evaluation import finite

Array = NDArray[np.float64]


def ece(
    confidence: ArrayLike, correct: ArrayLike, bins: int = 10, equal_mass: bool = False
) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy over bins.

    Args:
        confidence: in [0, 1].
        correct: 0 or 1.
        bins: of equal width; empty ones count nothing.
        equal_mass: bins with equally many answers instead.
    """
    p, y = _probabilities(confidence), finite("correct", correct)
    gap = np.bincount(_bin(p, bins, equal_mass), y - p, bins)
    return float(np.abs(gap).sum() / len(p))


def squared_ece(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Mean squared gap over bins of equal mass, without the bias that noise in a bin adds.

    0 in expectation where confidence is right up to the width of the bins; it can be below 0.
    """
    p, y = _probabilities(confidence), finite("correct", correct)
    at = _bin(p, bins, equal_mass=True)
    n = np.bincount(at, minlength=bins)
    used = n > 1
    gap = np.bincount(at, y - p, bins)[used] / n[used]
    accuracy = np.bincount(at, y, bins)[used] / n[used]
    noise = accuracy * (1 - accuracy) / (n[used] - 1)
    return float(((gap**2 - noise) * n[used]).sum() / n[used].sum())


def brier(probability: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared error of probabilities (Brier 1950)."""
    p, y = _probabilities(probability), finite("correct", correct)
    return float(((p - y) ** 2).mean())


def preference_calibration(margins: ArrayLike, temperature: float = 1.0) -> dict[str, float]:
    """Calibration of a reward model on pairs: P(chosen is better) = sigmoid(margin / temperature).

    Confidence is that of the more probable answer, max(p, 1 - p); it is right where the chosen is
    the more probable, and half right in a tie.

    Args:
        margins: (N,) score of the chosen minus score of the rejected.
        temperature: of ``fit_temperature``.

    Returns:
        ``log_loss`` in nats, ``brier``, ``ece``.
    """
    z = finite("margins", margins) / temperature
    p = np.exp(-np.logaddexp(0, -z))
    right = (z > 0) + 0.5 * (z == 0)
    return {
        "log_loss": float(np.logaddexp(0, -z).mean()),
        "brier": float(((1 - p) ** 2).mean()),
        "ece": ece(np.maximum(p, 1 - p), right),
    }


def fit_temperature(margins: ArrayLike) -> float:
    """The temperature of least log-loss on held-out pairs, by bisection of its slope.

    It is inf where margins predict nothing, and where every pair is in the right order it is a
    millionth of the largest margin, the least that is looked for.
    """
    z = finite("margins", margins)
    size = float(np.abs(z).max())
    if z.mean() <= 0:
        return math.inf
    z = z / size

    def slope(scale: float) -> float:
        return float((-z * np.exp(-np.logaddexp(0, scale * z))).mean())

    low, high = 0.0, 1.0
    while slope(high) < 0 and high < 1e6:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 * size / (low + high)


def _probabilities(x: ArrayLike) -> Array:
    p = finite("confidence", x)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"confidence: {p[(p < 0) | (p > 1)][0]} is outside [0, 1]")
    return p


def _bin(p: Array, bins: int, equal_mass: bool) -> NDArray[np.int64]:
    if bins < 1:
        raise ValueError(f"bins={bins}: expected an integer >= 1")
    if equal_mass:
        return p.argsort(kind="stable").argsort(kind="stable") * bins // len(p)
    return np.minimum((p * bins).astype(np.int64), bins - 1)
