"""BARFI: learners that are what they should be, what its reward is, checkpoints, whole runs."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch

from rewardzoo.agents.barfi import BARFI
from rewardzoo.agents.common.episodes import discounted_returns
from rewardzoo.agents.reinforce import Reinforce
from rewardzoo.envs.alignment.maze import AlignmentMaze
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.jobs import make_envs
from rewardzoo.random import Rng
from rewardzoo.rewards import VectorRewardWrapper
from rewardzoo.rewards.alignment import AlignmentReward
from rewardzoo.rewards.heuristics import MazeGoalDistance, MazeLure, PoleRule

from .alignment import INNER, MAZE, SMALL, barfi, fixed_episodes, rounds


def test_with_weights_of_the_primary_reward_it_is_the_plain_learner() -> None:
    """phi = (0, 1, 0), gamma_phi = gamma and no outer step, whatever the advice."""
    kept = {"reward_learning_rate": 0.0, "gamma_learning_rate": 0.0}
    fixed = barfi(reward={"init": "primary"}, **kept)
    other = barfi(MazeGoalDistance(), reward={"init": "primary"}, **kept)
    plain = Reinforce(make_envs(MAZE, "objective", 3), off_policy=True, **SMALL)
    for agent in (fixed, other, plain):
        rounds(agent, 5)
    assert torch.equal(fixed.network.theta, other.network.theta)
    assert torch.allclose(fixed.network.theta, plain.network.theta, atol=1e-5)
    assert float(fixed.network.theta.detach().norm()) > 0.01


def test_with_the_first_weights_it_is_the_learner_on_the_plain_sum_and_nothing_moves() -> None:
    fixed = barfi(reward_learning_rate=0.0, gamma_learning_rate=0.0)
    start = fixed.weights.phi.detach().clone(), fixed.weights.c.detach().clone()
    plain = Reinforce(make_envs(MAZE, "objective + maze_lure()", 3), off_policy=True, **SMALL)
    for agent in (fixed, plain):
        rounds(agent, 5)
    assert torch.allclose(fixed.network.theta, plain.network.theta, atol=1e-4)
    assert torch.equal(fixed.weights.phi, start[0]) and torch.equal(fixed.weights.c, start[1])


def test_only_the_runs_that_learn_their_reward_move_it() -> None:
    agent = barfi(seeds=(0, 0), learns=[True, False])
    start = agent.weights.phi.detach().clone()
    rounds(agent, 4)
    assert not torch.equal(agent.weights.phi[0], start[0])
    assert torch.equal(agent.weights.phi[1], start[1])


def test_a_constant_is_no_advice_for_episodes_of_one_length_and_is_for_those_that_end() -> None:
    """With phi_1 the same at every step, living longer pays: only then does the direction move."""
    agent = barfi(ent_coef=0.0, reward={"parametrisation": "scalar"})
    old = fixed_episodes(agent)
    shift = torch.tensor([[7.0, 0.0, 0.0]], dtype=torch.float64)
    outer = (agent.weights.phi.detach(), agent.weights.c.detach())
    ends = old.live.clone()
    ends[:, 0, 10:] = 0.0  # of three episodes one ends early
    for live, moves in ((torch.ones_like(old.live), False), (ends, True)):
        cut = old._replace(live=live)
        one, two = (agent._returns(cut, (outer[0] + s, outer[1])) for s in (0 * shift, shift))
        across = (two - one).std(1).max()  # between episodes, at the same step
        assert bool(across > 1.0) == moves


def test_padding_is_paid_nothing() -> None:
    agent = barfi()
    rounds(agent, 2)
    zero = torch.zeros(1, dtype=torch.int64)
    old = agent.buffer.draw(Rng(zero, zero, 0), 20)
    short = old._replace(live=old.live.clone(), rewards=old.rewards.clone())
    short.live[:, :, 10:], short.rewards[:, :, 10:] = 0.0, 0.0
    assert not agent.returns(short)[:, :, 10:].any()
    assert torch.allclose(agent.returns(short.first(10)), agent.returns(short)[:, :, :10])


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("solver", ["neumann", "cg", "unrolled"])
def test_every_solver_learns_and_reports(solver: str, inner: str) -> None:
    agent = barfi(MazeGoalDistance(), solver=solver, inner=inner)
    seen = rounds(agent, 5)
    assert "train/outer_distance" in seen[-1] and "train/outer_distance" not in seen[1]
    assert seen[-1]["train/outer_skipped"] == 0.0
    assert seen[-1]["reward/gamma_phi"] == pytest.approx(seen[-1]["train/gamma_phi"])
    assert not torch.equal(agent.weights.phi[0, 0], torch.tensor(0.0))


def test_where_no_run_learns_its_reward_it_is_the_learner_alone() -> None:
    agent = barfi(seeds=(0, 1), learns=[False, False])
    before = [p.clone() for p in (agent.theta, agent.weights.phi)]
    assert "train/outer_distance" not in rounds(agent, 4)[-1]
    assert torch.equal(agent.weights.phi, before[1]) and not torch.equal(agent.theta, before[0])


def test_the_authors_potential_subtracts_the_advice_from_its_own_return() -> None:
    agent = barfi(auxiliary="baseline")
    old = fixed_episodes(agent)
    one = agent.returns(old)
    two = agent.returns(old._replace(rewards=old.rewards + torch.tensor([0.0, 2.0]).double()))
    assert torch.allclose(one - two, torch.full_like(one, 2.0))


def test_a_baseline_is_the_running_mean_of_returns() -> None:
    agent = barfi(baseline=0.5, ent_coef=0.0, reward={"init": "primary"})
    old = fixed_episodes(agent)
    for mean in (agent.network.baseline, agent.network.outer_baseline):
        mean.fill_(torch.nan)  # as before the first update
    weight = agent.returns(old)
    live = old.live.bool()
    means = [float(weight[live].mean()), float(weight[live].mean()) + 3.0]
    for shift, mean in ((0.0, means[0]), (6.0, means[1])):  # the first, and half way to the next
        agent.ascend(old, weight + shift)
        assert float(agent.network.baseline) == pytest.approx(mean, rel=1e-4)
    theta = agent.theta
    outer = (agent.weights.phi.detach(), agent.weights.c.detach())
    want = torch.autograd.grad(
        agent.surrogate(theta.requires_grad_(), old, weight - means[1], 0.0).sum(), theta
    )[0]
    got = agent.direction(old, theta, outer)
    assert torch.allclose(got, want, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"baseline=0.5.*take 0"):
        barfi(baseline=0.5, inner="actor_critic")


def test_the_outer_baseline_is_a_slower_one_of_the_primary_reward() -> None:
    agent = barfi(baseline=0.5)
    rounds(agent, 3)
    newest, longest = agent.play_round()
    newest = newest.first(longest)
    goals = discounted_returns(newest.rewards[..., 0], agent.hp.gamma)
    mean = float(goals[newest.live.bool()].mean())
    agent.network.outer_baseline.fill_(1.0)
    agent.hypergradient(newest)
    assert float(agent.network.outer_baseline) == pytest.approx(0.99 + 0.01 * mean, rel=1e-4)


@pytest.mark.parametrize(("inner", "baseline"), [*((i, 0.0) for i in INNER), ("reinforce", 0.9)])
def test_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(
    tmp_path: Any, inner: str, baseline: float
) -> None:
    for auxiliary, env in ((MazeLure(), MAZE), (PoleRule(), "rewardzoo/AlignmentCartPole-v0")):
        agent = barfi(auxiliary, env=env, inner=inner, baseline=baseline)
        rounds(agent, 4)
        agent.save(tmp_path / "a.pt")
        fn = AlignmentReward(auxiliary, order=1)
        envs = VectorRewardWrapper(gymnasium.make_vec(env, num_envs=3), fn)
        loaded = BARFI.load(tmp_path / "a.pt", env=envs)
        for each in (agent, loaded):
            rounds(each, 2)
        assert torch.equal(loaded.theta, agent.theta)
        assert torch.equal(loaded.weights.phi, agent.weights.phi)
        assert loaded.num_timesteps == agent.num_timesteps


def test_policy_and_reward_may_be_linear_in_tiles(tmp_path: Any) -> None:
    """Weights of tiles that were never seen are not moved."""
    coding = {"features": "tiles", "tilings": 2, "tiles": 9}
    agent = barfi(reward=coding, **coding)
    rounds(agent, 5)
    assert agent.theta.shape == (1, 4 * 201) and agent.weights.phi.shape == (1, 3 * 201)
    start = torch.tensor([0.0, 1.0, 1.0])
    moved = agent.weights.phi.detach().reshape(3, 201) - torch.nn.functional.pad(
        start.unsqueeze(1), (0, 200)
    )
    old = agent.buffer.draw(Rng(*torch.zeros(2, 1, dtype=torch.int64), 0), 1000)
    seen = (agent.reward.features(old.obs) * old.live.unsqueeze(-1)).flatten(0, 2).any(0)
    assert 1 < int(seen.sum()) < 201
    assert (moved[:, seen] != 0.0).any() and (moved[:, ~seen] == 0.0).all()
    agent.save(tmp_path / "a.pt")
    fn = AlignmentReward(MazeLure(), order=1, **coding)
    envs = VectorRewardWrapper(gymnasium.make_vec(MAZE, num_envs=3), fn)
    loaded = BARFI.load(tmp_path / "a.pt", env=envs)
    for each in (agent, loaded):
        rounds(each, 1)
    assert torch.equal(loaded.theta, agent.theta) and loaded.hp.tiles == 9


def test_refuses_what_it_cannot_learn() -> None:
    with pytest.raises(ValueError, match="barfi learns an alignment reward"):
        BARFI(make_envs(MAZE, "objective", 3))
    with pytest.raises(ValueError, match="solver='newton'"):
        barfi(solver="newton")
    with pytest.raises(ValueError, match="auxiliary='shaping'"):
        barfi(auxiliary="shaping")
    with pytest.raises(ValueError, match="scale='mine': expected reference or true"):
        barfi(scale="mine")
    with pytest.raises(ValueError, match="scale='true': solver='unrolled'"):
        barfi(scale="true", solver="unrolled")
    with pytest.raises(ValueError, match="regulariser='l1'"):
        barfi(regulariser="l1")
    with pytest.raises(ValueError, match="inner='sarsa'"):
        barfi(inner="sarsa")
    with pytest.raises(ValueError, match="take inner='reinforce'"):
        barfi(inner="actor_critic", auxiliary="baseline")
    with pytest.raises(ValueError, match="learns: 1 flags for 2 runs"):
        barfi(seeds=(0, 1), learns=[True])
    with pytest.raises(ValueError, match="seeds: 2 runs cannot share 3 environments"):
        Reinforce(make_envs(MAZE, "objective", 3), seeds=[0, 1])
    with pytest.raises(ValueError, match="episodes have no greatest length"):
        Reinforce(FunctionalVectorEnv(3, AlignmentMaze))
    fn = AlignmentReward(MazeLure())
    with pytest.raises(ValueError, match="runs=1 of the reward: expected 2"):
        BARFI(VectorRewardWrapper(gymnasium.make_vec(MAZE, num_envs=4), fn), seeds=[0, 1])


@pytest.mark.slow
def test_barfi_overcomes_the_lure_that_captures_the_plain_sum() -> None:
    """Four tuning seeds, within 600 rounds."""
    agent = barfi(
        seeds=(0, 1, 2, 3), order=3, reward={"order": 3}, first=150, buffer=300, updates=15,
        learning_rate=5e-4, reward_learning_rate=5e-2,
    )  # fmt: skip
    rounds(agent, 600)
    assert (agent.played["objective"].mean(1) > 60.0).all()
