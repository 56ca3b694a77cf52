"""Alignment rewards and advice: what they pay, what they conform to, what they refuse."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from rewardzoo import Transition
from rewardzoo.jobs import make_envs
from rewardzoo.rewards import RewardError, RewardFunction, VectorRewardWrapper, make_reward
from rewardzoo.rewards.alignment import AlignmentReward
from rewardzoo.rewards.features import Head, features
from rewardzoo.rewards.heuristics import (
    ActionCost,
    MazeGoalDistance,
    MazeLure,
    PoleRule,
    PushRight,
    VelocityPush,
)
from rewardzoo.testing import check_reward

MAZE, CAR, POLE = (f"rewardzoo/Alignment{name}-v0" for name in ("Maze", "MountainCar", "CartPole"))


def step(obs: Any, action: Any, next_obs: Any = None, **given: Any) -> Transition:
    obs = torch.tensor(obs)
    no = torch.zeros(len(obs), dtype=torch.bool)
    fields: dict[str, Any] = {
        "reward": torch.zeros(len(obs)), "terminated": no, "truncated": no, "valid": ~no,
        "episode_step": torch.ones(len(obs), dtype=torch.int64),
    }  # fmt: skip
    return Transition(
        obs=obs,
        action=torch.tensor(action),
        next_obs=obs if next_obs is None else torch.tensor(next_obs),
        **{**fields, **given},
    )


@pytest.mark.parametrize("parametrisation", ["scalar", "linear", "network"])
def test_conforms(parametrisation: str) -> None:
    report = check_reward(AlignmentReward(MazeLure(), parametrisation=parametrisation), MAZE)
    assert report.relabels and not report.memory


def test_advice_conforms() -> None:
    for fn, env in ((MazeGoalDistance(), MAZE), (MazeLure(), MAZE), (VelocityPush(), CAR),
                    (PushRight(), CAR), (ActionCost(), "rewardzoo/Pendulum-v0")):  # fmt: skip
        assert not check_reward(fn, env).memory
    assert check_reward(PoleRule(), POLE).memory
    assert check_reward(AlignmentReward(PoleRule()), POLE).memory


def test_starts_as_the_plain_sum_or_as_the_primary_reward_and_names_its_parts() -> None:
    envs = gymnasium.make_vec(MAZE, num_envs=8)
    fn = AlignmentReward(MazeLure(), runs=2, init=("naive", "primary"))
    paid = VectorRewardWrapper(envs, fn)
    plain = VectorRewardWrapper(gymnasium.make_vec(MAZE, num_envs=8), MazeLure())
    paid.reset(seed=0), plain.reset(seed=0)
    seen = 0.0
    for t in range(40):
        action = torch.tensor([0, 2])[[t % 2] * 8] if t < 9 else torch.randint(4, (8,))
        got, info = paid.step(action)[1::3]
        lure = plain.step(action)[1]
        follows = torch.arange(8) < 4
        assert torch.allclose(got, info["objective"] + lure * follows, atol=1e-4)
        terms = info["reward_terms"]
        assert set(terms) == {"alignment", "primary", "auxiliary"}
        assert torch.allclose(terms["auxiliary"], lure * follows, atol=1e-4)
        seen += float(lure.sum())
    assert seen > 0.0


def test_scalar_weights_are_the_arithmetic() -> None:
    fn = AlignmentReward(MazeLure(), parametrisation="scalar")
    envs = VectorRewardWrapper(gymnasium.make_vec(MAZE, num_envs=3), fn)
    envs.reset(seed=0)
    with torch.no_grad():
        fn.weights.phi.copy_(torch.tensor([[0.5, 2.0, -1.0]]))
    _, reward, _, _, info = envs.step(torch.tensor([0, 1, 2]))
    assert torch.allclose(reward, 0.5 + 2.0 * info["objective"])


def test_features_of_fourier_are_cosines_of_scaled_observations() -> None:
    space = gymnasium.spaces.Box(-2.0, 2.0, (2,))
    basis = features(space, "fourier", 2)
    x = torch.tensor([[-2.0, 2.0], [0.0, 1.0]])
    scaled = (x + 2.0) / 4.0
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    assert torch.allclose(basis(x), torch.cos(torch.pi * scaled @ grid.T), atol=1e-5)
    unbounded = features(gymnasium.spaces.Box(-torch.inf, torch.inf, (1,)), "fourier", 1)
    assert torch.allclose(unbounded(torch.tensor([[0.0], [1e9]]))[:, 1], torch.tensor([0.0, -1.0]),
                          atol=1e-5)  # fmt: skip
    plain = features(gymnasium.spaces.Discrete(3), "plain", 1)
    assert plain(torch.tensor([0, 2])).tolist() == [[1, 1, 0, 0], [1, 0, 0, 1]]


@pytest.mark.parametrize("hidden", [0, 5])
def test_a_head_starts_at_what_it_is_given_and_keeps_runs_apart(hidden: int) -> None:
    head = Head(4, 3, hidden)
    start = head.initial(torch.tensor([1.0, -2.0, 0.5]))
    other = torch.randn(head.size)
    x = torch.cat([torch.ones(2, 6, 1), torch.randn(2, 6, 3)], 2)
    out = head(torch.stack([start, other]), x)
    assert out.shape == (2, 6, 3)
    assert torch.allclose(out[0], torch.tensor([1.0, -2.0, 0.5]).expand(6, 3), atol=1e-6)
    assert torch.allclose(out[1:], head(other[None], x[1:]), atol=1e-6)


def test_maze_advice_is_paid_by_the_sub_step() -> None:
    """Recomputed with the positions in between, walls and the goal included."""
    envs = gymnasium.make_vec(MAZE, num_envs=200, slip=0.0)
    near, lure = MazeGoalDistance(), MazeLure()
    obs, _ = envs.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    inside = ended = 0
    stride = 0.045 * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    for t in range(49):
        action = torch.randint(4, (200,), generator=generator)
        action = torch.where(torch.rand(200, generator=generator) < 0.5, action, 2 * (t % 2))
        after, _, terminated, _, info = envs.step(action)
        made = Transition(
            obs=obs, action=action, next_obs=info["final_obs"], reward=torch.zeros(200),
            terminated=terminated, truncated=torch.zeros_like(terminated),
            valid=torch.ones_like(terminated), episode_step=action,
        )  # fmt: skip
        position, over = obs, torch.zeros(200, dtype=torch.bool)
        want_near, want_lure = torch.zeros(200), torch.zeros(200)
        for _ in range(4):
            position = torch.where(over[:, None], position, (position + stride[action]).clamp(0, 1))
            want_near -= torch.where(over, 0.0, (position - 0.87).square().sum(1))
            want_lure += 50.0 * (((position >= 0.4) & (position <= 0.6)).all(1) & ~terminated)
            over = over | ((position >= 0.75) & (position <= 0.99)).all(1)
        assert torch.equal(over, terminated)
        assert torch.allclose(near(made), want_near, atol=1e-4)
        assert torch.allclose(lure(made), want_lure)
        inside, ended = inside + int((want_lure > 0).sum()), ended + int(terminated.sum())
        obs = after
    assert inside > 50 and ended > 20


def test_maze_goal_distance_of_the_authors_sees_x_alone() -> None:
    for y in (0.1, 0.9):
        t = step([[0.2, y]], [0], [[0.38, y]])
        xs = torch.tensor([0.245, 0.29, 0.335, 0.38])
        want = -(xs - 0.87).square().sum()
        assert float(MazeGoalDistance(legacy=True)(t)) == pytest.approx(float(want), abs=1e-5)


def test_car_advice_by_hand() -> None:
    obs = [[0.0, 0.01]] * 3 + [[0.0, -0.01]] * 3 + [[0.0, 0.0]] * 3
    t = step(obs, [0, 1, 2] * 3)
    assert VelocityPush(2.0)(t).tolist() == [-2, 0, 2, 2, 0, -2, 0, 0, 0]
    assert PushRight()(t).tolist() == [-5, -5, 5, 0, 0, 0, 0, 0, 0]


def test_the_pole_rule_remembers_the_last_angle_of_its_episode() -> None:
    fn = PoleRule(5.0, -1.0)
    space = gymnasium.make_vec(POLE, num_envs=2)
    VectorRewardWrapper(space, fn)
    every = torch.ones(2, dtype=torch.bool)

    def at(*angles: float) -> list[list[float]]:
        return [[0.0, 0.0, angle, 0.0] for angle in angles]

    fn.reset(every, torch.tensor(at(0.1, -0.1)))
    assert fn(step(at(0.1, -0.1), [1, 1])).tolist() == [5, -1]
    # Falling back faster than leaning: .1 * .05 - .5 * .05 < 0.
    assert fn(step(at(0.05, -0.05), [0, 1])).tolist() == [5, 5]
    dead = step(at(9.0, 9.0), [0, 0], valid=~every)
    fn(dead)
    assert fn(step(at(0.04, -0.06), [0, 0])).tolist() == [5, 5]
    fn.reset(torch.tensor([True, False]), torch.tensor(at(0.2, 0.2)))
    assert fn(step(at(0.2, 0.2), [1, 1])).tolist() == [5, 5]


def test_action_cost() -> None:
    t = step([[0.0], [0.0]], [[1.0, 2.0], [0.0, 0.5]])
    assert ActionCost(2.0)(t).tolist() == [-10.0, -0.5]


class WrongShape(RewardFunction):
    def __call__(self, t: Transition) -> Tensor:
        return torch.zeros(3, 1)


def test_refuses_what_it_cannot_use() -> None:
    lure = MazeLure()
    for kwargs, message in (
        ({"parametrisation": "table"}, "parametrisation='table': expected one of scalar"),
        ({"init": "zero"}, "init='zero': expected naive, primary or random"),
        ({"runs": 2, "init": ["naive"]}, "or 2 of them"),
        ({"initial_gamma": 1.0}, "initial_gamma=1.0"),
        ({"runs": 0}, "runs=0"),
    ):
        with pytest.raises(ValueError, match=message):
            AlignmentReward(lure, **kwargs)
    with pytest.raises(TypeError, match="auxiliary=3"):
        AlignmentReward(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="runs=2: 3 rows cannot be shared equally"):
        VectorRewardWrapper(gymnasium.make_vec(MAZE, num_envs=3), AlignmentReward(lure, runs=2))
    envs = VectorRewardWrapper(gymnasium.make_vec(MAZE, num_envs=3), AlignmentReward(WrongShape()))
    envs.reset(seed=0)
    with pytest.raises(RewardError, match=r"auxiliary: paid shape \(3, 1\), expected \(3,\)"):
        envs.step(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="features='fourier': need a flat Box"):
        VectorRewardWrapper(gymnasium.make_vec("rewardzoo/GridWorld-v0", num_envs=3),
                            AlignmentReward(lure))  # fmt: skip
    for make, message in (
        (lambda: MazeLure(sub_step=0.0), "sub_step=0.0"),
        (lambda: PoleRule(agree=float("nan")), "agree=nan"),
        (lambda: ActionCost(-1.0), "weight=-1.0"),
        (lambda: features(gymnasium.spaces.Discrete(2), "table", 3), "features='table'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_advice_with_memory_cannot_be_scored_again() -> None:
    fn = make_reward("alignment(pole_rule(-5, 1))")
    envs = VectorRewardWrapper(gymnasium.make_vec(POLE, num_envs=2), fn)
    envs.reset(seed=0)
    envs.step(torch.tensor([0, 1]))
    assert envs.transition is not None
    with pytest.raises(RuntimeError, match="pole_rule: its reward depends on memory"):
        fn.relabel(envs.transition)


@pytest.mark.parametrize(
    ("reward", "right", "wrong"),
    [
        ("maze_lure", "AlignmentMaze", "PegInHole"),
        ("maze_goal_distance", "AlignmentMaze", "CartPole"),
        ("pole_rule", "AlignmentCartPole", "AlignmentMaze"),
        ("push_right", "AlignmentMountainCar", "AlignmentMaze"),
        ("velocity_push", "MountainCar", "SepsisICU"),
    ],
)
def test_advice_is_refused_where_its_numbers_mean_something_else(
    reward: str, right: str, wrong: str
) -> None:
    make_envs(f"rewardzoo/{right}-v0", reward, 2).reset(seed=0)
    with pytest.raises(ValueError, match=f"{reward}: it is advice for .*this environment has"):
        make_envs(f"rewardzoo/{wrong}-v0", reward, 2)


def test_effort_needs_actions_that_have_a_length() -> None:
    make_envs("rewardzoo/Pendulum-v0", "action_cost", 2).reset(seed=0)
    with pytest.raises(ValueError, match="action_cost: it needs Box actions, these are Discrete"):
        make_envs("rewardzoo/PegInHole-v0", "action_cost", 2)
