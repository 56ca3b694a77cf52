"""Statistics of a few noisy runs: interquartile mean, bootstrap intervals, paired tests, Holm.

Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice";
Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure".

NumPy only. ``rliable`` computes the same interquartile mean, stratified bootstrap and probability
of improvement, but is not used at run time: its dependency ``arch`` (7.2) fails at import with
pandas 3, and it draws in pandas, statsmodels, seaborn and absl for some two hundred lines of
arithmetic. The tests compare every number with it where it can be imported.

Few seeds, honestly. A percentile bootstrap resamples only what was seen, so its intervals are too
narrow when ``n`` is small. The share of nominal 95 % intervals of the interquartile mean that
contain the truth, for one task and normally distributed scores (20,000 simulated studies, exact
to .01; at five seeds the mean's cover .84, and skewed scores fare worse):

    ====== === === === === ===
    n        3   5  10  20  50
    ====== === === === === ===
    covers .75 .90 .93 .94 .94
    ====== === === === === ===

A sign-flip test of ``n`` pairs cannot give a two-sided p value below ``2 ** (1 - n)``: .0625 with
five seeds, however large the effect. Hence every result here carries its ``n``, every paired one
its ``p_floor``, and one run has no interval at all (``low`` and ``high`` are nan).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[..., Any]  # statistic(x, axis=...), as numpy.mean
Alternative = Literal["two-sided", "greater", "less"]

_CHUNK = 4_000_000  # numbers held at once by a bootstrap (32 MB)
_EXACT_UP_TO = 12  # pairs whose 2**n sign flips are enumerated


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its confidence interval.

    Args:
        point: the statistic of all the runs.
        low: lower end; nan where one run leaves no interval.
        high: upper end.
        n: runs (seeds) behind it.
        confidence: nominal coverage; see the module's table for the true one.
    """

    point: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.point:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"


@dataclass(frozen=True, slots=True)
class CurveInterval:
    """A point estimate and interval at every point of a curve; arrays are (points,) float64."""

    point: Array
    low: Array
    high: Array
    n: int
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class PairedDifference(Interval):
    """The difference x - y over paired seeds, with a sign-flip permutation test.

    Args:
        p_value: of "the differences are symmetric about 0".
        p_floor: the smallest p value that any data of this ``n`` could give.
        exact: all ``2 ** n`` sign flips were enumerated.
    """

    p_value: float = 1.0
    p_floor: float = 1.0
    exact: bool = True


def iqm(x: ArrayLike, axis: int | None = None) -> Any:
    """Interquartile mean: the mean of what is left without the lowest and the highest quarter.

    ``floor(n / 4)`` values are dropped at each end, as in ``scipy.stats.trim_mean(x, 0.25)`` and
    rliable; fewer than four values are all kept, so that there it is the mean.

    Args:
        x: scores; with several tasks, pooled over runs and tasks as in the paper.
        axis: the axis to reduce; None pools everything.

    >>> float(iqm([0.0, 1.0, 2.0, 3.0, 100.0]))
    2.0
    """
    values = np.asarray(x, dtype=np.float64)
    if axis is None:
        values, axis = values.reshape(-1), 0
    n = values.shape[axis]
    if n == 0:
        raise ValueError(f"x: shape {np.shape(x)} has no values along axis {axis}")
    cut = n // 4
    ordered = np.sort(values, axis=axis)
    return ordered.take(range(cut, n - cut), axis=axis).mean(axis=axis)


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Statistic = iqm,
    reps: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic, resampling runs with replacement within each task.

    Args:
        scores: (runs, tasks), or (runs,) for one task.
        statistic: called as ``statistic(values, axis=...)`` on runs and tasks pooled.
        reps: resamples.
        confidence: nominal coverage, between 0 and 1.
        seed: of the resampling; equal inputs give equal intervals.

    >>> print(stratified_bootstrap([0.80, 0.82, 0.83, 0.85, 0.90]))
    0.8333 [0.81, 0.8833] (n=5)
    """
    runs = _checked("scores", scores, (1, 2))
    _check_resampling(reps, confidence)
    runs = runs.reshape(len(runs), -1)
    n, tasks = runs.shape
    point = _apply(statistic, runs.reshape(1, -1), 1, (1,))
    if n == 1:
        return Interval(float(point[0]), math.nan, math.nan, 1, confidence)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // runs.size)
    resampled = np.empty(reps)
    for start in range(0, reps, step):
        size = min(step, reps - start)
        rows = rng.integers(n, size=(size, n, tasks))
        values = runs[rows, np.arange(tasks)].reshape(size, -1)
        resampled[start : start + size] = _apply(statistic, values, 1, (size,))
    low, high = _percentiles(resampled, confidence)
    return Interval(float(point[0]), float(low), float(high), n, confidence)


def bootstrap_curve(
    curves: ArrayLike,
    statistic: Statistic = iqm,
    reps: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> CurveInterval:
    """Percentile intervals at every point of learning curves, resampling whole runs.

    The intervals hold point by point, not for the curve as a whole.

    Args:
        curves: (runs, points), runs on a common grid of steps.
        statistic: called as ``statistic(values, axis=...)`` over runs.
        reps: resamples.
        confidence: nominal coverage, between 0 and 1.
        seed: of the resampling.
    """
    runs = _checked("curves", curves, (2,))
    _check_resampling(reps, confidence)
    n, points = runs.shape
    point = _apply(statistic, runs, 0, (points,))
    low, high = np.full(points, np.nan), np.full(points, np.nan)
    if n > 1:
        rows = np.random.default_rng(seed).integers(n, size=(reps, n))
        step = max(1, _CHUNK // rows.size)
        for start in range(0, points, step):
            part = runs[:, start : start + step]
            values = _apply(statistic, part[rows], 1, (reps, part.shape[1]))
            low[start : start + step], high[start : start + step] = _percentiles(values, confidence)
    return CurveInterval(point, low, high, n, confidence)


def probability_of_improvement(
    x: ArrayLike,
    y: ArrayLike,
    reps: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """P(a run of x scores more than a run of y), ties counted half, averaged over tasks.

    Runs of x and of y are resampled independently within each task; pairing by seed is not used
    (``paired_difference`` does). Where every run of x beats every run of y the interval is the
    single point 1, at any ``n``: read ``n`` with it.

    Args:
        x: (runs of x, tasks) or (runs of x,).
        y: (runs of y, tasks) or (runs of y,).
        reps: resamples.
        confidence: nominal coverage, between 0 and 1.
        seed: of the resampling.

    Returns:
        The interval, whose ``n`` is the smaller number of runs.

    >>> probability_of_improvement([1.0, 2.0, 3.0], [0.0, 2.0]).point
    0.75
    """
    a, b = _checked("x", x, (1, 2)), _checked("y", y, (1, 2))
    _check_resampling(reps, confidence)
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"y: {b.shape[1]} tasks, x has {a.shape[1]}: expected the same tasks")
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)  # (runs of x, runs of y, tasks)
    point = float(wins.mean())
    n = min(len(a), len(b))
    if n == 1:
        return Interval(point, math.nan, math.nan, 1, confidence)
    rng = np.random.default_rng(seed)
    tasks = a.shape[1]
    # How often each run is drawn is all that a resample amounts to.
    draws_a = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), size=(reps, tasks))
    draws_b = rng.multinomial(len(b), np.full(len(b), 1 / len(b)), size=(reps, tasks))
    resampled = np.zeros(reps)
    for t in range(tasks):
        resampled += ((draws_a[:, t] @ wins[:, :, t]) * draws_b[:, t]).sum(1)
    low, high = _percentiles(resampled / wins.size, confidence)
    return Interval(point, float(low), float(high), n, confidence)


def paired_difference(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Statistic = iqm,
    alternative: Alternative = "two-sided",
    reps: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """The difference x - y over paired seeds: statistic, bootstrap interval and sign-flip test.

    The test asks whether the differences are symmetric about 0 and compares their mean, whatever
    the ``statistic`` shown: a trimmed mean does not change when a trimmed pair changes sign, which
    would raise the smallest reachable p value (at five seeds from .0625 to .125). It is exact up to
    12 pairs and drawn at random, with the observed signs counted among the draws, above.

    Args:
        x: (seeds,).
        y: (seeds,), in the same order of seeds.
        statistic: of the differences, called as ``statistic(values, axis=...)``.
        alternative: "greater" asks whether x exceeds y; choose it before seeing the data.
        reps: resamples of the interval, and sign flips where they are not enumerated.
        confidence: nominal coverage, between 0 and 1.
        seed: of the resampling.

    >>> paired_difference([2.0, 3.0, 4.0], [1.0, 1.0, 1.0], alternative="greater").p_value
    0.125
    """
    a, b = _checked("x", x, (1,)), _checked("y", y, (1,))
    if a.shape != b.shape:
        raise ValueError(f"y: {len(b)} seeds, x has {len(a)}: expected one of y for each of x")
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"alternative={alternative!r}: expected two-sided, greater or less")
    difference = a - b
    interval = stratified_bootstrap(difference, statistic, reps, confidence, seed)
    n, exact = len(difference), len(difference) <= _EXACT_UP_TO
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(reps, n))
    flipped, observed = signs @ difference, difference.sum()
    if alternative == "two-sided":
        flipped, observed = np.abs(flipped), abs(observed)
    elif alternative == "less":
        flipped, observed = -flipped, -observed
    # Sums that are equal in exact arithmetic must count as ties whatever their rounding.
    slack = 4 * n * np.finfo(np.float64).eps * np.abs(difference).sum()
    extreme = int((flipped >= observed - slack).sum())
    sides = 2 if alternative == "two-sided" else 1
    if exact:
        p_value, p_floor = extreme / 2**n, min(1.0, sides / 2**n)
    else:
        p_value, p_floor = (1 + extreme) / (1 + reps), 1 / (1 + reps)
    return PairedDifference(
        interval.point, interval.low, interval.high, n, confidence, p_value, p_floor, exact
    )


def holm(p_values: ArrayLike) -> Array:
    """Holm's adjusted p values, in the order given; they hold under any dependence.

    Args:
        p_values: (tests,), one for each comparison of the family.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = _checked("p_values", p_values, (1,), empty=True)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p_values: {p[(p < 0) | (p > 1)][0]} is outside [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def wilson(hits: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``n`` trials (Wilson 1927); a tie may count half a hit."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.959964, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _checked(name: str, x: ArrayLike, dims: tuple[int, ...], empty: bool = False) -> Array:
    """``x`` as float64, or an error that names the argument."""
    try:
        values = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array of numbers ({error})") from None
    if values.ndim not in dims:
        expected = " or ".join({1: "(runs,)", 2: "(runs, columns)"}[d] for d in dims)
        raise ValueError(f"{name}: shape {values.shape}, expected {expected}")
    if values.size == 0 and not empty:
        raise ValueError(f"{name}: shape {values.shape} is empty, expected at least one run")
    bad = ~np.isfinite(values)
    if bad.any():
        first = ", ".join(str(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}: {int(bad.sum())} non-finite values of {values.size}, the first at index "
            f"[{first}] (find out why that run diverged; leaving it out biases the result)"
        )
    return values


def _check_resampling(reps: int, confidence: float) -> None:
    if not reps >= 1:
        raise ValueError(f"reps={reps}: expected at least 1 (2000 is usual)")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a number between 0 and 1, as 0.95")


def _apply(statistic: Statistic, values: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """``statistic`` along ``axis``, checked to reduce that axis and no other."""
    try:
        out = np.asarray(statistic(values, axis=axis), dtype=np.float64)
    except TypeError as error:
        name = getattr(statistic, "__name__", statistic)
        raise ValueError(f"statistic={name}: must accept axis=, as numpy.mean ({error})") from None
    if out.shape != shape:
        name = getattr(statistic, "__name__", statistic)
        raise ValueError(f"statistic={name}: returned shape {out.shape}, expected {shape}")
    return out


def _percentiles(resampled: Array, confidence: float) -> Array:
    tail = (1 - confidence) / 2
    ends: Array = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return ends
