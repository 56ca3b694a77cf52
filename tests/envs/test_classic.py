"""The classic problems equal Gymnasium's over whole random episodes; GridWorld equals its model."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.agents.tabular import mdp_of, policy_iteration
from rewardzoo.envs.grid_world.dynamics import GridWorld


def state_of(theirs: Any) -> np.ndarray:
    return np.array(theirs.unwrapped.state, dtype=np.float64)


@pytest.mark.parametrize(
    ("ours_id", "theirs_id"),
    [
        ("rewardzoo/CartPole-v0", "CartPole-v1"),
        ("rewardzoo/MountainCar-v0", "MountainCar-v0"),
        ("rewardzoo/Pendulum-v0", "Pendulum-v1"),
    ],
)
def test_equals_gymnasium_over_random_episodes(ours_id: str, theirs_id: str) -> None:
    ours, theirs = gymnasium.make(ours_id), gymnasium.make(theirs_id)
    assert ours.action_space == theirs.action_space
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps
    np.testing.assert_array_equal(ours.observation_space.low, theirs.observation_space.low)
    theirs.action_space.seed(0)
    for seed in range(20):
        ours.reset(seed=seed)
        theirs.reset(seed=seed)
        kind = type(ours.unwrapped.state)
        ours.unwrapped.state = kind(*(torch.tensor([x]) for x in state_of(theirs)))
        done = False
        while not done:
            action = theirs.action_space.sample()
            a, b = ours.step(action), theirs.step(action)
            np.testing.assert_allclose(a[0], b[0], atol=1e-6)
            assert a[1] == pytest.approx(b[1], abs=1e-6)
            assert a[2:4] == b[2:4]
            done = a[2] or a[3]


def test_start_states_have_gymnasiums_law() -> None:
    """Means and spreads of 20,000 starts, within five standard errors."""
    for id, low, high in [
        ("rewardzoo/CartPole-v0", [-0.05] * 4, [0.05] * 4),
        ("rewardzoo/MountainCar-v0", [-0.6, 0.0], [-0.4, 0.0]),
        ("rewardzoo/Pendulum-v0", [-np.pi, -1.0], [np.pi, 1.0]),
    ]:
        envs = gymnasium.make_vec(id, num_envs=20_000)
        envs.reset(seed=0)
        state = torch.stack(tuple(envs.state), 1).numpy()
        low_, high_ = np.array(low), np.array(high)
        spread = (high_ - low_) / np.sqrt(12)
        assert (np.abs(state.mean(0) - (low_ + high_) / 2) <= 5 * spread / np.sqrt(20_000)).all()
        assert (state >= low_ - 1e-6).all() and (state <= high_ + 1e-6).all()
        np.testing.assert_allclose(state.std(0), spread, rtol=0.05)


def test_uniform_policy_reference_return_of_cartpole() -> None:
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=2_000)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    first = torch.zeros(2_000)
    open_ = torch.ones(2_000, dtype=torch.bool)
    for _ in range(200):
        _, _, terminated, truncated, info = envs.step(torch.as_tensor(envs.action_space.sample()))
        done = terminated | truncated
        first = torch.where(open_ & done, info["episode"]["r"], first)
        open_ &= ~done
    assert not bool(open_.any())
    # 22.2 +- 11.7 an episode: the mean of 2,000 has a standard error of .26.
    assert abs(float(first.mean()) - 22.2) < 5 * 0.27


def test_grid_world_moves_as_its_matrix_says() -> None:
    func = GridWorld()
    transition, reward, initial = func.transition_matrix()
    assert np.allclose(transition.sum(-1), 1.0)
    envs = gymnasium.make_vec("rewardzoo/GridWorld-v0", num_envs=2_000)
    obs, _ = envs.reset(seed=0)
    assert set(obs.tolist()) == set(np.flatnonzero(initial))
    counts = np.zeros_like(transition)
    envs.action_space.seed(0)
    for _ in range(200):
        action = torch.as_tensor(envs.action_space.sample())
        before = obs
        obs, paid, terminated, _, info = envs.step(action)
        np.add.at(counts, (before, action, info["final_obs"]), 1)
    visits = counts.sum(-1, keepdims=True)
    error = np.abs(counts - visits * transition)
    # Binomial, five standard deviations and a half count.
    assert (error <= 5 * np.sqrt(visits * transition * (1 - transition)) + 0.5).all()


def test_grid_world_default_optimum() -> None:
    mdp = mdp_of(GridWorld())
    value, _ = policy_iteration(mdp, 0.99)
    assert float(value @ mdp.initial) == pytest.approx(0.93601, abs=5e-6)
    value, _ = policy_iteration(mdp_of(GridWorld(slip=0.0)), 0.9)
    assert float(value[8]) == pytest.approx(0.9**4)  # five moves, the last one pays


def test_grid_world_draws_text() -> None:
    env = gymnasium.make("rewardzoo/GridWorld-v0", render_mode="ansi")
    env.reset(seed=0)
    assert env.render() == "...G\n.#.T\n@..."


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"map": "S.\n."}, "rows of one length"),
        ({"map": "SX"}, "unknown cell 'X'"),
        ({"map": ".G"}, "at least one start"),
        ({"slip": 2.0}, r"slip=2.0: expected a number in \[0, 1\]"),
    ],
)
def test_grid_world_bad_parameters_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridWorld(**kwargs)
