"""Runs of neighbouring seeds have nothing in common: no world, no noise."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.random import SEEDS_APART, first_row
from rewardzoo.registration import AGENTS

N = 64
CASES = {
    "ppo": ("rewardzoo/CartPole-v0", {"num_steps": 4}, N * 4),
    "double_dqn": ("rewardzoo/CartPole-v0", {}, 64),
    "td3": ("rewardzoo/Pendulum-v0", {"num_steps": 4}, N * 4),
    "sac": ("rewardzoo/Pendulum-v0", {"num_steps": 4}, N * 4),
    "reinforce": ("rewardzoo/AlignmentMaze-v0", {}, 64),
    "sb3_ppo": ("rewardzoo/CartPole-v0", {"n_steps": 4, "batch_size": 64}, N * 4),
}


@pytest.mark.parametrize("name", CASES)
def test_neighbouring_seeds_share_no_row(name: str) -> None:
    env, given, steps = CASES[name]
    rows: list[set[int]] = []
    noise: list[Any] = []
    for seed in (100, 101):
        envs = gymnasium.make_vec(env, num_envs=N)
        agent = AGENTS[name](envs, seed=seed, **given)
        agent.learn(steps)
        rows.append(set(envs.unwrapped.carry.seed.tolist()))
        noise.append(getattr(agent, "_seeds", torch.tensor([first_row(seed)])))
    assert len(rows[0]) == N and not rows[0] & rows[1]
    assert not set(noise[0].tolist()) & set(noise[1].tolist())


def test_first_rows_are_further_apart_than_any_batch() -> None:
    assert first_row(3) - first_row(2) == SEEDS_APART > 2**16
    with pytest.raises(ValueError, match="seed=.*: expected an integer below 2"):
        first_row(2**43)
