"""What potential shaping by ``VectorRewardWrapper`` costs: batched face and SyncVectorEnv.

SyncVectorEnv is measured with next-step autoreset, its default, and with same-step autoreset, in
which a step that ends an episode has two observations.

Actions are drawn at random beforehand: pushing to one side only ends an episode in most calls, and
what ends is dearer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from rewardzoo import VectorRewardWrapper
from rewardzoo.rewards.base import env_reward
from rewardzoo.rewards.potential import Potential

from .env_step import ID, numpy_batched
from .timing import Row, interleave, one_thread, seconds_per_call

SLICE = 0.02
"""s, a reading. What a wrapper adds is small beside what a shared machine's speed drifts by in a
fraction of a second: many short readings in turn drift together, few long ones apart."""


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: 25 % of a batched call at N = 64; 15 us a call of SyncVectorEnv x 8."""
    with one_thread():
        return [
            _on_batched(64),
            *_on_sync(8, AutoresetMode.NEXT_STEP),
            *_on_sync(8, AutoresetMode.SAME_STEP),
        ]


def _potential(obs: Any) -> Any:
    return abs(obs[:, 2])


def _contenders(make: Callable[[], Any], actions: Any) -> dict[str, Callable[[], float]]:
    """The environments bare, and with shaping added to their reward and in its place."""
    contenders = {}
    for name, fn in {
        "bare": None,
        "shaping": Potential(_potential, 0.99),
        "env_reward + shaping": env_reward + Potential(_potential, 0.99),
    }.items():
        envs = make() if fn is None else VectorRewardWrapper(make(), fn)
        envs.reset(seed=0)
        played = itertools.cycle(actions)
        contenders[name] = seconds_per_call(
            lambda envs=envs, played=played: envs.step(next(played)), budget=SLICE
        )
    return contenders


def _on_batched(num_envs: int) -> Row:
    actions = torch.from_numpy(_random_actions(num_envs))
    contenders = _contenders(lambda: gymnasium.make_vec(ID, num_envs=num_envs), actions)
    readings = interleave(contenders, repeats=101)
    pairs = zip(readings["shaping"], readings["bare"], strict=True)
    return Row(
        f"time of a batched call with potential shaping vs without, N={num_envs}",
        readings,
        "s",
        [shaped / bare for shaped, bare in pairs],
        bar=1.25,
        at_most=True,
    )


def _on_sync(num_envs: int, mode: AutoresetMode) -> list[Row]:
    def make() -> Any:
        return gymnasium.vector.SyncVectorEnv(
            [lambda: gymnasium.make("CartPole-v1")] * num_envs,
            autoreset_mode=mode,
        )

    contenders = _contenders(make, _random_actions(num_envs))
    contenders["gymnasium's batch of 64"] = seconds_per_call(numpy_batched(64), budget=SLICE)
    readings = interleave(contenders, repeats=101)
    added = [s - b for s, b in zip(readings["shaping"], readings["bare"], strict=True)]
    calls = readings["gymnasium's batch of 64"]
    name = (
        f"time that potential shaping adds to a call of Gymnasium's SyncVectorEnv x {num_envs}, "
        f"{mode.value}"
    )
    return [
        Row(name, readings, "s", added, bar=15e-6, at_most=True, times=False),
        Row(
            f"{name}, in calls of Gymnasium's own batch of 64",
            {},
            "",
            [a / c for a, c in zip(added, calls, strict=True)],
            at_most=True,
            note="for other machines: one on which both are slow alike",
        ),
    ]


def _random_actions(num_envs: int) -> Any:
    """(1024, N) int64."""
    return np.random.default_rng(0).integers(0, 2, (1024, num_envs))
