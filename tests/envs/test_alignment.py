"""The alignment tasks: their optima, their ends, and how their advice misleads."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch

from rewardzoo.envs.alignment.maze import AlignmentMaze
from rewardzoo.jobs import make_envs
from rewardzoo.rewards import RewardFunction
from rewardzoo.rewards.heuristics import VelocityPush
from rewardzoo.testing import check_vector_env
from rewardzoo.transition import Transition

MAZE, CAR, POLE, CHEETAH = (
    f"rewardzoo/Alignment{name}-v0" for name in ("Maze", "MountainCar", "CartPole", "HalfCheetah")
)


def first_returns(envs: Any, policy: Any, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Objective and specified return of every row's first episode."""
    obs, _ = envs.reset(seed=0)
    live = torch.ones(envs.num_envs)
    sums = torch.zeros(2, envs.num_envs)
    for _ in range(steps):
        obs, reward, terminated, truncated, info = envs.step(policy(obs))
        sums += live * torch.stack([info["objective"], reward])
        live = live * ~(terminated | truncated)
    assert not live.any()
    return sums[0], sums[1]


@pytest.mark.parametrize("id", [MAZE, CAR, POLE, CHEETAH])
def test_conforms_and_draws_itself(id: str) -> None:
    report = check_vector_env(id)
    assert report.objective and report.saves == (
        id != CHEETAH
    )  # MuJoCo's many save in process only
    env = gymnasium.make(id, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().std() > 0


def right_then_up(obs: torch.Tensor) -> torch.Tensor:
    """And back, where a slip has led beyond the goal."""
    back = torch.where(obs[:, 0] > 0.99, 1, torch.where(obs[:, 1] > 0.99, 3, 2))
    return torch.where(obs[:, 0] < 0.75, 0, back)


def test_eight_moves_reach_the_goal_and_pay_99_2() -> None:
    envs = gymnasium.make_vec(MAZE, num_envs=2, slip=0.0)
    objective, _ = first_returns(envs, right_then_up, 8)
    assert torch.allclose(objective, torch.tensor(99.2))


def test_reference_returns_of_the_maze() -> None:
    """Within five standard errors of those in its card."""
    envs = gymnasium.make_vec(MAZE, num_envs=10_000)
    generator = torch.Generator().manual_seed(0)
    uniform = first_returns(envs, lambda obs: torch.randint(4, (10_000,), generator=generator), 50)
    best = first_returns(envs, right_then_up, 50)
    for (found, _), want in ((uniform, UNIFORM), (best, BEST)):
        assert abs(float(found.mean()) - want) < 5 * float(found.std()) / 100 + 0.05


UNIFORM, BEST = 15.3, 99.1


def test_walls_stop_and_slips_are_as_often_as_said() -> None:
    envs = gymnasium.make_vec(MAZE, num_envs=20_000)
    envs.reset(seed=0)
    left = torch.ones(20_000, dtype=torch.int64)
    obs, *_ = envs.step(left)
    moved_left = (obs[:, 0] == 0.0).float().mean()
    share = 0.9 + 0.1 / 4
    assert abs(float(moved_left) - share) < 5 * (share * (1 - share) / 20_000) ** 0.5


def test_the_lure_pays_more_to_stay_than_the_goal_pays_to_arrive() -> None:
    def stay(obs: torch.Tensor) -> torch.Tensor:
        right = torch.where(obs[:, 1] < 0.45, 2, 0 + (obs[:, 0] > 0.55).long())
        return torch.where(obs[:, 0] < 0.45, 0, right)

    envs = make_envs(MAZE, "objective + maze_lure()", 100, slip=0.0)
    objective, naive = first_returns(envs, stay, 50)
    _, arrives = first_returns(envs, right_then_up, 50)
    assert objective.max() < 0 and naive.min() > 10 * arrives.max()


def pump(obs: torch.Tensor) -> torch.Tensor:
    return torch.where(obs[:, 1] >= 0, 2, 0)


def brake(obs: torch.Tensor) -> torch.Tensor:
    """Pumps, but pushes against the motion once a swing, short of the flag."""
    return torch.where((obs[:, 1] > 0.02) & (obs[:, 0] > -0.5), 0, pump(obs))


def test_even_good_advice_pays_a_car_more_for_never_arriving() -> None:
    envs = make_envs(CAR, "objective + velocity_push(1.0)", 50)
    objective, arriving = first_returns(envs, pump, 300)
    assert (objective == 1.0).all()
    objective, braking = first_returns(envs, brake, 2000)
    assert (objective == 0.0).all()
    assert float(braking.mean()) > 5 * float(arriving.mean())


class AlongNext(RewardFunction):
    """1 for a push along the velocity that it leads to, and -1 for anything else."""

    def __call__(self, t: Transition) -> torch.Tensor:
        return torch.where(t.next_obs[:, 1] * (t.action - 1) > 0, 1.0, -1.0)


@pytest.mark.parametrize(
    ("advice", "arriving", "braking"),
    [
        # By the velocity after a step, rest and coasting charged: 67.7 and 80.6 discounted,
        # 115 and 1361 in all, as measured for the task's specification.
        (AlongNext, (67.7, 115.0), (80.6, 1361.0)),
        # By the velocity before it, as the registered heuristic: both somewhat more.
        (VelocityPush, (68.6, 118.0), (82.9, 1420.0)),
    ],
)
def test_what_good_advice_alone_pays_a_car_that_arrives_and_one_that_brakes(
    advice: type[RewardFunction], arriving: Any, braking: Any
) -> None:
    """Means over 50 starts, within five standard errors and the last digit of what is stated."""
    for policy, steps, want in ((pump, 300, arriving), (brake, 2000, braking)):
        envs = make_envs(CAR, lambda _: advice(), 50)
        obs, _ = envs.reset(seed=0)
        live = torch.ones(50, dtype=torch.float64)
        sums = torch.zeros(2, 50, dtype=torch.float64)
        for t in range(steps):
            obs, reward, terminated, truncated, _ = envs.step(policy(obs))
            sums += live * torch.stack([0.99**t * reward, reward])
            live = live * ~(terminated | truncated)
        assert not live.any()
        error = 5.0 * sums.std(1) / 50**0.5 + torch.tensor([0.05, 1.0])
        assert ((sums.mean(1) - torch.tensor(want)).abs() < error).all(), sums.mean(1)


def test_the_pole_rule_balances_and_its_opposite_does_not() -> None:
    envs = make_envs(POLE, "objective + pole_rule(5, -1)", 20)
    angle: dict[str, Any] = {}

    def rule(obs: torch.Tensor) -> torch.Tensor:
        last = angle.get("last", obs[:, 2])
        angle["last"] = obs[:, 2]
        return (0.1 * obs[:, 2] + 0.5 * (obs[:, 2] - last) > 0).long()

    obs, _ = envs.reset(seed=0)
    length, total = 0, torch.zeros(20)
    for _ in range(100):
        obs, reward, terminated, *_ = envs.step(rule(obs))
        total += reward
        length += int(not terminated.any())
    assert length == 100 and torch.allclose(total, torch.tensor(600.0))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"start": 0.8}, "start=0.8"),
        ({"slip": 1.5}, "slip=1.5"),
        ({"sub_step": 0.0}, "sub_step=0.0"),
        ({"sub_steps": 0}, "sub_steps=0"),
        ({"step_cost": -1.0}, "step_cost=-1.0"),
    ],
)
def test_bad_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignmentMaze(**params)


def test_the_half_cheetah_is_paid_for_speed_and_advice_charges_its_effort() -> None:
    action = torch.tensor([[1.0, -1.0, 0.5, 0.0, 0.0, 0.0], [0.0] * 6])
    envs = make_envs(CHEETAH, "objective + action_cost(weight=4.0)", num_envs=2, num_workers=0)
    envs.reset(seed=0)
    _, reward, *_, info = envs.step(action)
    torch.testing.assert_close(reward, info["objective"] - 4.0 * action.square().sum(1))
    env = gymnasium.make(CHEETAH)
    env.reset(seed=0)
    _, single, *_, said = env.step(action[0].numpy())
    assert single == said["x_velocity"] == pytest.approx(info["objective"][0].item(), rel=1e-5)
