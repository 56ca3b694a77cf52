"""Evaluation while training: on time, without touching the training, the best policy kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

import rewardzoo  # noqa: F401
from rewardzoo.agents.barfi import BARFI
from rewardzoo.agents.ppo import PPO
from rewardzoo.agents.td3 import TD3
from rewardzoo.callbacks import Evaluation, RewardDistance
from rewardzoo.jobs import make_envs
from rewardzoo.rewards import RewardFunction, VectorRewardWrapper, env_reward
from rewardzoo.transition import Transition

ENV = "rewardzoo/CartPole-v0"


def envs(num_envs: int = 8) -> Any:
    return gymnasium.make_vec(ENV, num_envs=num_envs)


def agent() -> PPO:
    return PPO(envs(), seed=1, num_steps=16, learning_rate=1e-2)


def test_evaluates_on_time_keeps_the_best_and_films(tmp_path: Path) -> None:
    film = gymnasium.make(ENV, render_mode="rgb_array", max_episode_steps=20)
    best = tmp_path / "best.pt"
    evaluation = Evaluation(envs(), 300, 8, best=best, film=film, folder=tmp_path / "films")
    seen: list[dict[str, float]] = []

    def both(learner: PPO, metrics: dict[str, float]) -> None:
        evaluation(learner, metrics)
        seen.append(metrics)

    trained = agent().learn(128 * 8, callback=both)
    steps = [step for step, _ in evaluation.history]
    assert steps == [384, 640, 1024]  # the first iterations past 300, 600 and 900
    assert [i for i, m in enumerate(seen) if "eval/objective" in m] == [2, 4, 7]
    scores = [means["eval/objective"] for _, means in evaluation.history]
    kept = PPO.load(best, env=envs())
    assert float(kept.evaluate(envs(), 8)["objective"].mean()) == max(scores)
    assert kept.num_timesteps == steps[scores.index(max(scores))]
    films = sorted((tmp_path / "films").iterdir())
    assert [f.name for f in films] == ["step-1024.gif", "step-384.gif", "step-640.gif"]
    assert all(f.read_bytes()[:6] == b"GIF89a" for f in films)
    assert torch.equal(trained.parameters, agent().learn(128 * 8).parameters)


def test_keeps_nothing_that_does_not_beat_what_there_is(tmp_path: Path) -> None:
    best = tmp_path / "best.pt"
    agent().learn(128, callback=Evaluation(envs(), 1, 8, to_beat=501.0, best=best))
    assert not best.exists()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"every": 1, "num_episodes": 0}, "num_episodes=0"),
        ({"every": 1, "film": gymnasium.make(ENV)}, "its render_mode is None"),
        ({"every": 1, "film": gymnasium.make(ENV, render_mode="rgb_array")}, "folder=None"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation(envs(), **kwargs)


GRID = "rewardzoo/GridWorld-v0"


class Turning(RewardFunction):
    """The objective, and from the second update on its opposite."""

    def __init__(self) -> None:
        self.sign = torch.ones(())

    def __call__(self, t: Transition) -> Tensor:
        return self.sign * t.reward

    def update(self) -> dict[str, float | Tensor]:
        self.version += 1
        if self.version == 2:
            self.sign = -self.sign
        return {}


def test_the_distance_to_the_objective_follows_a_reward_that_is_learned() -> None:
    """Exactly: 0 and no regret at first, 2 and all of it once the reward has turned."""
    seen: list[dict[str, float]] = []
    distance = RewardDistance(every=1)

    def both(learner: PPO, metrics: dict[str, float]) -> None:
        distance(learner, metrics)
        seen.append(metrics)

    def learn(callback: Any) -> PPO:
        envs = make_envs(GRID, lambda _: Turning(), 4)
        return PPO(envs, seed=1, num_steps=8, gamma=0.9).learn(32 * 3, callback=callback)

    found = learn(both)
    assert [m["distance/starc"] for m in seen] == pytest.approx([0.0, 2.0, 2.0], abs=1e-5)
    assert [m["distance/regret"] for m in seen] == pytest.approx([0.0, 1.0, 1.0], abs=1e-5)
    assert [step for step, _ in distance.history] == [32, 64, 96]
    assert torch.equal(found.parameters, learn(None).parameters)


def test_the_counts_of_a_reward_that_is_learned_from_stay_what_they_are() -> None:
    def learn(callback: Any) -> PPO:
        return PPO(make_envs(GRID, "novelty", 4), seed=1, num_steps=8).learn(96, callback=callback)

    distance = RewardDistance(every=1)
    assert torch.equal(learn(distance).parameters, learn(None).parameters)
    found = [x["distance/starc"] for _, x in distance.history]
    assert len(set(found)) == 3  # what is new changes


def test_the_distance_is_sampled_where_states_cannot_be_counted() -> None:
    """With an agent of another kind, and the same states every time."""
    envs = make_envs("rewardzoo/Pendulum-v0", lambda _: env_reward + 0.5 * env_reward, 2)
    distance = RewardDistance(every=8, num_samples=32, rollouts=1)
    TD3(envs, gamma=0.8, actor_hidden=(8,), critic_hidden=(8,), num_steps=4).learn(
        16, callback=distance
    )
    (_, first), (_, second) = distance.history
    assert set(first) == {"distance/starc", "distance/low", "distance/high"}
    assert first == second and first["distance/starc"] < 1e-2


def test_the_distance_of_a_learned_alignment_reward_leaves_barfi_as_it_is() -> None:
    def learn(callback: Any) -> BARFI:
        envs = make_envs("rewardzoo/AlignmentMaze-v0", "alignment(maze_lure(), order=1)", 3)
        agent = BARFI(envs, order=1, first=3, buffer=30, updates=2, gamma=0.8)
        return agent.learn(600, callback=callback)

    distance = RewardDistance(every=100, num_samples=512, rollouts=4)
    watched, alone = learn(distance), learn(None)
    assert torch.equal(watched.weights.phi, alone.weights.phi)
    assert torch.equal(watched.theta, alone.theta)
    found = [x["distance/starc"] for _, x in distance.history]
    assert len(found) > 2 and 0.1 < found[0] < 2.0 and len(set(found)) > 1


def test_what_has_no_distance_to_the_objective_is_named() -> None:
    looks = RewardDistance(every=1).look
    machine = "reward_machine('0\\n[1]\\n(0, 1, \\'g\\', 1)', {'g': [3]})"
    with pytest.raises(ValueError, match="reward_machine: it has memory"):
        looks(PPO(make_envs(GRID, machine, 2)))
    with pytest.raises(ValueError, match="0 reward functions pay them, expected one"):
        looks(PPO(gymnasium.make_vec(GRID, num_envs=2)))
    with pytest.raises(ValueError, match="2 reward functions pay them"):
        looks(PPO(VectorRewardWrapper(make_envs(GRID, "novelty", 2), env_reward)))
    with pytest.raises(ValueError, match="CartPoleVectorEnv has no functional dynamics"):
        stock = gymnasium.make_vec("CartPole-v1", num_envs=2)
        looks(PPO(VectorRewardWrapper(stock, env_reward)))
    with pytest.raises(ValueError, match="every=0"):
        RewardDistance(every=0)
