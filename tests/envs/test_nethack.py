"""NetHack: seeded games repeat, tasks pay what NLE's pay, and NLE's traps are shut."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.registration import env_ids
from rewardzoo.testing import check_vector_env

pytest.importorskip("nle")
pytest.importorskip("minihack")
from gymnasium.utils.env_checker import check_env  # noqa: E402

IDS = [i for i in env_ids() if "/NetHack" in i or "/MiniHack" in i]


@pytest.mark.parametrize("id", ["rewardzoo/NetHackScore-v0", "rewardzoo/MiniHackKeyRoomS5-v0"])
def test_vector_face_keeps_the_contract(id: str) -> None:
    def make(num_envs: int, autoreset_mode: Any) -> Any:
        return gymnasium.make_vec(
            id, num_envs=num_envs, autoreset_mode=autoreset_mode, max_episode_steps=13
        )

    report = check_vector_env(make, num_envs=3, steps=40)
    assert report.truncated and report.objective


@pytest.mark.parametrize("id", ["rewardzoo/NetHackScore-v0", "rewardzoo/MiniHackKeyRoomS5-v0"])
def test_gymnasium_accepts_it(id: str) -> None:
    check_env(gymnasium.make(id).unwrapped, skip_render_check=True)


def test_row_of_a_batch_is_the_single_game() -> None:
    id, steps = "rewardzoo/NetHackScore-v0", 120
    envs = gymnasium.make_vec(id, num_envs=3, max_episode_steps=50)
    actions = np.random.default_rng(0).integers(0, 23, (steps, 3))
    rows = [envs.reset(seed=5)[0]] + [envs.step(torch.as_tensor(a)) for a in actions]
    envs.close()
    for i in range(3):
        env = gymnasium.make(id, max_episode_steps=50)
        obs, _ = env.reset(seed=5 + i)
        for key in obs:
            np.testing.assert_array_equal(obs[key], rows[0][key][i])
        for t in range(steps):
            obs, reward, terminated, truncated, _ = env.step(actions[t, i])
            _, r, term, trunc, info = rows[t + 1]
            for key in obs:
                np.testing.assert_array_equal(obs[key], info["final_obs"][key][i])
            assert (reward, terminated, truncated) == (
                pytest.approx(float(r[i])), bool(term[i]), bool(trunc[i]),
            )  # fmt: skip
            if terminated or truncated:
                env.reset()
