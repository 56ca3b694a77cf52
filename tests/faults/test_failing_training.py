"""Rewards that are no numbers, and training that fails: what was saved before is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rewardzoo.callbacks import Saving
from rewardzoo.experiment import Arm, Budget, Experiment
from rewardzoo.jobs import jobs_of
from rewardzoo.launch import attempt
from rewardzoo.rewards.base import RewardFunction

ENV = "rewardzoo/CartPole-v0"


class LateNan(RewardFunction):
    """No number from the fifth step of an episode on."""

    def __call__(self, t: Any) -> Any:
        return torch.where(t.episode_step >= 4, torch.nan, t.reward)


def test_nan_is_named_with_its_step_and_the_other_arm_is_kept(digest: Any, tmp_path: Path) -> None:
    experiment = Experiment(
        name="nan", title="", paper="", seeds=(0,), claims=[],
        grid=[
            Arm("plain", ENV, "objective", agent_kwargs={"num_steps": 16}),
            Arm("nan", ENV, lambda envs: LateNan(), agent_kwargs={"num_steps": 16}),
        ],
        budgets={"quick": Budget(512, 8, 8, 1)},
    )  # fmt: skip
    plain, bad = jobs_of(experiment, "quick", tmp_path)
    assert attempt(plain, lambda metrics: None, lambda: False) == ""
    kept = digest(plain.folder)
    error = attempt(bad, lambda metrics: None, lambda: False)
    assert "reward function late_nan: paid nan in row 0" in error and "at step 4 of its" in error
    assert "late_nan" in (bad.folder / "log.txt").read_text()
    assert digest(plain.folder) == kept and not bad.finished


def test_training_that_fails_keeps_what_was_saved_before(tmp_path: Path) -> None:
    from rewardzoo.agents.ppo import PPO
    from rewardzoo.jobs import make_envs

    path = tmp_path / "checkpoint.pt"
    saving, learner = Saving(path, seconds=0.0), PPO(make_envs(ENV, "objective", 8), num_steps=16)

    def fail(agent: Any, metrics: dict[str, float]) -> None:
        if agent.num_timesteps > 256:
            raise RuntimeError("on purpose")
        saving(agent, metrics)

    with pytest.raises(RuntimeError, match="on purpose"):
        learner.learn(1024, callback=fail)
    assert PPO.load(path, make_envs(ENV, "objective", 8)).num_timesteps == 256
    with pytest.raises(ValueError, match="seconds=-1"):
        Saving(path, seconds=-1)
