"""Verdicts from intervals: the ways in which most claims are decided, each written once.

A claim holds where the whole interval lies where the claim says, fails where the whole interval
lies elsewhere, and is inconclusive between.
"""

from __future__ import annotations

from dataclasses import replace

from .metrics.statistics import Interval, PairedDifference
from .results import Verdict


def above(claim: str, found: Interval, detail: str, bar: float = 0.0) -> Verdict:
    """Whether ``found`` lies above ``bar``.

    Args:
        claim: the claim, one sentence.
        found: an interval, or a paired difference, whose test of 0 is reported where the bar is 0.
        detail: how it was measured.
        bar: fixed before looking.

    Example:
        >>> above("It helps.", Interval(2.0, 1.0, 3.0, 5), "difference of returns").outcome
        'holds'
    """
    outcome = "holds" if found.low > bar else "fails" if found.high < bar else "inconclusive"
    return decided(claim, outcome, found, detail, tested=bar == 0.0)


def below(claim: str, found: Interval, detail: str, bar: float = 0.0) -> Verdict:
    """Whether ``found`` lies below ``bar``; see ``above``."""
    outcome = "holds" if found.high < bar else "fails" if found.low > bar else "inconclusive"
    return decided(claim, outcome, found, detail, tested=bar == 0.0)


def within(claim: str, found: Interval, detail: str, margin: float) -> Verdict:
    """Whether ``found`` lies within ``margin`` of 0: a claim of equality; see ``above``."""
    if -margin < found.low and found.high < margin:
        outcome = "holds"
    elif found.high < -margin or found.low > margin:
        outcome = "fails"
    else:
        outcome = "inconclusive"
    return decided(claim, outcome, found, detail, tested=False)


def decided(claim: str, outcome: str, found: Interval, detail: str, tested: bool = True) -> Verdict:
    """A verdict whose outcome is known, with the effect, interval and n of ``found``.

    Args:
        claim: the claim, one sentence.
        outcome: "holds", "fails" or "inconclusive".
        found: what is reported; of a paired difference the p value too, unless not ``tested``.
        detail: how it was decided.
        tested: whether the p value of "no difference" speaks of this claim.
    """
    verdict = Verdict(claim, outcome, found.point, found.low, found.high, found.n, detail)
    if tested and isinstance(found, PairedDifference):
        return replace(verdict, p_value=found.p_value)
    return verdict
