"""What potential shaping by ``VectorRewardWrapper`` costs: batched face and SyncVectorEnv."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from rewardzoo import VectorRewardWrapper
from rewardzoo.rewards.base import env_reward
from rewardzoo.rewards.potential import Potential

from .env_step import ID
from .timing import Row, interleave, one_thread, seconds_per_call


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: 25 % of a batched call at N = 64; 15 us a call of SyncVectorEnv x 8."""
    with one_thread():
        return [_on_batched(64), _on_sync(8)]


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
        contenders[name] = seconds_per_call(lambda envs=envs: envs.step(actions), budget=0.2)
    return contenders


def _on_batched(num_envs: int) -> Row:
    contenders = _contenders(
        lambda: gymnasium.make_vec(ID, num_envs=num_envs), torch.arange(num_envs) % 2
    )
    readings = interleave(contenders, repeats=9)
    pairs = zip(readings["shaping"], readings["bare"], strict=True)
    return Row(
        f"time of a batched call with potential shaping vs without, N={num_envs}",
        readings,
        "s",
        [shaped / bare for shaped, bare in pairs],
        bar=1.25,
        at_most=True,
    )


def _on_sync(num_envs: int) -> Row:
    contenders = _contenders(
        lambda: gymnasium.vector.SyncVectorEnv(
            [lambda: gymnasium.make("CartPole-v1")] * num_envs,
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
        ),
        np.arange(num_envs) % 2,
    )
    readings = interleave(contenders, repeats=9)
    pairs = zip(readings["shaping"], readings["bare"], strict=True)
    return Row(
        f"time that potential shaping adds to a call of Gymnasium's SyncVectorEnv x {num_envs}",
        readings,
        "s",
        [shaped - bare for shaped, bare in pairs],
        bar=15e-6,
        at_most=True,
        times=False,
    )
