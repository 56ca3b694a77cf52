"""Exact values of formalisms equal closed forms, and certificates certify."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo.metrics.expressivity import (
    Model,
    averages,
    expressible_by_mr,
    linear_order,
    machine_continuity,
    machine_occupancies,
    memory_frequencies,
    no_level_line,
    occupancies,
    pairs,
    policy_grid,
    regularised_features,
    same_order,
    satisfaction,
    trajectories,
)
from rewardzoo.metrics.planning import random_transitions
from rewardzoo.rewards.formulas import FormulaError

GAMMA = 0.8


def random_model(rng: np.random.Generator, states: int = 4, actions: int = 2) -> Model:
    """The last state is terminal."""
    moves = random_transitions(rng, 1, states, actions, states)[0]
    moves[-1] = np.eye(states)[-1]
    start = np.append(rng.dirichlet(np.ones(states - 1)), 0.0)
    return Model(moves, start, np.eye(states, dtype=bool)[-1])


def random_policies(rng: np.random.Generator, model: Model, count: int = 5) -> np.ndarray:
    return rng.dirichlet(np.ones(model.transition.shape[1]), (count, len(model.initial)))


def rollout_sum(model: Model, policy: np.ndarray, steps: int) -> np.ndarray:
    """(steps, S, A) chance of each state and action at each time, by stepping forwards."""
    at, rows = model.initial.copy(), []
    for _ in range(steps):
        rows.append(at[:, None] * policy * ~model.terminal[:, None])
        at = np.einsum("s,sa,sat->t", at, policy, model.transition)
    return np.array(rows)


@pytest.mark.parametrize("seed", range(3))
def test_visits_equal_sums_over_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    policies = random_policies(rng, model)
    found = occupancies(model, policies, GAMMA)
    for policy, visits in zip(policies, found, strict=True):
        steps = rollout_sum(model, policy, 200)
        want = (GAMMA ** np.arange(200)[:, None, None] * steps).sum(0)
        np.testing.assert_allclose(visits, want, atol=1e-12)


def test_averages_of_a_chain_with_two_ends_and_of_a_cycle() -> None:
    moves = np.zeros((3, 2, 3))
    moves[0, 0, 1] = moves[0, 1, 2] = moves[1, :, 1] = moves[2, :, 2] = 1.0
    fork = Model(moves, np.eye(3)[0], np.zeros(3, bool))
    policy = np.array([[[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]]])
    np.testing.assert_allclose(
        averages(fork, policy)[0], [[0, 0], [0.3, 0], [0.35, 0.35]], atol=1e-12
    )
    swap = np.zeros((2, 1, 2))
    swap[0, 0, 1] = swap[1, 0, 0] = 1.0
    cycle = Model(swap, np.eye(2)[0], np.zeros(2, bool))
    np.testing.assert_allclose(averages(cycle, np.ones((1, 2, 1)))[0, :, 0], [0.5, 0.5])


@pytest.mark.parametrize("seed", range(3))
def test_a_machine_of_one_state_is_a_markov_reward(seed: int) -> None:
    """The inclusion of Markov rewards in machines, on random models."""
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    policies = random_policies(rng, model)
    labels = np.arange(8).reshape(4, 2, 1).repeat(4, 2)  # one for each state and action
    seen = machine_occupancies(model, policies, np.zeros((1, 8), np.int64), 0, labels, GAMMA)
    np.testing.assert_allclose(
        seen[:, 0], occupancies(model, policies, GAMMA).reshape(5, 8), atol=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_machines_value_is_an_expectation_over_trajectories(seed: int) -> None:
    """The inclusion of machines in functions of trajectories, up to what discount leaves."""
    rng = np.random.default_rng(seed)
    model = random_model(rng, states=3)
    policies = random_policies(rng, model, 2)
    labels = rng.integers(0, 2, (3, 2, 3))
    table, reward = rng.integers(0, 2, (2, 2)), rng.normal(size=(2, 2))
    gamma, steps = 0.1, 4
    value = (machine_occupancies(model, policies, table, 0, labels, gamma) * reward).sum((1, 2))
    total = np.zeros(2)
    for path in itertools.product(range(3), *[range(2), range(3)] * steps):
        chance = np.full(2, model.initial[path[0]])
        state, paid = 0, 0.0
        for t in range(steps):
            s, a, s2 = path[2 * t : 2 * t + 3]
            chance = chance * policies[:, s, a] * model.transition[s, a, s2]
            if not model.terminal[s]:
                paid += gamma**t * reward[state, labels[s, a, s2]]
            state = table[state, labels[s, a, s2]]
        total += chance * paid
    left = np.abs(reward).max() * gamma**steps / (1 - gamma)
    np.testing.assert_allclose(value, total, atol=left)


def test_satisfaction_is_a_chance_of_absorption() -> None:
    coin = Model(np.ones((1, 2, 1)), np.ones(1), np.zeros(1, bool))
    p = np.array([0.0, 0.3, 1.0])
    policies = np.stack((p, 1 - p), -1)[:, None]
    labels = np.array([[[1], [0]]])  # a: the first action
    for text, want in (
        ("a & X a", p**2),
        ("F a", (p > 0) * 1.0),
        ("G a", (p == 1) * 1.0),
        ("!a U (a & X a)", p * (p > 0)),
        ("a & X !a", p * (1 - p)),
        ("G X a", (p == 1) * 1.0),  # there is always a next step
        ("X WX a", p),
    ):
        np.testing.assert_allclose(satisfaction(coin, policies, text, labels), want, atol=1e-9)
    with pytest.raises(FormulaError, match="infinite words"):
        satisfaction(coin, policies, "G F a", labels)


def test_memory_frequencies_hold_chances_of_recurrent_classes() -> None:
    """a, then ever a or b: of the first choice; and of a memory of the last, the chance of each."""
    coin = Model(np.ones((1, 2, 1)), np.ones(1), np.zeros(1, bool))
    p = np.array([0.2, 0.7])
    policies = np.stack((p, 1 - p), -1)[:, None]
    labels = np.array([[[1], [0]]])
    first = np.array([[2, 1], [1, 1], [2, 2]])
    found = memory_frequencies(coin, policies, first, 0, labels)
    np.testing.assert_allclose(found, np.stack((0 * p, p, 1 - p), -1), atol=1e-9)
    last = np.array([[1, 0], [1, 0]])
    found = memory_frequencies(coin, policies, last, 0, labels)
    np.testing.assert_allclose(found, np.stack((p, 1 - p), -1), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_trajectories_are_all_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, states=3)
    policies = random_policies(rng, model)
    np.testing.assert_allclose(trajectories(model, policies, 3).sum(1), 1.0)
    first = trajectories(model, policies, 1).reshape(5, 3, 2, 3).sum(-1)
    np.testing.assert_allclose(first, model.initial[:, None] * policies)


def test_regularised_features_price_each_distribution() -> None:
    rng = np.random.default_rng(0)
    model = random_model(rng)
    policies = random_policies(rng, model)
    policies[1] = policies[0]

    def penalty(p: np.ndarray) -> np.ndarray:
        return (p**3).sum(-1)

    features = regularised_features(model, policies, GAMMA)
    kinds = np.unique(policies.reshape(-1, 2).round(12), axis=0)
    want = (occupancies(model, policies, GAMMA).sum(-1) * penalty(policies)).sum(-1)
    np.testing.assert_allclose(features[:, 8:] @ penalty(kinds), want, atol=1e-9)


# ---- certificates --------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_weights_or_a_contradiction_never_both_and_never_neither(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.integers(-2, 3, (6, 3)).astype(float)
    value = rng.integers(0, 3, 6).astype(float)
    if np.ptp(value) == 0:
        return
    better, tied = pairs(value)
    found = linear_order(features, better, tied)
    if found.weights is not None:
        assert same_order(features @ found.weights, value, 1e-7) == 1.0
        return
    gaps = np.array([features[i] - features[j] for i, j in [*better, *tied]])
    assert (found.certificate[: len(better)] >= 0).all()
    assert found.certificate[: len(better)].sum() == pytest.approx(1.0)
    np.testing.assert_allclose(found.certificate @ gaps, 0.0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_an_order_of_returns_is_expressible_and_its_square_in_one_choice_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, states=3)
    reward = rng.normal(size=(3, 2))

    def meant(policies: np.ndarray) -> np.ndarray:
        return (occupancies(model, policies, GAMMA) * reward).sum((1, 2))

    found = expressible_by_mr(model, meant, GAMMA)
    assert found.certificate is None
    policies = policy_grid(model, 4)
    returns = occupancies(model, policies, GAMMA).reshape(len(policies), -1) @ found.weights
    assert same_order(returns, meant(policies), 1e-9) == 1.0
    middle = expressible_by_mr(model, lambda p: -((p[:, 0, 0] - 0.5) ** 2), GAMMA)
    assert middle.weights is None and middle.residual < 1e-9


def test_a_grid_holds_every_deterministic_policy_and_nothing_else_than_its_steps() -> None:
    model = random_model(np.random.default_rng(0), states=3)
    for steps, count in ((1, 4), (4, 25)):
        found = policy_grid(model, steps)
        assert len(np.unique(found.reshape(len(found), -1), axis=0)) == count == len(found)
        np.testing.assert_allclose(found.sum(-1), 1.0)
        np.testing.assert_allclose(steps * found[:, :2], (steps * found[:, :2]).round())
        assert (found[:, 2] == 0.5).all()  # terminal
        assert (found[:, :2].max(-1) == 1.0).all(1).sum() == 4
    with pytest.raises(ValueError, match=r"steps=200: 40,401 policies, expected at most 20,000"):
        policy_grid(model, 200)
    with pytest.raises(ValueError, match="steps=0"):
        policy_grid(model, 0)
    with pytest.raises(ValueError, match="order: all 25 policies are equal"):
        expressible_by_mr(model, lambda p: np.zeros(len(p)), GAMMA)


def test_pairs_say_the_whole_order() -> None:
    value = [3.0, 1.0, 3.0, 2.0, 1.0]
    better, tied = pairs(value)
    assert len(better) == 2 and len(tied) == 2
    assert all(value[i] > value[j] for i, j in better)
    assert all(value[i] == value[j] for i, j in tied)


def test_no_level_line_certifies_curves_and_never_lines() -> None:
    bound = no_level_line(lambda y: y[:, 0] * y[:, 1], (0.3, 0.4), 0.2, 1.0)
    # Along (1, 1) and (1, -1) the variation is known; the least is no greater.
    assert 0 < bound <= 0.2 * 0.1 / 2**0.5 + 0.02
    for angle in (0.0, 0.3, 1.0):
        across = np.array([np.sin(angle), np.cos(angle)])

        def wave(y: np.ndarray, across: np.ndarray = across) -> np.ndarray:
            return np.sin(5 * y @ across)

        assert no_level_line(wave, (0.3, 0.4), 0.2, 5.0) <= 0


@pytest.mark.parametrize("seed", range(5))
def test_machines_change_no_faster_than_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    policies = random_policies(rng, model, 2)
    distance = 0.5 * np.abs(policies[0] - policies[1]).sum(-1).max()
    table, reward = rng.integers(0, 3, (3, 4)), rng.uniform(-1, 1, (3, 4))
    labels = rng.integers(0, 4, model.transition.shape)
    x, y = (machine_occupancies(model, policies, table, 0, labels, GAMMA) * reward).sum((1, 2))
    assert abs(x - y) <= machine_continuity(1.0, distance, GAMMA)


def test_same_order_counts_pairs() -> None:
    x = np.array([0.0, 1.0, 2.0])
    assert same_order(x, x**3) == 1.0
    assert same_order(x, -x) == pytest.approx(3 / 9)  # only each with itself
    assert same_order(x, np.array([0.0, 1.0, 1.0])) == pytest.approx(7 / 9)
