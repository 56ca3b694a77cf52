"""Reward functions that take NumPy arrays: the same pay without the way through torch."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rewardzoo import RewardFunction, RewardWrapper, VectorRewardWrapper
from rewardzoo.rewards import Clip, Potential, RewardError, env_reward
from rewardzoo.rewards.base import Spaces


def tilt(obs):
    return abs(obs[:, 2]) + obs[:, 0] * obs[:, 0]


def tensors_only(obs):
    return tilt(torch.as_tensor(obs))


def shaped(phi):
    return Clip(env_reward + 0.5 * Potential(phi, 0.9), -2.0, 1.2)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_numpy_environments_are_paid_the_same_without_the_way_through_torch(
    mode,
):
    def make(phi):
        single = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=7)] * 3
        envs = SyncVectorEnv(single, autoreset_mode=mode)
        return VectorRewardWrapper(envs, shaped(phi))

    numpy, torch_ = make(tilt), make(tensors_only)
    assert numpy.reward_function.numpy and not torch_.reward_function.numpy
    for envs in (numpy, torch_):
        envs.reset(seed=3)
    ended = 0
    for step in range(60):
        actions = np.array([step % 2, 0, step // 3 % 2])
        ours, theirs = numpy.step(actions), torch_.step(actions)
        assert isinstance(numpy.transition.next_obs, np.ndarray)
        assert isinstance(torch_.transition.next_obs, torch.Tensor)
        for a, b in zip(ours[:4], theirs[:4], strict=True):
            assert type(a) is type(b) is np.ndarray and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)  # sums in another order
        for key in ("objective", "_episode", "_objective"):
            np.testing.assert_array_equal(ours[4][key], theirs[4][key])
        for key, value in ours[4]["episode"].items():
            np.testing.assert_allclose(value, theirs[4]["episode"][key], rtol=1e-5, atol=1e-5)
        for field in ("obs", "next_obs", "terminated", "valid", "episode_step"):
            mine, other = (getattr(e.transition, field) for e in (numpy, torch_))
            np.testing.assert_array_equal(mine, other.numpy())
        done = ours[2] | ours[3]
        ended += int(done.sum())
        if mode is AutoresetMode.DISABLED and done.any():
            for envs in (numpy, torch_):
                envs.reset(options={"reset_mask": done.copy()})
    assert ended > 10


def test_a_single_numpy_environment_is_paid_the_same_without_the_way_through_torch():
    envs = [
        RewardWrapper(gymnasium.make("CartPole-v1", max_episode_steps=7), shaped(phi))
        for phi in (tilt, tensors_only)
    ]
    for _ in range(3):
        for env in envs:
            env.reset(seed=3)
        over = False
        while not over:
            ours, theirs = (env.step(1) for env in envs)
            np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
            over = ours[2] or ours[3]
        assert ours[4]["episode"] == pytest.approx(theirs[4]["episode"], rel=1e-6)


@pytest.mark.parametrize(
    ("phi", "takes"),
    [
        (tilt, True),
        (lambda obs: obs[:, 2].abs(), False),  # no such method of arrays
        (lambda obs: obs.std(1), False),  # another deviation in NumPy
        (lambda obs: obs.sum(), False),  # not one number a row
        (torch.nn.Linear(4, 1), False),
    ],
)
def test_a_potential_takes_numpy_only_where_both_say_the_same(phi, takes):
    fn = Potential(phi, 0.9)
    fn.bind(3, torch.device("cpu"), Spaces(gymnasium.make("CartPole-v1").observation_space, None))
    assert fn.numpy is takes


def test_a_wrong_reward_of_numpy_is_told_like_one_of_torch():
    class Wrong(RewardFunction):
        numpy = True

        def __init__(self, value):
            self.value = value

        def __call__(self, t):
            return self.value

    for value, message in [
        (np.full(2, np.nan), "wrong: paid nan in row 0, expected a finite number"),
        (np.zeros(3), r"wrong: returned shape \(3,\), expected \(2,\)"),
        (torch.zeros(2), "wrong: returned Tensor, expected an array"),
    ]:
        single = [lambda: gymnasium.make("CartPole-v1")] * 2
        envs = VectorRewardWrapper(SyncVectorEnv(single), Wrong(value))
        envs.reset(seed=0)
        with pytest.raises(RewardError, match=message):
            envs.step(np.zeros(2, dtype=np.int64))
