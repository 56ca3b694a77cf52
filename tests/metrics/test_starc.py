"""STARC distances are pseudometrics blind to exactly what leaves the ordering of policies alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo.metrics.canonical import CANONICAL, advantage, minimal, shaping_matrix
from rewardzoo.metrics.epic import dard_distance, epic_distance
from rewardzoo.metrics.planning import (
    best_policy,
    check_model,
    discounted_visits,
    expected,
    policy_value,
    random_transitions,
)
from rewardzoo.metrics.starc import return_range, standardised, starc_distance, starc_matrix

BATCH = 50  # random MDPs an example; 20 examples: 1,000


class World(NamedTuple):
    """A batch of random MDPs."""

    rng: Any
    moves: np.ndarray  # (B, S, A, S)
    initial: np.ndarray  # (S,)
    gamma: float

    def reward(self) -> np.ndarray:
        """Random, also on what cannot happen."""
        return self.rng.normal(size=self.moves.shape)

    def shaping(self) -> np.ndarray:
        """``gamma phi(s') - phi(s)``, (B, S, A, S)."""
        phi = self.rng.normal(size=self.moves.shape[:2]) * 3.0
        return np.broadcast_to(
            self.gamma * phi[:, None, None, :] - phi[:, :, None, None], self.moves.shape
        )

    def redistribution(self) -> np.ndarray:
        """Reward moved between successors: anything of mean 0."""
        noise = self.rng.normal(size=self.moves.shape) * 3.0
        return noise - expected(noise, self.moves)[..., None]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    states, actions = draw(st.integers(2, 6)), draw(st.integers(2, 4))
    moves = random_transitions(rng, BATCH, states, actions, draw(st.integers(1, states)))
    return World(rng, moves, rng.dirichlet(np.ones(states)), draw(st.floats(0.0, 0.95)))


thousand = settings(max_examples=20, deadline=None, derandomize=True)
FORMS = [(c, n, m) for c in ("val", "minimal") for n, m in (("l2", "l2"), ("l1", "linf"))]


@thousand
@given(worlds(), st.sampled_from([*FORMS, ("val", "range", "l2")]))
def test_pseudometric_on_a_thousand_mdps(world: World, form: tuple[str, str, str]) -> None:
    how: dict[str, Any] = dict(zip(("canonical", "norm", "metric"), form, strict=True))
    how["initial"] = world.initial
    x, y, z = (world.reward() for _ in range(3))

    def d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return starc_distance(a, b, world.moves, world.gamma, **how)

    assert (d(x, x) == 0).all()
    np.testing.assert_array_equal(d(x, y), d(y, x))
    assert (d(x, z) <= d(x, y) + d(y, z) + 1e-12).all()
    assert (d(x, y) > 1e-6).all()  # independent rewards are never equivalent


@thousand
@given(worlds(), st.sampled_from(FORMS))
def test_blind_to_shaping_redistribution_and_scale_on_a_thousand_mdps(
    world: World, form: tuple[str, str, str]
) -> None:
    canonical, norm, metric = form
    x, other = world.reward(), world.reward()
    scale = world.rng.uniform(0.1, 10.0, (BATCH, 1, 1, 1))
    disguised = scale * (x + world.shaping() + world.redistribution())
    how = {"canonical": canonical, "norm": norm, "metric": metric}
    np.testing.assert_allclose(
        starc_distance(x, disguised, world.moves, world.gamma, **how), 0.0, atol=1e-10
    )
    np.testing.assert_allclose(
        starc_distance(x, other, world.moves, world.gamma, **how),
        starc_distance(disguised, other, world.moves, world.gamma, **how),
        atol=1e-10,
    )


@thousand
@given(worlds())
def test_opposite_trivial_and_far_rewards(world: World) -> None:
    x = world.reward()
    d = starc_distance(x, -2.0 * x, world.moves, world.gamma)
    np.testing.assert_allclose(d, 2.0, atol=1e-12)
    half = starc_distance(x, -x, world.moves, world.gamma, normalised=True)
    np.testing.assert_allclose(half, 1.0, atol=1e-12)
    trivial = world.shaping() + world.redistribution()
    assert not standardised(trivial, world.moves, world.gamma).any()
    d = starc_distance(x, trivial, world.moves, world.gamma)
    np.testing.assert_allclose(d, 1.0, atol=1e-12)
    assert not starc_distance(trivial, 0.0 * x, world.moves, world.gamma).any()


@thousand
@given(worlds())
def test_canonical_forms_keep_the_ordering_of_policies(world: World) -> None:
    """Return under the canonical reward is the return less a constant, for every policy."""
    states, actions = world.moves.shape[1:3]
    x = world.reward()
    r = expected(x, world.moves)
    for form in (advantage, minimal):
        c = form(x, world.moves, world.gamma)
        shifts = []
        for _ in range(3):
            policy = world.rng.integers(actions, size=(BATCH, states))
            values = [policy_value(policy, q, world.moves, world.gamma) for q in (r, c)]
            shifts.append((values[0] - values[1]) @ world.initial)
        np.testing.assert_allclose(shifts[1:], np.broadcast_to(shifts[0], (2, BATCH)), atol=1e-9)


@thousand
@given(worlds())
def test_minimal_form_is_shorter_than_any_equivalent_one(world: World) -> None:
    x = world.reward()
    shortest = np.linalg.norm(minimal(x, world.moves, world.gamma), axis=(-2, -1))
    for _ in range(5):
        other = expected(x + world.rng.uniform() * world.shaping(), world.moves)
        assert (np.linalg.norm(other, axis=(-2, -1)) >= shortest - 1e-12).all()
    assert (np.linalg.norm(advantage(x, world.moves, world.gamma), axis=(-2, -1)) >= shortest - 1e-9).all()  # fmt: skip


def test_advantage_is_that_of_the_policy() -> None:
    rng = np.random.default_rng(0)
    moves = random_transitions(rng, 1, 4, 3, 4)[0]
    policy, reward = rng.dirichlet(np.ones(3), 4), rng.normal(size=(4, 3, 4))
    found = advantage(reward, moves, 0.9, policy)
    np.testing.assert_allclose((policy * found).sum(-1), 0.0, atol=1e-12)
    value = np.zeros(4)
    for _ in range(400):  # by iteration, not by a solve
        q = (moves * (reward + 0.9 * value)).sum(-1)
        value = (policy * q).sum(-1)
    np.testing.assert_allclose(found, q - value[:, None], atol=1e-10)


# ---- where EPIC and DARD fail --------------------------------------------------------------------


def fork() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two actions lead to two absorbing states; 1 is paid on the way to the first."""
    moves, reward = np.zeros((2, 3, 2, 3))
    moves[0, 0, 1] = moves[0, 1, 2] = moves[1, :, 1] = moves[2, :, 2] = 1.0
    reward[0, 0, 1] = 1.0
    impossible = np.random.default_rng(1).normal(size=moves.shape) * (moves == 0)
    return moves, reward, impossible


def test_epic_is_arbitrarily_wrong_about_opposite_rewards() -> None:
    """(Skalse et al. 2024): what cannot happen hides that the optima are opposite."""
    moves, reward, impossible = fork()
    for x, least in ((0.0, 0.999), (1.0, 0.0), (10.0, 0.0), (100.0, 0.0)):
        pair = reward + x * impossible, -reward + x * impossible
        assert starc_distance(*pair, moves, 0.9) == pytest.approx(2.0, abs=1e-12)
        assert starc_distance(*pair, moves, 0.9, "minimal") == pytest.approx(2.0, abs=1e-12)
        assert epic_distance(*pair, moves, 0.9) >= least
    near = [float(epic_distance(reward + x * impossible, -reward + x * impossible, moves, 0.9))
            for x in (1.0, 10.0, 100.0)]  # fmt: skip
    assert near[0] > 5 * near[1] > 25 * near[2] and near[2] < 0.005


def test_dard_is_arbitrarily_wrong_too() -> None:
    """It asks what is paid from a successor of s to a successor of s', which may be impossible."""
    moves, reward, impossible = fork()
    near = [float(dard_distance(reward + x * impossible, -reward + x * impossible, moves, 0.9))
            for x in (0.0, 10.0, 100.0)]  # fmt: skip
    assert near[0] == pytest.approx(1.0, abs=1e-9)
    assert near[2] < 0.03 < near[1] < 0.3


@pytest.mark.parametrize("distance", [epic_distance, dard_distance])
def test_epic_and_dard_see_redistribution_and_only_that(distance: Any) -> None:
    """Invariant to shaping and scale, yet reward moved between successors is a difference."""
    rng = np.random.default_rng(2)
    world = World(rng, random_transitions(rng, BATCH, 5, 3, 5), np.full(5, 0.2), 0.9)
    x = world.reward()
    np.testing.assert_allclose(
        distance(x, 2.0 * (x + world.shaping()), world.moves, 0.9), 0.0, atol=1e-7
    )
    assert (distance(x, x + world.redistribution(), world.moves, 0.9) > 0.1).all()
    assert (starc_distance(x, x + world.redistribution(), world.moves, 0.9) < 1e-10).all()


def test_epic_and_dard_forms_are_what_their_definitions_say() -> None:
    rng = np.random.default_rng(3)
    moves, reward = random_transitions(rng, 1, 3, 2, 3)[0], rng.normal(size=(3, 2, 3))
    gamma, mean, n = 0.8, reward.mean(), 3
    follow = moves.mean(1)
    for s, a, t in np.ndindex(3, 2, 3):
        want = reward[s, a, t] + gamma * reward[t].mean() - reward[s].mean() - gamma * mean
        assert CANONICAL["epic"](reward, moves, gamma)[s, a, t] == pytest.approx(want)
        want = reward[s, a, t]
        for b, u in np.ndindex(2, n):
            want += 0.5 * gamma * moves[t, b, u] * reward[t, b, u]
            want -= 0.5 * moves[s, b, u] * reward[s, b, u]
            for v in range(n):
                want -= 0.5 * gamma * follow[s, u] * follow[t, v] * reward[u, b, v]
        assert CANONICAL["dard"](reward, moves, gamma)[s, a, t] == pytest.approx(want)


# ---- planning ------------------------------------------------------------------------------------


def test_planning_agrees_with_the_tabular_solver_and_by_enumeration() -> None:
    rng = np.random.default_rng(4)
    moves, r = random_transitions(rng, 6, 3, 2, 2), rng.normal(size=(6, 3, 2))
    start = rng.dirichlet(np.ones(3))
    value, policy = best_policy(r, moves, 0.9)
    all_values = [
        policy_value(np.broadcast_to(p, (6, 3)), r, moves, 0.9)
        for p in (np.array(i) for i in np.ndindex(2, 2, 2))
    ]
    np.testing.assert_allclose(value, np.max(all_values, 0), atol=1e-10)
    lowest = np.min([v @ start for v in all_values], 0)
    np.testing.assert_allclose(
        return_range(r, moves, start, 0.9), value @ start - lowest, atol=1e-10
    )
    visits = discounted_visits(policy, moves, start, 0.9)
    np.testing.assert_allclose(visits.sum((-2, -1)), 10.0, atol=1e-9)
    np.testing.assert_allclose((visits * r).sum((-2, -1)), value @ start, atol=1e-9)
    flow = np.einsum("bsat,bsa->bt", shaping_matrix(moves, 0.9).reshape(6, 3, 2, 3), visits)
    np.testing.assert_allclose(-flow, np.broadcast_to(start, (6, 3)), atol=1e-9)


def test_matrix_is_the_pairwise_distances_and_weights_are_a_measure() -> None:
    rng = np.random.default_rng(5)
    moves, rewards = random_transitions(rng, 1, 4, 2, 3)[0], rng.normal(size=(3, 4, 2))
    matrix = starc_matrix(rewards, moves, 0.9)
    assert matrix.shape == (3, 3) and not np.diagonal(matrix).any()
    assert matrix[0, 2] == pytest.approx(starc_distance(rewards[0], rewards[2], moves, 0.9))
    weighted = starc_matrix(rewards, moves, 0.9, weights=np.full((4, 2), 7.0))
    np.testing.assert_allclose(weighted / np.sqrt(7.0), matrix / np.sqrt(7.0) * 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 1.0}, "gamma=1.0: expected a number in"),
        ({"canonical": "vall"}, "canonical='vall': expected one of val"),
        ({"norm": "l3"}, "norm='l3'"),
        ({"norm": "range", "canonical": "val"}, "norm='range': give initial"),
        ({"metric": "range"}, "norm='range': expected l1"),
        ({"first": np.zeros((2, 3))}, r"reward: shape \(2, 3\), expected"),
        ({"transition": np.full((2, 2, 2), 0.4)}, r"transition\[0, 0\]: expected probabilities"),
        ({"transition": np.full((2, 2, 3), 1 / 3)}, r"transition: shape \(2, 2, 3\)"),
        ({"weights": np.full((2, 2), -1.0)}, "weights: expected 4 numbers >= 0"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    reward = np.eye(2)
    given_: dict[str, Any] = {
        "first": reward, "second": -reward, "transition": np.full((2, 2, 2), 0.5), "gamma": 0.9,
        **change,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        starc_distance(**given_)
    check_model(np.full((2, 2, 2), 0.5), 0.0)
    with pytest.raises(ValueError, match="branching=3: expected 1 to 2"):
        random_transitions(np.random.default_rng(0), 1, 2, 2, 3)
