"""BARFI's gradients: exact on fixed episodes and in the mean, and what solvers leave of them."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from rewardzoo.agents.common.episodes import Episodes
from rewardzoo.agents.common.implicit import hypergradient
from rewardzoo.rewards.heuristics import MazeGoalDistance

from .alignment import INNER, barfi, fixed_episodes, rounds


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


def test_without_a_step_the_series_estimates_one() -> None:
    seen = rounds(barfi(MazeGoalDistance(), step=None, power_iterations=5), 3)
    assert seen[-1]["train/outer_skipped"] == 0.0
    with pytest.raises(ValueError, match="learning_rate=None"):
        barfi(learning_rate=None)


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
