"""Sampled STARC distances: unbiased advantages, and intervals that cover the exact distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rewardzoo.metrics.canonical import advantage, dard
from rewardzoo.metrics.planning import expected
from rewardzoo.metrics.sampled import (
    canonical_samples,
    covered,
    distances_from_advantages,
    sampled_distances,
)
from rewardzoo.metrics.sampled_dard import dard_samples, sampled_dard_distances
from rewardzoo.metrics.starc import starc_distance
from rewardzoo.random import Rng
from rewardzoo.rewards.novelty import Novelty

from .chains import Chain, Table, Where

GAMMA = 0.5


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
    found = np.concatenate(canonical_samples(chain, [Table(r) for r in rewards], GAMMA, n, 1))
    # The states that were sampled, by sampling again.
    state, action = covered(chain, GAMMA, torch.arange(n), 10)
    want = np.stack([advantage(r, chain.moves.numpy(), GAMMA) for r in rewards], -1)
    for s, a in np.ndindex(5, 3):
        rows = np.tile(((state.s == s) & (action == a)).numpy(), 2)
        error = found[rows].std(0) / np.sqrt(rows.sum())
        # The tail beyond the horizon is worth at most .001 * 10.
        assert (np.abs(found[rows].mean(0) - want[s, a]) < 5 * error + 0.01).all()


def test_states_are_covered_as_the_uniform_policy_visits_them() -> None:
    chain, _, _ = problem()
    state, action = covered(chain, GAMMA, torch.arange(20_000), 14)
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
    first, second = canonical_samples(chain, [Table(r) for r in rewards], GAMMA, runs * n, 6)
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


FIRST = np.array([0.7, 0.2, 0.1])


def expert(obs: Tensor) -> Tensor:
    """Mostly the first action."""
    return torch.tensor(FIRST).expand(len(obs), 3)


def visits_of(chain: Chain, chances: np.ndarray) -> np.ndarray:
    """Of each state, discounted, as a distribution."""
    moves = np.einsum("a,sat->st", chances, chain.moves.numpy())
    start = chain.start.numpy()
    return np.linalg.solve(np.eye(5) - GAMMA * moves.T, start) * (1 - GAMMA)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_states_of_a_policy_are_covered_in_their_share(share: float) -> None:
    """Within five standard errors of the mixture; the others are those they were without it."""
    chain, _, _ = problem()
    n = 20_000
    state, action = covered(chain, GAMMA, torch.arange(n), 14, expert, share)
    want = share * visits_of(chain, FIRST) + (1 - share) * visits_of(chain, np.full(3, 1 / 3))
    seen = np.bincount(state.s, minlength=5) / n
    assert (np.abs(seen - want) < 5 * np.sqrt(want / n)).all()
    assert np.abs(want - visits_of(chain, np.full(3, 1 / 3))).max() > 0.02
    assert (np.abs(np.bincount(action) / n - 1 / 3) < 5 * np.sqrt(1 / 3 / n)).all()
    plain, _ = covered(chain, GAMMA, torch.arange(n), 14)
    theirs = round(share * n)
    assert torch.equal(plain.s[theirs:], state.s[theirs:])
    assert not torch.equal(plain.s[:theirs], state.s[:theirs])


def test_the_distance_is_that_over_what_a_policy_covers() -> None:
    """Rewards that differ in one state alone: the more an expert is there, the farther apart."""
    chain, rewards, _ = problem()
    r = np.stack([rewards[0], rewards[0]])
    r[1, 0] = -r[1, 0]
    weights = np.repeat(visits_of(chain, FIRST)[:, None], 3, 1) / 3
    moves = chain.moves.numpy()
    want = starc_distance(r[0], r[1], moves, GAMMA, weights=weights)
    before = torch.random.get_rng_state()
    fns = [Table(x) for x in r]
    found = sampled_distances(chain, fns, GAMMA, 3_000, 8, policy=expert, share=1.0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found.low[0, 1] <= want <= found.high[0, 1]
    assert found.high[0, 1] - found.low[0, 1] < 0.2


def test_the_expected_reward_as_it_is_is_sampled_too() -> None:
    """``canonical="none"``: redistribution is no difference, shaping is one."""
    chain, rewards, _ = problem()
    moves = chain.moves.numpy()
    weights = np.repeat(visits_of(chain, np.full(3, 1 / 3))[:, None], 3, 1) / 3
    want = starc_distance(
        rewards[:, None], rewards[None], moves, GAMMA, canonical="none", weights=weights
    )
    fns = [Table(x) for x in rewards]
    found = sampled_distances(chain, fns, GAMMA, 3_000, 8, canonical="none")
    pairs = np.triu_indices(4, 1)
    assert (found.low[pairs] <= want[pairs] + 1e-9).all()
    assert (want[pairs] <= found.high[pairs] + 1e-9).all()
    assert (found.high - found.low)[pairs].max() < 0.2 and want[0, 2] > 0.3


def exact_dard(chain: Chain, rewards: np.ndarray) -> np.ndarray:
    """(K, K), over the uniform policy's states, uniform actions and what follows."""
    moves = chain.moves.numpy()
    w = visits_of(chain, np.full(3, 1 / 3))[:, None, None] * moves / 3
    c = np.stack([dard(r, moves, GAMMA) for r in rewards])
    c = c - (w * c).sum((1, 2, 3), keepdims=True)
    gram = np.einsum("sat,ksat,lsat->kl", w, c, c)
    length = np.sqrt(np.diagonal(gram))
    return np.sqrt(np.clip(1 - gram / (length[:, None] * length), 0, 2) / 2)


def test_dard_estimates_are_unbiased_and_shaping_cancels_in_every_one() -> None:
    chain, rewards, _ = problem()
    phi = np.random.default_rng(5).normal(size=5)
    shaped = 2.0 * rewards[0] + GAMMA * phi - phi[:, None, None]
    r = np.stack([rewards[0], rewards[3], shaped])
    n = 8_000
    both = dard_samples(chain, [Table(x) for x in r], GAMMA, n, 1)
    np.testing.assert_allclose(both[0][:, 2], 2.0 * both[0][:, 0], atol=1e-5)
    state, action = covered(chain, GAMMA, torch.arange(n), 10)
    moves = chain.moves.numpy()
    want = np.stack([expected(dard(x, moves, GAMMA), moves) for x in r], -1)
    found = np.concatenate(both)
    for s, a in np.ndindex(5, 3):
        rows = np.tile(((state.s == s) & (action == a)).numpy(), 2)
        # Twice: both halves are about one successor.
        error = np.sqrt(2) * found[rows].std(0) / np.sqrt(rows.sum())
        assert (np.abs(found[rows].mean(0) - want[s, a]) < 5 * error).all()


def test_sampled_dard_intervals_hold_the_exact_distance() -> None:
    chain, rewards, _ = problem()
    want, fns = exact_dard(chain, rewards), [Table(x) for x in rewards]
    found = sampled_dard_distances(chain, fns, GAMMA, 3_000, 4, seed=2)
    pairs = np.triu_indices(4, 1)
    assert (found.low[pairs] <= want[pairs]).all() and (want[pairs] <= found.high[pairs]).all()
    assert (found.high - found.low)[pairs].max() < 0.2
    np.testing.assert_allclose(np.diagonal(found.distance), 0.0, atol=1e-6)


@pytest.mark.slow
def test_sampled_dard_intervals_cover_in_300_runs() -> None:
    chain, rewards, _ = problem()
    want, fns = exact_dard(chain, rewards), [Table(x) for x in rewards]
    pairs = np.triu_indices(4, 1)
    share = np.zeros(6)
    for run in range(300):
        found = sampled_dard_distances(chain, fns, GAMMA, 300, 4, seed=run)
        share += (found.low[pairs] <= want[pairs]) & (want[pairs] <= found.high[pairs])
    assert share.mean() / 300 >= 0.93, share / 300


class Walk(Chain):
    """From 0 to 1 or 2, from 1 to 2, where it ends."""

    def __init__(self) -> None:
        moves = np.zeros((3, 1, 3))
        moves[0, 0, 1:] = 0.5
        moves[1, 0, 2] = moves[2, 0, 2] = 1.0
        super().__init__(moves, np.array([1.0, 0.0, 0.0]))

    def terminal(self, state: Where, rng: Rng, params: Any = None) -> Tensor:
        return state.s == 2


def test_a_terminal_state_pays_nothing_in_dard_by_hand() -> None:
    """``R(s, t) = 10 s + t``; of 2, which is never left, it pays nothing.

    From 0, where s' and S' are the same nothing is left; else, for s' = 1 and S' = 2, ``R(0, 1) +
    gamma R(1, 2) - R(0, 2) = 5``, and for s' = 2 and S' = 1 minus that. From 1 nothing is left.
    """
    table = 10.0 * np.arange(3)[:, None, None] + np.arange(3)
    found = dard_samples(Walk(), [Table(table)], GAMMA, 50, 1)
    assert set(np.unique(found)) == {-5.0, 0.0, 5.0}
    table[2] = 100.0  # paid nowhere
    np.testing.assert_array_equal(dard_samples(Walk(), [Table(table)], GAMMA, 50, 1), found)


def test_refuses_what_it_cannot_do() -> None:
    chain, rewards, _ = problem()
    with pytest.raises(ValueError, match="canonical='minimal': expected one of val, none"):
        sampled_distances(chain, [Table(rewards[0])], GAMMA, canonical="minimal")
    with pytest.raises(ValueError, match="share=1.5"):
        sampled_distances(chain, [Table(rewards[0])], GAMMA, policy=expert, share=1.5)
    with pytest.raises(ValueError, match="expected action probabilities of shape"):
        sampled_distances(chain, [Table(rewards[0])], GAMMA, policy=lambda obs: obs)
    with pytest.raises(ValueError, match="novelty: has memory"):
        sampled_dard_distances(chain, [Novelty(per_episode=True)], GAMMA)
    with pytest.raises(ValueError, match="novelty: has memory, so states cannot be branched"):
        sampled_distances(chain, [Novelty(per_episode=True)], GAMMA)
    with pytest.raises(ValueError, match="gamma=1.0"):
        sampled_distances(chain, [Table(rewards[0])], 1.0)
    with pytest.raises(ValueError, match=r"first \(3, 2\), second \(2, 2\)"):
        distances_from_advantages(np.zeros((3, 2)), np.zeros((2, 2)))
