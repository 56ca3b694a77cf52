"""Do judged messages help to find the stairs of a level of NetHack?

Zheng et al. (2024): on NetHack's sparse tasks the environment's reward alone teaches nothing, and
messages that a judge calls helpful do. Scaled down from 2e9 steps to 300,000: the first level's
stairs (``NetHackStaircase``: 1 for standing on them, no other reward, 500 steps an episode; play by
chance finds them in .15 of the episodes). The policy sees 15 x 15 glyphs around the hero, his
numbers and the message, and has no memory. The judges are rules (an ideal language model), chance,
and the embedded model, which answers in the background (so that no two of its runs are alike). What
helps is what serves the game's score (kills, gold, doors that open), none of which is the stairs.
Of the reward models only retrieval: networks fitted while playing take four times as long here, and
what they say of messages that nobody judged is ``oni_messages``'s question.

Without the environment's reward (the paper's reward-free setting, on ``NetHackScore``) the agent
should at least collect more of what the judge praises than play by chance does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.jobs import make_envs
from rewardzoo.llm.judges import RandomJudge
from rewardzoo.metrics.statistics import stratified_bootstrap
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.base import RewardFunction, env_reward
from rewardzoo.rewards.oni import OniRetrieval, mixed
from rewardzoo.rewards.wrappers import VectorRewardWrapper
from rewardzoo.verdicts import above

from .common.successes import beats, curves_of_success, does_not_help, train_and_count

EXTRINSIC, RETRIEVAL, RANDOM, FREE, EMBEDDED = (
    "extrinsic only",
    "retrieval",
    "retrieval, random labels",
    "reward-free",
    "retrieval, embedded model",
)
GOAL, WEIGHT = "score", 0.1
RANDOM_RATE = 0.1  # share of messages called helpful by chance: as many as the rules call so
CHANCE_STEPS = 50_000  # of play by chance, to compare with
WORLD: dict[str, Any] = {
    "observation_keys": ("glyphs_crop", "blstats", "message"),
    "crop": 15,
    "penalty_step": 0.0,
    "max_episode_steps": 500,
    "num_workers": 0,  # jobs side by side have no core to spare
}
# Looked at on seed 0: the environment's reward teaches nothing in 500,000 steps (.07 to .12
# throughout), retrieval rises to .2; on seed 1 it does not, with thrice the weight, nor with twice
# the epochs. With fewer actions, on seed 0: .15 and .16.
PPO_SETTINGS: dict[str, Any] = {
    "num_steps": 64,
    "num_epochs": 2,
    "num_minibatches": 4,
    "learning_rate": 5e-4,
    "ent_coef": 0.01,
    "gamma": 0.99,
}


def reward_of(label: str, seed: int) -> RewardFunction:
    """The reward function of an arm."""
    if label == EXTRINSIC:
        return 1.0 * env_reward
    judge: Any = "smollm2" if label == EMBEDDED else "rules"
    if label == RANDOM:
        judge = RandomJudge(RANDOM_RATE, seed)
    return mixed(OniRetrieval(judge, GOAL), 0.0 if label == FREE else 1.0, WEIGHT)


def worlds(task: str, label: str, trial: Any) -> VectorRewardWrapper:
    """Games that pay what an arm is paid."""
    fn = reward_of(label, trial.seed)
    env = f"rewardzoo/{task}-v0"
    return make_envs(env, lambda envs: fn, trial.budget.num_envs, trial.device, **WORLD)


def train(trial: Any, label: str) -> dict[str, float]:
    """PPO on the stairs and on messages, by the arm's reward model."""
    return train_and_count(trial, worlds("NetHackStaircase", label, trial), **PPO_SETTINGS)


def explore(trial: Any) -> dict[str, float]:
    """PPO on messages alone, and play by chance: what an episode is paid."""
    chance = paid_by_chance(worlds("NetHackScore", FREE, trial), trial)
    found = train_and_count(trial, worlds("NetHackScore", FREE, trial), **PPO_SETTINGS)
    return {"return": found["return"], "chance": chance}


def paid_by_chance(envs: VectorRewardWrapper, trial: Any) -> float:
    """Mean return of the episodes of random actions."""
    rng = np.random.default_rng(trial.seed)
    envs.reset(seed=trial.seed)
    total, episodes = 0.0, 0
    for step in range(min(CHANCE_STEPS, trial.budget.total_timesteps) // envs.num_envs):
        if step % PPO_SETTINGS["num_steps"] == 0:  # as often as an agent lets messages be judged
            envs.reward_function.update()
        actions = rng.integers(envs.single_action_space.n, size=envs.num_envs)  # type: ignore[attr-defined]
        info = envs.step(actions)[4]
        ended = info["_episode"]
        total += float(info["episode"]["r"][ended].sum())
        episodes += int(ended.sum())
    envs.close()
    return total / max(1, episodes)


def explores(results: Results) -> Verdict:
    """Reward-free play is paid 1.5 times what chance is paid."""
    final = results[FREE].final
    found = stratified_bootstrap(final["return"] / np.maximum(final["chance"], 1e-9))
    return above(
        "Paid for messages alone, PPO's episodes earn at least 1.5 times those of random play.",
        found,
        "ratio of the intrinsic reward of an episode, interquartile mean over seeds",
        1.5,
    )


EXPERIMENT = Experiment(
    name="oni_nethack",
    title="Messages judged online, on the way to the stairs",
    paper="Zheng et al. (2024), Online intrinsic rewards for decision making agents from large "
    "language model feedback",
    grid=[
        *(Measure(label, partial(train, label=label)) for label in (EXTRINSIC, RETRIEVAL, RANDOM)),
        Measure(FREE, explore),
        Measure(EMBEDDED, partial(train, label=EMBEDDED)),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4_096, num_envs=32, eval_episodes=0, seeds=1),
        "quick": Budget(total_timesteps=300_000, num_envs=32, eval_episodes=0, seeds=5),
        "full": Budget(total_timesteps=10_000_000, num_envs=32, eval_episodes=0, seeds=10),
    },
    claims=[
        Claim(
            "Retrieval beats the environment's reward alone",
            beats(
                RETRIEVAL,
                EXTRINSIC,
                "With retrieval of messages judged by rules, PPO finds the stairs more often than "
                "with the environment's reward alone.",
            ),
        ),
        Claim(
            "Random labels do not help",
            does_not_help(
                RANDOM, EXTRINSIC, "With labels by chance it learns no more than without any."
            ),
        ),
        Claim("Messages alone are explored for", explores),
    ],
    seeds=tuple(range(510, 520)),
    tuning_seeds=(0, 1),
    columns={"success": "success", "objective": "objective", "return": "specified"},
    figures=[
        Figure(
            "Success while training",
            "Share of episodes that reach the stairs, over the last tenth of the run: "
            "interquartile mean and 95 % interval over seeds.",
            partial(curves_of_success, without=(FREE,)),
        )
    ],
)
