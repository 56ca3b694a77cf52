"""What a step of one CartPole costs, as the number of environments grows: ours and Gymnasium's.

Every call of ``step`` moves all of them, resets included, so a step of one costs a share of what
the call costs in all and what a row adds. Gymnasium has two: ``SyncVectorEnv``, a loop over
environments, and a batch in NumPy written for CartPole alone. On one thread, as NumPy is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from .env_step import batched, numpy_batched
from .timing import Point, Row, cheaper, interleave, one_thread, seconds_per_call

SIZES = (1, 8, 64, 512, 4096)
BUDGET = 0.1  # s, of a reading


def run(say: Callable[[str], None]) -> list[Row]:
    """No bar: a curve."""
    with one_thread():
        return [_at(num_envs, say) for num_envs in SIZES]


def _at(num_envs: int, say: Callable[[str], None]) -> Row:
    say(f"N={num_envs}")
    readings = interleave(
        {
            "rewardzoo, compiled": _share(batched(num_envs, compile=True), num_envs),
            "rewardzoo": _share(batched(num_envs), num_envs),
            "gymnasium, NumPy batch": _share(numpy_batched(num_envs), num_envs),
            "gymnasium, SyncVectorEnv": _share(_sync(num_envs), num_envs),
        }
    )
    return cheaper(
        Point("A step of one CartPole", "environments", num_envs),
        readings,
        readings["gymnasium, NumPy batch"],
        "compiled, against Gymnasium's NumPy batch; one thread",
    )


def _sync(num_envs: int) -> Callable[[], Any]:
    """One call of ``step`` on a loop over Gymnasium's own CartPoles."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode="sync")
    envs.reset(seed=0)
    actions = np.arange(num_envs) % 2
    return lambda: envs.step(actions)


def _share(call: Callable[[], Any], num_envs: int) -> Callable[[], float]:
    """A reading: seconds a step of one of them."""
    seconds = seconds_per_call(call, BUDGET)
    return lambda: seconds() / num_envs
