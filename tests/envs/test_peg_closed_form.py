"""The makespan's closed form: three routes agree, limits and break-even are exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo.envs.peg_in_hole.closed_form import (
    ConfusionTimes,
    break_even,
    expected_makespan,
    gain,
    jump_process_makespan,
    makespan_variance,
    perfect_makespan,
    rare_success_ratio,
    reactive_makespan,
    should_preempt,
    sure_success_makespan,
    useless_makespan,
)
from rewardzoo.envs.peg_in_hole.makespan import (
    best_cutoff,
    bootstrap_makespan,
    cutoff_makespan,
    measured_times,
    replay,
    resampling_weights,
)

CHANCE = st.floats(0.02, 0.98)
TIME = st.floats(0.1, 100.0)
RATES = st.tuples(CHANCE, TIME, TIME, CHANCE, CHANCE, TIME, TIME, TIME, TIME)


@pytest.mark.parametrize(
    ("rates", "reactive", "preemptive"),
    [
        ((0.49, 30.2, 67.7, 0.85, 0.10, 20, 15, 3), 103.786, 67.073),
        ((0.3, 10, 30, 0.5, 0.5, 5, 5, 0), 80.0, 96.667),
        ((0.6, 30, 60, 1.0, 0.0, 7, 7, 0), 70.0, 34.667),
    ],
)
def test_reference_values(rates: tuple[float, ...], reactive: float, preemptive: float) -> None:
    p, mts, mtf, *_, reset = rates
    assert reactive_makespan(p, mts, mtf, reset) == pytest.approx(reactive, abs=5e-4)
    assert expected_makespan(ConfusionTimes.from_rates(*rates)) == pytest.approx(
        preemptive, abs=5e-4
    )


def test_published_formula_and_its_defect() -> None:
    """The laboratory's stored fates: its denominator omits undecided failures."""
    times = ConfusionTimes(
        tp=0.273616, fn=0.003257, tn=0.433225, fp=0.0, ncs=0.211726, ncf=0.078176,
        mts=30.187667, mtf=67.691239, d_tn=67.564328, d_fn=67.564328, start_time=1.0,
    )  # fmt: skip
    assert expected_makespan(times, legacy=True) == pytest.approx(89.498, abs=5e-4)
    assert expected_makespan(times) == pytest.approx(103.91, abs=5e-3)
    decided = ConfusionTimes(0.5, 0.1, 0.2, 0.2, 10.0, 20.0, 3.0, 4.0)
    assert expected_makespan(decided, legacy=True) == pytest.approx(expected_makespan(decided))


@given(RATES, st.booleans(), st.booleans())
def test_jump_process_is_a_second_route(
    rates: tuple[float, ...], no_reset: bool, no_start: bool
) -> None:
    *most, reset, start = rates
    times = ConfusionTimes.from_rates(*most, 0.0 if no_reset else reset, 0.0 if no_start else start)
    assert jump_process_makespan(times) == pytest.approx(float(expected_makespan(times)), rel=1e-10)


@pytest.mark.parametrize("reset", [0.0, 3.0])
def test_jump_process_with_calls_at_once(reset: float) -> None:
    times = ConfusionTimes.from_rates(0.4, 10.0, 30.0, 0.7, 0.2, 0.0, 0.0, reset)
    assert jump_process_makespan(times) == pytest.approx(float(expected_makespan(times)), rel=1e-10)
    assert jump_process_makespan(ConfusionTimes(0, 0.5, 0.5, 0, 1, 1)) == math.inf


@given(RATES)
def test_gain_is_benefit_minus_price(rates: tuple[float, ...]) -> None:
    p, mts, mtf, *_, reset, start = rates
    times = ConfusionTimes.from_rates(*rates)
    e0, e1 = reactive_makespan(p, mts, mtf, reset, start), expected_makespan(times)
    assert gain(times) == pytest.approx(float(e0 - e1), rel=1e-9, abs=1e-9 * float(e0 + e1))


@given(RATES)
def test_break_even_is_exact(rates: tuple[float, ...]) -> None:
    """At the critical ratio of rates both makespans are equal; above it preemption pays."""
    p, mts, mtf, _, rho_fn, d_tn, d_fn, reset, start = rates
    ratio = float(break_even(p, mts, mtf, d_tn, d_fn, reset, start))
    if d_tn >= mtf:
        assert ratio == math.inf
        return
    rho_fn = min(rho_fn, 0.95 / ratio)
    rest = (d_tn, d_fn, reset, start)
    e0 = float(reactive_makespan(p, mts, mtf, reset, start))
    critical = ConfusionTimes.from_rates(p, mts, mtf, ratio * rho_fn, rho_fn, *rest)
    assert float(expected_makespan(critical)) == pytest.approx(e0, rel=1e-9)
    for factor in (0.99, 1.01):
        times = ConfusionTimes.from_rates(p, mts, mtf, factor * ratio * rho_fn, rho_fn, *rest)
        assert bool(should_preempt(times)) == (factor > 1)


def test_break_even_tends_to_one_for_calls_at_once_and_to_infinity_for_late_ones() -> None:
    args = (0.4, 20.0, 50.0)
    assert float(break_even(*args, 1e-9, 1e-9)) == pytest.approx(1.0)
    assert float(break_even(*args, 50.0 - 1e-9, 1.0)) > 1e9
    plain = ((1 - 0.4) * 50 + 0.4 * 7) / ((1 - 0.4) * (50 - 12))
    assert float(break_even(*args, 12.0, 7.0)) == pytest.approx(plain)


@given(RATES)
def test_limits_are_exact(rates: tuple[float, ...]) -> None:
    p, mts, mtf, rho_tn, rho_fn, d_tn, d_fn, reset, start = rates
    late = (reset, start)

    def e1(p: float, rho_tn: float, rho_fn: float, d_tn: float, d_fn: float) -> float:
        return float(
            expected_makespan(
                ConfusionTimes.from_rates(p, mts, mtf, rho_tn, rho_fn, d_tn, d_fn, *late)
            )
        )

    e0 = float(reactive_makespan(p, mts, mtf, *late))
    assert e1(p, 1.0, 0.0, d_tn, d_fn) == pytest.approx(
        float(perfect_makespan(p, mts, d_tn, *late))
    )
    assert e1(p, 0.0, 0.0, d_tn, d_fn) == e0
    useless = float(useless_makespan(p, mts, mtf, rho_tn, d_tn, *late))
    assert e1(p, rho_tn, rho_tn, d_tn, d_tn) == pytest.approx(useless) and useless >= e0
    assert e1(1.0, rho_tn, rho_fn, d_tn, d_fn) == pytest.approx(
        float(sure_success_makespan(mts, rho_fn, d_fn, *late))
    )
    tiny = 1e-9
    ratio = e1(tiny, rho_tn, rho_fn, d_tn, d_fn) / float(reactive_makespan(tiny, mts, mtf, *late))
    want = float(rare_success_ratio(mtf, rho_tn, rho_fn, d_tn, *late))
    assert ratio == pytest.approx(want, rel=1e-5)


def test_useless_predictor_numbers() -> None:
    for rho, want in [(0.0, 90.0), (0.3, 98.571), (0.6, 120.0)]:
        assert useless_makespan(0.5, 30, 60, rho, 10) == pytest.approx(want, abs=5e-4)
    assert useless_makespan(0.5, 30, 60, 1.0, 10) == math.inf
    assert perfect_makespan(0.5, 30.0, 0.0) == 30.0


@given(RATES, st.floats(0.1, 10.0))
def test_monotone_and_homogeneous(rates: tuple[float, ...], scale: float) -> None:
    def e1(values: tuple[float, ...]) -> float:
        return float(expected_makespan(ConfusionTimes.from_rates(*values)))

    def moved(place: int, step: float) -> float:
        return e1((*rates[:place], rates[place] + step, *rates[place + 1 :]))

    base, slack = e1(rates), 1e-9 * e1(rates)
    if rates[2] > rates[5]:
        assert moved(3, 0.01) <= base + slack
    assert moved(4, 0.01) >= base - slack
    for place in (5, 6, 7):
        assert moved(place, 1.0) >= base - slack
    times = tuple(x * scale if k in (1, 2, 5, 6, 7, 8) else x for k, x in enumerate(rates))
    assert e1(times) == pytest.approx(scale * base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p": 1.2}, r"p=1.2: expected probabilities in \[0, 1\]"),
        ({"rho_tn": -0.1}, "rho_tn=-0.1"),
        ({"rho_fn": math.nan}, "rho_fn=nan"),
        ({"mts": -1.0}, "mts=-1.0: expected finite times >= 0"),
        ({"reset_time": math.inf}, "reset_time=inf"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, float], message: str) -> None:
    good = {
        "p": 0.5,
        "mts": 1.0,
        "mtf": 2.0,
        "rho_tn": 0.5,
        "rho_fn": 0.1,
        "d_tn": 1.0,
        "d_fn": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        ConfusionTimes.from_rates(**{**good, **changes})


def test_fates_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match="six fates: sum 0.89+, expected 1"):
        ConfusionTimes(0.3, 0.2, 0.2, 0.2, 1.0, 1.0)
    assert expected_makespan(ConfusionTimes(0.0, 0.5, 0.3, 0.2, 1.0, 1.0)) == math.inf


def simulated(rates: tuple[float, ...], draw: Any, count: int, seed: int) -> np.ndarray:
    """Makespans by drawing attempts, written apart from the package."""
    p, mts, mtf, rho_tn, rho_fn, d_tn, d_fn, reset, start = rates
    g = np.random.default_rng(seed)
    makespan, open_ = np.zeros(count), np.ones(count, dtype=bool)
    while open_.any():
        good = g.random(count) < p
        stop = g.random(count) < np.where(good, rho_fn, rho_tn)
        mean = np.where(stop, np.where(good, d_fn, d_tn), np.where(good, mts, mtf))
        won = good & ~stop
        makespan += open_ * (start + draw(g, mean) + np.where(won, 0.0, reset))
        open_ &= ~won
    return makespan


FAMILIES = {
    # Name: a draw, and the mean square in units of the squared mean.
    "exponential": (lambda g, mean: g.exponential(mean), 2.0),
    "gamma": (lambda g, mean: g.gamma(4, mean / 4), 1.25),
    "deterministic": (lambda g, mean: mean, 1.0),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "rates",
    [
        (0.49, 30.2, 67.7, 0.85, 0.10, 20.0, 15.0, 3.0, 1.0),
        (0.2, 10.0, 30.0, 0.5, 0.3, 5.0, 8.0, 0.0, 0.0),
    ],
)
def test_mean_and_variance_equal_simulation(family: str, rates: tuple[float, ...]) -> None:
    """40,000 makespans: within five standard errors (of the variance: fourth moment)."""
    draw, square = FAMILIES[family]
    times = ConfusionTimes.from_rates(*rates)
    means = np.array([rates[1], rates[2], rates[5], rates[6]])
    want, spread = expected_makespan(times), makespan_variance(times, square * means**2)
    if family == "exponential":
        assert makespan_variance(times) == pytest.approx(float(spread))
    sample = simulated(rates, draw, 40_000, 0)
    assert abs(sample.mean() - want) < 5 * sample.std() / np.sqrt(len(sample))
    centred = (sample - sample.mean()) ** 2
    assert abs(centred.mean() - spread) < 5 * centred.std() / np.sqrt(len(sample))


def recorded(count: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    success = g.random(count) < 0.5
    duration = np.where(success, g.gamma(4, 8, count), 68.0)
    called = np.where(g.random(count) < 0.4, g.uniform(1, 60, count), np.inf)
    return duration, success, called


def test_closed_form_of_measured_fates_is_the_ratio_estimator() -> None:
    duration, success, called = recorded()
    times = measured_times(duration, success, called, reset_time=3.0, start_time=1.0)
    won = success & (called >= duration)
    total = (np.minimum(duration, called) + 1.0).sum() + 3.0 * (~won).sum()
    assert expected_makespan(times) == pytest.approx(total / won.sum(), rel=1e-12)


def test_weights_are_repetitions() -> None:
    duration, success, called = recorded(30)
    weights = resampling_weights(30, 5, seed=1)
    assert (weights.sum(1) == 30).all()
    batch = expected_makespan(measured_times(duration, success, called, weights, 2.0))
    for row, w in zip(batch, weights.astype(int), strict=True):
        copies = (np.repeat(x, w) for x in (duration, success, called))
        assert row == pytest.approx(float(expected_makespan(measured_times(*copies, None, 2.0))))


@settings(max_examples=30)
@given(st.integers(2, 40), st.integers(0, 10**6))
def test_best_cutoff_is_the_best_of_all(count: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    duration = g.integers(1, 12, count).astype(float)
    success = g.random(count) < 0.6
    best = best_cutoff(duration, success, 1.5, 0.5)
    tried = [*np.unique(duration), np.inf]
    all_ = [cutoff_makespan(duration, success, t, 1.5, 0.5) for t in tried]
    assert best.makespan == pytest.approx(min(all_))
    if success.any():
        assert cutoff_makespan(duration, success, best.seconds, 1.5, 0.5) == pytest.approx(
            best.makespan
        )


def test_replay_and_bootstrap_agree_with_the_closed_form() -> None:
    duration, success, called = recorded()
    want = float(expected_makespan(measured_times(duration, success, called, reset_time=3.0)))
    sample = replay(duration, success, called, 20_000, 3.0)
    assert abs(sample.mean() - want) < 5 * sample.std() / np.sqrt(len(sample))
    spread = bootstrap_makespan(duration, success, called, 3.0)
    assert spread.makespan == pytest.approx(want)
    assert spread.low < want < spread.high
    with pytest.raises(ValueError, match="no recorded attempt succeeds"):
        replay([1.0], [False])
    with pytest.raises(ValueError, match=r"expected \(A,\) each"):
        measured_times([1.0, 2.0], [True])
