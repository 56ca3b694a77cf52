"""Hypergradients equal closed forms and central differences of the re-solved inner problem."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rewardzoo.agents.common.episodes import discounted_returns
from rewardzoo.agents.common.implicit import Parameters, hypergradient, unrolled

STATES, ACTIONS, GAMMA = 4, 3, 0.9


class Problem:
    """A random tabular MDP: softmax policies, entropy and L2, alignment rewards.

    Args:
        seed: of it.
        semi: the state distribution is held fixed while differentiating, so that Delta is no
            gradient.
        ent_coef: of the entropy.
        l2: of the logits.
    """

    def __init__(self, seed: int, semi: bool, ent_coef: float = 0.3, l2: float = 0.05) -> None:
        g = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g, dtype=torch.float64)

        self.moves = random(STATES, ACTIONS, STATES).softmax(-1)
        self.primary, self.auxiliary = random(STATES, ACTIONS), random(STATES, ACTIONS)
        self.start = random(STATES).softmax(-1)
        self.data = random(STATES).softmax(-1)
        self.semi, self.ent_coef, self.l2 = semi, ent_coef, l2
        self.phi: Parameters = (
            random(STATES), 1.0 + 0.1 * random(STATES), random(STATES) - 0.5,
            torch.tensor(1.5, dtype=torch.float64),
        )  # fmt: skip

    def values(self, theta: Tensor, reward: Tensor, gamma: Tensor | float) -> tuple[Tensor, Tensor]:
        pi = theta.reshape(STATES, ACTIONS).softmax(-1)
        chain = torch.einsum("sa,sat->st", pi, self.moves)
        eye = torch.eye(STATES, dtype=torch.float64)
        value = torch.linalg.solve(eye - gamma * chain, (pi * reward).sum(1))
        return value, reward + gamma * self.moves @ value

    def delta(self, theta: Tensor, phi: Parameters) -> Tensor:
        one, two, three, c = phi
        gamma = torch.sigmoid(c)
        reward = one[:, None] + two[:, None] * self.primary + three[:, None] * self.auxiliary
        log_pi = theta.reshape(STATES, ACTIONS).log_softmax(-1)
        entropy = -(self.data[:, None] * log_pi.exp() * log_pi).sum()
        penalty = self.ent_coef * entropy - self.l2 / 2 * theta.square().sum()
        value, q = self.values(theta, reward, gamma)
        if self.semi:  # states as in the data, as of old episodes; Q is the policy's
            (penal,) = torch.autograd.grad(penalty, theta, create_graph=True)
            pi = log_pi.exp()
            advantage = q - (pi * q).sum(1, keepdim=True)
            return (self.data[:, None] * pi * advantage).flatten() + penal
        total = (self.start * value).sum() + penalty
        return torch.autograd.grad(total, theta, create_graph=True)[0]

    def goal(self, theta: Tensor) -> Tensor:
        return (self.start * self.values(theta, self.primary, GAMMA)[0]).sum()

    def hessian(self, theta: Tensor, phi: Parameters) -> Tensor:
        return torch.autograd.functional.jacobian(lambda x: self.delta(x, phi), theta)

    def solve(self, phi: Parameters, theta: Tensor | None = None) -> Tensor:
        """Newton's method to 1e-13, after some plain ascent."""
        if theta is None:
            theta = torch.zeros(STATES * ACTIONS, dtype=torch.float64)
            for _ in range(200):
                theta = theta.detach() + self.delta(theta.requires_grad_(), phi).detach()
        for _ in range(100):
            residual = self.delta(theta.requires_grad_(), phi).detach()
            if float(residual.norm()) < 1e-13:
                break
            theta = theta.detach() - torch.linalg.solve(self.hessian(theta, phi), residual)
        assert float(residual.norm()) < 1e-12
        return theta.detach()

    def goal_gradient(self, theta: Tensor) -> Tensor:
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(self.goal(theta), theta)[0]

    def differences(self, theta: Tensor, size: float = 1e-5) -> Tensor:
        """dJ(theta*)/dphi by central differences, the inner problem solved anew each time."""
        found = []
        for i, part in enumerate(self.phi):
            for j in range(part.numel()):
                ends = []
                for sign in (1.0, -1.0):
                    phi = [p.clone() for p in self.phi]
                    phi[i].view(-1)[j] += sign * size
                    ends.append(self.goal(self.solve(tuple(phi), theta)))
                found.append((ends[0] - ends[1]) / (2 * size))
        return torch.stack(found).detach()


@functools.cache
def solved(semi: bool) -> tuple[Problem, Tensor, Tensor]:
    """A problem, its fixed point, and the central differences there."""
    problem = Problem(0, semi)
    theta = problem.solve(problem.phi)
    return problem, theta, problem.differences(theta)


def flat(gradient: Parameters) -> Tensor:
    return torch.cat([g.reshape(-1) for g in gradient])


@pytest.mark.parametrize("semi", [False, True])
@pytest.mark.parametrize(("solver", "terms"), [("cg", 60), ("neumann", 800)])
def test_equals_central_differences_on_a_tabular_mdp(semi: bool, solver: str, terms: int) -> None:
    problem, theta, want = solved(semi)
    found = hypergradient(
        problem.delta, problem.goal_gradient(theta), theta, problem.phi, solver, terms
    )
    assert float((flat(found.gradient) - want).norm() / want.norm()) < 1e-6
    assert float(want.norm()) > 1e-3 and float(want[-1].abs()) > 1e-6


def test_products_are_those_of_the_dense_jacobian_whose_symmetry_depends_on_delta() -> None:
    for semi in (False, True):
        problem = Problem(1, semi)
        theta = problem.solve(problem.phi)
        dense = problem.hessian(theta, problem.phi)
        asymmetry = float((dense - dense.T).norm() / dense.norm())
        assert asymmetry > 1e-2 if semi else asymmetry < 1e-12
        target = problem.goal_gradient(theta)
        found = hypergradient(problem.delta, target, theta, problem.phi, "cg", 60)
        v = torch.linalg.solve(dense.T, -target)
        phi = [p.clone().requires_grad_() for p in problem.phi]
        residual = problem.delta(theta.clone().requires_grad_(), tuple(phi))
        want = flat(torch.autograd.grad(residual, phi, v))
        assert torch.allclose(flat(found.gradient), want, rtol=1e-7, atol=1e-12)


def quadratic(theta: Tensor, phi: Parameters) -> Tensor:
    return phi[0] - theta


@pytest.mark.parametrize("solver", ["neumann", "cg", "unrolled"])
@pytest.mark.parametrize("shape", [(1,), (5, 1), (2, 3, 1)])
def test_is_the_closed_form_on_a_quadratic(solver: str, shape: tuple[int, ...]) -> None:
    """Inner -(theta - phi)^2 / 2, outer -(theta - 3)^2 / 2: dJ/dphi = 3 - phi."""
    phi = torch.linspace(-2.0, 2.0, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    if solver == "unrolled":
        (found,) = unrolled([quadratic] * 40, lambda theta: 3.0 - theta, phi, (phi,), 0.5)
    else:
        found = hypergradient(quadratic, 3.0 - phi, phi, (phi,), solver).gradient[0]
    assert torch.allclose(found, 3.0 - phi, rtol=1e-9)


def diagonal(eigenvalues: Tensor) -> Callable[[Tensor, Parameters], Tensor]:
    return lambda theta, phi: phi[0] - eigenvalues * theta


def test_neumann_error_falls_by_the_smallest_eigenvalue() -> None:
    eigenvalues = torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64)
    target = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    phi = torch.zeros(3, dtype=torch.float64)
    for terms in (0, 3, 10):
        found = hypergradient(
            diagonal(eigenvalues), target, phi, (phi,), terms=terms, step=0.4, tolerance=None
        )
        share = (1 - 0.4 * 0.1) ** (terms + 1)
        assert found.gradient[0][2] == pytest.approx(10.0 * (1 - share))
        assert float(found.error) == pytest.approx(share)


def test_too_long_a_step_is_reduced_and_a_good_one_kept() -> None:
    eigenvalues = torch.tensor([4.0, 1.0], dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    for step, want in ((0.6, 0.9 / 4.0), (0.3, 0.3), (None, 0.9 / 4.0)):
        found = hypergradient(
            diagonal(eigenvalues), ones, 0 * ones, (0 * ones,), terms=200, step=step,
            power_iterations=40,
        )  # fmt: skip
        assert float(found.step) == pytest.approx(want, rel=1e-6)
        assert torch.allclose(found.gradient[0], 1.0 / eigenvalues)


def test_a_singular_learner_and_one_on_its_way_are_warned_of() -> None:
    eigenvalues = torch.tensor([1.0, 0.0], dtype=torch.float64)
    ones, zeros = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for solver in ("neumann", "cg"):
        with pytest.warns(UserWarning, match="nearly singular"):
            hypergradient(diagonal(eigenvalues), ones, zeros, (zeros,), solver)
    with pytest.warns(UserWarning, match="not at a fixed point"):
        hypergradient(quadratic, ones, ones, (zeros,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hypergradient(quadratic, ones, zeros, (zeros,))
    assert float(found.distance) == 0.0


def test_softmax_without_regularisation_is_singular() -> None:
    """Its optimum lies at infinity; logits that are only shifted change nothing."""
    problem = Problem(2, False, ent_coef=0.0, l2=0.0)
    theta = torch.zeros(STATES * ACTIONS, dtype=torch.float64)
    target = torch.ones_like(theta)
    with pytest.warns(UserWarning, match="nearly singular"):
        hypergradient(problem.delta, target, theta, problem.phi, "cg", 60, tolerance=1e-2)


def test_independent_problems_are_solved_as_if_alone() -> None:
    eigenvalues = torch.tensor([[1.0, 3.0], [0.2, 0.5]], dtype=torch.float64)
    target = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    zeros = torch.zeros(2, 2, dtype=torch.float64)
    for solver in ("neumann", "cg"):
        both = hypergradient(diagonal(eigenvalues), target, zeros, (zeros,), solver, 30,
                             tolerance=None)  # fmt: skip
        for i in range(2):
            alone = hypergradient(diagonal(eigenvalues[i]), target[i], zeros[i], (zeros[i],),
                                  solver, 30, tolerance=None)  # fmt: skip
            assert torch.allclose(both.gradient[0][i], alone.gradient[0], rtol=1e-12)


def test_parameters_that_do_not_matter_get_zero_and_bad_arguments_are_named() -> None:
    one = torch.ones(1, dtype=torch.float64)
    found = hypergradient(quadratic, one, one, (one, torch.ones(3)))
    assert torch.equal(found.gradient[1], torch.zeros(3))
    with pytest.raises(ValueError, match="solver='newton': expected one of neumann, cg"):
        hypergradient(quadratic, one, one, (one,), "newton")
    with pytest.raises(ValueError, match="power_iterations=0"):
        hypergradient(quadratic, one, one, (one,), power_iterations=0)


def test_unrolling_shortens_long_steps() -> None:
    phi = torch.tensor([100.0], dtype=torch.float64)
    start = torch.zeros(1, dtype=torch.float64)
    (found,) = unrolled([quadratic], lambda theta: theta, start, (phi,), 0.5, max_norm=1.0)
    assert float(found) == pytest.approx(0.0, abs=1e-12)  # a unit step does not depend on phi


@pytest.mark.parametrize("length", [1, 2, 7, 64, 100])
def test_returns_are_the_backward_recursion_and_differentiate_in_the_discount(length: int) -> None:
    reward = torch.randn(3, length, generator=torch.Generator().manual_seed(0)).double()
    gamma = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    got = discounted_returns(reward, gamma)
    later = torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(length)):
        later = reward[:, t] + 0.9 * later
        assert torch.allclose(got[:, t], later)
    ks = torch.arange(length, dtype=torch.float64)
    want = (reward[0] * ks * 0.9 ** (ks - 1)).sum()
    if length > 1:
        (slope,) = torch.autograd.grad(got[0, 0], gamma)
        assert float(slope) == pytest.approx(float(want))
