"""Environment steps on CartPole: batched, against SyncVectorEnv and Gymnasium's own batch.

On one thread, as NumPy is: torch's other threads wait for one another at every operation, which on
a busy machine costs more than they bring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

import rewardzoo  # noqa: F401  (registers the environments)

from .timing import Row, interleave, one_thread, ratio, seconds_per_call

ID = "rewardzoo/CartPole-v0"
BATCH = 4096
SYNC = (
    16  # SyncVectorEnv is a Python loop: its rate per environment does not depend on their number
)


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: 100 x SyncVectorEnv; Gymnasium's batch at N = 64, 1,024, 4,096; 8,000 steps/s."""
    with one_thread():
        return [_against_sync(), *_small_batch(say), *_large_batches(say), *_single(say)]


def batched(num_envs: int, **kwargs: Any) -> Callable[[], Any]:
    """One call of ``step`` on the batched face."""
    envs = gymnasium.make_vec(ID, num_envs=num_envs, **kwargs)
    envs.reset(seed=0)
    actions = torch.arange(num_envs) % 2
    return lambda: envs.step(actions)


def numpy_batched(num_envs: int) -> Callable[[], Any]:
    """One call of ``step`` on the NumPy-batched CartPole that comes with Gymnasium."""
    envs = gymnasium.make_vec(
        "CartPole-v1", num_envs=num_envs, vectorization_mode="vector_entry_point"
    )
    envs.reset(seed=0)
    actions = np.arange(num_envs) % 2
    return lambda: envs.step(actions)


def _sync(num_envs: int) -> Callable[[], Any]:
    envs = gymnasium.make_vec(ID, num_envs=num_envs, vectorization_mode="sync")
    envs.reset(seed=0)
    actions = np.arange(num_envs) % 2
    return lambda: envs.step(actions)


def _against_sync() -> Row:
    contenders = {
        f"batch of {BATCH}": _rate(batched(BATCH), BATCH),
        f"SyncVectorEnv of {SYNC}": _rate(_sync(SYNC), SYNC),
    }
    names = tuple(contenders)
    return ratio(
        "env steps/s, batched face vs SyncVectorEnv of the single face",
        interleave(contenders),
        "steps/s",
        names[0],
        names[1],
        bar=100.0,
        note=f"SyncVectorEnv holds {SYNC}: it steps them one by one, at the same rate each",
    )


def _small_batch(say: Callable[[str], None]) -> list[Row]:
    say("compiling the step for N=64")
    readings = interleave(
        {
            "rewardzoo": seconds_per_call(batched(64)),
            "rewardzoo, compiled": seconds_per_call(batched(64, compile=True)),
            "gymnasium": seconds_per_call(numpy_batched(64)),
        }
    )
    return [
        ratio(
            f"time of a batched call of {ours} vs Gymnasium's NumPy batch, N=64",
            readings,
            "s",
            ours,
            "gymnasium",
            bar=1.5,
            at_most=True,
        )
        for ours in ("rewardzoo", "rewardzoo, compiled")
    ]


def _large_batches(say: Callable[[str], None]) -> list[Row]:
    rows = []
    for num_envs in (1024, 4096):
        say(f"compiling the step for N={num_envs}")
        contenders = {
            "rewardzoo": _rate(batched(num_envs, compile=True), num_envs),
            "gymnasium": _rate(numpy_batched(num_envs), num_envs),
        }
        rows.append(
            ratio(
                f"env steps/s, compiled, vs Gymnasium's NumPy batch, N={num_envs}",
                interleave(contenders),
                "steps/s",
                "rewardzoo",
                "gymnasium",
                bar=1.0,
            )
        )
    return rows


def _single(say: Callable[[str], None]) -> list[Row]:
    say("compiling the step of the single face")
    readings = interleave({"plain": _alone(), "compiled": _alone(compile=True)})
    return [
        Row(
            f"env steps/s, single face, {how}",
            {how: readings[how]},
            "steps/s",
            readings[how],
            bar=8000.0,
            times=False,
            note="gymnasium.make with its default wrappers, resets included",
        )
        for how in readings
    ]


def _alone(**kwargs: Any) -> Callable[[], float]:
    """Steps of the single face in a second, resets included."""
    env = gymnasium.make(ID, **kwargs)
    env.reset(seed=0)
    action = 0

    def step() -> None:
        nonlocal action
        action = 1 - action
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    return _rate(step, 1)


def _rate(call: Callable[[], Any], steps: int) -> Callable[[], float]:
    seconds = seconds_per_call(call)
    return lambda: steps / seconds()
