"""Calibration: what is calibrated has no error, what is not has the error that it was given."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo.rlhf.calibration import (
    brier,
    ece,
    fit_temperature,
    preference_calibration,
    squared_ece,
)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_calibrated_answers_have_an_error_that_vanishes_like_the_root_of_bins_over_n(equal_mass):
    rng = np.random.default_rng(0)
    for n in (1_000, 100_000):
        p = rng.random(n)
        found = ece(p, rng.random(n) < p, equal_mass=equal_mass)
        assert found < 2 * math.sqrt(10 / n)  # the mean of |N(0, p(1-p) 10/n)| is below a third


def test_overconfident_answers_have_the_error_of_their_confidence():
    assert ece(np.full(10, 0.9), np.zeros(10)) == pytest.approx(0.9)
    assert ece(np.full(10, 0.9), np.zeros(10), equal_mass=True) == pytest.approx(0.9)
    assert brier(np.full(10, 0.9), np.zeros(10)) == pytest.approx(0.81)
    with pytest.raises(ValueError, match="1.5"):
        ece([1.5], [1])


def test_bins_count_by_what_is_in_them_and_a_preference_is_as_sure_as_its_likelier_answer():
    """Three answers in the last bin, of which one is right, and one in the second; none elsewhere."""
    confidence, correct = [0.95, 1.0, 0.9, 0.15], [1, 0, 0, 1]
    expected = (3 * abs(1 / 3 - 0.95) + abs(1 - 0.15)) / 4
    assert ece(confidence, correct) == pytest.approx(expected)
    # Pairs of P(chosen is better) = 3/4, 1/4 and 1/4 are all 3/4 sure; two of them are wrong.
    found = preference_calibration([math.log(3), -math.log(3), -math.log(3)])
    assert found["ece"] == pytest.approx(0.75 - 1 / 3)
    assert found["brier"] == pytest.approx((0.25**2 + 2 * 0.75**2) / 3)
    assert found["log_loss"] == pytest.approx(-(math.log(0.75) + 2 * math.log(0.25)) / 3)
    assert preference_calibration([0.0])["ece"] == pytest.approx(0.0)  # a tie is half right


def test_the_squared_error_has_no_bias_where_the_plain_one_has():
    rng = np.random.default_rng(1)
    plain, squared = [], []
    for _ in range(400):
        p = np.repeat([0.2, 0.5, 0.8], 20)
        y = rng.random(60) < p
        plain.append(ece(p, y))
        squared.append(squared_ece(p, y, bins=3))
    error = 5 * np.std(squared) / 20
    assert np.mean(plain) > 0.03 and abs(np.mean(squared)) < error
    off = [squared_ece(np.full(60, 0.5), rng.random(60) < 0.8, bins=3) for _ in range(400)]
    assert np.mean(off) == pytest.approx(0.09, abs=5 * np.std(off) / 20)


def test_a_reward_models_scale_is_found_and_undone():
    rng = np.random.default_rng(0)
    truth = 2 * rng.normal(size=50_000)
    sign = np.where(rng.random(50_000) < 1 / (1 + np.exp(-truth)), 1, -1)
    margins = 5 * truth * sign  # as if trained until its scores were five times too large
    temperature = fit_temperature(margins)
    assert temperature == pytest.approx(5.0, rel=0.05)
    before, after = preference_calibration(margins), preference_calibration(margins, temperature)
    assert after["ece"] < 0.02 < 0.1 < before["ece"]
    assert after["log_loss"] < before["log_loss"] and after["brier"] < before["brier"]


def test_margins_that_say_nothing_have_no_temperature():
    assert fit_temperature(np.array([-1.0, 1.0])) == math.inf
    assert fit_temperature(np.array([-2.0, 1.0])) == math.inf
    assert fit_temperature(np.array([2.0, 1.0])) < 0.01  # every pair is in the right order
    assert preference_calibration(np.zeros(4))["log_loss"] == pytest.approx(math.log(2))


@settings(deadline=None)  # no timing assertion
# A temperature below a millionth of the largest margin is not looked for: margins differ by more.
@given(st.lists(st.integers(-20_000, 20_000).map(lambda x: x / 1000), min_size=3, max_size=30))
def test_no_other_temperature_has_a_smaller_loss(margins):
    best = fit_temperature(margins)
    least = preference_calibration(margins, best)["log_loss"]
    for factor in (0.9, 1.1, 2.0):
        other = best * factor if math.isfinite(best) else factor
        assert least <= preference_calibration(margins, other)["log_loss"] + 1e-9


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_finite_number_is_refused_by_row(bad):
    x, ok = [0.5, 0.5, bad], [0, 1, 1]
    for match, call in (
        ("confidence, row 2", lambda: ece(x, ok)),
        ("correct, row 2", lambda: ece([0.5] * 3, x)),
        ("confidence, row 2", lambda: squared_ece(x, ok)),
        ("correct, row 2", lambda: squared_ece([0.5] * 3, x)),
        ("confidence, row 2", lambda: brier(x, ok)),
        ("correct, row 2", lambda: brier([0.5] * 3, x)),
        ("margins, row 2", lambda: preference_calibration(x)),
        ("margins, row 2", lambda: fit_temperature(x)),
    ):
        with pytest.raises(ValueError, match=f"{match}: {bad}, expected finite numbers"):
            call()
