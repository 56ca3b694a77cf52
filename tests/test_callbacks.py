"""Evaluation while training: on time, without touching the training, the best policy kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.agents.ppo import PPO
from rewardzoo.callbacks import Evaluation

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
