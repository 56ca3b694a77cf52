"""Normalise against the plain definition, in every autoreset mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from rewardzoo import VectorRewardWrapper
from rewardzoo.rewards import Normalise, env_reward
from rewardzoo.testing.scripted import scripted_envs


def play(mode, end, num_envs, gamma, steps=25):
    """What is paid, and what the definition says, step by step."""
    envs = VectorRewardWrapper(
        scripted_envs(num_envs, mode, (end,)), Normalise(env_reward, gamma, epsilon=1e-8)
    )
    envs.reset(seed=0)
    running = np.zeros(num_envs)
    seen: list[float] = []
    for _ in range(steps):
        _, paid, terminated, truncated, info = envs.step([0] * num_envs)
        valid = envs.transition.valid.numpy()
        objective = info["objective"].astype(float)
        running[valid] = gamma * running[valid] + objective[valid]
        seen += list(running[valid])
        done = terminated | truncated
        running[done] = 0
        # The variance starts at 1 with the weight of 1e-4 steps and mean 0.
        n, mean = len(seen), np.mean(seen)
        count = n + 1e-4
        squares = np.sum((np.array(seen) - mean) ** 2) + 1e-4 + mean**2 * 1e-4 * n / count
        yield paid, objective * valid / np.sqrt(squares / count + 1e-8)
        if mode is AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})


@pytest.mark.parametrize("num_envs", [1, 8])
@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_rewards_are_divided_by_the_deviation_of_all_valid_returns(mode, end, num_envs):
    for paid, want in play(mode, end, num_envs, gamma=0.9):
        np.testing.assert_allclose(paid, want, rtol=1e-5)


def test_the_mean_is_not_subtracted():
    paid = [float(p[0]) for p, _ in play(AutoresetMode.SAME_STEP, "terminated", 1, gamma=0.0)]
    assert all(p > 0 for p in paid), "rewards of one sign keep it"


def test_dead_rows_count_for_nothing():
    fn = Normalise(env_reward, 0.9)
    envs = VectorRewardWrapper(scripted_envs(1, AutoresetMode.NEXT_STEP), fn)
    envs.reset(seed=0)
    for _ in range(2):
        envs.step([0])
    before = fn.state_dict()["_moments"]
    assert not envs.step([0])[1].any() and not envs.transition.valid.any()
    assert torch.equal(fn.state_dict()["_moments"], before)


def test_agent_discount_is_taken_and_another_number_is_no_error():
    fn = Normalise(env_reward)
    fn.match_gamma(0.9)
    assert fn.gamma == 0.9
    Normalise(env_reward, 0.5).match_gamma(0.9)  # scaling moves no optimum


def test_relabel_uses_the_present_scale_and_moves_nothing():
    fn = Normalise(env_reward, 0.9)
    envs = VectorRewardWrapper(scripted_envs(2, AutoresetMode.SAME_STEP), fn)
    envs.reset(seed=0)
    envs.step([0, 0])
    first = envs.transition
    for _ in range(5):
        envs.step([0, 0])
    scale = 1 / torch.sqrt(fn._moments[2] / fn._moments[0] + 1e-8)
    for _ in range(2):
        torch.testing.assert_close(fn.relabel(first), first.reward * scale.float())
