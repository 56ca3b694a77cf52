"""The decision process on top of the physics: windows, attempts, retries, and the clock.

Both faces of the environment hold one ``Process``. Random numbers are counter-based: lane ``i``
seeded with ``s`` draws what a single environment seeded with ``s`` draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rewardzoo.random import Rng

from .model import CONTROL_HZ, PegInHoleContactParams
from .simulator import FAILURE, NOISE, RUNNING, SUCCESS, Simulator

ABORTED = 3  # beside the simulator's outcomes
Rows = NDArray[np.int64]


class Step(NamedTuple):
    """What one decision led to; dense over lanes."""

    seconds: NDArray[np.float64]  # that passed, time lost to resets included
    ended: NDArray[np.int8]  # 0, or how an attempt ended: SUCCESS, FAILURE, ABORTED
    duration: NDArray[np.float64]  # of the attempt that ended, s
    exhausted: NDArray[np.bool_]  # the last attempt that is allowed did not succeed


class Process:
    """B episodes of attempts.

    Args:
        lanes: B.
        params: the environment's constants.
        threads: of physics.

    Attributes:
        ft: (B, 6, window) float32, the last window's force (N) and torque (N m), oldest first,
            zero before the attempt began.
        makespan: (B,) float64, s since the first start.
        attempts: (B,) int64, attempts that have ended.
    """

    def __init__(self, lanes: int, params: PegInHoleContactParams, threads: int | None) -> None:
        self.params = params
        self.simulator = Simulator(lanes, params, threads)
        self.ticks = round(params.stride * CONTROL_HZ)
        self.seed = np.zeros(lanes, dtype=np.int64)
        self.episode = np.full(lanes, -1, dtype=np.int64)
        self.time = np.zeros(lanes, dtype=np.int64)  # decisions since the reset
        self.ft = np.zeros((lanes, 6, round(params.window * CONTROL_HZ)), dtype=np.float32)
        self.makespan = np.zeros(lanes)
        self.attempts = np.zeros(lanes, dtype=np.int64)

    @property
    def elapsed(self) -> NDArray[np.float32]:
        """(B,) s since the attempt began."""
        return (self.simulator.ticks / CONTROL_HZ).astype(np.float32)

    def start(self, rows: Rows) -> None:
        """Begin the next episode of some lanes."""
        self.episode[rows] += 1
        self.time[rows] = 0
        self.makespan[rows] = 0.0
        self.attempts[rows] = 0
        self._attempt(rows, self.rng_of(rows))

    def step(self, rows: Rows, abort: NDArray[np.bool_]) -> Step:
        """One decision in some lanes.

        Args:
            rows: (K,) which ones.
            abort: (K,) whether to give the running attempt up; else it goes on for one stride.
        """
        self.time[rows] += 1
        rng = self.rng_of(rows)
        noise = rng.normal(self.ticks, 6).numpy() * (self.params.noise * NOISE)
        ticks = self._run(rows[~abort], noise[~abort])
        lanes = len(self.seed)
        ended = np.zeros(lanes, dtype=np.int8)
        ended[rows] = np.where(abort, ABORTED, self.simulator.outcome[rows])
        lost = (ended == FAILURE) | (ended == ABORTED)
        seconds = np.zeros(lanes)
        seconds[rows[~abort]] = ticks / CONTROL_HZ
        seconds += np.where(lost, self.params.reset_time, 0.0)
        duration = np.where(ended != RUNNING, self.simulator.ticks / CONTROL_HZ, 0.0)
        self.makespan += seconds
        self.attempts += ended != RUNNING
        again = lost[rows]
        self._attempt(rows[again], rng, again)
        exhausted = lost & (self.attempts >= self.params.max_attempts)
        return Step(seconds, ended, duration, exhausted)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next step depends on."""
        return {k: torch.from_numpy(v.copy()) for k, v in self._arrays().items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue where ``state`` was taken."""
        arrays = self._arrays()
        if set(state) != set(arrays) or any(state[k].shape != v.shape for k, v in arrays.items()):
            raise ValueError("state_dict: saved from another environment or with another num_envs")
        for key, array in arrays.items():
            array[...] = state[key].numpy()

    def _run(self, rows: Rows, noise: NDArray[np.float64]) -> Rows:
        """One stride of the skill, or until it ends; (K,) ticks that passed."""
        before = self.simulator.ticks[rows]
        for k in range(self.ticks):
            live = self.simulator.outcome[rows] == RUNNING
            lanes = rows[live]
            if not len(lanes):
                break
            wrench = self.simulator.tick(lanes) + noise[live, k]
            self.ft[lanes, :, :-1] = self.ft[lanes, :, 1:]
            self.ft[lanes, :, -1] = wrench
        return self.simulator.ticks[rows] - before

    def _attempt(self, rows: Rows, rng: Rng, kept: NDArray[np.bool_] | None = None) -> None:
        """Begin an attempt with new errors, drawn for all rows of ``rng``, used by ``kept``."""
        p = self.params
        scale = np.array([p.pos_sigma] * 2 + [math.radians(p.tilt_sigma_deg)] * 2)
        pose = rng.normal(4).numpy()[slice(None) if kept is None else kept] * scale
        if kept is not None:
            old, rho = self.simulator.pose[rows], p.persistent_error
            pose = rho * old + math.sqrt(1.0 - rho**2) * pose
        self.simulator.begin(rows, pose)
        self.ft[rows] = 0.0

    def rng_of(self, rows: Rows) -> Rng:
        """The random numbers of this decision in some lanes."""
        counters = (torch.from_numpy(x[rows]) for x in (self.seed, self.episode, self.time))
        return Rng(*counters)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        own = {k: getattr(self, k) for k in ("seed", "episode", "time", "makespan", "attempts")}
        return {**own, "ft": self.ft, **self.simulator.arrays()}


def play(
    count: int,
    params: PegInHoleContactParams,
    give_up: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.bool_]],
    seed: int = 0,
    threads: int | None = None,
) -> tuple[NDArray[np.float64], Rows, NDArray[np.bool_]]:
    """Run ``count`` episodes, one a lane, until each is over.

    Args:
        count: lanes.
        params: the environment's constants.
        give_up: from the windows (K, 6, W) and seconds in the attempt (K,) of running lanes to
            (K,) bool. It is not asked before an attempt's first window.
        seed: lane ``i`` is an environment seeded with ``seed + i``.
        threads: of physics; None takes all that the process may use.

    Returns:
        Makespans (count,) s, attempts (count,), and whether the last attempt succeeded (count,).
    """
    process = Process(count, params, threads)
    process.seed[:] = seed + np.arange(count)
    rows = np.arange(count)
    process.start(rows)
    success = np.zeros(count, dtype=bool)
    while len(rows):
        elapsed = process.elapsed[rows]
        abort = np.zeros(len(rows), dtype=bool)
        asked = elapsed > 0
        if asked.any():
            abort[asked] = give_up(process.ft[rows[asked]], elapsed[asked])
        step = process.step(rows, abort)
        success |= step.ended == SUCCESS
        over = (step.ended == SUCCESS) | step.exhausted
        rows = rows[~over[rows]]
    return process.makespan, process.attempts, success


def record_attempts(
    count: int,
    params: PegInHoleContactParams,
    seed: int = 0,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], Rows, NDArray[np.bool_]]:
    """Run attempts to their end, without decisions.

    Attempt ``i`` is the first one of an environment seeded with ``seed + i``, bit for bit.

    Returns:
        Force and torque (count, T, 6) float32, zero after an attempt's end; control ticks of each
        attempt (count,); whether it succeeded (count,).
    """
    process = Process(count, params, threads)
    process.seed[:] = seed + np.arange(count)
    everyone = np.arange(count)
    process.start(everyone)
    simulator = process.simulator
    wrench = np.zeros((count, round(params.time_limit * CONTROL_HZ), 6), dtype=np.float32)
    while (simulator.outcome == RUNNING).any():
        rows = np.flatnonzero(simulator.outcome == RUNNING)
        process.time[rows] += 1
        first = simulator.ticks[rows]
        noise = process.rng_of(rows).normal(process.ticks, 6).numpy() * (params.noise * NOISE)
        for k in range(process.ticks):
            live = simulator.outcome[rows] == RUNNING
            if live.any():
                wrench[rows[live], first[live] + k] = simulator.tick(rows[live]) + noise[live, k]
    return wrench, simulator.ticks.copy(), simulator.outcome == SUCCESS
