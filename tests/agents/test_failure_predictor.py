"""The failure predictor learns a planted sign, is calibrated, and never sees what it may not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo.agents.failure_predictor import (
    DilatedFailurePredictor,
    Windows,
    auc,
    calibration_error,
    split_attempts,
    windows_of,
)


def planted(count: int = 160, seed: int = 0, strength: float = 1.0) -> Windows:
    """Attempts of 2 to 6 s; failing ones push harder in z, slowly, under noise."""
    g = np.random.default_rng(seed)
    success = g.random(count) < 0.5
    wrenches = []
    for won in success:
        n = int(g.integers(100, 301)) if won else 300
        wrench = g.normal(size=(n, 6)).astype(np.float32)
        wrench[:, 2] -= 4.0 + (0.0 if won else strength)
        wrenches.append(wrench)
    return windows_of(wrenches, success)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.sampled_from([0.1, 0.5, 1.0]))
def test_windows_end_before_the_attempt_does(lengths: list[int], stride: float) -> None:
    wrenches = [
        np.arange(1, n + 1, dtype=np.float32)[:, None] * np.ones(6, np.float32) for n in lengths
    ]
    step = round(50 * stride)
    expected = [(n - 1) // step for n in lengths]
    if not any(expected):
        with pytest.raises(ValueError, match="no attempt is longer"):
            windows_of(wrenches, [True] * len(lengths), 2.0, stride)
        return
    w = windows_of(wrenches, [True] * len(lengths), 2.0, stride)
    assert np.bincount(w.attempt, minlength=len(lengths)).tolist() == expected
    assert (w.time < w.duration[w.attempt]).all()
    for ft, t in zip(w.ft, w.time, strict=True):
        end = round(50 * t)
        want = np.concatenate([np.zeros(100), np.arange(1, end + 1)])[-100:]
        assert (ft == want).all()


def test_windows_of_some_attempts() -> None:
    w = planted(12)
    some = w.of(np.array([7, 2, 9]))
    assert (some.success == w.success[[7, 2, 9]]).all()
    for place, attempt in enumerate((7, 2, 9)):
        assert (some.ft[some.attempt == place] == w.ft[w.attempt == attempt]).all()
    assert (np.diff(some.attempt) >= 0).all()
    totals = np.bincount(w.attempt, w.weight, minlength=12)
    np.testing.assert_allclose(totals, 1.0)


def test_splits_are_of_whole_attempts() -> None:
    parts = split_attempts(100, (0.6, 0.15), seed=3)
    assert [len(p) for p in parts] == [60, 15, 25]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    with pytest.raises(ValueError, match="sum below 1"):
        split_attempts(10, (0.6, 0.4), 0)


@pytest.fixture(scope="module")
def fitted() -> tuple[DilatedFailurePredictor, Windows]:
    everything = planted(240)
    training, calibration, test = (
        everything.of(part) for part in split_attempts(240, (0.5, 0.2), 0)
    )
    predictor = DilatedFailurePredictor(seed=1, num_epochs=3).fit(training, calibration)
    return predictor, calibration, test


def test_learns_a_planted_sign(fitted: Any) -> None:
    predictor, _, test = fitted
    probability = predictor.predict_proba(test.ft)
    fails = ~test.success[test.attempt]
    assert auc(probability, fails) > 0.8  # first windows are three quarters empty
    assert calibration_error(probability, fails, test.weight) < 0.25  # of 72 attempts


def test_calibration_is_the_weighted_maximum_of_likelihood(fitted: Any) -> None:
    """At the optimum the mean probability is the share of failures, and no change is better."""
    predictor, windows, _ = fitted
    fails, weight = ~windows.success[windows.attempt], windows.weight / windows.weight.sum()

    def loss() -> float:
        p = predictor.predict_proba(windows.ft)
        return float(-(weight * np.log(np.where(fails, p, 1 - p))).sum())

    mean = float((weight * predictor.predict_proba(windows.ft)).sum())
    assert mean == pytest.approx(float((weight * fails).sum()), abs=2e-3)
    best, fitted_to = loss(), (predictor.slope, predictor.offset)
    for change in ((0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1)):
        predictor.slope, predictor.offset = (a + b for a, b in zip(fitted_to, change, strict=True))
        assert loss() > best
    predictor.slope, predictor.offset = fitted_to


def test_labels_dealt_at_random_teach_nothing() -> None:
    everything = planted(200)
    fake = everything._replace(success=np.random.default_rng(5).permutation(everything.success))
    training, calibration, test = (fake.of(p) for p in split_attempts(200, (0.5, 0.2), 0))
    predictor = DilatedFailurePredictor(seed=1, num_epochs=2).fit(training, calibration)
    score = predictor.predict_proba(test.ft)
    per_attempt = np.bincount(test.attempt, score * test.weight)
    n, m = test.success.sum(), (~test.success).sum()
    assert abs(auc(per_attempt, ~test.success) - 0.5) < 4 * math.sqrt((n + m + 1) / (12 * n * m))


def test_is_reproducible_and_survives_a_file(fitted: Any, tmp_path: Any) -> None:
    everything = planted(60)
    parts = [everything.of(p) for p in split_attempts(60, (0.7,), 0)]
    a, b, c = (DilatedFailurePredictor(seed=s, num_epochs=1).fit(*parts) for s in (4, 4, 5))
    pa, pb, pc = (p.predict_proba(everything.ft) for p in (a, b, c))
    assert (pa == pb).all() and (pa != pc).any()
    predictor, _, test = fitted
    torch.save(predictor.state_dict(), tmp_path / "p.pt")
    again = DilatedFailurePredictor.from_state_dict(torch.load(tmp_path / "p.pt"))
    assert (again.predict_proba(test.ft) == predictor.predict_proba(test.ft)).all()


def test_a_window_is_scored_alone(fitted: Any) -> None:
    """Neither its neighbours nor its place in the batch matter (dropout is off)."""
    predictor, _, test = fitted
    whole = predictor.predict_proba(test.ft[:40])
    alone = np.concatenate([predictor.predict_proba(test.ft[i : i + 1]) for i in range(40)])
    np.testing.assert_allclose(alone, whole, rtol=1e-4, atol=1e-6)


def test_bad_input_is_named() -> None:
    w = planted(30)
    winners = w.of(np.flatnonzero(w.success))
    with pytest.raises(ValueError, match="attempts end in success; record more"):
        DilatedFailurePredictor().fit(winners, w)
    with pytest.raises(ValueError, match="window=20: shorter than"):
        DilatedFailurePredictor(window=20)
    with pytest.raises(TypeError, match="did you mean 'filters'"):
        DilatedFailurePredictor(filter=3)


def test_auc_and_calibration_error_by_hand() -> None:
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75
    assert auc(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert math.isnan(auc(np.array([1.0]), np.array([True])))
    p, y = np.array([0.25, 0.25, 0.75, 0.75]), np.array([0.0, 1.0, 1.0, 1.0])
    assert calibration_error(p, y, np.ones(4)) == pytest.approx(0.25)
