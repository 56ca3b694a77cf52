"""Local Lipschitz constants: closed forms, finite differences and the bound of the value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from rewardzoo.rewards.lipschitz import (
    PENALTIES,
    gradient_norm,
    gradient_penalty,
    lipschitz_estimate,
    penalty_points,
    value_lipschitz_bound,
    value_lipschitz_square_root,
)

ROWS, WIDTH = 16, 5
LOOKING = [p for p in PENALTIES if p != "none"]


def draws(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    agent, expert, noise = (torch.randn(3, ROWS, WIDTH, generator=generator, dtype=dtype)).unbind()
    return agent, expert, torch.rand(ROWS, WIDTH, generator=generator, dtype=dtype), noise


def smooth_network(seed=0):
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
    return nn.Sequential(layers, nn.Linear(8, 1), nn.Flatten(0)).double()


@pytest.mark.parametrize("penalty", LOOKING)
@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize("slope", [0.3, 1.0, 2.0])
def test_a_linear_function_is_penalised_by_its_slope_wherever_one_looks(penalty, one_sided, slope):
    direction = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0], dtype=torch.float64) / 5.0
    w = (slope * direction).requires_grad_()
    points = penalty_points(penalty, *draws())
    found = gradient_penalty(lambda x: x @ w, points, k=1.0, one_sided=one_sided)
    over = max(0.0, slope - 1.0) if one_sided else slope - 1.0
    assert found.item() == pytest.approx(over**2, abs=1e-12)
    (by_w,) = torch.autograd.grad(found, w)
    torch.testing.assert_close(by_w, 2.0 * over * direction, rtol=1e-10, atol=1e-10)


def test_a_network_of_slope_k_is_not_penalised():
    """Its layers turn by rotations, and its leaky units let everything through at one slope."""
    first, second = (
        torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64))[0] for _ in "ab"
    )
    out = 3.0 * first[0]

    def network(x):
        return nn.functional.leaky_relu(x @ first @ second, 1.0) @ out

    points = penalty_points("wgan", *draws())
    for one_sided in (True, False):
        at_k = gradient_penalty(network, points, k=3.0, one_sided=one_sided)
        assert float(at_k.detach()) == pytest.approx(0.0, abs=1e-20)
        steeper = gradient_penalty(lambda x: 2.0 * network(x), points, k=3.0, one_sided=one_sided)
        assert float(steeper.detach()) == pytest.approx(9.0)


def test_the_norm_is_that_of_both_inputs_together():
    norm = gradient_norm(lambda x, y: 3.0 * x[:, 0] + 4.0 * y[:, 1], *draws()[:2])
    torch.testing.assert_close(norm, torch.full((ROWS,), 5.0, dtype=torch.float64))


def test_the_gradients_norm_equals_central_differences():
    network, x, h = smooth_network(), draws()[0], 1e-5
    steps = h * torch.eye(WIDTH, dtype=torch.float64)
    with torch.no_grad():
        slopes = torch.stack([(network(x + d) - network(x - d)) / (2 * h) for d in steps], 1)
    torch.testing.assert_close(
        gradient_norm(network, x), torch.linalg.vector_norm(slopes, dim=1), rtol=1e-6, atol=1e-9
    )


def test_the_penaltys_gradient_by_the_parameters_equals_central_differences():
    network, x, h = smooth_network(), draws()[0], 1e-5
    parameters = list(network.parameters())
    penalty = gradient_penalty(network, x, k=0.1, one_sided=False)
    found = torch.autograd.grad(penalty, parameters, allow_unused=True)
    for p, by_p in zip(parameters, found, strict=True):
        if by_p is None:  # the last bias moves no slope
            by_p = torch.zeros_like(p)
        wanted = torch.zeros_like(p)
        flat = p.data.view(-1)
        for i in range(flat.numel()):
            for sign in (1.0, -1.0):
                flat[i] += sign * h
                value = gradient_penalty(network, x, k=0.1, one_sided=False).detach()
                wanted.view(-1)[i] += sign * value / (2 * h)
                flat[i] -= sign * h
        torch.testing.assert_close(by_p, wanted, rtol=1e-4, atol=1e-8)


def test_points_lie_where_their_names_say():
    agent, expert, eps, noise = draws()
    one = torch.ones_like(eps)
    at = {p: penalty_points(p, agent, expert, eps, noise) for p in LOOKING}
    torch.testing.assert_close(penalty_points("wgan", agent, expert, one, noise), agent)
    torch.testing.assert_close(penalty_points("wgan", agent, expert, 0.0 * one, noise), expert)
    low, high = torch.minimum(agent, expert), torch.maximum(agent, expert)
    assert bool(((at["wgan"] >= low) & (at["wgan"] <= high)).all())
    torch.testing.assert_close(at["dragan"] - expert, noise)
    torch.testing.assert_close(at["nagard"] - agent, noise)
    assert at["bare"] is agent and at["expert"] is expert


def test_an_estimate_never_exceeds_the_true_constant():
    x = draws()[0]
    found = lipschitz_estimate(lambda x: (2.0 * x).sin().sum(1), x)
    assert float(found.mean) <= float(found.high) <= float(found.max) <= 2.0 * math.sqrt(WIDTH)


# ---- the bound of the value ----------------------------------------------------------------------


def linear_system(rng, states=3, actions=2):
    """A linear system under a linear policy and a linear reward, stable enough for a bound."""
    dynamics = rng.normal(size=(states, states + actions))
    policy = rng.normal(size=(actions, states))
    reward = rng.normal(size=states + actions)
    a, b = (np.linalg.norm(m, 2) for m in (dynamics, policy))
    gamma = rng.uniform(0.5, 0.99)
    dynamics *= rng.uniform(0.1, 0.99) / (gamma * a * math.sqrt(1.0 + b**2))
    return dynamics, policy, reward, gamma


def value_slope(dynamics, policy, reward, gamma):
    """The exact ``grad Q``: of the fixed point ``q = r + gamma J^T [I, K^T] q``."""
    closed = np.vstack([np.eye(policy.shape[1]), policy])
    step = gamma * dynamics.T @ closed.T
    return np.linalg.norm(np.linalg.solve(np.eye(len(reward)) - step, reward))


def test_the_bound_holds_on_a_thousand_linear_systems_and_the_square_root_form_does_not():
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(1000):
        dynamics, policy, reward, gamma = linear_system(rng)
        norms = (np.linalg.norm(reward), np.linalg.norm(dynamics, 2), np.linalg.norm(policy, 2))
        slope = value_slope(dynamics, policy, reward, gamma)
        assert slope <= value_lipschitz_bound(*norms, gamma) * (1 + 1e-9)
        beyond += slope > value_lipschitz_square_root(*norms, gamma)
    assert 150 < beyond < 350  # about a quarter


def test_the_bound_is_met_where_all_gradients_align():
    # s' = c s, r = delta s, no action: Q = delta s / (1 - gamma c).
    delta, c, gamma = 2.0, 1.0, 0.9
    assert value_lipschitz_bound(delta, c, 0.0, gamma) == pytest.approx(delta / (1.0 - gamma * c))
    assert value_lipschitz_square_root(delta, c, 0.0, gamma) < delta / (1.0 - gamma * c)


@pytest.mark.parametrize("dynamics", [0.5, 1.0, 1.25, 3.0])
def test_with_a_horizon_the_bound_is_the_sum_of_powers(dynamics):
    gamma, horizon = 0.8, 7
    wanted = 1.5 * sum((gamma * dynamics) ** k for k in range(horizon))
    assert value_lipschitz_bound(1.5, dynamics, 0.0, gamma, horizon) == pytest.approx(wanted)


def test_the_bound_is_void_where_a_step_back_steepens_for_ever():
    assert value_lipschitz_bound(1.0, 2.0, 0.0, 0.9) == math.inf
    assert value_lipschitz_bound(1.0, 50.0, 2.0, 0.99, 1000) == math.inf  # beyond what floats hold
    assert value_lipschitz_square_root(1.0, 2.0, 0.0, 0.9) == math.inf
