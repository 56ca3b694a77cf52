"""Collecting items by a list: what is already had is worth nothing, and PPO can be told so too.

Prajapat et al. (2024), item collection: F counts the items of each kind up to a demand, 21 in
all. The modular surrogate pays for every visit of a cell with an item, and so for standing on one.
Beside SubPO the same gains train PPO, which sees what was collected. As in the paper: 7 x 15 cells,
horizon 40, random placements; one instance a seed.
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium

from rewardzoo.agents.ppo import PPO
from rewardzoo.checkpoint import resume, save_keeping_previous
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.rewards import SubmodularReward, VectorRewardWrapper

from .common.submodular import (
    GREEDY_BEST,
    HISTORY,
    MARKOV,
    MODULAR,
    SEEDS,
    TUNING_SEEDS,
    Task,
    at_least,
    draw_curves,
    draw_paths,
    methods,
    usual_claims,
)

PPO_LABEL = "PPO, sees the memory"
DEMAND = 21.0

TASKS = (Task("items", "rewardzoo/SubmodularItems-v0", instances=10),)
_PPO = {
    "num_steps": 39,
    "gamma": 1.0,
    "learning_rate": 1e-3,
    "num_minibatches": 4,
    "ent_coef": 0.01,
}


def train_ppo(trial: Any, task: Task) -> dict[str, float]:
    """PPO on the reward function ``submodular``, observing place, time and what was collected."""

    def make(num_envs: int) -> Any:
        kwargs = {**task.kwargs(trial.seed), "obs": "augmented", "device": trial.device}
        envs = gymnasium.make_vec(task.env, num_envs=num_envs, **kwargs)
        return VectorRewardWrapper(envs, SubmodularReward())

    envs = make(trial.budget.num_envs)
    first = float(envs.reset(seed=trial.seed)[1]["F"].mean())
    checkpoint = trial.folder / "ppo.pt"
    agent = resume(
        checkpoint,
        lambda path: PPO.load(path, env=envs),
        lambda: PPO(envs, seed=trial.seed, **_PPO),
    )

    def after(agent: PPO, metrics: dict[str, float]) -> None:
        if agent.iteration % 10 == 0:
            save_keeping_previous(agent.save, checkpoint)
        trial.log(agent.num_timesteps, **{task.name: metrics["rollout/ep_objective"] + first})

    left = max(0, trial.budget.total_timesteps - agent.num_timesteps)
    agent.learn(left, after, reset_num_timesteps=False)
    episodes = trial.budget.eval_episodes
    scores = agent.evaluate(make(episodes), episodes, deterministic=False)
    return {task.name: float(scores["objective"].double().mean()) + first}


EXPERIMENT = Experiment(
    name="submodular_items",
    title="Collecting items up to a demand",
    paper="Prajapat, Mutný, Zeilinger, Krause (2024), Submodular reinforcement learning, ICLR",
    grid=[*methods(TASKS), Measure(PPO_LABEL, functools.partial(train_ppo, task=TASKS[0]))],
    budgets={
        "smoke": Budget(total_timesteps=10_000, num_envs=32, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=1_500_000, num_envs=256, eval_episodes=512, seeds=5),
        "full": Budget(total_timesteps=6_000_000, num_envs=512, eval_episodes=2_048, seeds=10),
    },
    claims=[
        Claim(
            "SubPO-M collects 1.5 times as much as MODPO",
            at_least(
                "SubPO-M collects at least 1.5 times as many wanted items as MODPO.",
                MARKOV,
                "items",
                1.5,
                MODULAR,
            ),
        ),
        Claim(
            "SubPO-M meets .95 of the demand",
            at_least("SubPO-M meets .95 of the demand.", MARKOV, "items", 0.95, DEMAND),
        ),
        Claim(
            "PPO learns from the same gains",
            at_least(
                "PPO on the same gains, seeing what was collected, meets .9 of the demand.",
                PPO_LABEL,
                "items",
                0.9,
                DEMAND,
            ),
        ),
        *usual_claims(TASKS),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={"items": "items collected (of 21 wanted)"},
    figures=[
        Figure(
            "Paths",
            "A middling episode of the first seed, from the round end to the square one: "
            "cells have the colour of their item's kind, white ones are empty; a black dot marks "
            "an item that counted.",
            draw_paths(TASKS, (MARKOV, HISTORY, MODULAR, GREEDY_BEST)),
            (6.0, 8.6),
        ),
        Figure(
            "Training",
            "Items of the episodes played while training, mean and range over seeds; dotted: "
            "greedy and the uniform policy.",
            draw_curves(TASKS, (MARKOV, HISTORY, MODULAR, PPO_LABEL)),
            (6.0, 3.4),
        ),
    ],
)
