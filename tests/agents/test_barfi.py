"""REINFORCE and BARFI: gradients by hand, learners that are what they should be, whole runs."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from rewardzoo.agents.barfi import BARFI
from rewardzoo.agents.common.episodes import EpisodeBuffer, Episodes, discounted_returns
from rewardzoo.agents.common.implicit import hypergradient
from rewardzoo.agents.reinforce import Reinforce
from rewardzoo.envs.alignment.maze import AlignmentMaze
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.jobs import make_envs
from rewardzoo.random import Rng
from rewardzoo.rewards import Potential, RewardFunction, VectorRewardWrapper, env_reward
from rewardzoo.rewards.alignment import AlignmentReward
from rewardzoo.rewards.heuristics import MazeGoalDistance, MazeLure, PoleRule

MAZE = "rewardzoo/AlignmentMaze-v0"
SMALL = {"order": 1, "first": 3, "buffer": 30, "updates": 2}


def barfi(
    advice: RewardFunction | None = None,
    seeds: tuple[int, ...] = (0,),
    env: str = MAZE,
    reward: dict[str, Any] | None = None,
    learns: list[bool] | None = None,
    **hyperparameters: Any,
) -> BARFI:
    fn = AlignmentReward(advice or MazeLure(), runs=len(seeds), **{"order": 1, **(reward or {})})
    envs = VectorRewardWrapper(gymnasium.make_vec(env, num_envs=3 * len(seeds)), fn)
    return BARFI(envs, seeds=seeds, learns=learns, **{**SMALL, **hyperparameters})


def rounds(agent: Any, count: int) -> list[dict[str, float]]:
    seen: list[dict[str, float]] = []

    def after(agent: Any, metrics: dict[str, float]) -> bool:
        seen.append(metrics)
        return len(seen) < count

    agent.learn(10**9, callback=after, reset_num_timesteps=False)
    return seen


# ---- REINFORCE -----------------------------------------------------------------------------------


def test_update_direction_is_the_sum_over_steps_by_hand() -> None:
    """``sum_t (onehot(A_t) - pi(S_t)) x(S_t)^T G_t / (E T)`` plus the mean entropy's."""
    agent = Reinforce(MAZE, order=1, ent_coef=0.0)
    episodes, longest = agent.play_round()
    episodes.live[0, 1, 20:] = 0.0  # a short one
    with torch.no_grad():
        agent.network.theta.normal_(generator=torch.Generator().manual_seed(0))
    theta = agent.network.theta
    weight = agent.returns(episodes)
    (got,) = torch.autograd.grad(agent.surrogate(theta, episodes, weight, 0.0).sum(), theta)
    want, entropies = torch.zeros(4, 4), []
    for e in range(3):
        for t in range(int(episodes.live[0, e].sum())):
            later = episodes.rewards[0, e, t:, 0]
            value = float((later * 0.99 ** torch.arange(len(later))).sum())
            x = agent.network.features(episodes.obs[0, e, t])
            pi = (theta[0].reshape(4, 4) @ x).softmax(0)
            onehot = torch.nn.functional.one_hot(episodes.action[0, e, t], 4)
            want += torch.outer(onehot - pi, x).detach() * value / (3 * 50)
            entropies.append(-float((pi * pi.log()).sum().detach()))
    assert torch.allclose(got[0], want.flatten(), rtol=1e-3, atol=1e-5)
    entropy = agent.surrogate(theta, episodes, 0 * weight, 1.0)
    assert float(entropy.detach()) == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)
    (slope,) = torch.autograd.grad(entropy.sum(), theta)
    shift = torch.zeros_like(theta)
    shift[0, 5] = 1e-2
    with torch.no_grad():
        up, down = (agent.surrogate(theta + s, episodes, 0 * weight, 1.0) for s in (shift, -shift))
    assert float(slope[0, 5]) == pytest.approx(float(up - down) / 2e-2, rel=2e-2, abs=1e-5)


def test_a_round_is_one_episode_a_row_padded_with_nothing() -> None:
    agent = Reinforce(make_envs(MAZE, "objective", 600), seeds=[0], num_steps=7)
    episodes, longest = agent.play_round()
    lengths = episodes.live[0].sum(1)
    assert longest == lengths.max() == 50 and lengths.min() < 40
    assert bool((episodes.live[0].diff(dim=1) <= 0).all())
    ended = episodes.rewards[0, :, :, 0].sum(1)
    assert torch.allclose(ended, agent.played["return"][0], atol=1e-3)
    goal = ended > 0
    assert torch.allclose(ended[goal], 100.0 - 0.1 * lengths[goal], atol=1e-3)
    assert torch.allclose(ended[~goal], torch.tensor(-5.0), atol=1e-3)


def test_runs_are_those_that_they_would_be_alone() -> None:
    together = barfi(seeds=(3, 5, 3))
    alone = barfi(seeds=(5,))
    for agent in (together, alone):
        rounds(agent, 5)
    assert torch.allclose(together.network.theta[1], alone.network.theta[0], atol=1e-5)
    assert torch.allclose(together.weights.phi[1], alone.weights.phi[0], atol=1e-4)
    assert torch.equal(together.network.theta[0], together.network.theta[2])
    assert not torch.allclose(together.network.theta[0], together.network.theta[1])


def test_reinforce_solves_the_maze_and_a_pendulum_takes_continuous_actions() -> None:
    agent = Reinforce(make_envs(MAZE, "objective", 30), learning_rate=1e-2, order=1)
    found = [m["rollout/ep_objective"] for m in rounds(agent, 30)]
    assert np.mean(found[:3]) < 35.0 and np.mean(found[-5:]) > 75.0
    agent = Reinforce("rewardzoo/Pendulum-v0", features="plain", hidden=8)
    rounds(agent, 1)
    assert agent.predict(np.zeros((2, 3), np.float32), deterministic=True)[0].shape == (2, 1)
    assert float(agent.network.log_std.exp()) == pytest.approx(0.1 * 2.0)


def test_old_episodes_are_drawn_evenly_and_the_newest_are_left_out() -> None:
    buffer = EpisodeBuffer(10)

    def batch(value: float) -> Episodes:
        x = torch.full((2, 3, 4), value)
        return Episodes(x.unsqueeze(-1), x, x.unsqueeze(-1), x)

    for i in range(5):  # 15 episodes: the first five are forgotten
        buffer.add(batch(float(i)), 2 + (i == 4))
    zero = torch.zeros(2, dtype=torch.int64)
    rng = Rng(torch.tensor([0, 1]), zero, 0)
    drawn = buffer.draw(rng, 4000)
    assert drawn.obs.shape == (2, 4000, 3, 1)
    shares = torch.stack([(drawn.live[..., 0] == i).float().mean() for i in range(5)])
    want = torch.tensor([0.0, 0.1, 0.3, 0.3, 0.3])
    assert ((shares - want).abs() < 5 * 0.5 / 8000**0.5).all()
    older = buffer.draw(rng, 1000, newest=3).live[..., 0]
    assert (older < 4).all() and set(older.unique().tolist()) == {1.0, 2.0, 3.0}


# ---- shaping is a baseline ---------------------------------------------------------------------


def direction_of(agent: Reinforce, episodes: Episodes, weight: Tensor, i: int) -> Tensor:
    """Of episode ``i`` alone."""
    theta = agent.network.theta
    one = Episodes(*(x[:, [i]] for x in episodes))
    return torch.autograd.grad(agent.surrogate(theta, one, weight[:, [i]], 0.0).sum(), theta)[0]


def test_shaping_is_a_baseline_on_terminated_episodes_and_leaves_a_term_on_truncated_ones() -> None:
    """``G + sum gamma^(j-t) F_j = G - phi(s_t)``, plus ``gamma^(T-t) phi(s_T)`` if cut off."""

    def phi(obs: Tensor) -> Tensor:
        return 3.0 * obs[:, 0] - obs[:, 1]

    plain = Reinforce(make_envs(MAZE, "objective", 60), seed=1)
    shaped = Reinforce(make_envs(MAZE, lambda _: env_reward + Potential(phi, 0.99), 60), seed=1)
    (one, _), (two, _) = plain.play_round(), shaped.play_round()
    assert torch.equal(one.action, two.action)
    terminated = one.rewards[0, :, :, 0].sum(1) > 0
    assert 5 < int(terminated.sum()) < 55
    value = phi(one.obs[0].reshape(-1, 2)).reshape(60, 50)
    baseline = torch.where(one.live[0] > 0, value, 0.0)
    difference = (plain.returns(one) - shaped.returns(two))[0]
    live = one.live[0] * terminated[:, None]
    assert torch.allclose(difference * live, baseline * live, atol=1e-3)
    wanted = plain.returns(one) - baseline
    same = torch.tensor(
        [
            torch.allclose(direction_of(plain, one, wanted, i),
                           direction_of(shaped, two, shaped.returns(two), i), atol=1e-5)
            for i in range(60)
        ]
    )  # fmt: skip
    assert bool(same[terminated].all()) and float(same[~terminated].float().mean()) < 0.2
    cut = (baseline - difference)[~terminated]  # gamma^(T-t) phi(s_T)
    assert float(cut.abs().mean()) > 0.1
    assert torch.allclose(0.99 * cut[:, 1:], cut[:, :-1], atol=1e-3)


# ---- BARFI -------------------------------------------------------------------------------------


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


def fixed_episodes(agent: BARFI) -> Episodes:
    """Old episodes with made-up rewards; the agent turns to float64.

    They are above 0, so that the learner has a stable fixed point, and small, so that entropy holds
    it at finite logits.
    """
    rounds(agent, 3)
    for module in (agent.network, agent.weights, agent.reward.features):
        module.double()
    zero = torch.zeros(1, dtype=torch.int64)
    obs, action, rewards, live = agent.buffer.draw(Rng(zero, zero, 0), 3)
    paid = torch.rand(rewards.shape, generator=torch.Generator().manual_seed(0)).double()
    return Episodes(obs.double(), action, 0.02 * paid * live.unsqueeze(-1), live.double())


def settled(direction: Any, outer: Any, size: int) -> Tensor:
    """Newton's method: theta (1, size) where ``direction`` vanishes."""
    theta = torch.zeros(1, size, dtype=torch.float64)
    for _ in range(60):
        residual = direction(theta.requires_grad_(), outer).detach()
        if float(residual.norm()) < 1e-12:
            return theta.detach()
        dense = torch.autograd.functional.jacobian(lambda x: direction(x, outer)[0], theta)[:, 0]
        theta = theta.detach() - torch.linalg.solve(dense, residual[0])[None]
    raise AssertionError("Newton's method has not settled")


INNER = ["reinforce", "actor_critic"]


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("solver", "terms"), [("neumann", 1000), ("cg", 60)])
def test_hypergradient_is_the_change_of_the_learners_fixed_point(
    solver: str, terms: int, inner: str
) -> None:
    """Central differences in each phi and in c, on fixed old episodes."""
    agent = barfi(ent_coef=0.1, reward={"parametrisation": "scalar"}, inner=inner)
    old = fixed_episodes(agent)

    def direction(theta: Tensor, outer: Any) -> Tensor:
        return agent.direction(old, theta, outer) - 0.5 * theta

    def goal(theta: Tensor) -> Tensor:
        return theta.square().sum() + theta.sum()

    outer = (agent.weights.phi.detach(), agent.weights.c.detach())
    theta = settled(direction, outer, agent.theta.shape[1])
    found = hypergradient(direction, 2 * theta + 1, theta, outer, solver, terms)
    want = []
    for i, part in enumerate(outer):
        for j in range(part.numel()):
            ends = []
            for sign in (1, -1):
                moved = [p.clone() for p in outer]
                moved[i].view(-1)[j] += sign * 1e-5
                ends.append(float(goal(settled(direction, tuple(moved), theta.shape[1]))))
            want.append((ends[0] - ends[1]) / 2e-5)
    got = torch.cat([g.flatten() for g in found.gradient])
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), rtol=1e-5, atol=1e-9)
    assert got.abs().min() > 1e-7


PLACES = torch.tensor([[0.1, 0.2], [0.6, 0.3], [0.4, 0.9]], dtype=torch.float64)
STEPS, ACTIONS = 4, 4


class TinyChain:
    """Three places, four actions, at most four steps; a step ends the episode with some chance."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(3)

        def random(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g, dtype=torch.float64)

        self.moves = random(3, ACTIONS, 4).softmax(-1)  # the fourth place is the end
        self.paid = random(3, ACTIONS, 2) - 0.3  # r_p and r_aux
        self.behaviour = (2.0 * random(3, ACTIONS)).softmax(-1)  # that of an older policy

    def play(self, runs: int, count: int) -> Episodes:
        """(R, E) episodes of the older policy."""
        g = torch.Generator().manual_seed(4)
        place = torch.zeros(runs * count, dtype=torch.int64)
        live = torch.ones(runs * count, dtype=torch.float64)
        rows = []
        for _ in range(STEPS):
            action = torch.multinomial(self.behaviour[place], 1, generator=g).squeeze(1)
            rewards = self.paid[place, action] * live[:, None]
            rows.append((PLACES[place], action, rewards, live))
            following = torch.multinomial(self.moves[place, action], 1, generator=g).squeeze(1)
            live = live * (following < 3)
            place = following.clamp(max=2)
        return Episodes(
            *(torch.stack(x, 1).reshape(runs, count, STEPS, *x[0].shape[1:])
              for x in zip(*rows, strict=True))
        )  # fmt: skip

    def delta(self, theta: Tensor, phi: Tensor, c: Tensor, x: Tensor, horizon: int) -> Tensor:
        """Exact, by the older policy's values and visits: (P,), with a graph to phi and c."""
        gamma = torch.sigmoid(c)
        reward = phi[0] + phi[1] * self.paid[..., 0] + phi[2] * self.paid[..., 1]
        values = [torch.zeros(4, dtype=torch.float64)]
        qs: list[Tensor] = []
        for _ in range(STEPS):
            q = reward + gamma * self.moves @ values[0]
            value = (self.behaviour * q).sum(1)
            values.insert(0, torch.cat([value, torch.zeros_like(value[:1])]))
            qs.insert(0, q)
        pi = (theta.reshape(ACTIONS, -1) @ x.T).T.softmax(-1)
        visits = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        total = torch.zeros(ACTIONS, x.shape[1], dtype=torch.float64)
        for q in qs:
            weight = visits[:, None] * self.behaviour * q
            # grad log pi(a|s) = (onehot(a) - pi(s)) x(s)^T
            slopes = weight - weight.sum(1, keepdim=True) * pi
            total = total + slopes.T @ x
            visits = torch.einsum("s,sa,sat->t", visits, self.behaviour, self.moves)[:3]
        return total.flatten() / horizon


def test_sampled_directions_and_their_slopes_are_the_exact_ones_in_the_mean() -> None:
    """Delta, dDelta/dphi and dDelta/dc from episodes, within four standard errors of the exact."""
    chain, runs = TinyChain(), 400
    agent = barfi(ent_coef=0.0, reward={"parametrisation": "scalar"})
    for module in (agent.network, agent.weights):
        module.double()
    x = agent.network.features(PLACES)
    size = ACTIONS * x.shape[1]
    theta = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    phi, c = torch.tensor([0.3, 0.9, -0.7]).double(), torch.tensor(1.2).double()

    def exact(phi: Tensor, c: Tensor) -> Tensor:
        return chain.delta(theta, phi, c, x.double(), agent.horizon)

    slopes = torch.autograd.functional.jacobian(exact, (phi, c))
    want = torch.cat([exact(phi, c)[:, None], slopes[0], slopes[1][:, None]], 1)
    outer = (phi.repeat(runs, 1).requires_grad_(), c.repeat(runs).requires_grad_())
    each = theta.repeat(runs, 1).requires_grad_()
    found = agent.direction(chain.play(runs, 10), each, outer)
    columns = [found.detach()[..., None]]
    by_entry = [
        torch.autograd.grad(found[:, i].sum(), outer, retain_graph=True) for i in range(size)
    ]
    columns.append(torch.stack([g[0] for g in by_entry], 1))
    columns.append(torch.stack([g[1] for g in by_entry], 1)[..., None])
    got = torch.cat(columns, -1)  # (runs, P, 1 + 3 + 1)
    error = got.std(0) / runs**0.5
    assert ((got.mean(0) - want).abs() < 4.0 * error + 1e-12).all()
    assert (want.norm(dim=0) > 10.0 * error.norm(dim=0)).all()  # the errors are small


def test_the_actor_critics_direction_is_the_sum_over_steps_by_hand() -> None:
    """Both semi-gradients, step by step; nothing follows an episode's last step."""
    kept = {"reward_learning_rate": 0.0, "gamma_learning_rate": 0.0}
    agent = barfi(ent_coef=0.0, inner="actor_critic", reward={"init": "primary"}, **kept)
    old = fixed_episodes(agent)
    size = agent.theta.shape[1]
    theta = torch.randn(1, size, generator=torch.Generator().manual_seed(1)).double()
    outer = (agent.weights.phi.detach(), agent.weights.c.detach())
    found = agent.direction(old, theta.clone().requires_grad_(), outer)[0]
    inputs = agent.network.features.size
    policy, w = theta[0].split([size - inputs, inputs])
    actor, critic = torch.zeros(4, inputs).double(), torch.zeros(inputs).double()
    for obs, action, rewards, live in zip(*(x[0] for x in old), strict=True):
        x = agent.network.features(obs[None])[0]
        for t in range(int(live.sum())):
            after = x[t + 1] @ w if t + 1 < int(live.sum()) else 0.0
            delta = rewards[t, 0] + 0.99 * after - x[t] @ w
            probability = torch.softmax(policy.reshape(4, inputs) @ x[t], 0)
            chosen = torch.nn.functional.one_hot(action[t].long(), 4)
            actor += delta * torch.outer(chosen - probability, x[t])
            critic += delta * x[t]
    want = torch.cat([actor.flatten(), critic]) / (old.live.shape[1] * agent.horizon)
    torch.testing.assert_close(found.detach(), want, rtol=1e-5, atol=1e-9)


def test_the_critic_of_old_episodes_learns_their_value() -> None:
    """Under a policy that stands still, V ends where its part of Delta vanishes."""
    agent = barfi(inner="actor_critic", learning_rate=0.0, reward={"init": "primary"})
    old = fixed_episodes(agent)
    for step in range(3000):
        agent.optimizer.param_groups[1]["lr"] = 5e-2 * 0.997**step
        agent.ascend(old, agent.returns(old))
    value, c = agent.network.value.detach(), agent.weights.c.detach()
    _, part = agent._surprise(old, agent.returns(old), value, c)
    _, start = agent._surprise(old, agent.returns(old), torch.zeros_like(value), c)
    assert float(part.norm()) < 0.01 * float(start.norm())


def test_scaling_the_reward_and_the_entropy_alike_leaves_the_fixed_point() -> None:
    agent = barfi(ent_coef=0.5, reward={"parametrisation": "scalar"})
    old = fixed_episodes(agent)
    phi, c = agent.weights.phi.detach(), agent.weights.c.detach()
    theta = 0.1 * torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).double()
    one = agent.direction(old, theta.requires_grad_(), (phi, c))
    agent.hp = dataclasses.replace(agent.hp, ent_coef=1.5)
    three = agent.direction(old, theta, (3.0 * phi, c))
    assert torch.allclose(three, 3.0 * one)


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


def test_without_a_step_the_series_estimates_one() -> None:
    seen = rounds(barfi(MazeGoalDistance(), step=None, power_iterations=5), 3)
    assert seen[-1]["train/outer_skipped"] == 0.0
    with pytest.raises(ValueError, match="learning_rate=None"):
        barfi(learning_rate=None)


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


def test_a_hypergradient_that_is_not_finite_is_skipped_and_stops_in_the_end() -> None:
    agent = barfi()
    rounds(agent, 3)
    phi = agent.weights.phi.detach().clone()
    real = agent.hypergradient
    agent.hypergradient = lambda newest: real(newest)._replace(  # type: ignore[method-assign]
        gradient=(torch.full_like(phi, torch.nan), torch.zeros(1))
    )
    assert rounds(agent, 1)[0]["train/outer_skipped"] == 1.0
    assert torch.equal(agent.weights.phi, phi)
    with pytest.raises(FloatingPointError, match=r"run 0 \(seed 0\) was not finite 20 times"):
        rounds(agent, 20)


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


def outer_step(given: Any = 0.0, **hyperparameters: Any) -> tuple[Tensor, Tensor]:
    """What is handed to the outer optimiser after three rounds, with a hypergradient ``given``."""
    agent = barfi(**hyperparameters)
    rounds(agent, 3)
    real = agent.hypergradient
    agent.hypergradient = lambda newest: real(newest)._replace(  # type: ignore[method-assign]
        gradient=(torch.full_like(agent.weights.phi, given), torch.full((1,), given)),
        solved=torch.tensor([0.25]),
    )
    newest, longest = agent.play_round()
    phi = agent.weights.phi.detach().clone()
    agent.improve(newest.first(longest))
    assert agent.weights.phi.grad is not None and agent.weights.c.grad is not None
    return phi, torch.cat([agent.weights.phi.grad[0], agent.weights.c.grad])


def test_penalties_are_by_the_squared_norm_or_the_norm_on_the_gradient_s_scale() -> None:
    given = {"reward_penalty": 0.5, "gamma_penalty": 2.0}
    gamma = 0.99 * 0.01  # the slope of gamma_phi in c, where it begins
    phi, found = outer_step(3.0, **given)
    assert torch.equal(found[:-1], 3.0 - phi[0])
    assert float(found[-1]) == pytest.approx(3.0 - 2.0 * gamma, rel=1e-3)
    phi, found = outer_step(3.0, **given, scale="true")  # a quarter of the system is solved
    assert torch.allclose(found[:-1], 3.0 - 0.25 * phi[0], rtol=1e-6)
    assert float(found[-1]) == pytest.approx(3.0 - 0.25 * 2.0 * gamma, rel=1e-3)
    phi, norm = outer_step(0.0, **given, regulariser="norm")
    assert torch.allclose(norm[:-1], -0.5 * phi[0] / phi[0].norm())
    agent = barfi(**given, regulariser="norm")
    assert torch.equal(agent._reward_slope(torch.zeros(1, 3)), torch.zeros(1, 3))


def test_a_short_series_says_how_short_it_is() -> None:
    """The reference's step solves next to nothing, conjugate gradients and a long series all."""
    theta = torch.zeros(2, dtype=torch.float64)
    target = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def learner(theta: Tensor, phi: Any) -> Tensor:
        return phi[0] - 3.0 * theta

    short = hypergradient(learner, target, theta, (theta,), terms=5, step=5e-4, power_iterations=0,
                          tolerance=None)  # fmt: skip
    # v = step * (K + 1) * target, but for terms of the second order
    assert float(short.solved) == pytest.approx(3.0 * 5e-4 * 6, rel=0.01)
    assert torch.allclose(short.gradient[0] / short.solved, target / 3.0, rtol=1e-9)
    for solver in ("neumann", "cg"):
        whole = hypergradient(learner, target, theta, (theta,), solver, 200)
        assert float(whole.solved) == pytest.approx(1.0)
    slopes = torch.tensor([3.0, 0.5], dtype=torch.float64)
    for solver in ("neumann", "cg"):  # half way: here v is the gradient, as dDelta/dphi is 1
        part = hypergradient(lambda theta, phi: phi[0] - slopes * theta, target, theta, (theta,),
                             solver, 1, tolerance=None)  # fmt: skip
        share = (slopes * part.gradient[0]).norm() / target.norm()
        assert float(part.solved) == pytest.approx(float(share)) and 0.1 < float(share) < 0.99


def test_an_unsolved_system_is_warned_of_once_and_a_step_of_ones_own_is_not() -> None:
    with pytest.warns(UserWarning, match="cg leaves the hypergradient.*raise ent_coef") as seen:
        rounds(barfi(solver="cg", ent_coef=0.0, terms=2), 6)
    assert len([w for w in seen if "barfi" in str(w.message)]) == 1
    with pytest.warns(UserWarning, match="neumann leaves the hypergradient"):
        rounds(barfi(step=None, power_iterations=3, terms=0), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rounds(barfi(), 4)
        rounds(barfi(solver="unrolled"), 4)


def test_unrolled_steps_may_be_shortened() -> None:
    """Of a direction that is shortened to next to nothing, little is left to be changed."""
    found = []
    for limit in (None, 1e3, 1e-6):
        agent = barfi(MazeGoalDistance(), solver="unrolled", max_norm=limit)
        rounds(agent, 3)
        newest, longest = agent.play_round()
        found.append(agent.hypergradient(newest.first(longest)).gradient[0])
    assert torch.equal(found[0], found[1])
    assert float(found[2].norm()) < 1e-3 * float(found[0].norm())


@pytest.mark.slow
def test_barfi_overcomes_the_lure_that_captures_the_plain_sum() -> None:
    """Four tuning seeds, within 600 rounds."""
    agent = barfi(
        seeds=(0, 1, 2, 3), order=3, reward={"order": 3}, first=150, buffer=300, updates=15,
        learning_rate=5e-4, reward_learning_rate=5e-2,
    )  # fmt: skip
    rounds(agent, 600)
    assert (agent.played["objective"].mean(1) > 60.0).all()
