"""PessimisticPrecondition: a share in [floor, 1], row by row, and the forward model's Jacobian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rewardzoo import Transition
from rewardzoo.rewards import Novelty, Spaces
from rewardzoo.rewards.base import env_reward
from rewardzoo.rewards.forward_model import ForwardModel
from rewardzoo.rewards.lipschitz import jacobian
from rewardzoo.rewards.pessimistic import PessimisticPrecondition
from rewardzoo.testing import check_reward

SPACES = Spaces(
    spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32)
)


def step(rows=16, seed=0, matrix=None):
    rng = torch.Generator().manual_seed(seed)
    obs, action = torch.randn(rows, 3, generator=rng), torch.rand(rows, 2, generator=rng)
    no = torch.zeros(rows, dtype=torch.bool)
    next_obs = obs if matrix is None else torch.cat([obs, action], 1) @ matrix
    return Transition(
        obs=obs, action=action, next_obs=next_obs, reward=torch.ones(rows), terminated=no,
        truncated=no, valid=~no, episode_step=torch.zeros(rows, dtype=torch.int64),
    )  # fmt: skip


def bound(fn, rows=16):
    fn.bind(rows, torch.device("cpu"), SPACES)
    return fn


def cubic(x):
    return 4.0 * x[:, :3] ** 3


def test_gentle_affine_dynamics_cost_nothing():
    fn = bound(PessimisticPrecondition(env_reward, lambda x: 0.5 * x[:, :3] + 1.0, k=1.0))
    for seed in range(3):
        fn.observe(step(seed=seed))
        fn.update()
    assert torch.equal(fn(step()), torch.ones(16))


def test_steep_places_are_paid_less_row_by_row_and_never_below_the_floor():
    fn = bound(PessimisticPrecondition(env_reward, cubic, k=1.0, floor=0.6))
    assert torch.equal(fn(step()), torch.ones(16))  # the deviation is not known yet
    fn.observe(step(seed=1))
    fn.update()
    t = step()
    eta = fn.eta(t)
    assert bool(((eta >= 0.6) & (eta <= 1.0)).all()) and len(eta.unique()) > 4
    steep = jacobian(cubic, torch.cat([t.obs, t.action], 1)).flatten(1).norm(dim=1)
    order = steep.argsort()
    assert bool((eta[order].diff() <= 0.0).all())
    mixed = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    other = Transition(**{k: getattr(t, k)[mixed] for k in t.__slots__ if k != "info"})
    torch.testing.assert_close(fn(other), fn(t)[mixed])
    torch.testing.assert_close(fn.relabel(t), eta)


def test_the_model_learns_linear_dynamics_and_their_slope():
    matrix = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.1, 0.0, 0.7],
                           [0.3, 0.0, 0.0], [0.0, 0.3, 0.0]])  # fmt: skip
    fn = PessimisticPrecondition(env_reward, updates_per_step=1.0, learning_rate=2e-3)
    fn = bound(fn)
    for seed in range(40):
        fn.observe(step(seed=seed, matrix=matrix))
        metrics = fn.update()
    assert float(metrics["model_error"]) < 0.02
    assert float(metrics["eta"]) == 1.0  # its slope is far below 9


def test_the_jacobian_is_that_of_each_row():
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(6, 4, generator=rng), torch.randn(4, 3, generator=rng)
    found = jacobian(lambda x: (x @ w).tanh(), x)
    wanted = torch.stack([(1.0 - (row @ w).tanh() ** 2).unsqueeze(1) * w.T for row in x])
    torch.testing.assert_close(found, wanted)


def test_the_estimate_of_many_outputs_norms_is_near_the_exact_one():
    model, x = ForwardModel(40, 42), torch.randn(64, 42, generator=torch.Generator().manual_seed(0))
    exact = jacobian(model, x).flatten(1).norm(dim=1)
    # Eight probes: a relative deviation of the square of at most sqrt(2 / 8).
    ratio = model.jacobian_norm(x) / exact
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.25)
    assert bool((ratio > 0.3).all() and (ratio < 2.0).all())


@pytest.mark.parametrize("inner", [lambda: env_reward, Novelty])
def test_it_keeps_the_contract_of_reward_functions(inner):
    check_reward(lambda: PessimisticPrecondition(inner(), memory=50))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"floor": 0.0}, "floor=0.0"), ({"k": -1.0}, "k=-1"), ({"memory": 2}, "memory=2")],
)
def test_bad_arguments_are_refused_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        bound(PessimisticPrecondition(env_reward, **options))
