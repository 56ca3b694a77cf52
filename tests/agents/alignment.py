"""BARFI on small settings, and rounds of it, for tests."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch

from rewardzoo.agents.barfi import BARFI
from rewardzoo.agents.common.episodes import Episodes
from rewardzoo.random import Rng
from rewardzoo.rewards import RewardFunction, VectorRewardWrapper
from rewardzoo.rewards.alignment import AlignmentReward
from rewardzoo.rewards.heuristics import MazeLure

MAZE = "rewardzoo/AlignmentMaze-v0"


SMALL = {"order": 1, "first": 3, "buffer": 30, "updates": 2}


def barfi(
    advice: RewardFunction | None = None,
    seeds: tuple[int, ...] = (0,),
    env: str = MAZE,
    reward: dict[str, Any] | None = None,
    learns: list[bool] | None = None,
    **hyperparameters: Any,
) -> BARFI:
    fn = AlignmentReward(advice or MazeLure(), runs=len(seeds), **{"order": 1, **(reward or {})})
    envs = VectorRewardWrapper(gymnasium.make_vec(env, num_envs=3 * len(seeds)), fn)
    return BARFI(envs, seeds=seeds, learns=learns, **{**SMALL, **hyperparameters})


def rounds(agent: Any, count: int) -> list[dict[str, float]]:
    seen: list[dict[str, float]] = []

    def after(agent: Any, metrics: dict[str, float]) -> bool:
        seen.append(metrics)
        return len(seen) < count

    agent.learn(10**9, callback=after, reset_num_timesteps=False)
    return seen


INNER = ["reinforce", "actor_critic"]


def fixed_episodes(agent: BARFI) -> Episodes:
    """Old episodes with made-up rewards; the agent turns to float64.

    They are above 0, so that the learner has a stable fixed point, and small, so that entropy holds
    it at finite logits.
    """
    rounds(agent, 3)
    for module in (agent.network, agent.weights, agent.reward.features):
        module.double()
    zero = torch.zeros(1, dtype=torch.int64)
    obs, action, rewards, live = agent.buffer.draw(Rng(zero, zero, 0), 3)
    paid = torch.rand(rewards.shape, generator=torch.Generator().manual_seed(0)).double()
    return Episodes(obs.double(), action, 0.02 * paid * live.unsqueeze(-1), live.double())
