"""Sampled STARC distances: unbiased advantages, and intervals that cover the exact distance."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv
from rewardzoo.metrics.canonical import advantage
from rewardzoo.metrics.planning import expected
from rewardzoo.metrics.sampled import (
    distances_from_advantages,
    sampled_advantages,
    sampled_distances,
)
from rewardzoo.metrics.starc import starc_distance
from rewardzoo.random import Rng
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.rewards.novelty import Novelty
from rewardzoo.transition import Transition

GAMMA = 0.5


class Where(NamedTuple):
    s: Tensor


class Chain(FuncEnv):
    """A random finite MDP."""

    def __init__(self, moves: np.ndarray, initial: np.ndarray) -> None:
        super().__init__()
        self.moves, self.start = torch.tensor(moves), torch.tensor(initial)
        self.observation_space = spaces.Discrete(moves.shape[0])
        self.action_space = spaces.Discrete(moves.shape[1])

    def initial(self, rng: Rng, params: Any = None) -> Where:
        return Where(rng.categorical(self.start))

    def transition(self, state: Where, action: Tensor, rng: Rng, params: Any = None) -> Where:
        return Where(rng.categorical(self.moves[state.s, action]))

    def observation(self, state: Where, rng: Rng, params: Any = None) -> Tensor:
        return state.s

    def reward(self, state: Where, action: Tensor, next_state: Where, rng: Rng, params: Any = None) -> Tensor:  # fmt: skip
        return torch.zeros(len(action))

    def terminal(self, state: Where, rng: Rng, params: Any = None) -> Tensor:
        return torch.zeros_like(state.s, dtype=torch.bool)


class Table(RewardFunction):
    """R(s, a, s')."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.tensor(table)

    def __call__(self, t: Transition) -> Tensor:
        return self.table[t.obs, t.action, t.next_obs]


def problem(seed: int = 0) -> tuple[Chain, np.ndarray, np.ndarray]:
    """A chain, four rewards (a shaping of the first among them), and their exact distances."""
    rng = np.random.default_rng(seed)
    moves, start = rng.dirichlet(np.ones(5) * 0.5, (5, 3)), rng.dirichlet(np.ones(5))
    rewards = rng.normal(size=(4, 5, 3, 5))
    rewards[1] = rewards[0] + 0.2 * rewards[1]
    phi = rng.normal(size=5)
    noise = rng.normal(size=(5, 3, 5))
    rewards[2] = rewards[0] + GAMMA * phi - phi[:, None, None]
    rewards[2] += noise - expected(noise, moves)[..., None]
    visits = np.linalg.solve(np.eye(5) - GAMMA * moves.mean(1).T, start) * (1 - GAMMA)
    weights = np.repeat(visits[:, None], 3, 1) / 3
    exact = starc_distance(rewards[:, None], rewards[None], moves, GAMMA, weights=weights)
    return Chain(moves, start), rewards, exact


def test_advantages_are_unbiased() -> None:
    """At every state and action: within five standard errors of the exact advantage."""
    chain, rewards, _ = problem()
    n = 6_000
    found = np.concatenate(sampled_advantages(chain, [Table(r) for r in rewards], GAMMA, n, 1))
    # The states that were sampled, by sampling again.
    from rewardzoo.metrics.sampled import _covered

    state, action = _covered(chain, GAMMA, torch.arange(n), 10)
    want = np.stack([advantage(r, chain.moves.numpy(), GAMMA) for r in rewards], -1)
    for s, a in np.ndindex(5, 3):
        rows = np.tile(((state.s == s) & (action == a)).numpy(), 2)
        error = found[rows].std(0) / np.sqrt(rows.sum())
        # The tail beyond the horizon is worth at most .001 * 10.
        assert (np.abs(found[rows].mean(0) - want[s, a]) < 5 * error + 0.01).all()


def test_states_are_covered_as_the_uniform_policy_visits_them() -> None:
    from rewardzoo.metrics.sampled import _covered

    chain, _, _ = problem()
    state, action = _covered(chain, GAMMA, torch.arange(20_000), 14)
    moves = chain.moves.numpy()
    visits = np.linalg.solve(np.eye(5) - GAMMA * moves.mean(1).T, chain.start.numpy()) * 0.5
    share = np.bincount(state.s, minlength=5) / 20_000
    assert (np.abs(share - visits) < 5 * np.sqrt(visits / 20_000)).all()
    assert (np.abs(np.bincount(action) / 20_000 - 1 / 3) < 5 * np.sqrt(1 / 3 / 20_000)).all()


def test_intervals_cover_in_300_runs_of_made_up_estimates() -> None:
    """Known advantages with noise as large as they are: 95 % intervals cover in 93 % or more."""
    rng = np.random.default_rng(0)
    runs, n, pool = 300, 300, 15
    true = rng.normal(size=(pool, 3))
    true[:, 1] = true[:, 0] + 0.3 * true[:, 1]
    unit = true / np.linalg.norm(true, axis=0)
    exact = np.linalg.norm(unit[:, :, None] - unit[:, None], axis=0)
    covered = np.zeros((3, 3))
    for _ in range(runs):
        c = true[rng.integers(pool, size=n)]
        pair = (c + rng.normal(size=c.shape) for _ in range(2))
        found = distances_from_advantages(*pair)
        covered += (found.low <= exact + 1e-9) & (exact <= found.high + 1e-9)
    pairs = covered[np.triu_indices(3, 1)] / runs
    assert pairs.mean() >= 0.93, pairs
    assert pairs.mean() < 0.99, pairs  # and are no wider than they must be


def test_noise_does_not_push_equal_rewards_apart() -> None:
    """The uncorrected distance of a reward to itself is large; the corrected one is not."""
    rng = np.random.default_rng(1)
    c = rng.normal(size=(4_000, 1))
    pair = [c + rng.normal(size=(4_000, 2)) for _ in range(2)]
    found = distances_from_advantages(*pair)
    assert (found.noise > 0.9).all()  # sqrt(2 - 2 / 2) = 1 of noise alone
    assert found.distance[0, 1] < 0.25 and found.low[0, 1] == 0.0


@pytest.mark.slow
def test_intervals_cover_the_exact_distance_in_300_runs() -> None:
    """The whole way, from a chain: 300 runs of 300 states and actions each."""
    chain, rewards, exact = problem()
    runs, n = 300, 300
    first, second = sampled_advantages(chain, [Table(r) for r in rewards], GAMMA, runs * n, 6)
    covered = np.zeros((4, 4))
    for run in range(runs):
        part = slice(run * n, (run + 1) * n)
        found = distances_from_advantages(first[part], second[part])
        covered += (found.low <= exact + 2e-3) & (exact <= found.high + 2e-3)
    assert covered[np.triu_indices(4, 1)].mean() / runs >= 0.93, covered / runs


def test_one_run_is_near_the_exact_distance() -> None:
    chain, rewards, exact = problem()
    found = sampled_distances(chain, [Table(r) for r in rewards], GAMMA, 1_500, 8, seed=3)
    assert found.n == 1_500
    assert (np.abs(found.distance - exact) < 0.2).all()
    assert (found.low <= found.distance).all() and (found.distance <= found.high).all()
    again = sampled_distances(chain, [Table(r) for r in rewards], GAMMA, 1_500, 8, seed=3)
    np.testing.assert_array_equal(found.distance, again.distance)


def test_refuses_what_it_cannot_do() -> None:
    chain, rewards, _ = problem()
    with pytest.raises(ValueError, match="novelty: has memory, so states cannot be branched"):
        sampled_distances(chain, [Novelty(per_episode=True)], GAMMA)
    with pytest.raises(ValueError, match="gamma=1.0"):
        sampled_distances(chain, [Table(rewards[0])], 1.0)
    with pytest.raises(ValueError, match=r"first \(3, 2\), second \(2, 2\)"):
        distances_from_advantages(np.zeros((3, 2)), np.zeros((2, 2)))
