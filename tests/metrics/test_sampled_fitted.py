"""STARC distances with fitted potentials: exact where they can be, and intervals that cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.envs.pendulum.dynamics import Pendulum
from rewardzoo.metrics.canonical import shaping_matrix
from rewardzoo.metrics.planning import expected
from rewardzoo.metrics.sampled import SampledDistances
from rewardzoo.metrics.sampled_fitted import fitted_distances, fourier_features
from rewardzoo.metrics.starc import starc_distance
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.rewards.novelty import Novelty
from rewardzoo.transition import Transition

from .chains import Chain, Table

GAMMA = 0.5
PAIRS = np.triu_indices(4, 1)


def problem() -> tuple[Chain, list[Table], dict[str, np.ndarray]]:
    """Four rewards (the third orders policies as the first), and their exact distances."""
    rng = np.random.default_rng(0)
    moves, start = rng.dirichlet(np.ones(5) * 0.5, (5, 3)), rng.dirichlet(np.ones(5))
    rewards = rng.normal(size=(4, 5, 3, 5))
    rewards[1] = rewards[0] + 0.2 * rewards[1]
    phi, noise = rng.normal(size=5), rng.normal(size=(5, 3, 5))
    rewards[2] = rewards[0] + GAMMA * phi - phi[:, None, None]
    rewards[2] += noise - expected(noise, moves)[..., None]
    visits = np.linalg.solve(np.eye(5) - GAMMA * moves.mean(1).T, start) * (1 - GAMMA)
    w = np.repeat(visits[:, None], 3, 1) / 3
    # MIN is least where the samples are.
    paid, x, each = expected(rewards, moves).reshape(4, -1), shaping_matrix(moves, GAMMA), w.ravel()
    potential = np.linalg.solve((x.T * each) @ x, (x.T * each) @ paid.T)
    left = (paid - (x @ potential).T).reshape(4, 5, 3)
    exact = {
        "val": starc_distance(rewards[:, None], rewards[None], moves, GAMMA, weights=w),
        "minimal": starc_distance(left[:, None], left[None], moves, GAMMA, "none", weights=w),
    }
    return Chain(moves, start), [Table(r) for r in rewards], exact


def held(found: SampledDistances, want: np.ndarray) -> np.ndarray:
    return (found.low[PAIRS] <= want[PAIRS] + 1e-9) & (want[PAIRS] <= found.high[PAIRS] + 1e-9)


@pytest.mark.parametrize("canonical", ["val", "minimal"])
def test_distances_near_the_exact_ones(canonical: str) -> None:
    chain, fns, exact = problem()
    want = exact[canonical]
    how: dict[str, Any] = {"canonical": canonical, "resamples": 50}
    found = fitted_distances(chain, fns, GAMMA, 6_001, 8, **how)  # of which 2,000 a part
    assert found.n == 6_000
    away = want[PAIRS] > 0.1
    # Five standard errors, as 40 seeds of half as many samples have them.
    assert (np.abs(found.distance - want)[PAIRS][away] < 0.1).all()
    assert found.distance[0, 2] < 0.2 and (found.high - found.low)[PAIRS].max() < 0.3
    again = fitted_distances(chain, fns, GAMMA, 6_001, 8, **how)
    np.testing.assert_array_equal(found.low, again.low)


def test_val_and_minimal_are_two_things() -> None:
    _, _, exact = problem()
    assert np.abs(exact["val"] - exact["minimal"]).max() > 0.005


@pytest.mark.parametrize("canonical", ["val", "minimal"])
@pytest.mark.parametrize("runs", [50, pytest.param(300, marks=pytest.mark.slow)])
def test_intervals_cover_the_exact_distance(canonical: str, runs: int) -> None:
    """Of 300 samples each; nominal 95 %. (50 runs of six pairs are off by .02 or so.)"""
    chain, fns, exact = problem()
    share = np.zeros(6)
    for run in range(runs):
        found = fitted_distances(
            chain, fns, GAMMA, 300, 4, seed=run, canonical=canonical, resamples=200
        )
        share += held(found, exact[canonical])
    assert share.mean() / runs >= (0.93 if runs == 300 else 0.9), share / runs


def test_what_is_fitted_is_evaluated_on_others() -> None:
    """Forty features, four samples of each: fitted on itself a part is left too little by far."""
    states, rng = 40, np.random.default_rng(3)
    moves = np.random.default_rng(2).dirichlet(np.ones(states) * 0.05, (states, 3))
    start = np.full(states, 1.0 / states)
    means = rng.normal(size=(2, states, 3, 1))
    means[1] = means[0] + 0.7 * means[1]
    noise = rng.normal(size=(2, states, 3, states))
    rewards = means + noise - np.stack([expected(x, moves) for x in noise])[..., None]
    visits = np.linalg.solve(np.eye(states) - GAMMA * moves.mean(1).T, start) * (1 - GAMMA)
    weights = np.repeat(visits[:, None], 3, 1) / 3
    want = float(starc_distance(*rewards, moves, GAMMA, weights=weights))
    chain, fns = Chain(moves, start), [Table(r) for r in rewards]
    runs = [fitted_distances(chain, fns, GAMMA, 480, 2, seed=i, resamples=100) for i in range(12)]
    assert sum(x.low[0, 1] <= want <= x.high[0, 1] for x in runs) >= 9
    assert np.mean([x.distance[0, 1] for x in runs]) == pytest.approx(want, abs=0.06)


def test_minimal_is_fitted_past_the_noise_of_successors() -> None:
    """A reward that is shaping in expectation alone: least squares of one draw would miss it."""
    chain, _, _ = problem()
    rng = np.random.default_rng(1)
    potential, little = 3.0 * rng.normal(size=5), 0.3 * rng.normal(size=(5, 3))
    shaping = GAMMA * chain.moves.numpy() @ potential - potential[:, None]

    def table(r: np.ndarray) -> Table:
        return Table(np.broadcast_to(r[..., None], (5, 3, 5)).copy())

    found = fitted_distances(
        chain, [table(shaping + little), table(little)], GAMMA, 12_000, canonical="minimal",
        features=lambda obs: torch.tensor(potential)[obs].unsqueeze(1), resamples=20,
    )  # fmt: skip
    assert found.distance[0, 1] < 0.3


class Given(RewardFunction):
    """A rule of obs, action and next_obs."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def __call__(self, t: Transition) -> Tensor:
        return self.rule(t)


@pytest.mark.parametrize("canonical", ["val", "minimal"])
def test_shaping_in_the_span_cancels_whatever_the_fit(canonical: str) -> None:
    """On the pendulum, with few samples and few features, whose span no value is in."""
    gamma = 0.9

    def phi(obs: Tensor) -> Tensor:
        return 3.0 * obs[:, 0] - 0.5 * obs[:, 2] + 1.0

    def paid(t: Transition) -> Tensor:
        return t.reward

    def shaped(t: Transition) -> Tensor:
        return 2.0 * t.reward + gamma * phi(t.next_obs) - phi(t.obs)

    def outside(t: Transition) -> Tensor:
        return 2.0 * t.reward + gamma * t.next_obs[:, 0] ** 3 * 9 - t.obs[:, 0] ** 3 * 9

    fns = [Given(paid), Given(shaped), Given(outside)]
    found = fitted_distances(Pendulum(), fns, gamma, 120, 2, canonical=canonical)
    np.testing.assert_allclose(found.distance[0, 1], 0.0, atol=2e-3)
    np.testing.assert_allclose(found.distance[0, 2], found.distance[1, 2], atol=2e-3)
    assert not found.distance[0, 2] < 2e-3


def test_a_reward_that_is_nothing_but_shaping_has_no_direction() -> None:
    chain, fns, _ = problem()
    phi = np.arange(5.0)
    nothing = Table(np.broadcast_to(GAMMA * phi - phi[:, None, None], (5, 3, 5)).copy())
    for canonical in ("val", "minimal"):
        found = fitted_distances(chain, [fns[0], nothing, nothing], GAMMA, 600, canonical=canonical)
        np.testing.assert_allclose(found.distance[0, 1:], 1.0)
        np.testing.assert_allclose(found.distance[1:, 1:], 0.0)
        assert found.noise[1] == 0.0 and found.noise[0] > 0.0


def test_a_reward_and_its_negation_are_opposites() -> None:
    chain, fns, _ = problem()
    found = fitted_distances(chain, [fns[0], -1.0 * fns[0]], GAMMA, 600)
    assert found.distance[0, 1] == pytest.approx(2.0) == found.low[0, 1]


def test_nothing_is_worth_anything_after_a_terminal_state() -> None:
    """Even where all states look alike: 1 a step for going on, and at the end 2.

    The uniform policy's V is ``(1 + GAMMA V + 2) / 2 = 2``, and so both actions are worth 2: all
    policies are equal. With a value after the end they would not be.
    """
    moves = np.zeros((2, 2, 2))
    moves[0, 0, 0] = moves[0, 1, 1] = moves[1, :, 1] = 1.0
    paid, other = np.zeros((2, 2, 2, 2))
    paid[0, 0, 0], paid[0, 1, 1] = 1.0, 2.0
    other[0, 0, 0] = 1.0
    chain = Chain(moves, np.array([1.0, 0.0]), end=1)
    found = fitted_distances(
        chain, [Table(paid), Table(other)], GAMMA, 900, features=lambda obs: torch.ones(len(obs), 1)
    )
    np.testing.assert_allclose(found.distance[0, 1], 1.0, atol=1e-6)


def test_covers_the_states_of_a_policy_in_every_part() -> None:
    """Rewards that differ where only a policy goes."""
    moves = np.zeros((3, 10, 3))
    moves[0, :9, 1] = moves[0, 9, 2] = 1.0
    moves[1, :, 1] = moves[2, :, 2] = 1.0
    chain = Chain(moves, np.eye(3)[0])
    one = np.random.default_rng(0).normal(size=(3, 10, 3))
    two = one.copy()
    two[2] = -two[2]

    def there(obs: Tensor) -> Tensor:
        return torch.eye(10)[torch.full_like(obs, 9)]

    fns = [Table(one), Table(two)]
    rarely = fitted_distances(chain, fns, GAMMA, 900)
    often = fitted_distances(chain, fns, GAMMA, 6_000, policy=there, share=1.0, resamples=100)
    visits = np.array([0.5, 0.0, 0.5])
    weights = np.repeat(visits[:, None], 10, 1) / 10
    want = starc_distance(one, two, moves, GAMMA, weights=weights)
    assert rarely.high[0, 1] < often.low[0, 1] and abs(often.distance[0, 1] - want) < 0.05


def test_features_are_the_numbers_and_waves_of_them() -> None:
    space = spaces.Box(-2.0, 2.0, (2,), np.float32)
    made = fourier_features(space, 8)
    x = torch.tensor([[2.0, -1.0], [0.0, 0.0]])
    found = made(x)
    assert found.shape == (2, 8) and bool((found[:, 3:].abs() <= 1.0).all())
    assert torch.equal(found[:, :3], torch.tensor([[1.0, 1.0, -0.5], [1.0, 0.0, 0.0]]))
    assert fourier_features(space, 1)(x).shape == (2, 3)
    assert torch.equal(fourier_features(spaces.Discrete(3), 1)(torch.arange(3)), torch.eye(3))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"canonical": "none"}, "canonical='none': expected one of val, minimal"),
        ({"gamma": 1.0}, "gamma=1.0"),
        ({"num_samples": 59}, "num_samples=57: expected at least 60 to fit 5 features"),
        ({"features": lambda obs: torch.zeros(len(obs), 300)}, "features: 300 of each"),
    ],
)
def test_refuses_what_it_cannot_do(kwargs: dict[str, Any], message: str) -> None:
    chain, fns, _ = problem()
    with pytest.raises(ValueError, match=message):
        fitted_distances(chain, fns, **{"gamma": GAMMA, **kwargs})
    with pytest.raises(ValueError, match="novelty: has memory"):
        fitted_distances(chain, [Novelty(per_episode=True)], GAMMA)
