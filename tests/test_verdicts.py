"""Verdicts from intervals: each way can come out each way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rewardzoo.metrics.statistics import Interval, paired_difference
from rewardzoo.verdicts import above, below, decided, within


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 5)


@pytest.mark.parametrize(
    ("low", "high", "over", "under", "near"),
    [
        (0.6, 0.9, "holds", "fails", "fails"),
        (0.1, 0.4, "fails", "holds", "holds"),
        (0.4, 0.6, "inconclusive", "inconclusive", "inconclusive"),
        (-0.9, -0.6, "fails", "holds", "fails"),
        (0.5, 0.5, "inconclusive", "inconclusive", "inconclusive"),  # on the bar is on neither side
    ],
)
def test_the_whole_interval_decides(
    low: float, high: float, over: str, under: str, near: str
) -> None:
    found = interval(low, high)
    assert above("", found, "", 0.5).outcome == over
    assert below("", found, "", 0.5).outcome == under
    assert within("", found, "", 0.5).outcome == near


def test_the_test_of_no_difference_is_reported_where_it_speaks_of_the_claim() -> None:
    d = paired_difference(np.arange(1.0, 7.0), np.zeros(6))
    reported: list[tuple[Any, bool]] = [
        (above("", d, ""), True),
        (below("", d, ""), True),
        (above("", d, "", 2.0), False),
        (within("", d, "", 2.0), False),
        (decided("", "holds", d, "", tested=False), False),
        (above("", interval(1, 2), ""), False),
    ]
    for verdict, tested in reported:
        assert (verdict.p_value is not None) is tested
    first = reported[0][0]
    assert (first.effect, first.low, first.high, first.n) == (d.point, d.low, d.high, 6)
    assert first.p_value == d.p_value == pytest.approx(2 / 64)
