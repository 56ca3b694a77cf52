"""Importance sampling finds the exact value of another policy, and says when it cannot."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rewardzoo  # noqa: F401
from rewardzoo.agents.common.logged import log_episodes
from rewardzoo.agents.tabular import expected_return, mdp_of
from rewardzoo.envs.sepsis.data import tables
from rewardzoo.metrics.off_policy import estimate, log_ratios, returns

ENV = "rewardzoo/SepsisICU-v0"


def test_by_hand() -> None:
    """Two episodes with ratios 2 and 1/2: the second is one step shorter."""
    valid = torch.tensor([[True, True], [True, False]])
    evaluated = torch.tensor([[0.8, 0.5], [0.25, 0.9]])
    behaviour = torch.tensor([[0.4, 0.5], [0.5, 0.1]])
    ratio = log_ratios(evaluated, behaviour, valid)
    assert ratio.exp().tolist() == pytest.approx([2.0, 0.5])
    total = returns(torch.tensor([[1.0, 10.0], [4.0, 99.0]]), valid, 0.5)
    assert total.tolist() == [6.0, 4.0]
    found = estimate(ratio, total)
    assert found.weighted == pytest.approx((2 * 6 + 0.5 * 4) / 2.5)
    assert found.ordinary == pytest.approx((2 * 6 + 0.5 * 4) / 2)
    assert found.effective_sample_size == pytest.approx(2.5**2 / 4.25)
    assert found.clamped == 0 and found.n == 2
    clamped = estimate(ratio, total, clamp=(1e-8, 1.0))
    assert clamped.weighted == pytest.approx((6 + 0.5 * 4) / 1.5) and clamped.clamped == 0.5


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=30), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_weights_need_no_scale_and_equal_policies_give_the_mean(
    values: list[float], seed: int
) -> None:
    reward = torch.tensor(values, dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    ratio = torch.randn(len(values), generator=g, dtype=torch.float64)
    plain = estimate(torch.zeros_like(reward), reward)
    assert plain.weighted == pytest.approx(float(reward.mean()), abs=1e-9)
    assert plain.ordinary == pytest.approx(float(reward.mean()), abs=1e-9)
    assert plain.effective_sample_size == pytest.approx(len(values))
    a, b = estimate(ratio, reward), estimate(ratio + 3.0, reward)
    assert a.weighted == pytest.approx(b.weighted, abs=1e-9)
    assert a.effective_sample_size == pytest.approx(b.effective_sample_size)
    assert min(values) - 1e-9 <= a.weighted <= max(values) + 1e-9
    assert 1 - 1e-9 <= a.effective_sample_size <= len(values) + 1e-9


def test_long_episodes_do_not_overflow() -> None:
    valid = torch.ones(3, 5000, dtype=torch.bool)
    ratio = log_ratios(torch.full((3, 5000), 0.9), torch.full((3, 5000), 0.1), valid)
    assert estimate(ratio, torch.tensor([1.0, 2.0, 3.0])).weighted == pytest.approx(2.0)


@pytest.mark.parametrize("epsilon", [0.02, 0.05])
def test_converges_to_the_exact_value_of_an_epsilon_mixture_of_the_expert(epsilon: float) -> None:
    """20,000 patients of the clinicians; both estimates within 3 standard errors of the exact one.

    The mixture is uniform over what clinicians ever did in the state: elsewhere no ratio exists.
    """
    expert = torch.tensor(tables().expert_policy)
    supported = (expert > 0).to(torch.float64)
    mixture = (1 - epsilon) * expert + epsilon * supported / supported.sum(1, keepdim=True).clamp(
        min=1
    )
    mdp = mdp_of(ENV)
    exact = float(expected_return(mdp, mixture, 1.0))
    logged = log_episodes(gymnasium.make_vec(ENV, num_envs=20_000), expert, seed=5)
    state = logged.obs[:, :-1]
    ratio = log_ratios(mixture[state, logged.action], expert[state, logged.action], logged.valid)
    found = estimate(ratio, returns(logged.reward, logged.valid, 1.0))
    assert abs(found.weighted - exact) < 3 * found.weighted_error
    assert abs(found.ordinary - exact) < 3 * found.ordinary_error
    assert 0.004 > found.weighted_error > 0.5 * math.sqrt(0.78 * 0.22 / 20_000)
    assert 500 < found.effective_sample_size < 20_000
    # Clamping moves the weighted estimate of these mild ratios by little.
    clamped = estimate(ratio, returns(logged.reward, logged.valid, 1.0), clamp=(1e-8, 1e2))
    assert abs(clamped.weighted - found.weighted) < 0.01


def test_another_policy_is_not_mistaken_for_the_expert() -> None:
    """The estimate moves with the policy: for one that does worse it is worse."""
    expert = torch.tensor(tables().expert_policy)
    mdp = mdp_of(ENV)
    logged = log_episodes(gymnasium.make_vec(ENV, num_envs=20_000), expert, seed=6)
    state, supported = logged.obs[:, :-1], (expert > 0).to(torch.float64)
    tilted = expert * torch.linspace(1.0, 2.0, 25, dtype=torch.float64)
    tilted = tilted / tilted.sum(1, keepdim=True).clamp(min=1e-12)
    exact = float(expected_return(mdp, tilted, 1.0))
    ratio = log_ratios(tilted[state, logged.action], expert[state, logged.action], logged.valid)
    found = estimate(ratio, returns(logged.reward, logged.valid, 1.0))
    assert abs(found.weighted - exact) < 4 * found.weighted_error
    assert bool((supported.sum(1)[:713] >= 2).all())


def test_padding_counts_as_nothing() -> None:
    valid = torch.tensor([[True, False], [True, False]])
    a = log_ratios(torch.tensor([[0.5, 0.0], [0.2, 9.0]]), torch.full((2, 2), 0.5), valid)
    b = log_ratios(torch.tensor([[0.5], [0.2]]), torch.full((2, 1), 0.5), valid[:, :1])
    assert torch.equal(a, b)


def test_impossible_behaviour_is_named_or_floored() -> None:
    valid = torch.ones(2, 2, dtype=torch.bool)
    behaviour = torch.tensor([[0.5, 0.5], [0.5, 0.0]])
    with pytest.raises(ValueError, match=r"behaviour\[1, 1\]: 0 for an action that was taken"):
        log_ratios(torch.full((2, 2), 0.5), behaviour, valid)
    floored = log_ratios(torch.full((2, 2), 0.5), behaviour, valid, floor=0.1)
    assert floored.exp().tolist() == pytest.approx([1.0, 5.0])
    with pytest.raises(ValueError, match=r"evaluated\[0, 1\]: expected a probability"):
        log_ratios(torch.tensor([[0.5, np.nan], [0.5, 0.5]]), torch.full((2, 2), 0.5), valid)
    with pytest.raises(ValueError, match="at least 2 episodes"):
        estimate(torch.zeros(1), torch.zeros(1))
