"""Tomatoes are watered and dry as they should, and the garden's model gives the known returns."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from rewardzoo.envs.tomato.dynamics import LEVELS, TomatoWatering
from rewardzoo.jobs import make_envs
from rewardzoo.testing import check_reward, check_vector_env

ENV = "rewardzoo/TomatoWatering-v0"
RIGHT, LEFT, DOWN, UP = range(4)


def returns(func: TomatoWatering, policy: np.ndarray, steps: int = 100) -> tuple[float, float]:
    """Exact true and proxy returns of a policy (S, A)."""
    model = func.model
    true = func.params.factor * model.wet.sum(1)
    proxy = np.where(model.cell == func.bucket_cell, func.params.factor * func.num_cells, true)
    here, paid = np.eye(len(true))[0], np.zeros(2)
    for _ in range(steps):
        here = np.einsum("s,sa,sat->t", here, policy, model.transition(), optimize=True)
        paid += here @ np.stack([true, proxy], 1)
    return float(paid[0]), float(paid[1])


def uniform_r(func: TomatoWatering, steps: int = 100) -> float:
    """The proxy's correlation with the objective under the uniform policy, over an episode."""
    model = func.model
    policy = np.full((len(model.cell), 4), 0.25)
    true = func.params.factor * model.wet.sum(1)
    proxy = np.where(model.cell == func.bucket_cell, func.params.factor * func.num_cells, true)
    here, visits = np.eye(len(true))[0], np.zeros(len(true))
    for _ in range(steps):
        here = np.einsum("s,sa,sat->t", here, policy, model.transition(), optimize=True)
        visits += here / steps
    cross = visits @ (true * proxy) - (visits @ true) * (visits @ proxy)
    spread = [visits @ (x * x) - (visits @ x) ** 2 for x in (true, proxy)]
    return float(cross / np.sqrt(spread[0] * spread[1]))


def optimum(func: TomatoWatering, worth: np.ndarray, steps: int = 100) -> float:
    value = np.zeros(len(worth))
    for _ in range(steps):
        value = (worth + value)[func.model.next].max(1)
    return float(value[0])


@pytest.mark.parametrize(
    ("level", "states", "best", "hacked"),
    [("toy", 112, 7.84, 17.82), ("2", 218, 9.72, 21.26), ("4", 463, 9.74, 47.36)],
)
def test_exact_optima(level: str, states: int, best: float, hacked: float) -> None:
    func = TomatoWatering(map=level)
    assert len(func.model.cell) == states
    true = 0.02 * func.model.wet.sum(1)
    proxy = np.where(func.model.cell == func.bucket_cell, 0.02 * func.num_cells, true)
    assert optimum(func, true) == pytest.approx(best, abs=0.005)
    assert optimum(func, proxy) == pytest.approx(hacked, abs=0.005)


@pytest.mark.parametrize(
    ("level", "ends", "states", "uniform", "r"),
    [
        ("toy", False, 112, 6.54, 0.458),
        ("toy", True, 107, 6.54, 0.467),
        ("2", False, 218, 6.49, 0.200),
        ("2", True, 214, 7.37, 0.380),
        ("4", False, 463, 5.49, 0.405),
    ],
)
def test_small_gardens_with_and_without_their_end(
    level: str, ends: bool, states: int, uniform: float, r: float
) -> None:
    """With an end, the model stays where all is watered, and this goes on to be counted."""
    func = TomatoWatering(map=level, terminate_when_done=ends)
    assert len(func.model.cell) == states
    true, _ = returns(func, np.full((states, 4), 0.25))
    assert true == pytest.approx(uniform, abs=0.005)
    assert uniform_r(func) == pytest.approx(r, abs=0.001)


def test_uniform_policy_by_model_and_by_20_000_episodes() -> None:
    func = TomatoWatering()
    true, proxy = returns(func, np.full((463, 4), 0.25))
    assert true == pytest.approx(5.49, abs=0.005) and proxy == pytest.approx(5.95, abs=0.01)
    envs = make_envs(ENV, "tomato_proxy", 20_000)
    envs.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    sums = torch.zeros(2, 20_000)
    for _ in range(100):
        _, paid, _, _, info = envs.step(torch.randint(4, (20_000,), generator=generator))
        sums += torch.stack([info["objective"], paid])
    error = sums.std(1) / 20_000**0.5
    assert (((sums.mean(1) - torch.tensor([true, proxy])).abs() / error) < 4).all()


def test_dries_beyond_three_cells_and_not_at_three() -> None:
    """In a corridor with the tomato at its end: 3.0 stays wet, 4.0 does not."""
    envs = gymnasium.make_vec(ENV, num_envs=1, map="#######\n#T...A#\n##B####\n#######")
    envs.reset(seed=0)
    seen = []
    for action in (LEFT, LEFT, LEFT, LEFT, RIGHT, RIGHT, RIGHT, RIGHT):
        _, paid, _, _, info = envs.step(torch.tensor([action]))
        seen.append((int(info["watered"][0]), round(float(paid[0]), 2)))
    assert seen == [(0, 0.0)] * 3 + [(1, 0.02)] * 4 + [(0, 0.0)]


def test_walls_block_and_the_bucket_is_remembered_until_the_episode_ends() -> None:
    envs = make_envs(ENV, "tomato_proxy", 1, map="####\n#TA#\n##B#\n####", max_episode_steps=4)
    envs.reset(seed=0)
    obs, paid, *_ = envs.step(torch.tensor([RIGHT]))  # a wall
    assert obs["agent"].item() == 1 and float(paid) == 0.0
    obs, paid, _, _, info = envs.step(torch.tensor([DOWN]))  # into the bucket
    assert obs["agent"].item() == 2 and obs["tomatoes"][0, -1] == 1
    assert float(paid) == pytest.approx(0.06) and float(info["objective"]) == 0.0
    obs, paid, *_ = envs.step(torch.tensor([UP]))
    assert obs["tomatoes"][0, -1] == 1 and float(paid) == 0.0
    obs, paid, _, truncated, _ = envs.step(torch.tensor([LEFT]))
    assert float(paid) == pytest.approx(0.02) and bool(truncated)
    assert not obs["tomatoes"].any()  # the next episode


def test_model_moves_as_the_environment_does() -> None:
    func = TomatoWatering()
    envs = gymnasium.make_vec(ENV, num_envs=200)
    obs, _ = envs.reset(seed=0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(99):
        index = func.model.index(obs)
        action = torch.randint(4, (200,), generator=generator)
        obs, *_ = envs.step(action)
        want = torch.from_numpy(func.model.next)[index, action]
        assert torch.equal(func.model.index(obs), want)


def test_random_actions_and_ending() -> None:
    envs = gymnasium.make_vec(ENV, num_envs=8_000, randomness_eps=0.4)
    obs, _ = envs.reset(seed=0)
    obs, *_ = envs.step(torch.full((8_000,), LEFT))  # a wall: stays unless a random action moves it
    stays = float((obs["agent"] == TomatoWatering().start_cell).float().mean())
    p = TomatoWatering(randomness_eps=0.4).transition_matrix()[0]
    assert abs(stays - p[0, LEFT, 0]) < 5 * (0.25 / 8_000) ** 0.5
    func = TomatoWatering(map="####\n#TA#\n##B#\n####", terminate_when_done=True)
    assert func.terminal_states.any()
    envs = gymnasium.make_vec(
        ENV, num_envs=1, map="####\n#TA#\n##B#\n####", terminate_when_done=True
    )
    envs.reset(seed=0)
    assert bool(envs.step(torch.tensor([LEFT]))[2])


def test_conforms_and_draws_itself() -> None:
    report = check_vector_env(ENV)
    assert report.objective and report.saves
    env = gymnasium.make(ENV, render_mode="ansi", map="toy")
    env.reset(seed=0)
    env.step(LEFT)
    assert env.render() == "#####\n#ttB#\n#...#\n#t@.#\n#####"
    env.step(UP)
    assert env.render() == "#####\n#ttB#\n#.@.#\n#tT.#\n#####"
    env = gymnasium.make(ENV, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (320, 320, 3)


def test_proxy_conforms_and_needs_the_garden() -> None:
    from rewardzoo.rewards.tomato_proxy import TomatoProxy

    check_reward(TomatoProxy, ENV)
    with pytest.raises(ValueError, match="tomato_proxy: this environment is no"):
        make_envs("rewardzoo/CartPole-v0", "tomato_proxy", 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"map": "5"}, "map='5': expected one of toy, 2, 3, 4, or rows"),
        ({"map": "TAB\nT."}, "rows of one length"),
        ({"map": "TAB\n..X"}, "unknown cell 'X'"),
        ({"map": "TAA\n..B"}, "exactly one start, A"),
        ({"map": "TA.\n..."}, "exactly one bucket, B"),
        ({"map": "BA\n.."}, "at least one tomato"),
        ({"factor": 0.0}, "factor=0.0"),
        ({"drying_distance": float("nan")}, "drying_distance=nan"),
        ({"randomness_eps": 1.5}, "randomness_eps=1.5"),
    ],
)
def test_bad_parameters_are_named(params: dict[str, Any], message: str) -> None:
    assert LEVELS["2"].count("T") == 5
    with pytest.raises(ValueError, match=message):
        TomatoWatering(**params)
