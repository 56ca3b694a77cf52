"""The tiny environments move as their tables say and pay what their cards promise."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from rewardzoo.envs.expressivity import dynamics
from rewardzoo.testing import check_vector_env

NAMES = ("OneState", "OneChoice", "TwoChoices", "LeaveOrStay", "Unvisited")


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract_of_environments(name: str) -> None:
    id = f"rewardzoo/{name}-v0"
    check_env(gymnasium.make(id).unwrapped, skip_render_check=True)
    report = check_vector_env(id, steps=20)
    assert report.objective and report.saves
    env = gymnasium.make(id, render_mode="ansi")
    env.reset(seed=0)
    assert env.render() == "place 0, last action -"
    env.step(0)
    assert "last action a" in env.render()


def returns(name: str, act: Any, num_envs: int) -> torch.Tensor:
    """(N,) objective of an episode of 100 steps at most."""
    envs = gymnasium.make_vec(f"rewardzoo/{name}-v0", num_envs)
    obs, _ = envs.reset(seed=0)
    total = torch.zeros(num_envs)
    alive = torch.ones(num_envs, dtype=torch.bool)
    last = torch.full((num_envs,), -1)
    for _ in range(100):
        last = act(obs, last)
        obs, reward, terminated, truncated, _ = envs.step(last)
        total += torch.where(alive, reward, 0.0)
        alive &= ~(terminated | truncated)
    assert not bool(alive.any())
    return total


@pytest.mark.parametrize(
    ("name", "uniform", "best", "policy"),
    [
        ("OneState", 11.0, 50.0, lambda obs, last: (last == 0).long()),
        ("OneChoice", 1 / 3, 1.0, lambda obs, last: 0 * obs),
        ("TwoChoices", 0.5, 1.0, lambda obs, last: 0 * obs),
        ("LeaveOrStay", 98.0, 99.0, lambda obs, last: 0 * obs),
        ("Unvisited", 0.5, 1.0, lambda obs, last: 0 * obs),
    ],
)
def test_reference_returns(name: str, uniform: float, best: float, policy: Any) -> None:
    assert returns(name, policy, 2).tolist() == [best, best]
    count = gymnasium.make(f"rewardzoo/{name}-v0").action_space.n
    generator = torch.Generator().manual_seed(0)
    found = returns(name, lambda obs, _: torch.randint(count, obs.shape, generator=generator), 4000)
    assert float(found.mean()) == pytest.approx(uniform, abs=5 * float(found.std()) / 4000**0.5)


def test_best_stationary_policy_of_one_state_is_half_a_and_half_b() -> None:
    """99 pairs of steps, each worth p_a p_b."""
    p = np.linspace(0, 1, 101)
    assert 99 * (p * (1 - p)).max() == pytest.approx(24.75)


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_models(name: str) -> None:
    func = getattr(dynamics, name)()
    moves, reward, start = func.transition_matrix()
    assert (moves.sum(-1) == 1).all() and start[0] == 1 and (reward == 0).all()
    for place in np.flatnonzero(func.terminal_states):
        assert (moves[place, :, place] == 1).all()
