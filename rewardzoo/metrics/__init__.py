"""Measures of what came out: statistics of few runs, and distances between rewards."""

from __future__ import annotations

from .statistics import (
    CurveInterval,
    Interval,
    PairedDifference,
    bootstrap_curve,
    holm,
    iqm,
    paired_difference,
    probability_of_improvement,
    stratified_bootstrap,
)

__all__ = [
    "CurveInterval",
    "Interval",
    "PairedDifference",
    "bootstrap_curve",
    "holm",
    "iqm",
    "paired_difference",
    "probability_of_improvement",
    "stratified_bootstrap",
]
