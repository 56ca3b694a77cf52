"""Statistics of few runs against closed forms, enumeration, scipy, rliable and simulation."""

from __future__ import annotations

import itertools
import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewardzoo.metrics.statistics import (
    bootstrap_curve,
    holm,
    iqm,
    paired_difference,
    probability_of_improvement,
    stratified_bootstrap,
    wilson,
)

SCORES = np.random.default_rng(3).normal(size=(7, 4))


def rliable(module: str) -> ModuleType:
    """A module of rliable; skipped where its dependency arch does not import."""
    pytest.importorskip("rliable", exc_type=ImportError)
    try:
        return __import__(f"rliable.{module}", fromlist=[module])
    except (ImportError, TypeError) as error:  # arch 7.2 raises TypeError with pandas 3
        pytest.skip(f"rliable.{module} does not import: {error}")


def test_iqm_drops_a_quarter_at_each_end() -> None:
    assert iqm([9, 1, 2, 3, 4, 5, 6, -50]) == np.mean([2, 3, 4, 5])
    assert iqm([1.0, 2.0, 6.0]) == 3.0  # fewer than four: the mean


@settings(deadline=None)  # no timing assertion
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_iqm_equals_scipy_trim_mean(values: list[float]) -> None:
    # Sums of at most 30 numbers below 1e6 differ by rounding only: 30 * 1e6 * 2**-52 < 1e-8.
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12, abs=1e-8)


def test_iqm_reduces_the_axis_it_is_given() -> None:
    np.testing.assert_allclose(iqm(SCORES, axis=0), stats.trim_mean(SCORES, 0.25, axis=0))


def test_iqm_equals_rliable() -> None:
    metrics = rliable("metrics")
    assert iqm(SCORES) == pytest.approx(metrics.aggregate_iqm(SCORES), rel=1e-12)


def test_probability_of_improvement_equals_rliable() -> None:
    metrics = rliable("metrics")
    x, y = SCORES.round(1), SCORES[:5, ::-1].round(1)  # rounded, so that ties occur
    ours = probability_of_improvement(x, y).point
    assert ours == pytest.approx(metrics.probability_of_improvement(x, y), rel=1e-12)


def test_bootstrap_interval_equals_rliable() -> None:
    library, metrics = rliable("library"), rliable("metrics")
    reps = 5_000
    np.random.seed(0)  # noqa: NPY002 (rliable draws from the global generator)
    _, theirs = library.get_interval_estimates(
        {"a": SCORES}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=reps
    )
    ours = stratified_bootstrap(SCORES, reps=reps)
    # A 2.5 % quantile of 5,000 draws has standard error sqrt(.025 * .975 / reps) / density; a
    # normal's density there is .0584 / sd, so about .038 sd, and 5 sigma of a difference .27 sd.
    sd = (ours.high - ours.low) / 3.92
    np.testing.assert_allclose([ours.low, ours.high], theirs["a"][:, 0], rtol=0, atol=0.27 * sd)


def test_bootstrap_interval_equals_enumeration_of_all_resamples() -> None:
    x = np.array([0.0, 1.0, 3.0, 7.0])
    means = np.sort([np.mean(r) for r in itertools.product(x, repeat=4)])
    got = stratified_bootstrap(x, np.mean, reps=200_000, confidence=0.8)
    assert got.point == x.mean() and got.n == 4
    # Between these ranks lie the true 10 % and 90 % points, 5 sigma of 200,000 draws either side.
    slack = 5 * math.sqrt(0.1 * 0.9 / 200_000)
    low = np.quantile(means, [0.1 - slack, 0.1 + slack])
    assert low[0] <= got.low <= low[1]
    high = np.quantile(means, [0.9 - slack, 0.9 + slack])
    assert high[0] <= got.high <= high[1]


def test_bootstrap_resamples_within_tasks_only() -> None:
    apart = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])  # no spread within a task
    got = stratified_bootstrap(apart, np.mean)
    assert (got.low, got.point, got.high) == (50.0, 50.0, 50.0)


def test_bootstrap_is_equivariant_and_repeatable() -> None:
    a, b = stratified_bootstrap(SCORES), stratified_bootstrap(3 + 2 * SCORES)
    np.testing.assert_allclose([b.low, b.high], [3 + 2 * a.low, 3 + 2 * a.high])
    assert stratified_bootstrap(SCORES) == a
    assert stratified_bootstrap(SCORES, seed=1) != a


def test_wide_input_is_resampled_in_parts_with_the_same_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = bootstrap_curve(SCORES)
    monkeypatch.setattr("rewardzoo.metrics.statistics._CHUNK", 30_000)
    parts = bootstrap_curve(SCORES)
    np.testing.assert_array_equal(parts.low, whole.low)
    np.testing.assert_array_equal(parts.high, whole.high)
    assert stratified_bootstrap(SCORES).low < iqm(SCORES) < stratified_bootstrap(SCORES).high


def test_curve_intervals_are_those_of_each_point() -> None:
    curve = bootstrap_curve(SCORES, np.mean, reps=4000)
    assert curve.low.shape == curve.point.shape == (4,) and curve.n == 7
    for j in range(4):
        one = stratified_bootstrap(SCORES[:, j], np.mean, reps=4000, seed=j)
        # As above at reps = 4000: standard error .042 sd, 5 sigma of a difference .3 sd.
        sd = SCORES[:, j].std() / math.sqrt(7)
        assert curve.point[j] == pytest.approx(one.point)
        assert curve.low[j] == pytest.approx(one.low, abs=0.3 * sd)
        assert curve.high[j] == pytest.approx(one.high, abs=0.3 * sd)


def test_one_run_has_no_interval() -> None:
    one = stratified_bootstrap([2.0])
    assert one.point == 2.0 and one.n == 1 and math.isnan(one.low) and math.isnan(one.high)
    assert np.isnan(bootstrap_curve([[1.0, 2.0]]).low).all()
    assert math.isnan(probability_of_improvement([1.0], [0.0]).low)
    assert math.isnan(paired_difference([1.0], [0.0]).high)


def test_probability_of_improvement_counts_ties_half() -> None:
    got = probability_of_improvement([1.0, 2.0, 3.0], [0.0, 2.0])
    assert got.point == 4.5 / 6 and got.n == 2
    assert got.low <= got.point <= got.high
    assert probability_of_improvement([2.0, 3.0], [0.0, 1.0]).low == 1.0


def test_probability_of_improvement_interval_equals_enumeration() -> None:
    x, y = np.array([1.0, 2.0, 5.0]), np.array([0.0, 3.0])
    every = [
        np.mean([(a > b) + 0.5 * (a == b) for a in r for b in s])
        for r in itertools.product(x, repeat=3)
        for s in itertools.product(y, repeat=2)
    ]
    reps = 100_000
    got = probability_of_improvement(x, y, reps=reps, confidence=0.5)
    slack = 5 * math.sqrt(0.25 * 0.75 / reps)
    low = np.quantile(every, [0.25 - slack, 0.25 + slack])
    assert low[0] <= got.low <= low[1]


def test_sign_flip_p_value_equals_enumeration_by_hand() -> None:
    d = np.array([1.0, 2.0, -0.5, 3.0])
    means = [np.mean(d * s) for s in itertools.product([-1, 1], repeat=4)]
    both = paired_difference(d, np.zeros(4))
    assert both.exact and both.p_floor == 2 / 16
    assert both.p_value == sum(abs(m) >= d.mean() for m in means) / 16 == 4 / 16
    greater = paired_difference(d, np.zeros(4), alternative="greater")
    assert greater.p_value == sum(m >= d.mean() for m in means) / 16 == 2 / 16
    less = paired_difference(d, np.zeros(4), alternative="less")
    assert less.p_value == sum(m <= d.mean() for m in means) / 16


@settings(deadline=None)  # no timing assertion
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9))
def test_sign_flip_p_value_equals_scipy(d: list[float]) -> None:
    x = np.round(d, 2)
    # scipy counts ties within a relative 1e-14 and enumerates when asked for all resamples.
    want = stats.permutation_test(
        (x,),
        lambda v, axis: abs(np.sum(np.round(v * 100), axis=axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert paired_difference(x, 0 * x).p_value == pytest.approx(want.pvalue)


def test_sign_flip_at_random_agrees_with_the_exact_test(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.default_rng(5).normal(0.4, 1, size=12)
    exact = paired_difference(d, 0 * d)
    monkeypatch.setattr("rewardzoo.metrics.statistics._EXACT_UP_TO", 0)
    reps = 40_000
    drawn = paired_difference(d, 0 * d, reps=reps)
    assert not drawn.exact and drawn.p_floor == 1 / (reps + 1)
    sigma = math.sqrt(exact.p_value * (1 - exact.p_value) / reps)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=5 * sigma + 1 / reps)


def test_five_seeds_cannot_reach_a_two_sided_five_percent() -> None:
    huge = paired_difference([1e6] * 5, [0.0, 1.0, 2.0, 3.0, 4.0])
    assert huge.p_value == huge.p_floor == 0.0625
    one_sided = paired_difference([1e6] * 5, np.arange(5.0), alternative="greater")
    assert one_sided.p_value == 0.03125


def test_equal_runs_differ_by_nothing() -> None:
    got = paired_difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (got.point, got.low, got.high, got.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_pairing_removes_what_the_seeds_share() -> None:
    seed_effect = np.random.default_rng(0).normal(0, 10, size=8)
    got = paired_difference(seed_effect + 1, seed_effect)
    assert got.low == pytest.approx(1) and got.high == pytest.approx(1) and got.p_value == 2 / 256


def test_holm_equals_the_hand_computed_case() -> None:
    # .005*4 = .02; .01*3 = .03; .03*2 = .06; .04*1 = .04, raised to .06 by monotonicity.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.6]), [1.0, 1.0])
    assert holm([]).shape == (0,)


@settings(deadline=None)  # no timing assertion
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    order = sorted(range(len(p)), key=lambda i: p[i])
    rejected = set()
    for rank, i in enumerate(order):
        if p[i] * (len(p) - rank) > alpha:
            break
        rejected.add(i)
    assert {i for i, q in enumerate(holm(p)) if q <= alpha} == rejected


def test_coverage_is_what_the_docstring_says() -> None:
    rng = np.random.default_rng(11)
    studies = 1000
    for n, says in ((5, 0.90), (20, 0.94)):
        hits = 0
        for study in range(studies):
            got = stratified_bootstrap(rng.normal(size=n), reps=400, seed=study)
            hits += got.low <= 0 <= got.high
        # 5 sigma of 1000 studies at .9, and .01 for the table's rounding.
        assert hits / studies == pytest.approx(says, abs=5 * math.sqrt(0.09 / studies) + 0.01)


def test_sign_flip_test_keeps_its_level() -> None:
    rng = np.random.default_rng(12)
    studies = 2000
    p = [
        paired_difference(rng.normal(size=8), rng.normal(size=8), reps=2).p_value
        for _ in range(studies)
    ]
    # Exact: P(p <= 12/256) = 12/256 for continuous data.
    level = 12 / 256
    tolerance = 5 * math.sqrt(level * (1 - level) / studies)
    assert np.mean(np.array(p) <= level + 1e-9) == pytest.approx(level, abs=tolerance)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: stratified_bootstrap([1.0, math.nan, math.inf, math.nan]),
            r"scores: 3 non-finite values of 4, the first at index \[1\]",
        ),
        (lambda: stratified_bootstrap([]), r"scores: shape \(0,\) is empty"),
        (lambda: stratified_bootstrap(3.0), r"scores: shape \(\), expected \(runs,\)"),
        (lambda: stratified_bootstrap("abc"), r"scores: expected an array of numbers"),
        (lambda: stratified_bootstrap([1.0, 2.0], reps=0), r"reps=0: expected at least 1"),
        (lambda: stratified_bootstrap([1.0, 2.0], confidence=95), r"confidence=95: expected"),
        (lambda: stratified_bootstrap([1.0, 2.0], lambda x: x), r"must accept axis="),
        (
            lambda: stratified_bootstrap([1.0, 2.0], lambda x, axis: x),
            r"returned shape \(1, 2\), expected \(1,\)",
        ),
        (lambda: bootstrap_curve([1.0, 2.0]), r"curves: shape \(2,\), expected"),
        (lambda: probability_of_improvement([[1.0, 2.0]], [1.0]), r"y: 1 tasks, x has 2"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), r"y: 1 seeds, x has 2"),
        (
            lambda: paired_difference([1.0], [1.0], alternative="more"),  # type: ignore[arg-type]
            r"alternative='more': expected two-sided",
        ),
        (lambda: holm([0.1, 1.2]), r"p_values: 1.2 is outside \[0, 1\]"),
        (lambda: holm([math.nan]), r"p_values: 1 non-finite"),
        (lambda: iqm([]), r"x: shape \(0,\) has no values"),
    ],
)
def test_bad_input_names_the_argument(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


@given(st.integers(1, 200), st.data())
def test_wilsons_interval_is_scipys(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    theirs = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
