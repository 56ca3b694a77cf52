"""Coverage steps a second, batched, and incremental gains against recomputing F at every step.

On one thread: the bar, 10,000,000 steps/s, is meant for two cores, but on a busy machine torch's
threads wait for one another at every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

import rewardzoo  # noqa: F401  (registers the environments)
from rewardzoo.rewards.submodular_coverage import Coverage
from rewardzoo.rewards.submodular_information import Information, matern52

from .timing import Row, interleave, one_thread, ratio, seconds_per_call

ID = "rewardzoo/SubmodularCoverage-v0"
BATCH = 16_384
STEPS = 39


def run(say: Callable[[str], None]) -> list[Row]:
    """The bar: 10,000,000 coverage steps a second; gains against recomputation."""
    with one_thread():
        return [*_steps(say), _information()]


def coverage_loop() -> Callable[[], Any]:
    """One step of the set function alone: a gain and the memory after it."""
    f = Coverage((30, 30))
    memory, _ = f.add(f.empty(BATCH), torch.zeros(BATCH, dtype=torch.int64))
    element = torch.randint(900, (BATCH,), generator=torch.Generator().manual_seed(0))
    return lambda: f.add(memory, element)


def env_loop(**kwargs: Any) -> Callable[[], Any]:
    """One step of the environment: dynamics, gain, observation, restarts."""
    envs = gymnasium.make_vec(ID, num_envs=BATCH, **kwargs)
    envs.reset(seed=0)
    action = torch.randint(5, (BATCH,), generator=torch.Generator().manual_seed(0))
    return lambda: envs.step(action)


def recomputed(rows: int = 64) -> Callable[[], Any]:
    """What a step costs where F is computed anew from the visited cells, as sets, a row at a time.

    The reference implementation's way; after half an episode.
    """
    f = Coverage((30, 30))
    visited = np.random.default_rng(0).integers(900, size=(rows, STEPS // 2)).tolist()
    return lambda: [f.value(row) for row in visited]


def _steps(say: Callable[[str], None]) -> list[Row]:
    say(f"compiling the step for N={BATCH}")
    rows = 64
    contenders = {
        "gains alone": _rate(coverage_loop(), BATCH),
        "environment": _rate(env_loop(), BATCH),
        "environment, compiled": _rate(env_loop(compile=True), BATCH),
        "sets, anew": _rate(recomputed(rows), rows),
    }
    readings = interleave(contenders)
    note = f"{ID}, N={BATCH}, one thread"
    found = [
        Row(
            f"coverage steps/s, {how}",
            {how: readings[how]},
            "steps/s",
            readings[how],
            bar=1e7,
            times=False,
            note=note,
        )
        for how in ("gains alone", "environment, compiled")
    ]
    return [
        *found,
        Row(
            "coverage steps/s, environment, not compiled",
            {"environment": readings["environment"]},
            "steps/s",
            readings["environment"],
            times=False,
            note=note,
        ),
        ratio(
            "coverage steps/s, environment vs recomputing F from sets",
            readings,
            "steps/s",
            "environment",
            "sets, anew",
            note="after half an episode of 40",
        ),
    ]


def _information() -> Row:
    """A gain after 40 measurements by the inverse factor, and by a determinant anew."""
    rows, length = 256, 40
    kernel = matern52(np.random.default_rng(0).random((100, 2)) * 3)
    f = Information(kernel, 1e-3, length + 1)
    path = torch.randint(100, (length, rows), generator=torch.Generator().manual_seed(0))
    memory = f.empty(rows)
    for element in path:
        memory, _ = f.add(memory, element)
    points = torch.cat([path, path[:1]]).T
    identity = torch.eye(length + 1, dtype=torch.float64)

    def anew() -> Any:
        block = f.kernel[points.unsqueeze(2), points.unsqueeze(1)] / f.noise
        return torch.linalg.slogdet(identity + block)

    readings = interleave(
        {
            "rank-one growth": _rate(lambda: f.add(memory, path[0]), rows),
            "determinant anew": _rate(anew, rows),
        }
    )
    return ratio(
        "Gaussian-process gains/s after 40 measurements, rank-one growth vs determinant",
        readings,
        "gains/s",
        "rank-one growth",
        "determinant anew",
        note=f"N={rows}, float64",
    )


def _rate(call: Callable[[], Any], steps: int) -> Callable[[], float]:
    seconds = seconds_per_call(call)
    return lambda: steps / seconds()
