"""Rewards of expected returns and of trajectories: gradients, limits, telescopes, expectations."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from rewardzoo import VectorRewardWrapper
from rewardzoo.rewards import AppendRewardState, Delay, RewardWrapper, env_reward, make_reward
from rewardzoo.rewards.expected import Constrained, OuterNonlinear
from rewardzoo.rewards.novelty import Novelty
from rewardzoo.rewards.reward_machine import RewardMachine
from rewardzoo.rewards.trajectory import AverageReward, InnerNonlinear, TrajectoryReward
from rewardzoo.testing import check_reward


def of_action(action: int) -> RewardMachine:
    """Pays 1 for an action."""
    return RewardMachine("0\n[]\n(0, 0, 'a', 1)", lambda t: (t.action == action).unsqueeze(1))


def two_choices(num_envs: int, autoreset_mode: Any) -> Any:
    return gymnasium.make_vec(
        "rewardzoo/TwoChoices-v0", num_envs, autoreset_mode=autoreset_mode, max_episode_steps=9
    )


def grid_world(num_envs: int, autoreset_mode: Any) -> Any:
    return gymnasium.make_vec(
        "rewardzoo/GridWorld-v0", num_envs, autoreset_mode=autoreset_mode, max_episode_steps=9
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: OuterNonlinear(lambda j: j.prod(), [of_action(0), of_action(1)], 0.9),
        lambda: Constrained(env_reward, of_action(0), 0.2, gamma=0.9),
        lambda: InnerNonlinear(of_action(0), torch.square, 0.9),
        lambda: TrajectoryReward(lambda obs, act, n: (act == 1).sum(1) / n, 9),
        lambda: AverageReward(env_reward),
    ],
    ids=["outer", "constrained", "inner", "trajectory", "average"],
)
@pytest.mark.parametrize("env", [two_choices, grid_world])
def test_keeps_the_contract_of_reward_functions(make: Any, env: Any) -> None:
    check_reward(make, env)


def test_rows_are_paid_apart_only_if_all_parts_pay_them_so() -> None:
    assert Constrained(env_reward, of_action(0), 0.2, gamma=0.9).rowwise
    assert not Constrained(env_reward, Novelty(), 0.2, gamma=0.9).rowwise


def drive(fn: Any, actions: np.ndarray) -> torch.Tensor:
    """(2, N) rewards of TwoChoices under the actions (2, N)."""
    envs = VectorRewardWrapper(gymnasium.make_vec("rewardzoo/TwoChoices-v0", actions.shape[1]), fn)
    envs.reset(seed=0)
    return torch.stack([envs.step(torch.as_tensor(row))[1] for row in actions])


def test_outer_weights_are_the_gradient_at_the_estimates() -> None:
    """Of finite differences, at returns known from the actions played."""

    def f(j: torch.Tensor) -> torch.Tensor:
        return j[0].sqrt() * (1.0 + j[1]) ** 2

    fn = OuterNonlinear(f, [of_action(0), of_action(1)], 0.5)
    drive(fn, np.array([[0, 0, 1, 1], [0, 1, 0, 0]]))
    metrics = fn.update()
    # a: 1.5, 1, .5, .5; b: 0, .5, 1, 1
    want = np.array([3.5 / 4, 2.5 / 4])
    np.testing.assert_allclose(fn.returns, want, atol=1e-7)
    for k, step in enumerate(np.eye(2) * 1e-3):
        high, low = (float(f(torch.as_tensor(want + s))) for s in (step, -step))
        assert float(metrics[f"weight/{k}"]) == pytest.approx((high - low) / 2e-3, rel=1e-5)
    paid = drive(fn, np.array([[0, 1], [1, 1]]))
    assert torch.allclose(paid[0], fn.weights) and torch.allclose(paid[1], fn.weights[[1, 1]])


def test_no_finished_episode_leaves_estimates_and_weights() -> None:
    fn = Constrained(of_action(0), of_action(1), 0.1, step=1.0, gamma=0.5)
    drive(fn, np.array([[1, 1]]))
    before = fn.state_dict()
    fn.update()
    for name in ("weights", "returns", "prices"):
        assert torch.equal(before[name], getattr(fn, name))


def test_prices_rise_by_the_excess_and_fall_to_zero() -> None:
    fn = Constrained(of_action(0), of_action(1), 0.5, step=2.0, gamma=1.0)
    drive(fn, np.ones((2, 3), np.int64))
    fn.update()
    assert fn.prices.tolist() == [3.0]  # 2 (2 - .5)
    assert torch.allclose(fn.weights, torch.tensor([0.25, -0.75]))
    drive(fn, np.zeros((2, 3), np.int64))
    fn.update()
    assert fn.prices.tolist() == [2.0]
    for _ in range(3):
        drive(fn, np.zeros((2, 3), np.int64))
        fn.update()
    assert fn.prices.tolist() == [0.0] and fn.weights.tolist() == [1.0, 0.0]


def test_dual_ascent_finds_the_optimum_of_the_constrained_problem() -> None:
    """Best responses to the prices, in the mean, are the linear program's solution."""
    # Choices of a pay 1 and cost 1; at most .7 of them in two steps without discount.
    fn = Constrained(of_action(0), of_action(0), 0.7, step=0.05, gamma=1.0)
    taken = []
    for _ in range(200):
        choice = 0 if float(fn.weights.sum()) > 0 else 1
        drive(fn, np.full((2, 1), choice))
        fn.update()
        taken.append(2.0 * (choice == 0))
    assert np.mean(taken[50:]) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_inner_growth_adds_up_to_the_function_of_the_return(gamma: float) -> None:
    """So its mean is the expectation of f(G), by enumeration of all trajectories."""
    paths = np.array(list(itertools.product([0, 1], repeat=2))).T
    fn = InnerNonlinear(of_action(0), lambda g: (g - 0.7) ** 2, gamma)
    total = drive(fn, paths).sum(0)
    g = (paths[0] == 0) + gamma * (paths[1] == 0)
    np.testing.assert_allclose(total, (g - 0.7) ** 2 - 0.49, atol=1e-6)


def test_inner_return_is_observed() -> None:
    fn = InnerNonlinear(of_action(0), torch.square, 0.5)
    env = AppendRewardState(RewardWrapper(gymnasium.make("rewardzoo/OneState-v0"), fn))
    obs, _ = env.reset(seed=0)
    assert obs["reward_state"].tolist() == [0.0, 1.0, 1.0]
    env.step(0)
    obs, *_ = env.step(0)
    assert obs["reward_state"].tolist() == [1.5, 0.25, 1.0]


def test_a_trajectory_is_valued_when_it_ends() -> None:
    """Any function of it: here one that no sum over steps is."""

    def same(obs: torch.Tensor, action: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        assert obs.shape == action.shape == (4, 5)
        return (action[:, 0] == action[:, 1]) * length

    paths = np.array(list(itertools.product([0, 1], repeat=2))).T
    paid = drive(TrajectoryReward(same, 5), paths)
    assert paid.tolist() == [[0.0] * 4, [2.0, 0.0, 0.0, 2.0]]
    with pytest.raises(ValueError, match="not one array"):
        inner = RewardWrapper(gymnasium.make("rewardzoo/OneState-v0"), Delay(env_reward, 2))
        RewardWrapper(AppendRewardState(inner), TrajectoryReward(same, 5))


def test_average_reward_is_zero_in_the_mean() -> None:
    fn = AverageReward(of_action(0), rate=1.0)
    paths = np.array([[0, 0, 1], [0, 1, 1]])
    drive(fn, paths)
    fn.update()
    assert float(fn.average) == pytest.approx(0.5)
    assert float(drive(fn, paths).sum()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Constrained(env_reward, [], []), "one for each of 0"),
        (lambda: Constrained(env_reward, of_action(0), [1.0, 2.0]), "one for each of 1"),
        (lambda: Constrained(env_reward, of_action(0), 1.0, step=-1.0), "step=-1.0"),
        (lambda: InnerNonlinear(env_reward, torch.square, 1.5), "inner_gamma=1.5"),
        (lambda: TrajectoryReward(torch.square, 0), "steps=0"),
        (lambda: AverageReward(env_reward, rate=2.0), "rate=2.0"),
    ],
)
def test_errors_name_the_argument(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_agents_with_another_discount_are_refused() -> None:
    fn = InnerNonlinear(env_reward, torch.square)
    with pytest.raises(ValueError, match="the agent's is 0.9"):
        fn.match_gamma(0.9)
    assert make_reward("average(objective, rate=0.5)").rate == 0.5
