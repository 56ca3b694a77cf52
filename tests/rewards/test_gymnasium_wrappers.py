"""Gymnasium 1.2.0's wrappers of rewards, where ours do not follow them."""

from __future__ import annotations

import gymnasium
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rewardzoo import RewardFunction, VectorRewardWrapper
from rewardzoo.rewards import Normalise, env_reward
from rewardzoo.testing.scripted import ScriptedEnv, scripted_envs


def test_gymnasium_statistics_lose_the_first_reward_under_same_step_and_ours_do_not():
    def envs():
        make = [lambda: ScriptedEnv((3,))]
        return SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)

    def lengths(envs):
        envs.reset(seed=0)
        found = []
        for _ in range(9):
            info = envs.step([0])[4]
            if "episode" in info and info["_episode"][0]:
                found.append(int(info["episode"]["l"][0]))
        return found

    assert lengths(VectorRewardWrapper(envs(), env_reward)) == [3, 3, 3]
    theirs = lengths(gymnasium.wrappers.vector.RecordEpisodeStatistics(envs()))
    assert theirs == [3, 2, 2], "Gymnasium was repaired: say so in the docs"


def test_gymnasium_transform_pays_dead_steps_and_ours_does_not():
    class PlusOne(RewardFunction):
        def __call__(self, t):
            return t.reward + 1

    def paid(envs):
        envs.reset(seed=0)
        return [float(envs.step([0])[1][0]) for _ in range(4)]

    theirs = gymnasium.wrappers.vector.TransformReward(
        scripted_envs(1, AutoresetMode.NEXT_STEP), lambda r: r + 1
    )
    ours = VectorRewardWrapper(scripted_envs(1, AutoresetMode.NEXT_STEP), PlusOne())
    assert paid(ours) == [2, 3, 0, 12]  # two steps, the dead one, the next episode's first
    assert paid(theirs) == [2, 3, 1, 12], "Gymnasium was repaired: say so in the docs"


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_gymnasium_normaliser_leaks_between_episodes_and_ours_does_not(end):
    def envs():
        make = [lambda: ScriptedEnv((2,), (end,))]
        return SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)

    theirs = gymnasium.wrappers.vector.NormalizeReward(envs(), gamma=0.5)
    ours = VectorRewardWrapper(envs(), Normalise(env_reward, gamma=0.5))
    theirs.reset(seed=0)
    ours.reset(seed=0)
    for _ in range(2):  # one episode with rewards 1 and 2: returns so far 1 and 2.5
        theirs.step([0])
        ours.step([0])
    _, mean, _ = ours.reward_function._moments.tolist()
    assert mean == pytest.approx((1 + 2.5) / 2, rel=1e-3)
    assert ours.reward_function._return.tolist() == [0.0]
    leaked = theirs.accumulated_reward.tolist()
    assert leaked == ([2.0] if end == "terminated" else [2.5]), "Gymnasium was repaired: say so"
