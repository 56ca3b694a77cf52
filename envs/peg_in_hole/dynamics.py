"""PegInHole's dynamics: attempts as random events, and a predictor with a confusion matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, box
from rewardzoo.random import Rng
from rewardzoo.rewards.base import number

from .closed_form import ConfusionTimes
from .durations import FAMILIES, draw, quantiles

CELLS = ("none", "TP", "FN", "TN", "FP", "NCS", "NCF")
NONE, SUCCESS, FAILURE, ABORTED = range(4)


@dataclass(frozen=True)
class PegInHoleParams:
    """Times and chances; the defaults resemble the paper's bearing insertion.

    Numbers may be tensors (N,), one setting a row: a sweep is one batch.
    """

    p: Any = 0.49
    """Probability that an attempt would succeed, above 0."""
    mts: Any = 30.2
    """s, mean time to success."""
    mtf: Any = 67.7
    """s, mean time to failure."""
    rho_tn: Any = 0.85
    """P(failure is called | the attempt would fail)."""
    rho_fn: Any = 0.1
    """P(failure is called | the attempt would succeed)."""
    d_tn: Any = 20.0
    """s, mean time of a call when the attempt would fail."""
    d_fn: Any = 15.0
    """s, mean time of a call when the attempt would succeed."""
    reset_time: Any = 3.0
    """s, lost after every attempt without success."""
    start_time: Any = 0.0
    """s, at the beginning of every attempt."""
    family: str = "exponential"
    """Of all times: ``exponential``, ``poisson`` (whole seconds), ``gamma``, ``lognormal``,
    ``deterministic``, or ``empirical`` (``samples``, scaled to the mean)."""
    spread: float = 0.5
    """Coefficient of variation of lognormal and gamma times (gamma has shape 1 / spread^2)."""
    samples: tuple[float, ...] = ()
    """Recorded times, of which empirical ones are drawn."""
    censor: bool = True
    """A call that would come after the attempt's end never comes. False: fates are drawn as four
    competing cells, which is what the closed form assumes."""
    mode: str = "call"
    """``call``: one decision an attempt. ``window``: one every ``dt``, on a noisy score."""
    dt: float = 5.0
    """s between decisions in window mode."""
    signal: float = 1.0
    """Window mode: the score is normal with mean +signal in failing, -signal in succeeding attempts
    and deviation 1, once fully informative."""
    ramp: float = 15.0
    """s, in which the score becomes fully informative, linearly."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, low in (("p", 1e-6), ("rho_tn", 0.0), ("rho_fn", 0.0)):
            _check(name, getattr(self, name), low, 1.0)
        for name in ("mts", "mtf", "d_tn", "d_fn", "reset_time", "start_time"):
            _check(name, getattr(self, name), 0.0, math.inf)
        _check("mtf", self.mtf, 1e-6, math.inf)
        for name, allowed in (("family", FAMILIES), ("mode", ("call", "window"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {allowed}")
        number("spread", self.spread, 0.05, 10.0)
        number("dt", self.dt, 1e-3)
        number("signal", self.signal, 0.0)
        number("ramp", self.ramp, 0.0)
        if self.family == "empirical" and not (
            self.samples and min(self.samples) >= 0 and sum(self.samples) > 0
        ):
            raise ValueError(f"samples={self.samples}: expected recorded times >= 0, not all 0")


class PegInHoleState(NamedTuple):
    """The running attempt, and what the episode has cost; each (N,)."""

    succeeds: Tensor  # bool, what the attempt would come to
    duration: Tensor  # float32 s, that it would take
    called: Tensor  # bool, failure is called
    call_time: Tensor  # float32 s, when
    window: Tensor  # int64, windows of the attempt that have passed
    score: Tensor  # float32
    attempts: Tensor  # int64, that have ended
    makespan: Tensor  # float32 s, up to the last decision
    outcome: Tensor  # int64, how an attempt ended in the last step: NONE, SUCCESS, ...
    cell: Tensor  # int64, index into CELLS of that attempt


class PegInHole(FuncEnv):
    """Give a failing attempt up in time: a predictor calls failures, and may be wrong.

    A robot repeats a skill until it works. An attempt succeeds with probability ``p``, after
    ``mts`` seconds on average, or fails after ``mtf``; ``reset_time`` is lost after each attempt
    without success.

    Dynamics: a Markov jump process, with exponential times by default. In ``call`` mode the
    predictor calls failure in a share ``rho_tn`` of the attempts that would fail (after ``d_tn``
    on average) and ``rho_fn`` of those that would succeed (after ``d_fn``); every step decides one
    attempt, and attempts without a call run to their end whatever the action. In ``window`` mode
    every step decides about the next ``dt`` seconds, from a score whose mean grows to ``+signal``
    (failing) or ``-signal`` (succeeding) over ``ramp`` seconds, with unit noise: past scores
    matter.

    Observation: Box (4,) float32: seconds in the attempt / ``mtf``; the call (0 or 1) or the
    score; attempts before this one / 10; seconds since the first start / the mean makespan without
    preemption.

    Action: Discrete(2): 0 goes on, 1 gives up and starts the next attempt.

    Objective: minus the seconds that the step decided about (in call mode the whole attempt),
    ``start_time`` and ``reset_time`` included. An episode's sum is minus the makespan.

    Start state: the first attempt, at its call, or before its first window.

    End of episode: terminated at the first success; truncated after 1,000 steps.

    Info: ``makespan`` (s), ``attempts`` (that have ended), ``outcome`` of the attempt that ended in
    this step (0 none, 1 success, 2 failure, 3 given up) and its ``cell``, an index into
    none, TP, FN, TN, FP, NCS, NCF (the last two: failure was called, and the attempt went on).

    Arguments: see ``PegInHoleParams``.

    Reference returns: with the defaults and ``censor=False`` -103.8 without giving up, -67.1 when
    every call is acted on, exact (``rewardzoo.envs.peg_in_hole.closed_form``).

    Paper: Watson, Correll (2023), "Optimal decision making in robotic assembly and other
    trial-and-error tasks", arXiv 2301.10846.
    """

    Params = PegInHoleParams
    render_modes = ("rgb_array", "ansi")
    render_fps = 2

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        if "samples" in params:
            params["samples"] = tuple(float(x) for x in params["samples"])
        super().__init__(device, **params)
        p: PegInHoleParams = self.params
        self.observation_space = box(-np.inf, np.inf, (4,))
        self.action_space = spaces.Discrete(2)
        numbers = (f.name for f in fields(p) if f.type == "Any")
        self._of = {
            k: torch.as_tensor(getattr(p, k), dtype=torch.float32).to(self.device) for k in numbers
        }
        of = self._of
        lost = of["mtf"] + of["start_time"] + of["reset_time"]
        self._e0 = of["mts"] + of["start_time"] + (1.0 - of["p"]) / of["p"] * lost
        self._samples = None
        if p.samples:
            shape = torch.tensor(p.samples, dtype=torch.float64)
            self._samples = (shape / shape.mean()).to(torch.float32).to(self.device)

    def initial(self, rng: Rng, params: Any = None) -> PegInHoleState:
        """The first attempt."""
        attempt = self._attempt(rng)
        zero = torch.zeros_like(attempt[1])
        count = torch.zeros_like(zero, dtype=torch.int64)
        return PegInHoleState(*attempt, count, zero, count, zero, count, count)

    def transition(
        self, state: PegInHoleState, action: Tensor, rng: Rng, params: Any = None
    ) -> PegInHoleState:
        """The rest of the attempt, or one window of it; then the next attempt if it was lost."""
        abort = action == 1
        if self.params.mode == "call":
            abort = abort & state.called
            ended = torch.ones_like(abort)
            seconds = torch.where(abort, state.call_time, state.duration)
            seconds = seconds + self._of["start_time"]
        else:
            begin = state.window * self.params.dt
            rest = (state.duration - begin).clamp(max=self.params.dt)
            ended = abort | (state.duration <= begin + self.params.dt)
            seconds = torch.where(abort, 0.0, rest)
            seconds = seconds + torch.where(state.window == 0, self._of["start_time"], 0.0)
        won = ended & ~abort & state.succeeds
        lost = ended & ~won
        seconds = seconds + torch.where(lost, self._of["reset_time"], 0.0)
        outcome = torch.where(abort, ABORTED, torch.where(state.succeeds, SUCCESS, FAILURE))
        succeeds, duration, called, call_time = (
            torch.where(lost, new, old)
            for new, old in zip(self._attempt(rng), state[:4], strict=True)
        )
        window = torch.where(ended, 0, state.window + 1)
        return PegInHoleState(
            succeeds,
            duration,
            called,
            call_time,
            window,
            self._score(succeeds, window, rng),
            state.attempts + ended,
            state.makespan + seconds,
            torch.where(ended, outcome, NONE),
            torch.where(ended, self._cell(state, abort), 0),
        )

    def observation(self, state: PegInHoleState, rng: Rng, params: Any = None) -> Tensor:
        """(N, 4) float32."""
        if self.params.mode == "call":
            elapsed = torch.where(state.called, state.call_time, 0.0)
            signal = state.called.to(torch.float32)
        else:
            elapsed, signal = state.window * self.params.dt, state.score
        columns = (
            elapsed / self._of["mtf"],
            signal,
            state.attempts / 10.0,
            (state.makespan + elapsed * (self.params.mode == "call")) / self._e0,
        )
        return torch.stack(columns, 1).to(torch.float32)

    def reward(
        self,
        state: PegInHoleState,
        action: Tensor,
        next_state: PegInHoleState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """Minus the seconds that passed."""
        return state.makespan - next_state.makespan

    def terminal(self, state: PegInHoleState, rng: Rng, params: Any = None) -> Tensor:
        """After a success."""
        return state.outcome == SUCCESS

    def transition_info(
        self, state: PegInHoleState, action: Tensor, next_state: PegInHoleState, params: Any = None
    ) -> dict[str, Tensor]:
        """The clock, and how an attempt ended."""
        names = ("makespan", "attempts", "outcome", "cell")
        return {name: getattr(next_state, name) for name in names}

    def llr(self, score: Tensor, window: Tensor) -> Tensor:
        """What a score says: log p(score | fails) - log p(score | succeeds), (N,)."""
        return 2.0 * self._mean_score(window) * score

    def render_image(self, state: PegInHoleState, i: int) -> np.ndarray:
        """A frame, uint8."""
        from .render import frame

        return frame(self.params, state, i)

    def render_text(self, state: PegInHoleState, i: int) -> str:
        """One line."""
        from .render import text

        return text(self.params, state, i)

    def _attempt(self, rng: Rng) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What an attempt would come to, how long it would take, whether and when it is called."""
        p, of = self.params, self._of
        u = rng.uniform(2)
        succeeds = u[:, 0] < of["p"]
        mean = torch.where(succeeds, of["mts"], of["mtf"])
        duration = draw(p.family, mean, p.spread, self._samples, rng)
        if p.mode == "window":
            return succeeds, duration, torch.zeros_like(succeeds), torch.zeros_like(duration)
        called = u[:, 1] < torch.where(succeeds, of["rho_fn"], of["rho_tn"])
        delay = torch.where(succeeds, of["d_fn"], of["d_tn"])
        call_time = draw(p.family, delay, p.spread, self._samples, rng)
        if p.censor:
            called = called & (call_time < duration)
        return succeeds, duration, called, call_time

    def _score(self, succeeds: Tensor, window: Tensor, rng: Rng) -> Tensor:
        if self.params.mode == "call":
            return torch.zeros_like(succeeds, dtype=torch.float32)
        mean = self._mean_score(window)
        score = torch.where(succeeds, -mean, mean) + rng.normal()
        return torch.where(window > 0, score, 0.0)  # nothing is known before the first window

    def _mean_score(self, window: Tensor) -> Tensor:
        p: PegInHoleParams = self.params
        share = (window * (p.dt / p.ramp)).clamp(max=1.0) if p.ramp else (window > 0).float()
        return p.signal * share

    def _cell(self, state: PegInHoleState, abort: Tensor) -> Tensor:
        run = torch.where(state.called, CELLS.index("NCS"), CELLS.index("TP"))
        wait = torch.where(state.called, CELLS.index("NCF"), CELLS.index("FP"))
        stopped = torch.where(state.succeeds, CELLS.index("FN"), CELLS.index("TN"))
        return torch.where(abort, stopped, torch.where(state.succeeds, run, wait))


def effective_times(params: PegInHoleParams) -> ConfusionTimes:
    """The fates and times that remain once calls after an attempt's end are dropped.

    Rates and times differ from the configured ones then (unless all are deterministic): a call is
    heard only in attempts that outlast it. With ``censor=False`` they are the configured ones. By
    quantiles, to about a thousandth. For one setting.
    """
    p = params
    rates = (p.p, p.mts, p.mtf, p.rho_tn, p.rho_fn, p.d_tn, p.d_fn, p.reset_time, p.start_time)
    if not p.censor:
        return ConfusionTimes.from_rates(*rates)
    samples = np.array(p.samples) / np.mean(p.samples) if p.samples else None
    heard: dict[str, tuple[float, float, float]] = {}
    for name, rho, run, wait in (
        ("success", p.rho_fn, p.mts, p.d_fn),
        ("failure", p.rho_tn, p.mtf, p.d_tn),
    ):
        duration, call = (np.sort(quantiles(p.family, m, p.spread, samples)) for m in (run, wait))
        first = np.searchsorted(duration, call, side="right")  # attempts that the call outlasts
        outlast = 1.0 - first / len(duration)
        short = np.concatenate([[0.0], np.cumsum(duration)])[first] / len(duration)
        chance = rho * outlast.mean()
        ran = (1.0 - rho) * duration.mean() + rho * short.mean()
        time = (call * outlast).mean() / outlast.mean() if chance else 0.0
        heard[name] = (chance, ran / (1.0 - chance) if chance < 1.0 else 0.0, time)
    (fn, mts, d_fn), (tn, mtf, d_tn) = heard["success"], heard["failure"]
    return ConfusionTimes.from_rates(p.p, mts, mtf, tn, fn, d_tn, d_fn, p.reset_time, p.start_time)


def _check(name: str, value: Any, low: float, high: float) -> None:
    if not isinstance(value, Tensor):
        number(name, value, low, high)
    elif not bool((torch.isfinite(value) & (value >= low) & (value <= high)).all()):
        raise ValueError(f"{name}={value}: expected finite numbers in [{low:g}, {high:g}]")
