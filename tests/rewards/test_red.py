"""Random expert distillation: 1 on the expert's rows, a known fall away from them, never learns."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rewardzoo import Transition
from rewardzoo.rewards import Spaces
from rewardzoo.rewards.red import RandomExpertDistillation
from rewardzoo.testing import check_reward

BOX = Spaces(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-2.0, 2.0, (2,), np.float32))


def demonstrations(rows=200, obs=3, action=2, seed=0):
    """An expert who never acts."""
    rng = torch.Generator().manual_seed(seed)
    no = torch.zeros(rows, dtype=torch.bool)
    return SimpleNamespace(
        obs=5.0 + 3.0 * torch.randn(rows, obs, generator=rng),
        action=torch.zeros(rows, action),
        next_obs=torch.randn(rows, obs, generator=rng),
        terminated=no,
        truncated=no,
    )


def step(demos, action=0.0):
    rows = len(demos.obs)
    return Transition(
        obs=demos.obs,
        action=demos.action + action,
        next_obs=demos.next_obs,
        reward=torch.zeros(rows),
        terminated=demos.terminated,
        truncated=demos.truncated,
        valid=~demos.terminated,
        episode_step=torch.zeros(rows, dtype=torch.int64),
    )


def made(**options):
    fn = RandomExpertDistillation(
        demonstrations(), **{"hidden": (16,), "steps": 300, "learning_rate": 1e-2, **options}
    )
    fn.bind(8, torch.device("cpu"), BOX)
    return fn


@pytest.mark.parametrize("paid", [0.5, 0.9])
def test_so_many_of_the_demonstrations_are_paid_at_least_what_was_asked(paid):
    reward = made(paid=paid).relabel(step(demonstrations()))
    assert (reward >= paid).float().mean().item() == pytest.approx(0.95, abs=1 / 200)


def test_of_linear_networks_the_logarithm_falls_with_the_square_of_the_distance():
    # The expert's actions are 0, so no step ever moves the weights that read actions: along them
    # h - g is linear for ever, and elsewhere it was fitted away.
    fn = made(hidden=(), steps=1000)
    demos = demonstrations()
    one, two = (fn.relabel(step(demos, a)).log() for a in (1e-4, 2e-4))
    torch.testing.assert_close(two, 4.0 * one, rtol=0.05, atol=1e-3)
    assert bool((one < -1.0).all())


def test_rows_the_expert_never_showed_are_paid_less_the_farther_they_are():
    fn, demos = made(steps=1000), demonstrations()
    near, far, fresh = (
        fn.relabel(step(d, a)).mean()
        for d, a in ((demos, 0.5), (demos, 2.0), (demonstrations(seed=1), 0.0))
    )
    assert fresh > near + 0.1 > far + 0.2


def test_it_is_fixed_and_what_is_saved_pays_the_same():
    fn, other, t = made(), made(seed=1), step(demonstrations(), 0.02)
    before = fn.relabel(t)
    assert not torch.allclose(other.relabel(t), before)
    fn.observe(t)
    assert fn.update() == {}
    assert torch.equal(fn.relabel(t), before)
    other.load_state_dict(fn.state_dict())
    assert torch.equal(other.relabel(t), before)


def test_units_of_observations_do_not_matter():
    fn, t = made(), step(demonstrations(), 0.02)
    scaled = demonstrations()
    scaled.obs = 1024.0 * scaled.obs
    other = RandomExpertDistillation(scaled, hidden=(16,), steps=300, learning_rate=1e-2)
    other.bind(8, torch.device("cpu"), BOX)
    paid = other.relabel(replace(t, obs=1024.0 * t.obs))
    torch.testing.assert_close(paid, fn.relabel(t), rtol=1e-2, atol=1e-3)


def test_it_keeps_the_contract_of_reward_functions():
    demos = demonstrations(obs=4)
    demos.action = torch.arange(200) % 2
    report = check_reward(lambda: RandomExpertDistillation(demos, hidden=(8,), steps=20))
    assert report.relabels and report.skipped == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"paid": 1.0}, "paid=1.0"), ({"steps": 0}, "steps=0"), ({"features": 0}, "features=0")],
)
def test_bad_arguments_are_refused_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        made(**options)
