"""Divergences of occupancies, the bound on the objective, and exact regularised optima."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rewardzoo.agents.regularised import (
    Problem,
    action_kl_optimum,
    chi2_path,
    kl_path,
    sqrt_chi2_path,
)
from rewardzoo.metrics.occupancy import (
    chi2,
    correlation,
    kl,
    moments,
    objective_bound,
    policy_occupancy,
    policy_of,
    theory_coefficient,
    tv,
)
from rewardzoo.metrics.planning import best_policy, random_transitions


def problem(seed: int = 0, states: int = 5) -> tuple[Problem, np.ndarray]:
    """A random problem and another reward."""
    rng = np.random.default_rng(seed)
    moves = random_transitions(rng, 1, states, 3, 3)[0]
    base = rng.dirichlet(np.ones(3) * 3.0, states)
    start = rng.dirichlet(np.ones(states))
    proxy, true = rng.normal(size=(2, states, 3))
    return Problem(moves, proxy, start, 0.9, base), true


def test_divergences_are_ordered_and_infinite_off_the_support() -> None:
    rng = np.random.default_rng(0)
    x, b = rng.dirichlet(np.ones(12), (2, 500)).reshape(2, 500, 4, 3)
    c, k, t = chi2(x, b), kl(x, b), tv(x, b)
    assert (c >= k).all() and (k >= 2 * t * t).all() and (k <= np.log1p(c) + 1e-12).all()
    assert chi2(b, b) == pytest.approx(0, abs=1e-12) and not tv(b, b).any()
    b[0, 0, 0] = 0.0
    assert math.isinf(chi2(x, b)[0]) and math.isinf(kl(x, b)[0]) and np.isfinite(chi2(x, b)[1:]).all()  # fmt: skip


def test_bound_on_the_objective_holds_in_2000_cases_and_is_attained() -> None:
    rng = np.random.default_rng(1)
    x, b = rng.dirichlet(np.ones(12), (2, 2000)).reshape(2, 2000, 4, 3)
    proxy, true = rng.normal(size=(2, 2000, 4, 3))
    r = correlation(b, proxy, true)
    proxy = np.where(r[:, None, None] < 0, -proxy, proxy)
    r = np.abs(r)
    gain = [((x - b) * q).sum((1, 2)) / moments(b, q)[1] for q in (true, proxy)]
    bound = [objective_bound(*args) for args in zip(gain[1], chi2(x, b), r, strict=True)]
    assert (gain[0] >= np.array(bound) - 1e-9).all()
    # The worst case: what the proxy has beyond the objective is the ratio itself.
    ratio = x[0] / b[0] - 1.0
    z = ratio / np.sqrt(chi2(x[0], b[0]))
    base_noise = true[0] - (b[0] * true[0]).sum()
    base_noise -= (b[0] * base_noise * z).sum() * z
    proxy0 = 0.6 * base_noise / moments(b[0], base_noise)[1] + 0.8 * z
    gains = [((x[0] - b[0]) * q).sum() / moments(b[0], q)[1] for q in (base_noise, proxy0)]
    want = objective_bound(gains[1], float(chi2(x[0], b[0])), 0.6)
    assert gains[0] == pytest.approx(want, abs=1e-9)
    with pytest.raises(ValueError, match="r=0.0: expected a correlation"):
        objective_bound(1.0, 1.0, 0.0)


def test_occupancy_gives_its_policy_back() -> None:
    p, _ = problem()
    assert p.occupancy.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(policy_of(p.occupancy), p.base, atol=1e-12)


def value(p: Problem, divergence: object, coef: float, policy: np.ndarray) -> float:
    x = policy_occupancy(policy, p.transition, p.initial, p.gamma)
    return float((x * p.reward).sum() - coef * divergence(x, p.occupancy))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["chi2", "kl", "sqrt_chi2", "action_kl"])
def test_optima_are_not_beaten_by_any_neighbour(name: str) -> None:
    """Each is an occupancy of a policy, and no other policy of 300, near or far, is better."""
    p, _ = problem(2)
    rng = np.random.default_rng(3)
    coef = 0.3 * p.sigma

    def action_kl(x: np.ndarray, base: np.ndarray) -> float:
        pi = policy_of(x)
        return float((x * (np.log(np.maximum(pi, 1e-300)) - np.log(p.base))).sum())

    x, divergence = {
        "chi2": lambda: (chi2_path(p, [p.sigma, coef])[-1], chi2),
        "kl": lambda: (kl_path(p, [p.sigma, coef])[-1], kl),
        "sqrt_chi2": lambda: (
            sqrt_chi2_path(p, [coef])[0],
            lambda y, b: np.sqrt(max(0.0, float(chi2(y, b)))),
        ),
        "action_kl": lambda: (action_kl_optimum(p, coef), action_kl),
    }[name]()
    best = policy_of(x)
    np.testing.assert_allclose(
        policy_occupancy(best, p.transition, p.initial, p.gamma), x, atol=1e-6
    )
    top = value(p, divergence, coef, best)
    for reach in np.geomspace(1e-3, 1.0, 300):
        other = (1 - reach) * best + reach * rng.dirichlet(np.ones(3), len(best))
        assert value(p, divergence, coef, other) <= top + 1e-7
    assert top >= value(p, divergence, coef, p.base)


def test_sqrt_chi2_returns_the_base_from_sigma_on_and_the_proxy_optimum_at_0() -> None:
    p, _ = problem(4)
    np.testing.assert_array_equal(sqrt_chi2_path(p, [2.0 * p.sigma, p.sigma])[1], p.occupancy)
    hacker = best_policy(p.reward, p.transition, p.gamma)[1]
    top = (policy_occupancy(np.eye(3)[hacker], p.transition, p.initial, p.gamma) * p.reward).sum()
    near = sqrt_chi2_path(p, [2e-3 * p.sigma], least=1e-5)[0]
    assert (near * p.reward).sum() == pytest.approx(top, abs=0.01 * p.sigma)
    assert theory_coefficient(2.0, 0.6) == pytest.approx(1.6)


def test_theory_coefficient_improves_on_the_base() -> None:
    """The guarantee: where the penalised proxy gains, the objective has gained."""
    gained = 0
    for seed in range(12):
        p, noise = problem(seed)
        true = p.reward + 0.5 * noise
        r = float(correlation(p.occupancy, true, p.reward))
        x = sqrt_chi2_path(p, [theory_coefficient(p.sigma, r)])[0]
        gain = float(((x - p.occupancy) * true).sum())
        assert gain >= -1e-7
        gained += gain > 1e-4
    assert gained > 8


def test_bad_problems_are_told() -> None:
    p, _ = problem()
    with pytest.raises(ValueError, match="base: expected a policy under which every action"):
        Problem(p.transition, p.reward, p.initial, p.gamma, np.eye(3)[[0] * 5])
    with pytest.raises(ValueError, match="expected falling numbers"):
        chi2_path(p, [0.1, 0.2])
    with pytest.raises(ValueError, match="too small"):
        sqrt_chi2_path(p, [1e-6 * p.sigma])
