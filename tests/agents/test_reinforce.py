"""REINFORCE: its direction by hand, its episodes and runs, and what shaping is to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rewardzoo.agents.common.episodes import EpisodeBuffer, Episodes
from rewardzoo.agents.reinforce import Reinforce
from rewardzoo.jobs import make_envs
from rewardzoo.random import Rng
from rewardzoo.rewards import Potential, env_reward

from .alignment import MAZE, barfi, rounds


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
