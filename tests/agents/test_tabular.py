"""Exact solvers: by hand, against linear programming, and what shaping may and may not change."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from rewardzoo.agents.tabular import (
    TabularMDP,
    evaluate_policy,
    expected_return,
    mdp_of,
    occupancy,
    policy_iteration,
    q_values,
    shaped,
    value_iteration,
)


def batch(count: int, seed: int, states: int = 6, actions: int = 3) -> TabularMDP:
    """Random problems that end; the second half is deterministic with rewards 0 and 1: many ties."""
    g = torch.Generator().manual_seed(seed)
    shape = (count, states, actions)
    transition = torch.rand(*shape, states, generator=g, dtype=torch.float64) ** 4 + 1e-3
    transition = transition / transition.sum(-1, keepdim=True)
    reward = torch.randn(shape, generator=g, dtype=torch.float64)
    half = count // 2
    following = torch.randint(0, states, (count - half, states, actions), generator=g)
    transition[half:] = torch.nn.functional.one_hot(following, states).to(torch.float64)
    reward[half:] = torch.randint(0, 2, following.shape, generator=g).to(torch.float64)
    initial = torch.full((states,), 1.0 / states, dtype=torch.float64)
    return TabularMDP(transition, reward, initial, torch.arange(states) == states - 1)


def garnet(seed: int, states: int = 6, actions: int = 3) -> TabularMDP:
    """A random problem whose last state is terminal and reachable from everywhere."""
    g = torch.Generator().manual_seed(seed)
    transition = torch.rand(states, actions, states, generator=g, dtype=torch.float64) ** 4 + 1e-3
    transition = transition / transition.sum(-1, keepdim=True)
    reward = torch.randn(states, actions, generator=g, dtype=torch.float64)
    terminal = torch.arange(states) == states - 1
    transition[-1] = torch.eye(states, dtype=torch.float64)[-1]
    reward[-1] = 0.0
    initial = torch.full((states,), 1.0 / states, dtype=torch.float64)
    return TabularMDP(transition, reward, initial, terminal)


def chain(rewards: dict[tuple[int, int], float], edges: dict[tuple[int, int], int], n: int,
          terminal: list[int]) -> TabularMDP:  # fmt: skip
    """A deterministic problem with two actions; missing edges stay."""
    transition = torch.zeros(n, 2, n, dtype=torch.float64)
    reward = torch.zeros(n, 2, dtype=torch.float64)
    for s in range(n):
        for a in range(2):
            transition[s, a, edges.get((s, a), s)] = 1.0
            reward[s, a] = rewards.get((s, a), 0.0)
    ends = torch.zeros(n, dtype=torch.bool)
    ends[terminal] = True
    start = torch.zeros(n, dtype=torch.float64)
    start[0] = 1.0
    return TabularMDP(transition, reward, start, ends)


def test_by_hand() -> None:
    """s0 goes on for .5 or ends for 1; s1 ends for 2: going on is worth .5 + gamma 2."""
    mdp = chain({(0, 0): 0.5, (0, 1): 1.0, (1, 0): 2.0, (1, 1): 2.0}, {(0, 0): 1, (0, 1): 2, (1, 0): 2, (1, 1): 2}, 3, [2])  # fmt: skip
    for gamma, best in [(1.0, 2.5), (0.5, 1.5), (0.1, 1.0)]:
        assert float(value_iteration(mdp, gamma)[0]) == pytest.approx(best)
        value, policy = policy_iteration(mdp, gamma)
        assert float(value[0]) == pytest.approx(best)
        assert int(policy[0].argmax()) == (0 if best > 1 else 1)


@given(
    seed=st.integers(0, 10**6),
    states=st.integers(2, 7),
    actions=st.integers(1, 4),
    gamma=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_solvers_agree_with_linear_programming(
    seed: int, states: int, actions: int, gamma: float
) -> None:
    mdp = garnet(seed, states, actions)
    if gamma == 1.0:  # paid for staying alive, episodes may last 1,000 steps; charged, they end
        mdp = mdp.with_reward(-mdp.reward.abs() * mdp.terminal.logical_not().unsqueeze(-1))
    value, policy = policy_iteration(mdp, gamma)
    torch.testing.assert_close(value_iteration(mdp, gamma), value, atol=1e-8, rtol=0)
    # min sum V subject to V(s) >= R(s, a) + gamma P V, V(terminal) = 0
    count, actions, _ = mdp.transition.shape
    rows = gamma * mdp.transition.numpy() - np.eye(count)[:, None]
    bounds = [(0, 0) if t else (None, None) for t in mdp.terminal.tolist()]
    alive = ~mdp.terminal.numpy()
    solved = linprog(
        np.ones(count),
        A_ub=rows[alive].reshape(-1, count),
        b_ub=-mdp.reward.numpy()[alive].ravel(),
        bounds=bounds,
    )
    np.testing.assert_allclose(solved.x, value.numpy(), atol=1e-6)
    visits = occupancy(mdp, policy, gamma)
    assert float((visits * mdp.reward).sum()) == pytest.approx(
        float(expected_return(mdp, policy, gamma)), abs=1e-9
    )
    flow = visits.sum(-1) - gamma * torch.einsum("sa,sat->t", visits, mdp.transition)
    alive_ = mdp.terminal.logical_not()
    torch.testing.assert_close(flow[alive_], mdp.initial[alive_])


def test_a_batch_of_rewards_equals_a_loop() -> None:
    mdp = garnet(0)
    rewards = torch.stack([garnet(i).reward for i in range(4)])
    values, policies = policy_iteration(mdp.with_reward(rewards), 0.9)
    for i, reward in enumerate(rewards):
        value, policy = policy_iteration(mdp.with_reward(reward), 0.9)
        torch.testing.assert_close(values[i], value)
        torch.testing.assert_close(
            evaluate_policy(mdp.with_reward(reward), policies[i], 0.9), value
        )


def test_a_batch_of_problems_equals_a_loop() -> None:
    mdp = batch(6, seed=1)
    values, policies = policy_iteration(mdp, 0.9)
    visits = occupancy(mdp, policies, 0.9)
    for i in range(6):
        one = TabularMDP(mdp.transition[i], mdp.reward[i], mdp.initial, mdp.terminal)
        torch.testing.assert_close(values[i], policy_iteration(one, 0.9)[0])
        torch.testing.assert_close(values[i], value_iteration(one, 0.9))
        torch.testing.assert_close(visits[i], occupancy(one, policies[i], 0.9))
    torch.testing.assert_close(value_iteration(mdp, 0.9), values)


def test_one_policy_is_evaluated_on_many_rewards_at_once() -> None:
    mdp = garnet(3)
    rewards = torch.stack([garnet(i).reward for i in range(8)]).reshape(2, 4, 6, 3)
    uniform = torch.full((6, 3), 1 / 3, dtype=torch.float64)
    values = evaluate_policy(mdp.with_reward(rewards), uniform, 1.0)
    for i, j in np.ndindex(2, 4):
        one = evaluate_policy(mdp.with_reward(rewards[i, j]), uniform, 1.0)
        torch.testing.assert_close(values[i, j], one)


def test_repeated_rows_change_nothing() -> None:
    """From 100 states on value iteration reads distinct rows only."""
    g = torch.Generator().manual_seed(0)
    kinds = torch.rand(30, 120, generator=g, dtype=torch.float64)
    kinds /= kinds.sum(-1, keepdim=True)
    transition = kinds[torch.randint(0, 30, (120, 4), generator=g)]
    reward = torch.randn(120, 4, generator=g, dtype=torch.float64)
    initial = torch.full((120,), 1 / 120, dtype=torch.float64)
    mdp = TabularMDP(transition, reward, initial, torch.arange(120) >= 118)
    value, _ = policy_iteration(mdp, 0.9)
    torch.testing.assert_close(value_iteration(mdp, 0.9), value, atol=1e-10, rtol=0)


def optimal_sets(q: Tensor) -> Tensor:
    return q >= q.amax(-1, keepdim=True) - 1e-8


@pytest.mark.parametrize("gamma", [0.5, 0.99])
def test_shaping_keeps_the_optimal_policy_set_of_1000_problems(gamma: float) -> None:
    """The same optimal actions in every state, ties included, and Q shifted by exactly -phi."""
    mdp = batch(1000, seed=0)
    g = torch.Generator().manual_seed(1)
    phi = 5.0 * torch.randn(1000, 6, generator=g, dtype=torch.float64)
    q = q_values(mdp, policy_iteration(mdp, gamma)[0], gamma)
    other = shaped(mdp, phi, gamma)
    q_shaped = q_values(other, policy_iteration(other, gamma)[0], gamma)
    shift = torch.where(mdp.terminal, 0.0, phi).unsqueeze(-1)
    # Values reach 100, known to 1e-12 of that by the solve, worsened by 1 / (1 - gamma).
    torch.testing.assert_close(q_shaped, q - shift, atol=1e-9, rtol=0)
    assert torch.equal(optimal_sets(q_shaped), optimal_sets(q))
    assert optimal_sets(q)[500:, :5].sum(-1).gt(1).any()  # there are ties to be kept
    wrong = shaped(mdp, phi, gamma * 0.8)  # the comparison can fail
    q_wrong = q_values(wrong, policy_iteration(wrong, gamma)[0], gamma)
    assert not torch.equal(optimal_sets(q_wrong), optimal_sets(q))


@given(seed=st.integers(0, 10**6), scale=st.floats(-100, 100))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_every_policy_loses_the_potential_of_the_start(seed: int, scale: float) -> None:
    """Episodes end with probability one, so even undiscounted returns shift by -E[phi(s0)]."""
    mdp = garnet(seed)
    phi = scale * torch.linspace(-1, 1, 6, dtype=torch.float64)
    policy = torch.softmax(mdp.reward, -1)
    before = expected_return(mdp, policy, 1.0)
    after = expected_return(shaped(mdp, phi, 1.0), policy, 1.0)
    start = (mdp.initial * phi * mdp.terminal.logical_not()).sum()
    assert float(after) == pytest.approx(float(before - start), abs=1e-8)


def first_action(mdp: TabularMDP, gamma: float = 0.9) -> int:
    return int(policy_iteration(mdp, gamma)[1][0].argmax())


def test_a_terminal_potential_that_is_not_zero_flips_the_optimum() -> None:
    """Left ends with 1, right with 0 where phi = 2: paying phi(end) makes right worth 1.8."""
    mdp = chain({(0, 0): 1.0}, {(0, 0): 1, (0, 1): 2}, 3, [1, 2])
    phi = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    right = shaped(mdp, phi, 0.9)
    wrong = mdp.with_reward(mdp.reward + 0.9 * (mdp.transition @ phi) - phi.unsqueeze(-1))
    assert right.reward[0].tolist() == [1.0, 0.0]
    assert wrong.reward[0].tolist() == pytest.approx([1.0, 1.8])
    assert (first_action(mdp), first_action(right), first_action(wrong)) == (0, 0, 1)


def test_the_reset_observation_as_successor_flips_the_optimum() -> None:
    """Live for .5 a step for ever, or die for 0; phi(s0) = 10. Who takes the next episode's first
    state for the successor of dying pays 9 for it."""
    mdp = chain({(0, 0): 0.5}, {(0, 1): 1}, 2, [1])
    phi = torch.tensor([10.0, 0.0], dtype=torch.float64)
    right = shaped(mdp, phi, 0.9)
    reward = right.reward.clone()
    reward[0, 1] += 0.9 * 10.0
    wrong = mdp.with_reward(reward)
    q = q_values(right, policy_iteration(right, 0.9)[0], 0.9)[0]
    assert q.tolist() == pytest.approx([-5.0, -10.0])
    assert float(wrong.reward[0, 1]) == pytest.approx(-1.0)
    assert (first_action(mdp), first_action(right), first_action(wrong)) == (0, 0, 1)


def test_shaping_with_another_discount_flips_the_optimum() -> None:
    """Exit for .5, or loop s0 -> s1 -> s0 for nothing; phi(s1) = 10, shaping 1, agent .9."""
    mdp = chain({(0, 0): 0.5}, {(0, 0): 2, (0, 1): 1, (1, 0): 0, (1, 1): 0}, 3, [2])
    phi = torch.tensor([0.0, 10.0, 0.0], dtype=torch.float64)
    right, _ = policy_iteration(shaped(mdp, phi, 0.9), 0.9)
    wrong, _ = policy_iteration(shaped(mdp, phi, 1.0), 0.9)
    assert float(right[0]) == pytest.approx(0.5)
    assert float(wrong[0]) == pytest.approx(10 * 0.1 / (1 - 0.81), abs=1e-6)  # 5.26
    assert first_action(shaped(mdp, phi, 0.9)) == first_action(mdp) == 0
    assert first_action(shaped(mdp, phi, 1.0)) == 1


def test_bad_models_are_named() -> None:
    mdp = garnet(0)
    broken = mdp.transition.clone()
    broken[2, 1, 0] += 0.1
    with pytest.raises(ValueError, match=r"transition\[2, 1\]"):
        TabularMDP(broken, mdp.reward, mdp.initial, mdp.terminal)
    reward = mdp.reward.clone()
    reward[3, 2] = float("nan")
    with pytest.raises(ValueError, match=r"reward\[3, 2\]"):
        mdp.with_reward(reward)
    with pytest.raises(ValueError, match="initial: expected probabilities"):
        TabularMDP(mdp.transition, mdp.reward, mdp.initial * 2, mdp.terminal)
    with pytest.raises(ValueError, match=r"transition: shape \(6, 3, 5\)"):
        TabularMDP(mdp.transition[..., :5], mdp.reward, mdp.initial, mdp.terminal)
    with pytest.raises(ValueError, match=r"reward: \(6, 2\)"):
        mdp.with_reward(mdp.reward[:, :2])
    with pytest.raises(ValueError, match="reward: .*float32"):
        mdp.with_reward(mdp.reward.float())
    with pytest.raises(ValueError, match="terminal: .*int64"):
        TabularMDP(mdp.transition, mdp.reward, mdp.initial, mdp.terminal.long())


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_bad_discounts_are_named(gamma: float) -> None:
    for solve in (value_iteration, policy_iteration):
        with pytest.raises(ValueError, match="gamma="):
            solve(garnet(0), gamma)


def test_bad_policies_are_named() -> None:
    mdp = garnet(0)
    policy = torch.full((6, 3), 1 / 3, dtype=torch.float64)
    policy[4, 0] = 0.9
    with pytest.raises(ValueError, match=r"policy\[4\]: expected probabilities"):
        evaluate_policy(mdp, policy, 0.9)
    with pytest.raises(ValueError, match=r"policy: shape \(6, 2\)"):
        occupancy(mdp, policy[:, :2], 0.9)
    policy[4, 0], policy[5] = 1 / 3, 0.0  # of a terminal state no policy is asked
    evaluate_policy(mdp, policy, 0.9)


def test_a_policy_that_never_ends_has_no_value_at_gamma_one() -> None:
    mdp = chain({(0, 0): 1.0}, {(0, 1): 1}, 2, [1])
    forever = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    with pytest.raises(ValueError, match="state 0 never reaches a terminal"):
        evaluate_policy(mdp, forever, 1.0)
    with pytest.raises(ValueError, match="state 0 never reaches a terminal"):
        policy_iteration(mdp, 1.0)  # staying pays for ever


def test_a_closed_set_is_found_though_rounding_hides_it() -> None:
    """States 1 to 3 keep to themselves with thirds and sevenths, whose sums are not exactly 1."""
    transition = torch.zeros(5, 1, 5, dtype=torch.float64)
    transition[0, 0, [1, 4]] = 0.5
    transition[1:4, 0, 1:4] = torch.tensor(
        [[1 / 3] * 3, [1 / 7, 2 / 7, 4 / 7], [0.1, 0.2, 0.7]], dtype=torch.float64
    )
    transition[4, 0, 4] = 1.0
    initial = torch.eye(5, dtype=torch.float64)[0]
    ones = torch.ones(5, 1, dtype=torch.float64)
    mdp = TabularMDP(transition, ones, initial, torch.arange(5) == 4)
    with pytest.raises(ValueError, match="state 1 never reaches a terminal"):
        evaluate_policy(mdp, ones, 1.0)
    assert bool(torch.isfinite(evaluate_policy(mdp, ones, 0.99)).all())


def test_models_of_environments() -> None:
    mdp = mdp_of("rewardzoo/GridWorld-v0")
    func: Any = gymnasium.make("rewardzoo/GridWorld-v0").unwrapped.func
    torch.testing.assert_close(mdp.transition, mdp_of(func).transition)
    with pytest.raises(ValueError, match="did you mean 'rewardzoo/GridWorld-v0'"):
        mdp_of("rewardzoo/GridWord-v0")
    with pytest.raises(ValueError, match="CartPole has no finite model"):
        mdp_of("rewardzoo/CartPole-v0")
    with pytest.raises(ValueError, match="not a functional environment"):
        mdp_of("CartPole-v1")
    with pytest.raises(ValueError, match="slip need an id"):
        mdp_of(func, slip=0.1)
