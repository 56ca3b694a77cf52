"""GridWorld moves as its matrix says, and its matrix gives the closed forms of small maps."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.agents.tabular import expected_return, mdp_of, policy_iteration
from rewardzoo.envs.grid_world.dynamics import GridWorld


def optimum(gamma: float, **params: Any) -> float:
    mdp = mdp_of(GridWorld(**params))
    value, _ = policy_iteration(mdp, gamma)
    return float(value @ mdp.initial)


def by_uniform_policy(gamma: float, **params: Any) -> float:
    mdp = mdp_of(GridWorld(**params))
    states, actions, _ = mdp.transition.shape
    policy = torch.full((states, actions), 1.0 / actions, dtype=torch.float64)
    return float(expected_return(mdp, policy, gamma))


@pytest.mark.parametrize("slip", [0.0, 0.3, 1.0])
def test_matrix_is_a_model(slip: float) -> None:
    func = GridWorld(map="SG.T\n.#.S", slip=slip)
    transition, reward, initial = func.transition_matrix()
    assert transition.shape == (8, 4, 8) and reward.shape == (8, 4) and initial.shape == (8,)
    assert transition.dtype == reward.dtype == initial.dtype == np.float64
    np.testing.assert_allclose(transition.sum(-1), 1.0, atol=1e-12)
    np.testing.assert_array_equal(initial, [0.5, 0, 0, 0, 0, 0, 0, 0.5])
    np.testing.assert_array_equal(func.terminal_states, [0, 1, 0, 1, 0, 0, 0, 0])
    assert transition[0, 1, 1] == pytest.approx(1 - slip)  # right, into the goal
    assert reward[0, 1] == pytest.approx(1 - slip)
    assert reward[0, 0] == pytest.approx(slip / 2)  # up, slipping right
    assert transition[2, 2, 6] == pytest.approx(1 - slip)  # down
    assert transition[4, 1, 4] == pytest.approx(1 - slip / 2)  # a wall, and the border below
    wall = [s for s in range(8) if s != 5]
    assert (transition[wall, :, 5] == 0).all()
    assert (reward[[1, 3]] == 0).all() and (transition[[1, 3], :, [1, 3]] == 1).all()


@pytest.mark.parametrize("slip", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_closed_form_of_a_corridor(slip: float, gamma: float) -> None:
    """Between a trap and a goal, going right arrives with 1 - slip and else stays."""
    want = (1 - slip) / (1 - gamma * slip)
    assert optimum(gamma, map="TSG", slip=slip) == pytest.approx(want, abs=1e-12)
    # Whatever the slip, a uniform action goes right with 1/4: up and down slip either way.
    want = 0.25 * (3.0 - 1.0) / (1 - gamma / 2)
    got = by_uniform_policy(gamma, map="TSG", slip=slip, goal_reward=3.0)
    assert got == pytest.approx(want, abs=1e-12)


def test_optimum_of_the_default_map() -> None:
    assert optimum(0.99) == pytest.approx(0.93601, abs=5e-6)
    assert optimum(1.0) == pytest.approx(1.0, abs=1e-9)
    assert optimum(0.9, slip=0.0) == pytest.approx(0.9**4)  # five moves, the last one pays


def test_uniform_policy_reference_return() -> None:
    # The docstring's figure, of episodes cut off after 100 steps.
    assert by_uniform_policy(1.0) == pytest.approx(-0.29, abs=0.01)


def test_moves_as_the_matrix_says() -> None:
    transition, _, initial = GridWorld().transition_matrix()
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
        ended = info["final_obs"][terminated]
        assert torch.equal(paid[terminated], torch.where(ended == 3, 1.0, -1.0))
        assert not bool(paid[~terminated].any())
    visits = counts.sum(-1, keepdims=True)
    assert (visits[~GridWorld().terminal_states & (np.arange(12) != 5)] > 1000).all()
    error = np.abs(counts - visits * transition)
    # Binomial, five standard deviations and a half count.
    assert (error <= 5 * np.sqrt(visits * transition * (1 - transition)) + 0.5).all()


def test_start_is_uniform_over_the_starts() -> None:
    envs = gymnasium.make_vec("rewardzoo/GridWorld-v0", num_envs=9_000, map="S.S\nG.S")
    obs, _ = envs.reset(seed=0)
    counts = np.bincount(obs, minlength=6)
    assert counts[[1, 3, 4]].sum() == 0
    # Binomial with chance 1/3: standard deviation 44.7.
    assert (np.abs(counts[[0, 2, 5]] - 3000) < 5 * 44.7).all()


def test_draws_itself() -> None:
    env = gymnasium.make("rewardzoo/GridWorld-v0", render_mode="ansi", slip=0.0)
    env.reset(seed=0)
    assert env.render() == "...G\n.#.T\n@..."
    env.step(0)
    assert env.render() == "...G\n@#.T\nS..."
    env = gymnasium.make("rewardzoo/GridWorld-v0", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (3 * 48, 4 * 48, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"map": "S.\n."}, "rows of one length"),
        ({"map": ""}, "rows of one length"),
        ({"map": ["S.G"]}, r"map=\['S.G'\]: expected rows of text"),
        ({"map": "SX"}, "unknown cell 'X'"),
        ({"map": ".G"}, "at least one start"),
        ({"slip": 2.0}, r"slip=2.0: expected a finite number in \[0, 1\]"),
        ({"slip": float("nan")}, "slip=nan"),
        ({"goal_reward": float("inf")}, "goal_reward=inf"),
        ({"slips": 0.1}, "did you mean 'slip'"),
    ],
)
def test_bad_parameters_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        GridWorld(**kwargs)
