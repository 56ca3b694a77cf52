"""Exact solvers: by hand, against linear programming, and what shaping may and may not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from rewardzoo.agents.tabular import (
    TabularMDP,
    evaluate_policy,
    expected_return,
    occupancy,
    policy_iteration,
    q_values,
    shaped,
    value_iteration,
)


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


@pytest.mark.parametrize("seed", range(10))
def test_solvers_agree_with_linear_programming(seed: int) -> None:
    mdp, gamma = garnet(seed), 0.9
    value, policy = policy_iteration(mdp, gamma)
    torch.testing.assert_close(value_iteration(mdp, gamma), value, atol=1e-9, rtol=0)
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
    np.testing.assert_allclose(solved.x, value.numpy(), atol=1e-7)
    visits = occupancy(mdp, policy, gamma)
    assert float((visits * mdp.reward).sum()) == pytest.approx(
        float(expected_return(mdp, policy, gamma))
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


def optimal_sets(q: Tensor) -> Tensor:
    return q >= q.amax(-1, keepdim=True) - 1e-9


@pytest.mark.parametrize("gamma", [0.5, 0.99])
def test_shaping_keeps_the_optimal_policy_set_of_500_random_problems(gamma: float) -> None:
    """With both discounts, 1,000 problems: the same optimal actions, Q shifted by -phi exactly."""
    for seed in range(500):
        mdp = garnet(seed)
        g = torch.Generator().manual_seed(10_000 + seed)
        phi = 5.0 * torch.randn(mdp.terminal.shape[0], generator=g, dtype=torch.float64)
        q = q_values(mdp, policy_iteration(mdp, gamma)[0], gamma)
        other = shaped(mdp, phi, gamma)
        q_shaped = q_values(other, policy_iteration(other, gamma)[0], gamma)
        shift = torch.where(mdp.terminal, 0.0, phi).unsqueeze(-1)
        torch.testing.assert_close(q_shaped, q - shift, atol=1e-8, rtol=0)
        assert torch.equal(optimal_sets(q_shaped + shift), optimal_sets(q))


def test_a_terminal_potential_that_is_not_zero_flips_the_optimum() -> None:
    """Left ends with 1, right with 0 where phi = 2: paying phi(end) makes right worth 1.8."""
    mdp = chain({(0, 0): 1.0}, {(0, 0): 1, (0, 1): 2}, 3, [1, 2])
    phi = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    right = shaped(mdp, phi, 0.9).reward[0]
    wrong = mdp.reward[0] + 0.9 * (mdp.transition @ phi)[0] - phi[0]
    assert right.tolist() == [1.0, 0.0]
    assert wrong.tolist() == pytest.approx([1.0, 1.8])


def test_shaping_with_another_discount_flips_the_optimum() -> None:
    """Exit for .5, or loop s0 -> s1 -> s0 for nothing; phi(s1) = 10, shaping 1, agent .9."""
    mdp = chain({(0, 0): 0.5}, {(0, 0): 2, (0, 1): 1, (1, 0): 0, (1, 1): 0}, 3, [2])
    phi = torch.tensor([0.0, 10.0, 0.0], dtype=torch.float64)
    right, _ = policy_iteration(shaped(mdp, phi, 0.9), 0.9)
    wrong, _ = policy_iteration(shaped(mdp, phi, 1.0), 0.9)
    assert float(right[0]) == pytest.approx(0.5)
    assert float(wrong[0]) == pytest.approx(10 * 0.1 / (1 - 0.81), abs=1e-6)  # 5.26


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
    with pytest.raises(ValueError, match="initial"):
        TabularMDP(mdp.transition, mdp.reward, mdp.initial * 2, mdp.terminal)


def test_a_policy_that_never_ends_has_no_value_at_gamma_one() -> None:
    mdp = chain({(0, 0): 1.0}, {(0, 1): 1}, 2, [1])
    forever = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    with pytest.raises(ValueError, match="state 0 never reaches a terminal"):
        evaluate_policy(mdp, forever, 1.0)
