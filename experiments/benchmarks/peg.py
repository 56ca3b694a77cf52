"""Peg-in-hole: physics steps on two threads, and attempts decided a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch

import rewardzoo  # noqa: F401  (registers the environments)

from .timing import Row, interleave, missing, one_thread, seconds_per_call

EVENTS, CONTACT = "rewardzoo/PegInHole-v0", "rewardzoo/PegInHoleContact-v0"
BATCH, LANES, TICKS = 4096, 256, 100
_PHYSICS = f"physics steps/s, {LANES} insertions, F/T sensor and skill included, two threads"


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: 100,000 physics steps/s on two cores, 2,000,000 events/s."""
    with one_thread():
        return [_physics(), _events(say)]


def _physics() -> Row:
    try:
        from rewardzoo.envs.peg_in_hole_contact.process import Process
    except ImportError as error:
        return missing(_PHYSICS, str(error))
    params = gymnasium.make_vec(CONTACT, num_envs=1, threads=0).params
    processes = {n: Process(LANES, params, n) for n in (0, 2)}
    rows = np.arange(LANES)

    def rate(threads: int) -> Callable[[], float]:
        process = processes[threads]
        simulator = process.simulator

        def read() -> float:
            """The first two seconds of an attempt, and the search that follows."""
            process.start(rows)
            before, start = simulator.physics_steps, time.perf_counter()
            for _ in range(TICKS):
                simulator.tick(rows)
            return (simulator.physics_steps - before) / (time.perf_counter() - start)

        return read

    names = {"two threads": rate(2), "calling thread": rate(0)}
    for read in names.values():
        read()
    readings = interleave(names)
    return Row(
        _PHYSICS,
        readings,
        "steps/s",
        readings["two threads"],
        bar=100_000.0,
        times=False,
        note="the best reading is what two idle cores give: on a shared machine threads wait",
    )


def _events(say: Callable[[str], None]) -> Row:
    say(f"compiling the step for N={BATCH}")
    readings = {}
    for name, compile in (("compiled", True), ("plain", False)):
        envs = gymnasium.make_vec(EVENTS, num_envs=BATCH, compile=compile)
        envs.reset(seed=0)
        action = torch.ones(BATCH, dtype=torch.int64)
        seconds = seconds_per_call(lambda envs=envs, action=action: envs.step(action))
        readings[name] = lambda seconds=seconds: BATCH / seconds()
    found = interleave(readings)
    return Row(
        f"attempts decided a second, {EVENTS}, N={BATCH}, one thread",
        found,
        "steps/s",
        found["compiled"],
        bar=2_000_000.0,
        times=False,
    )
