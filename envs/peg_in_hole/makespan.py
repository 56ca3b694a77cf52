"""Makespans from recorded attempts: measured fates, the best timer, replay, bootstrap."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .closed_form import ConfusionTimes, expected_makespan

Array = NDArray[np.float64]


class Cutoff(NamedTuple):
    """A timer that gives every attempt up after ``seconds``."""

    seconds: float
    makespan: float


class Estimate(NamedTuple):
    """A ratio of sums over attempts with its bootstrap interval."""

    makespan: float
    low: float
    high: float


def measured_times(
    duration: ArrayLike,
    success: ArrayLike,
    called_at: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reset_time: float = 0.0,
    start_time: float = 0.0,
) -> ConfusionTimes:
    """Fates and mean times of attempts that ran to their end, as if calls had been acted on.

    ``expected_makespan`` of the result is the ratio estimator: the time of all attempts, cut short
    at the calls, over the number of successes.

    Args:
        duration: (A,) s, natural running times.
        success: (A,) bool, natural outcomes.
        called_at: (A,) s, when failure is called; infinite, or not below ``duration``: never.
        weights: (..., A) how much an attempt counts; leading axes give a batch of settings.
        reset_time: s, lost after every attempt without success.
        start_time: s, at the beginning of every attempt.

    Raises:
        ValueError: for attempts of unequal number, or none.
    """
    duration, success = np.asarray(duration, dtype=np.float64), np.asarray(success, dtype=bool)
    calls = np.full_like(duration, math.inf) if called_at is None else np.asarray(called_at)
    if not (duration.shape == success.shape == calls.shape and duration.ndim == 1):
        raise ValueError(
            f"duration, success, called_at: shapes {duration.shape}, {success.shape}, "
            f"{calls.shape}, expected (A,) each"
        )
    if not len(duration):
        raise ValueError("duration: expected at least one attempt")
    w = np.ones_like(duration) if weights is None else np.asarray(weights, dtype=np.float64)
    stopped = calls < duration
    fates = (success & ~stopped, success & stopped, ~success & stopped, ~success & ~stopped)
    chances = [w @ f.astype(np.float64) / w.sum(-1) for f in fates]
    times = (duration, np.where(stopped, calls, 0.0))
    means = [
        _mean(w * fate, times[stopped_early])
        for fate, stopped_early in zip(fates, (0, 1, 1, 0), strict=True)
    ]
    return ConfusionTimes(
        *chances,
        mts=means[0],
        d_fn=means[1],
        d_tn=means[2],
        mtf=means[3],
        reset_time=reset_time,
        start_time=start_time,
    )


def best_cutoff(
    duration: ArrayLike,
    success: ArrayLike,
    reset_time: float = 0.0,
    start_time: float = 0.0,
) -> Cutoff:
    """The timer with the smallest makespan over recorded attempts, a baseline without a sensor.

    ``E(tau) = (s0 + E[min(T, tau)] + r P(no success by tau)) / P(success by tau)``, smallest at one
    of the recorded times of success (or at infinity: no timer). Without it, that preemption saves
    time proves nothing about a predictor.

    Paper: Luby, Sinclair, Zuckerman (1993), "Optimal speedup of Las Vegas algorithms".
    """
    duration, success = np.asarray(duration, dtype=np.float64), np.asarray(success, dtype=bool)
    if not success.any():
        return Cutoff(math.inf, math.inf)
    order = np.argsort(duration, kind="stable")
    t, won = duration[order], success[order]
    count = len(t)
    # All attempts that last as long as the timer are through before it rings.
    last = np.searchsorted(t, t, side="right") - 1
    total = (np.cumsum(t)[last] + t * (count - 1 - last)) / count
    done = np.cumsum(won)[last] / count
    with np.errstate(divide="ignore"):
        makespan = np.where(
            done > 0, (start_time + total + reset_time * (1.0 - done)) / done, math.inf
        )
    best = int(np.argmin(makespan))
    never = float(expected_makespan(measured_times(
        duration, success, reset_time=reset_time, start_time=start_time
    )))  # fmt: skip
    if makespan[best] < never:
        return Cutoff(float(t[best]), float(makespan[best]))
    return Cutoff(math.inf, never)


def cutoff_makespan(
    duration: ArrayLike,
    success: ArrayLike,
    seconds: float,
    reset_time: float = 0.0,
    start_time: float = 0.0,
) -> float:
    """The makespan over recorded attempts with a timer that was chosen elsewhere."""
    calls = np.full(np.shape(duration), seconds)
    times = measured_times(duration, success, calls, reset_time=reset_time, start_time=start_time)
    return float(expected_makespan(times))


def bootstrap_makespan(
    duration: ArrayLike,
    success: ArrayLike,
    called_at: ArrayLike | None = None,
    reset_time: float = 0.0,
    start_time: float = 0.0,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The ratio estimator with a percentile interval from resampled attempts."""
    data = (duration, success, called_at)
    times = measured_times(*data, reset_time=reset_time, start_time=start_time)
    weights = resampling_weights(len(np.asarray(duration)), resamples, seed)
    spread = expected_makespan(measured_times(*data, weights, reset_time, start_time))
    tail = (1.0 - confidence) / 2
    # Resamples without a success are infinite, which order statistics take in their stride.
    low, high = np.quantile(spread, [tail, 1.0 - tail], method="nearest")
    return Estimate(float(expected_makespan(times)), float(low), float(high))


def resampling_weights(count: int, resamples: int, seed: int = 0) -> Array:
    """(resamples, count): how often each of ``count`` attempts is drawn, with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(count, np.full(count, 1.0 / count), resamples).astype(np.float64)


def replay(
    duration: ArrayLike,
    success: ArrayLike,
    called_at: ArrayLike | None = None,
    count: int = 1000,
    reset_time: float = 0.0,
    start_time: float = 0.0,
    seed: int = 0,
) -> Array:
    """Makespans of ``count`` runs whose attempts are drawn from the recorded ones, (count,) s.

    Raises:
        ValueError: if no recorded attempt succeeds.
    """
    duration, success = np.asarray(duration, dtype=np.float64), np.asarray(success, dtype=bool)
    calls = np.full_like(duration, math.inf) if called_at is None else np.asarray(called_at)
    won = success & (calls >= duration)
    if not won.any():
        raise ValueError("success: no recorded attempt succeeds, every makespan is infinite")
    spent = start_time + np.minimum(duration, calls) + np.where(won, 0.0, reset_time)
    generator = np.random.default_rng(seed)
    makespan, running = np.zeros(count), np.arange(count)
    while len(running):
        drawn = generator.integers(0, len(duration), len(running))
        makespan[running] += spent[drawn]
        running = running[~won[drawn]]
    return makespan


def _mean(weights: Array, x: Array) -> Any:
    """Weighted means over the last axis, 0 where nothing has weight."""
    total = weights.sum(-1)
    return np.divide(weights @ x, total, out=np.zeros_like(total), where=total > 0)
