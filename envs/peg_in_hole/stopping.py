"""Optimal stopping of attempts under a noisy score: what a learned policy should come to.

The makespan's optimal policy gives an attempt up iff going on costs more than starting anew, and
starting anew costs ``r + V0``, where V0 is the makespan of the policy itself: a fixed point. Given
V0, an attempt is a finite problem over time and belief; its solution is policy improvement, and
``V0 = (s0 + A + r B) / (1 - B)``, with A the expected time of an attempt and B the chance that it
is lost, is policy evaluation.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rewardzoo.transition import to_numpy

from .durations import quantiles
from .dynamics import PegInHole, PegInHoleParams

Array = NDArray[np.float64]


class StoppingProblem(NamedTuple):
    """An attempt of at most K windows, ending as a failure (row 0) or a success (row 1).

    The belief before window k is ``logit = prior + alive[k] + s``: ``alive`` is what it says that
    the attempt still runs, and s the sum of what the scores said.
    """

    prior: float  # log odds of failure
    alive: Array  # (K,) log P(runs before window k | fails) - log P(... | succeeds)
    hazard: Array  # (2, K) P(ends in window k | still runs before it)
    seconds: Array  # (2, K) mean time that window k takes
    llr: Array  # (K, S) what each score after window k says, log odds of failure
    chance: Array  # (2, K, S) of each score
    reset_time: float
    start_time: float


class Stopping(NamedTuple):
    """The optimal policy."""

    makespan: float  # s, V0
    grid: Array  # (G,) sums of log odds
    give_up: NDArray[np.bool_]  # (K, G), before window k
    threshold: Array  # (K,) the smallest sum at which to give up; infinite: never
    history: list[float]  # V0 of each policy, from never giving up


def problem_of(params: PegInHoleParams, windows: int | None = None, scores: int = 21) -> Any:
    """``PegInHole``'s window mode as a stopping problem, by quantiles and Gauss-Hermite nodes.

    Args:
        params: of one setting, in window mode.
        windows: K; None covers all but a ten-thousandth of both kinds of attempts.
        scores: S.
    """
    p = params
    samples = np.array(p.samples) / np.mean(p.samples) if p.samples else None
    times = [np.sort(quantiles(p.family, m, p.spread, samples, 1 << 16)) for m in (p.mtf, p.mts)]
    if windows is None:
        windows = int(max(np.quantile(t, 1 - 1e-4) for t in times) / p.dt) + 2
    edges = np.arange(windows + 1) * p.dt
    hazard, seconds = np.ones((2, windows)), np.zeros((2, windows))
    runs = np.zeros((2, windows))
    for row, t in enumerate(times):
        before = np.searchsorted(t, edges, side="right")  # attempts that are over at each edge
        total = np.concatenate([[0.0], np.cumsum(t)])
        at_risk = len(t) - before[:-1]
        ended = before[1:] - before[:-1]
        runs[row] = at_risk / len(t)
        inside = total[before[1:]] - total[before[:-1]] - ended * edges[:-1]
        spent = inside + (at_risk - ended) * p.dt
        live = at_risk > 0
        hazard[row, live] = ended[live] / at_risk[live]
        seconds[row, live] = spent[live] / at_risk[live]
    hazard[:, -1] = 1.0  # what lasts longer is cut there
    nodes, weights = np.polynomial.hermite_e.hermegauss(scores)
    weights = weights / weights.sum()
    k = np.arange(1, windows + 1)
    share = np.minimum(1.0, k * p.dt / p.ramp) if p.ramp else np.ones(windows)
    mean = p.signal * share
    # One set of nodes for both kinds: the midpoint's, with weights tilted by the likelihood ratio.
    llr = 2.0 * mean[:, None] * nodes
    tilt = [np.exp(sign * llr / 2.0) * weights for sign in (1.0, -1.0)]
    chance = np.stack([w / w.sum(1, keepdims=True) for w in tilt])
    floor = 0.5 / len(times[0])
    alive = np.log(np.maximum(runs[0], floor)) - np.log(np.maximum(runs[1], floor))
    prior = math.log((1.0 - p.p) / p.p) if p.p < 1 else -50.0
    return StoppingProblem(
        prior, alive, hazard, seconds, llr, chance, float(p.reset_time), float(p.start_time)
    )


def solve(problem: StoppingProblem, grid: Array | None = None, iterations: int = 50) -> Stopping:
    """The optimal policy by policy iteration on V0.

    Args:
        problem: the attempt.
        grid: (G,) increasing sums of log odds, between which values are interpolated; None takes
            801 in [-20, 20].
        iterations: at most so many.
    """
    grid = np.linspace(-20.0, 20.0, 801) if grid is None else grid
    give_up = np.zeros((len(problem.alive), len(grid)), dtype=bool)
    makespan = _evaluate(problem, *_attempt(problem, grid, give_up=give_up)[:2], grid)
    history = [makespan]
    for _ in range(iterations):
        time, lost, better = _attempt(problem, grid, fresh=problem.reset_time + makespan)
        value = _evaluate(problem, time, lost, grid)
        if not value < makespan - 1e-12 * max(1.0, makespan):
            break
        makespan, give_up = value, better
        history.append(makespan)
    first = np.where(give_up.any(1), grid[give_up.argmax(1)], math.inf)
    return Stopping(makespan, grid, give_up, first, history)


class StoppingPolicy:
    """Acts on ``PegInHole`` in window mode; the state is the sum of log odds so far.

    Args:
        dynamics: whose scores these are.
        solution: the thresholds.
    """

    def __init__(self, dynamics: PegInHole, solution: Stopping) -> None:
        self.dynamics = dynamics
        self.threshold = torch.from_numpy(solution.threshold).to(dynamics.device, torch.float32)

    def predict(self, observation: Any, state: Any = None, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Actions (N,) int64, as ``agents`` do; ``state`` is what the last call returned."""
        tensors = isinstance(observation, Tensor)
        obs = torch.as_tensor(observation)
        single = obs.ndim == 1
        obs = obs[None] if single else obs
        p: PegInHoleParams = self.dynamics.params
        window = (obs[:, 0] * p.mtf / p.dt).round().to(torch.int64)
        total = torch.zeros_like(obs[:, 1]) if state is None else state
        total = torch.where(window == 0, 0.0, total)  # a new attempt
        total = total + self.dynamics.llr(obs[:, 1], window)
        last = len(self.threshold) - 1
        action = (total >= self.threshold[window.clamp(max=last)]).to(torch.int64)
        if single:
            return np.int64(action[0]), total
        return (action if tensors else to_numpy(action)), total


def _attempt(
    problem: StoppingProblem,
    grid: Array,
    fresh: float = math.inf,
    give_up: NDArray[np.bool_] | None = None,
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Expected time and chance of being lost, (G,) each, from before the first window on.

    With ``give_up`` by that policy; else by the one that is optimal if starting anew costs
    ``fresh``, which is also returned, (K, G).
    """
    count = len(problem.alive)
    policy = np.zeros((count, len(grid)), dtype=bool) if give_up is None else give_up
    time, lost = np.zeros_like(grid), np.ones_like(grid)  # after the last window nothing runs
    for k in reversed(range(count)):
        fails = _sigmoid(problem.prior + problem.alive[k] + grid)
        belief = np.stack([fails, 1.0 - fails])
        stays = belief * (1.0 - problem.hazard[:, k, None])
        spent = (belief * problem.seconds[:, k, None]).sum(0)
        over = belief[0] * problem.hazard[0, k]
        for s, llr in enumerate(problem.llr[k]):
            weight = (stays * problem.chance[:, k, s, None]).sum(0)
            spent = spent + weight * np.interp(grid + llr, grid, time)
            over = over + weight * np.interp(grid + llr, grid, lost)
        if give_up is None:
            policy[k] = spent + over * fresh > fresh
        # What is given up takes no more time, and is lost.
        time = np.where(policy[k], 0.0, spent)
        lost = np.where(policy[k], 1.0, over)
    return time, lost, policy


def _evaluate(problem: StoppingProblem, time: Array, lost: Array, grid: Array) -> float:
    """``V0 = (s0 + A + r B) / (1 - B)``, at the prior."""
    spent, gone = (float(np.interp(0.0, grid, x)) for x in (time, lost))
    if gone >= 1.0:
        return math.inf
    return (problem.start_time + spent + problem.reset_time * gone) / (1.0 - gone)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
