"""Worst-case regret equals the linear program, and STARC distances bound it from both sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from rewardzoo.metrics.planning import expected, random_transitions
from rewardzoo.metrics.regret import regret_constants, worst_case_regret
from rewardzoo.metrics.starc import starc_distance

from .test_starc import BATCH, World, thousand, worlds


@thousand
@given(worlds(), st.sampled_from(["val", "minimal"]), st.floats(0.0, 1.0))
def test_both_bounds_hold_on_a_thousand_mdps(world: World, canonical: str, mix: float) -> None:
    x = world.reward()
    y = (1.0 - mix) * x + mix * world.reward() + world.shaping() + world.redistribution()
    regret = worst_case_regret(x, y, world.moves, world.initial, world.gamma)
    d = starc_distance(x, y, world.moves, world.gamma, canonical)
    lower, upper = regret_constants(world.moves, world.initial, world.gamma, canonical)
    assert lower.shape == upper.shape == regret.shape == (BATCH,)
    assert (0.0 < lower).all() and (lower < upper).all() and np.isfinite(upper).all()
    assert (lower * d <= regret + 1e-9).all()
    assert (regret <= upper * d + 1e-9).all()


def by_linear_program(r1: np.ndarray, r2: np.ndarray, moves: np.ndarray, start: np.ndarray) -> float:  # fmt: skip
    """Two occupancies, and one constraint between them."""
    states, actions = r1.shape
    flow = np.kron(np.eye(states), np.ones((1, actions))) - 0.9 * moves.reshape(-1, states).T
    none = np.zeros_like(flow)
    a, b = r1.ravel(), r2.ravel()
    pair = linprog(
        -np.r_[a, -a], A_ub=[np.r_[b, -b]], b_ub=[0.0],
        A_eq=np.block([[flow, none], [none, flow]]), b_eq=np.r_[start, start],
    )  # fmt: skip
    ends = [linprog(sign * a, A_eq=flow, b_eq=start).fun for sign in (-1.0, 1.0)]
    return -pair.fun / -(ends[0] + ends[1])


def test_equals_the_linear_program() -> None:
    rng = np.random.default_rng(0)
    moves, start = random_transitions(rng, 12, 4, 3, 3), rng.dirichlet(np.ones(4))
    x = rng.normal(size=(12, 4, 3))
    y = np.linspace(0.0, 2.0, 12)[:, None, None] * rng.normal(size=x.shape) + x
    found = worst_case_regret(x, y, moves, start, 0.9)
    want = [by_linear_program(*args, start) for args in zip(x, y, moves, strict=True)]
    np.testing.assert_allclose(found, want, atol=1e-8)
    assert found[0] == pytest.approx(0.0, abs=1e-9) and (found[3:] > 0.05).all()


def test_extremes() -> None:
    rng = np.random.default_rng(1)
    moves, start = random_transitions(rng, 5, 4, 3, 3), np.full(4, 0.25)
    x = rng.normal(size=(5, 4, 3))
    np.testing.assert_allclose(worst_case_regret(x, -x, moves, start, 0.9), 1.0)
    np.testing.assert_allclose(worst_case_regret(x, 3.0 * x, moves, start, 0.9), 0.0, atol=1e-9)
    np.testing.assert_array_equal(worst_case_regret(x, 0.0 * x, moves, start, 0.9), 1.0)
    np.testing.assert_array_equal(worst_case_regret(0.0 * x, x, moves, start, 0.9), 0.0)
    # One prefers by the other alike, whatever is shaped or moved between successors.
    y = rng.normal(size=(5, 4, 3, 4))
    noise = rng.normal(size=y.shape)
    moved = y + noise - expected(noise, moves)[..., None]
    np.testing.assert_allclose(
        worst_case_regret(x, y, moves, start, 0.9),
        worst_case_regret(x, moved, moves, start, 0.9),
        atol=1e-9,
    )


def test_one_state_by_hand() -> None:
    """Three actions; J2 prefers b to a, and ties a with the best: half of the range is lost."""
    moves = np.ones((1, 3, 1))
    x, y = np.array([[1.0, 0.0, -1.0]]), np.array([[1.0, 1.0, 0.0]])
    assert worst_case_regret(x, y, moves, np.ones(1), 0.5) == pytest.approx(0.5)


def test_bounds_are_known_for_two_forms_only() -> None:
    with pytest.raises(ValueError, match="canonical='epic': bounds are known for"):
        regret_constants(np.ones((1, 2, 1)), np.ones(1), 0.9, "epic")
