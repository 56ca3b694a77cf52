"""Steps of the knee patients: the batched face at 8,192 rows, against the single environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import torch

import rewardzoo  # noqa: F401  (registers the environments)

from .timing import Row, interleave, one_thread, ratio, seconds_per_call

ID = "rewardzoo/KneeOA-v0"
BATCH = 8192


def run(say: Callable[[str], None]) -> list[Row]:
    """The bar: 1,000,000 visits decided a second, resets included."""
    say(f"batch of {BATCH} and single environment")
    with one_thread():
        batch, single = f"batch of {BATCH}", "single environment"
        readings = interleave({batch: _batched(), single: _alone()})
    note = "random decisions, episodes of four, resets included, one thread"
    return [
        Row(
            f"knee steps/s, {batch}",
            {batch: readings[batch]},
            "steps/s",
            readings[batch],
            bar=1e6,
            times=False,
            note=note,
        ),
        ratio(f"knee steps/s, {batch} vs {single}", readings, "steps/s", batch, single, note=note),
    ]


def _batched() -> Callable[[], float]:
    envs = gymnasium.make_vec(ID, num_envs=BATCH)
    envs.reset(seed=0)
    actions = torch.randint(2, (BATCH,), generator=torch.Generator().manual_seed(0))
    read = seconds_per_call(lambda: envs.step(actions))
    return lambda: BATCH / read()


def _alone() -> Callable[[], float]:
    env: Any = gymnasium.make(ID)
    env.reset(seed=0)
    action = 0

    def step() -> None:
        nonlocal action
        action = 1 - action
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    read = seconds_per_call(step)
    return lambda: 1.0 / read()
