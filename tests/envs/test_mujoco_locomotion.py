"""MuJoCo locomotion equals Gymnasium's tasks, saves its state, and films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import rewardzoo  # noqa: F401
from rewardzoo.testing import check_vector_env

pytest.importorskip("mujoco")

TASKS = ["InvertedPendulum", "InvertedDoublePendulum", "Hopper", "HalfCheetah", "Walker2d", "Ant"]


@pytest.mark.parametrize("task", TASKS)
def test_equals_gymnasium(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same observations (as float32), rewards and ends, over whole random episodes."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a file about Gymnasium's models where it runs
    ours, theirs = gymnasium.make(f"rewardzoo/{task}-v0"), gymnasium.make(f"{task}-v5")
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps == 1000
    assert ours.action_space == theirs.action_space
    ours.action_space.seed(0)
    for seed in range(2):
        a, _ = ours.reset(seed=seed)
        b, _ = theirs.reset(seed=seed)
        for _ in range(60):
            assert a.dtype == np.float32 and np.array_equal(a, b.astype(np.float32))
            action = ours.action_space.sample()
            a, reward, terminated, truncated, info = ours.step(action)
            b, *theirs_rest, _ = theirs.step(action)
            assert [reward, terminated, truncated] == theirs_rest
            assert info["objective"] == reward
            if terminated:
                with pytest.raises(gymnasium.error.ResetNeeded):
                    ours.unwrapped.step(action)
                break


@pytest.mark.parametrize("task", TASKS)
def test_rows_seeds_autoreset_and_saving(task: str) -> None:
    """Saved in the middle of an episode it continues bit for bit: every derived number counts."""

    def make(num_envs: int, autoreset_mode: Any) -> Any:
        return gymnasium.make_vec(
            f"rewardzoo/{task}-v0", num_envs, autoreset_mode=autoreset_mode, max_episode_steps=9
        )

    report = check_vector_env(make, num_envs=2, steps=24)
    assert report.objective and report.saves


def test_single_environment_passes_gymnasium_checks() -> None:
    check_env(gymnasium.make("rewardzoo/Hopper-v0").unwrapped, skip_render_check=True)


def test_many_worlds_in_processes_are_the_same_worlds() -> None:
    """Four in this process; as many in two others give the same numbers."""
    here = gymnasium.make_vec("rewardzoo/Hopper-v0", num_envs=4)
    there = gymnasium.make_vec("rewardzoo/Hopper-v0", num_envs=4, num_workers=2)
    assert hasattr(here, "state_dict") and not hasattr(there, "state_dict")
    (a, _), (b, _) = here.reset(seed=0), there.reset(seed=0)
    here.action_space.seed(0)
    for _ in range(40):
        assert torch.equal(a, b)
        action = torch.from_numpy(here.action_space.sample())
        (a, *rest, _), (b, *others, _) = here.step(action), there.step(action)
        assert all(torch.equal(x, y) for x, y in zip(rest, others, strict=True))
    there.close()
    here.close()


def test_options_are_gymnasiums() -> None:
    env: Any = gymnasium.make("rewardzoo/Hopper-v0", healthy_reward=5.0)
    env.reset(seed=0)
    assert env.step(env.action_space.sample() * 0)[4]["reward_survive"] == 5.0
    with pytest.raises(ValueError, match="render_mode='depth': expected None or 'rgb_array'"):
        gymnasium.make("rewardzoo/Hopper-v0", disable_env_checker=True, render_mode="depth")


@pytest.mark.parametrize("task", TASKS)
def test_frames_show_bodies_that_move_with_the_state(task: str) -> None:
    env = gymnasium.make(f"rewardzoo/{task}-v0", render_mode="rgb_array")
    env.reset(seed=0)
    env.step(env.action_space.sample() * 0)
    first = env.render()
    assert first.dtype == np.uint8 and (first != 255).any(2).mean() > 0.01
    for _ in range(3):
        env.step(env.action_space.high)
    assert not np.array_equal(first, env.render())
