"""When to give an attempt up: thresholds by the closed form, and a gate for adopting them.

A predictor's probability of failure becomes a decision by a threshold. Which one, and whether to
act at all, follows from times: the makespan's closed form says what each choice costs.

Paper: Watson, Correll (2023), "Optimal decision making in robotic assembly and other
trial-and-error tasks", arXiv 2301.10846.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewardzoo.envs.peg_in_hole.closed_form import expected_makespan
from rewardzoo.envs.peg_in_hole.makespan import measured_times, resampling_weights

from .failure_predictor import Windows

Array = NDArray[np.float64]


class Rule(NamedTuple):
    """Give up when the probability of failure reaches a threshold, which may vary in time."""

    time: Array  # (K,) s since the attempt began, increasing
    threshold: Array  # (K,), of decisions from each time on; above 1: never
    makespan: float  # s, by the closed form on the attempts that the rule was chosen on

    def __call__(self, probability: Array, elapsed: Array) -> NDArray[np.bool_]:
        """Whether to give up."""
        place = np.searchsorted(self.time, elapsed + 1e-6, side="right") - 1
        limit = np.where(place >= 0, self.threshold[np.maximum(place, 0)], math.inf)
        found: NDArray[np.bool_] = probability >= limit
        return found


def never(makespan: float = math.inf) -> Rule:
    """The rule of a robot that lets every attempt run."""
    return Rule(np.zeros(1), np.full(1, math.inf), makespan)


def calls(probability: Array, windows: Windows, rule: Rule) -> Array:
    """(A,) s, when the rule first gives each attempt up; infinite where it never does."""
    at = np.full(len(windows.success), math.inf)
    stop = rule(probability, windows.time)
    np.minimum.at(at, windows.attempt[stop], windows.time[stop])
    return at


def rule_makespan(probability: Array, windows: Windows, rule: Rule, reset_time: float) -> float:
    """The closed form at the fates that a rule leads to."""
    at = calls(probability, windows, rule)
    times = measured_times(windows.duration, windows.success, at, reset_time=reset_time)
    return float(expected_makespan(times))


def best_threshold(
    probability: Array, windows: Windows, reset_time: float, candidates: int = 99
) -> Rule:
    """The constant threshold with the smallest makespan by the closed form, or ``never``.

    Args:
        probability: (M,) of failure, by a predictor that has not seen these attempts.
        windows: of validation attempts.
        reset_time: s.
        candidates: thresholds tried, evenly spaced in (0, 1).
    """
    start = np.zeros(1)
    rules = [Rule(start, np.full(1, k / (candidates + 1)), 0.0) for k in range(1, candidates + 1)]
    best = never(rule_makespan(probability, windows, never(), reset_time))
    for rule in rules:
        makespan = rule_makespan(probability, windows, rule, reset_time)
        if makespan < best.makespan:
            best = rule._replace(makespan=makespan)
    return best


def stopping_rule(
    probability: Array, windows: Windows, reset_time: float, iterations: int = 50
) -> Rule:
    """The threshold that follows from times: go on while finishing beats starting anew.

    With V0 the expected makespan of a fresh start, going on to the attempt's end is better iff
    ``E[remaining time | o] < P(success | o) (r + V0)``, so that an attempt is given up when
    ``P(fail | o) / P(success | o) >= (r + V0 - m_S(t)) / m_F(t)``,
    where ``m_S(t)`` and ``m_F(t)`` are the mean remaining times of attempts that succeed and fail
    after t. V0 is a fixed point: start without preemption, build the rule, evaluate it by the
    closed form, repeat while it improves.
    """
    times = np.unique(windows.time)
    remaining = [
        np.array([_mean_beyond(windows.duration[kind], t) for t in times])
        for kind in (windows.success, ~windows.success)
    ]
    best = never(rule_makespan(probability, windows, never(), reset_time))
    for _ in range(iterations):
        odds = (reset_time + best.makespan - remaining[0]) / np.maximum(remaining[1], 1e-9)
        odds = np.maximum(odds, 0.0)
        rule = Rule(times, odds / (1.0 + odds), 0.0)
        rule = rule._replace(makespan=rule_makespan(probability, windows, rule, reset_time))
        if not rule.makespan < best.makespan - 1e-9:
            break
        best = rule
    return best


class Adoption(NamedTuple):
    """What the gate found."""

    adopt: bool
    confidence: float  # share of resamples in which preemption is the faster
    reactive: float  # s, makespan without
    preemptive: float  # s, and with preemption


class AdoptionGate:
    """Adopt preemption only where the closed form says, with confidence, that it pays.

    Attempts are resampled; in each resample both makespans follow from the closed form.

    Args:
        confidence: adopt iff ``P(E1 < E0)`` over resamples is at least this.
        resamples: how many.
        seed: of the resampling.
    """

    def __init__(self, confidence: float = 0.95, resamples: int = 500, seed: int = 0) -> None:
        if not 0.5 <= confidence <= 1.0:
            raise ValueError(f"confidence={confidence}: expected a number in [0.5, 1]")
        self.confidence, self.resamples, self.seed = confidence, resamples, seed

    def decide(
        self,
        duration: Array,
        success: NDArray[np.bool_],
        called_at: Array,
        reset_time: float = 0.0,
        start_time: float = 0.0,
    ) -> Adoption:
        """Judge calls on attempts that ran to their end, by a predictor that had not seen them.

        Args:
            duration: (A,) s.
            success: (A,) bool.
            called_at: (A,) s, infinite where nothing was called.
            reset_time: s.
            start_time: s.
        """
        weights = resampling_weights(len(duration), self.resamples, self.seed)
        weights = np.concatenate([np.ones((1, len(duration))), weights])
        lost = (reset_time, start_time)
        e0 = expected_makespan(measured_times(duration, success, None, weights, *lost))
        e1 = expected_makespan(measured_times(duration, success, called_at, weights, *lost))
        share = float(np.mean(e1[1:] < e0[1:]))
        adopt = share >= self.confidence and bool(e1[0] < e0[0])
        return Adoption(adopt, share, float(e0[0]), float(e1[0]))


def _mean_beyond(duration: Array, t: float) -> float:
    """Mean of ``duration - t`` over those that last beyond t, 0 where none does."""
    left = duration[duration > t] - t
    return float(left.mean()) if len(left) else 0.0
