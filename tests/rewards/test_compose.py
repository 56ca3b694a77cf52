"""Arithmetic of reward functions; Clip, Delay and Schedule by hand-computed numbers."""

from __future__ import annotations

import pytest
import torch
from gymnasium.vector import AutoresetMode

from rewardzoo import RewardFunction, VectorRewardWrapper
from rewardzoo.rewards import Clip, Delay, Novelty, Scale, Schedule, Sum, env_reward
from rewardzoo.testing.scripted import scripted_envs


def paid(fn, steps, num_envs=1, mode=AutoresetMode.SAME_STEP, ends=("terminated",)):
    """Row 0 is paid 1, 2 | 11, 12, 13, 14 | 21, 22 | ... by the environment."""
    envs = VectorRewardWrapper(scripted_envs(num_envs, mode, ends), fn)
    envs.reset(seed=0)
    return [float(envs.step([0] * num_envs)[1][0]) for _ in range(steps)]


class One(RewardFunction):
    def __call__(self, t):
        return torch.ones_like(t.reward)


def test_sums_differences_and_multiples_pay_what_arithmetic_says():
    assert paid(env_reward + One(), 3) == [2, 3, 12]
    assert paid(env_reward - 2 * One(), 3) == [-1, 0, 9]
    assert paid(-(env_reward + One()) * 0.5, 3) == [-1, -1.5, -6]


def test_a_multiple_of_a_sum_is_a_sum_whose_terms_are_scaled():
    fn = 2 * (env_reward + 0.5 * One())
    assert isinstance(fn, Sum) and fn.name == "objective + one"
    assert paid(fn, 2) == [3, 5]
    assert {k: v.item() for k, v in fn.terms().items()} == {"objective": 4, "one": 1}


def test_scales_multiply():
    fn = 2 * (3 * One())
    assert isinstance(fn, Scale) and fn.weight == 6 and isinstance(fn.inner, One)


def test_sum_is_markov_and_rowwise_only_if_all_parts_are():
    assert (env_reward + One()).markov and (env_reward + One()).rowwise
    assert not (env_reward + Delay(One(), 2)).markov
    assert not (env_reward + Clip(Novelty())).rowwise


def test_an_object_with_memory_may_not_stand_twice_in_a_sum():
    novelty = Novelty()
    with pytest.raises(ValueError, match="novelty: the same object stands twice in a sum"):
        novelty + Clip(novelty)
    one = One()
    assert paid(one + one + env_reward + env_reward, 1) == [4]


@pytest.mark.parametrize("other", [1, 0.5, "objective", None])
def test_adding_something_else_names_it(other):
    with pytest.raises(TypeError, match="cannot be added to a reward function"):
        env_reward + other


def test_clip_limits():
    assert paid(Clip(env_reward, 1.5, 11.5), 4) == [1.5, 2, 11, 11.5]


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2])
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_delay_pays_sums_every_k_steps_and_the_rest_at_either_end(end, mode):
    got = paid(Delay(env_reward, 3), 9, mode=mode, ends=(end,))
    # rewards 1 2 | 11 12 13 14 | 21 22; the dead step of NEXT_STEP is paid 0
    if mode is AutoresetMode.SAME_STEP:
        assert got[:8] == [0, 3, 0, 0, 36, 14, 0, 43]
    else:
        assert got == [0, 3, 0, 0, 0, 36, 14, 0, 0]


def test_delay_beyond_the_episode_pays_its_sum_at_the_end():
    assert paid(Delay(env_reward, 100), 6) == [0, 3, 0, 0, 0, 50]


def test_delay_features_say_what_is_owed_and_for_how_long():
    fn = Delay(env_reward, 4)
    paid(fn, 1)
    assert fn.observation_features().tolist() == [[1.0, 0.25]]


def test_delay_refuses_to_relabel():
    with pytest.raises(RuntimeError, match="put the memory into the observation"):
        Delay(env_reward, 2).relabel(None)


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2])
def test_schedule_moves_linearly_in_steps_and_stays(mode):
    got = paid(Schedule(One(), steps=4, start=2.0, end=1.0), 9, mode=mode)
    if mode is AutoresetMode.NEXT_STEP:
        got = got[:2] + got[3:7]  # without the dead step, which is not counted
    assert got[:6] == [2, 1.75, 1.5, 1.25, 1, 1]


def test_schedule_counts_the_steps_of_all_rows():
    assert paid(Schedule(One(), steps=4), 3, num_envs=2) == [1, 0.5, 0]
