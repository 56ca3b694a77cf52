"""The expected makespan of trial and error, in closed form (Watson and Correll 2023).

An attempt succeeds with probability ``p`` after ``mts`` seconds on average, or fails after ``mtf``.
While it runs, a predictor may call a failure, upon which the attempt is given up. The makespan M is
the time from the first start to the first success. As in the paper, *positive* means predicted
success, so that an attempt has one of six fates:

====================  =======================  =====================  ==================
truth                 predicted success        predicted failure      no call
====================  =======================  =====================  ==================
would succeed         TP: runs to success      FN: thrown away        NCS: runs to success
would fail            FP: runs to failure      TN: given up early     NCF: runs to failure
====================  =======================  =====================  ==================

Attempts are independent, so M is a geometric sum, and its mean depends on the means of the running
times alone, not on their distributions. All functions broadcast over arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ConfusionTimes:
    """What an attempt can come to: joint probabilities of the six fates, and mean times.

    Args:
        tp: probability that the attempt would succeed and is let run after a call of success.
        fn: that it would succeed and is given up.
        tn: that it would fail and is given up.
        fp: that it would fail and is let run after a call of success.
        mts: s, mean time of an attempt that runs to success.
        mtf: s, mean time of an attempt that runs to failure.
        d_tn: s, mean time of the call in attempts that would fail.
        d_fn: s, mean time of the call in attempts that would succeed.
        ncs: probability that it would succeed and nothing is called.
        ncf: that it would fail and nothing is called.
        reset_time: s, lost after every attempt without success.
        start_time: s, at the beginning of every attempt.

    Raises:
        ValueError: for probabilities outside [0, 1] or that do not sum to 1 (to 1e-6), and for
            negative times.
    """

    tp: ArrayLike
    fn: ArrayLike
    tn: ArrayLike
    fp: ArrayLike
    mts: ArrayLike
    mtf: ArrayLike
    d_tn: ArrayLike = 0.0
    d_fn: ArrayLike = 0.0
    ncs: ArrayLike = 0.0
    ncf: ArrayLike = 0.0
    reset_time: ArrayLike = 0.0
    start_time: ArrayLike = 0.0

    def __post_init__(self) -> None:
        """Check and turn into arrays."""
        chances = ("tp", "fn", "tn", "fp", "ncs", "ncf")
        for field in fields(self):
            value = np.asarray(getattr(self, field.name), dtype=np.float64)
            object.__setattr__(self, field.name, value)
            if field.name in chances:
                _check_chance(field.name, value)
            else:
                _check_time(field.name, value)
        total = sum(getattr(self, name) for name in chances)
        if (np.abs(total - 1.0) > 1e-6).any():
            raise ValueError(f"probabilities of the six fates: sum {total}, expected 1")

    @classmethod
    def from_rates(
        cls,
        p: ArrayLike,
        mts: ArrayLike,
        mtf: ArrayLike,
        rho_tn: ArrayLike,
        rho_fn: ArrayLike,
        d_tn: ArrayLike,
        d_fn: ArrayLike,
        reset_time: ArrayLike = 0.0,
        start_time: ArrayLike = 0.0,
    ) -> ConfusionTimes:
        """From success probability and rates of calls.

        ``P_TP = p (1 - rho_FN)``, ``P_FN = p rho_FN``, ``P_TN = (1 - p) rho_TN``,
        ``P_FP = (1 - p)(1 - rho_TN)``; attempts without a call count as called a success.

        Args:
            p: probability that an attempt would succeed.
            mts: s, mean time to success.
            mtf: s, mean time to failure.
            rho_tn: P(given up | would fail).
            rho_fn: P(given up | would succeed).
            d_tn: s, mean time of a call when the attempt would fail.
            d_fn: s, mean time of a call when the attempt would succeed.
            reset_time: s, lost after every attempt without success.
            start_time: s, at the beginning of every attempt.
        """
        p, rho_tn, rho_fn = (np.asarray(x, dtype=np.float64) for x in (p, rho_tn, rho_fn))
        for name, value in (("p", p), ("rho_tn", rho_tn), ("rho_fn", rho_fn)):
            _check_chance(name, value)
        return cls(
            tp=p * (1 - rho_fn),
            fn=p * rho_fn,
            tn=(1 - p) * rho_tn,
            fp=(1 - p) * (1 - rho_tn),
            mts=mts,
            mtf=mtf,
            d_tn=d_tn,
            d_fn=d_fn,
            reset_time=reset_time,
            start_time=start_time,
        )

    @property
    def success(self) -> Any:
        """``q = P_TP + P_NCS``: the probability that an attempt ends the task."""
        return np.add(self.tp, self.ncs)

    @property
    def cells(self) -> list[tuple[Array, Array]]:
        """Probability and mean time of each fate, those with a success first."""
        pairs = [
            (self.tp, self.mts),
            (self.ncs, self.mts),
            (self.fn, self.d_fn),
            (self.tn, self.d_tn),
            (self.fp, self.mtf),
            (self.ncf, self.mtf),
        ]
        return [(np.asarray(a), np.asarray(b)) for a, b in pairs]


def expected_makespan(times: ConfusionTimes, legacy: bool = False) -> Any:
    """The mean makespan with preemption; infinite where no attempt can end the task.

    ``E[attempt] = s0 + sum over fates of P * mean time``, ``q = P_TP + P_NCS``,
    ``E[M] = (E[attempt] + r (1 - q)) / q``.

    Args:
        times: fates and times.
        legacy: the formula as the authors' laboratory published it, for reproduction only: without
            reset time, and with the denominator ``1 - P_FN - P_FP - P_TN``, which omits ``P_NCF``
            and so underestimates wherever undecided attempts fail.
    """
    attempt = times.start_time + sum(a * b for a, b in times.cells)
    q = times.success
    if legacy:
        return _divide(attempt, 1.0 - np.asarray(times.fn) - times.fp - times.tn)
    return _divide(attempt + times.reset_time * (1.0 - q), q)


def reactive_makespan(
    p: ArrayLike,
    mts: ArrayLike,
    mtf: ArrayLike,
    reset_time: ArrayLike = 0.0,
    start_time: ArrayLike = 0.0,
) -> Any:
    """The mean makespan when every attempt runs to its end.

    ``E0 = MTS + s0 + ((1 - p) / p) (MTF + s0 + r)``.
    """
    return expected_makespan(
        ConfusionTimes.from_rates(p, mts, mtf, 0.0, 0.0, 0.0, 0.0, reset_time, start_time)
    )


def jump_process_makespan(times: ConfusionTimes) -> float:
    """The mean makespan by a second route: absorption time of a Markov jump process.

    States: one a fate, and the reset. Fate i is left at rate ``1 / mean_i``, for absorption after a
    success, else for the reset; the reset is left at rate ``1 / r`` for a fate drawn from the
    probabilities ``pi``. ``E[M] = pi' (-Q)^-1 1``. (Fates that never occur or take no time, and a
    reset without a duration, are states without a sojourn and are left out.) For one setting.

    Paper: section III of Watson and Correll (2023), with exponential sojourns.
    """
    cells = [(float(a), float(b) + float(times.start_time)) for a, b in times.cells]
    reset = float(times.reset_time)
    ends = [True, True, False, False, False, False]
    if not float(times.success) > 0:
        return math.inf
    held = [i for i, (a, b) in enumerate(cells) if a > 0 and b > 0]
    instant_retry = sum(a for i, (a, b) in enumerate(cells) if b == 0 and not ends[i])
    size = len(held) + (reset > 0)
    rates = np.zeros((size, size))
    start = np.array([cells[i][0] for i in held] + [0.0] * (reset > 0))
    if reset > 0:
        start[-1] = instant_retry  # an attempt without a duration goes straight to the reset
    else:
        start = start / (1.0 - instant_retry)
    for row, i in enumerate(held):
        rate = 1.0 / cells[i][1]
        rates[row, row] -= rate
        if not ends[i]:
            target = np.eye(size)[-1] if reset > 0 else start
            rates[row] += rate * target
    if reset > 0:
        rates[-1] += start / reset
        rates[-1, -1] -= 1.0 / reset
    return float(start @ np.linalg.solve(-rates, np.ones(size)))


def makespan_variance(times: ConfusionTimes, second_moments: ArrayLike | None = None) -> Any:
    """The variance of the makespan.

    With S the time of a successful attempt, L that of an unsuccessful one with its reset, and the
    number of attempts geometric with probability q:
    ``Var M = Var S + ((1 - q) / q) Var L + ((1 - q) / q^2) (E L)^2``.

    Args:
        times: fates and times.
        second_moments: (4, ...) mean squares of the times to success, to failure, to a call before
            a failure, to a call before a success; None takes exponential times, ``2 mean^2``.
    """
    means = np.broadcast_arrays(times.mts, times.mtf, times.d_tn, times.d_fn)
    squares = 2.0 * np.square(means) if second_moments is None else np.asarray(second_moments)
    mts2, mtf2, tn2, fn2 = squares
    q = np.asarray(times.success)
    weights = [np.asarray(x) for x in (times.fn, times.tn, np.add(times.fp, times.ncf))]
    lost = 1.0 - q
    share = [np.divide(w, lost, out=np.zeros_like(w + lost), where=lost > 0) for w in weights]
    mean = sum(s * m for s, m in zip(share, (times.d_fn, times.d_tn, times.mtf), strict=True))
    square = sum(s * m for s, m in zip(share, (fn2, tn2, mtf2), strict=True))
    length = mean + times.start_time + times.reset_time
    spread = mts2 - np.square(times.mts)
    return spread + _divide(lost, q) * (square - mean**2) + _divide(lost, q**2) * np.square(length)


def gain(times: ConfusionTimes) -> Any:
    """What preemption saves, ``E0 - E1``, as benefit minus price.

    ``E0 - E1 = [(1 - p) rho_TN (MTF - d_TN) - p rho_FN (E0 - MTS + d_FN + r)] / (p (1 - rho_FN))``:
    time saved on attempts that would fail, against the price of throwing a success away, which is
    the whole remaining makespan less what finishing would have taken.
    """
    p = np.asarray(times.success) + times.fn
    e0 = reactive_makespan(p, times.mts, times.mtf, times.reset_time, times.start_time)
    saved = times.tn * (np.asarray(times.mtf) - times.d_tn)
    price = times.fn * (e0 - times.mts + times.d_fn + times.reset_time)
    return _divide(saved - price, times.success)


def break_even(
    p: ArrayLike,
    mts: ArrayLike,
    mtf: ArrayLike,
    d_tn: ArrayLike,
    d_fn: ArrayLike,
    reset_time: ArrayLike = 0.0,
    start_time: ArrayLike = 0.0,
) -> Any:
    """The ratio ``rho_TN / rho_FN`` above which preemption pays.

    ``p (E0 - MTS + d_FN + r) / ((1 - p)(MTF - d_TN))``; infinite where calls come no earlier than
    failures. Without reset and start time it is
    ``((1 - p) MTF + p d_FN) / ((1 - p)(MTF - d_TN))``, which tends to 1 as the calls come at once.
    """
    p = np.asarray(p, dtype=np.float64)
    e0 = reactive_makespan(p, mts, mtf, reset_time, start_time)
    price = p * (e0 - mts + d_fn + reset_time)
    saved = (1.0 - p) * (np.asarray(mtf, dtype=np.float64) - d_tn)
    return _divide(price, np.maximum(saved, 0.0))


def should_preempt(times: ConfusionTimes) -> Any:
    """Whether ``E1 < E0``: acting on the predictor's calls shortens the mean makespan."""
    return gain(times) > 0


def perfect_makespan(
    p: ArrayLike,
    mts: ArrayLike,
    d_tn: ArrayLike,
    reset_time: ArrayLike = 0.0,
    start_time: ArrayLike = 0.0,
) -> Any:
    """The limit of a perfect predictor (``rho_TN = 1``, ``rho_FN = 0``).

    ``E1 = MTS + s0 + ((1 - p) / p)(d_TN + s0 + r)``: no predictor whose calls come at ``d_TN`` does
    better.
    """
    return reactive_makespan(p, mts, d_tn, reset_time, start_time)


def useless_makespan(
    p: ArrayLike,
    mts: ArrayLike,
    mtf: ArrayLike,
    rho: ArrayLike,
    d: ArrayLike,
    reset_time: ArrayLike = 0.0,
    start_time: ArrayLike = 0.0,
) -> Any:
    """The limit of a predictor whose calls say nothing (``rho_TN = rho_FN = rho``, time ``d``).

    ``E1 = E0 + rho (d + s0 + r) / (p (1 - rho))``, never below E0 and without bound as rho tends
    to 1. (The calls must be independent of the outcome and of the running time.)
    """
    e0 = reactive_makespan(p, mts, mtf, reset_time, start_time)
    rho, p = np.asarray(rho, dtype=np.float64), np.asarray(p, dtype=np.float64)
    return e0 + _divide(rho * (np.asarray(d) + start_time + reset_time), p * (1.0 - rho))


def sure_success_makespan(
    mts: ArrayLike,
    rho_fn: ArrayLike,
    d_fn: ArrayLike,
    reset_time: ArrayLike = 0.0,
    start_time: ArrayLike = 0.0,
) -> Any:
    """The limit ``p -> 1``: ``MTS + s0 + (rho_FN / (1 - rho_FN)) (d_FN + s0 + r)``, above MTS.

    Never preempt a skill that does not fail.
    """
    rho = np.asarray(rho_fn, dtype=np.float64)
    lost = np.asarray(d_fn) + start_time + reset_time
    return np.asarray(mts) + start_time + _divide(rho, 1.0 - rho) * lost


def rare_success_ratio(
    mtf: ArrayLike,
    rho_tn: ArrayLike,
    rho_fn: ArrayLike,
    d_tn: ArrayLike,
    reset_time: ArrayLike = 0.0,
    start_time: ArrayLike = 0.0,
) -> Any:
    """The limit of ``E1 / E0`` as ``p -> 0``, where both grow without bound.

    ``(rho_TN (d_TN + s0 + r) + (1 - rho_TN)(MTF + s0 + r)) / ((1 - rho_FN)(MTF + s0 + r))``.
    """
    rho = np.asarray(rho_tn, dtype=np.float64)
    fixed = np.add(reset_time, start_time)
    full = np.asarray(mtf) + fixed
    mean = rho * (np.asarray(d_tn) + fixed) + (1.0 - rho) * full
    return _divide(mean, (1.0 - np.asarray(rho_fn)) * full)


def _divide(a: ArrayLike, b: ArrayLike) -> Any:
    """``a / b``, infinite where ``b`` is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(b) > 0, np.divide(a, b), math.inf)[()]


def _check_chance(name: str, value: Array) -> None:
    if not ((value >= 0) & (value <= 1)).all():
        raise ValueError(f"{name}={value}: expected probabilities in [0, 1]")


def _check_time(name: str, value: Array) -> None:
    if not ((value >= 0) & (value < math.inf)).all():
        raise ValueError(f"{name}={value}: expected finite times >= 0")
