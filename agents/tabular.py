"""Exact solvers for finite Markov decision processes, batched over reward functions, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rewardzoo.functional import FuncEnv


@dataclass(frozen=True)
class TabularMDP:
    """A finite Markov decision process.

    Args:
        transition: (S, A, S) float64, rows sum to 1.
        reward: (..., S, A) float64, expected reward; leading axes hold several reward functions.
        initial: (S,) float64, the start distribution.
        terminal: (S,) bool; the value of a terminal state is 0.

    Raises:
        ValueError: naming the state and the action whose probabilities or reward are wrong.
    """

    transition: Tensor
    reward: Tensor
    initial: Tensor
    terminal: Tensor

    def __post_init__(self) -> None:
        """Check probabilities and rewards."""
        states, actions, _ = self.transition.shape
        if self.reward.shape[-2:] != (states, actions):
            raise ValueError(
                f"reward: shape {tuple(self.reward.shape)}, expected (..., {states}, {actions})"
            )
        wrong = ((self.transition.sum(-1) - 1.0).abs() > 1e-8) | (self.transition < 0).any(-1)
        if bool(wrong.any()):
            s, a = wrong.nonzero()[0].tolist()
            raise ValueError(f"transition[{s}, {a}]: expected probabilities that sum to 1")
        if not bool(torch.isfinite(self.reward).all()):
            *_, s, a = torch.isfinite(self.reward).logical_not().nonzero()[0].tolist()
            raise ValueError(f"reward[{s}, {a}]: expected a finite number")
        if abs(float(self.initial.sum()) - 1.0) > 1e-8 or bool((self.initial < 0).any()):
            raise ValueError("initial: expected probabilities that sum to 1")

    def with_reward(self, reward: Tensor) -> TabularMDP:
        """The same dynamics with another reward, (..., S, A)."""
        return TabularMDP(self.transition, reward, self.initial, self.terminal)


def mdp_of(func: FuncEnv) -> TabularMDP:
    """The exact model of an environment that has ``transition_matrix`` and ``terminal_states``."""
    transition, reward, initial = func.transition_matrix()  # type: ignore[attr-defined]
    return TabularMDP(
        *(torch.as_tensor(np.ascontiguousarray(x)) for x in (transition, reward, initial)),
        torch.as_tensor(func.terminal_states),  # type: ignore[attr-defined]
    )


def shaped(mdp: TabularMDP, phi: Tensor, gamma: float) -> TabularMDP:
    """``mdp`` with ``gamma * phi(s') - phi(s)`` added, phi of terminal states 0.

    Args:
        mdp: what to shape.
        phi: (..., S) potential.
        gamma: discount.
    """
    phi = torch.where(mdp.terminal, 0.0, phi)
    expected = torch.einsum("sat,...t->...sa", mdp.transition, phi)
    return mdp.with_reward(mdp.reward + gamma * expected - phi.unsqueeze(-1))


def q_values(mdp: TabularMDP, value: Tensor, gamma: float) -> Tensor:
    """``Q(s, a) = R(s, a) + gamma * sum_t P(t | s, a) V(t)``, (..., S, A); terminal states 0."""
    states, actions, _ = mdp.transition.shape
    future = value @ mdp.transition.reshape(states * actions, states).T
    q = mdp.reward + gamma * future.unflatten(-1, (states, actions))
    return torch.where(mdp.terminal.unsqueeze(-1), 0.0, q)


def value_iteration(
    mdp: TabularMDP, gamma: float, tol: float = 1e-12, max_sweeps: int = 100_000
) -> Tensor:
    """Optimal values (..., S).

    Iterates ``V = max_a Q`` from 0 until no value moves by ``tol``.

    Raises:
        RuntimeError: if it has not settled after ``max_sweeps``.
    """
    value = torch.zeros(*mdp.reward.shape[:-1], dtype=torch.float64)
    for _ in range(max_sweeps):
        new = q_values(mdp, value, gamma).amax(-1)
        if float((new - value).abs().max()) < tol:
            return new
        value = new
    raise RuntimeError(f"value iteration: not settled after {max_sweeps} sweeps at gamma={gamma}")


def policy_iteration(
    mdp: TabularMDP, gamma: float, max_rounds: int = 1000
) -> tuple[Tensor, Tensor]:
    """Optimal values (..., S) and a greedy policy (..., S, A).

    Starts from the uniform policy, from which every state of a proper problem ends, and changes an
    action only where another is better by more than rounding.
    """
    actions = mdp.reward.shape[-1]
    policy = torch.full_like(mdp.reward, 1.0 / actions)
    for _ in range(max_rounds):
        value = evaluate_policy(mdp, policy, gamma)
        q = q_values(mdp, value, gamma)
        current = (policy * q).sum(-1)
        best = q.amax(-1)
        better = best > current + 1e-12 * (1.0 + best.abs())
        if not bool(better.any()):
            return value, greedy(q)
        policy = torch.where(better.unsqueeze(-1), greedy(q), policy)
    raise RuntimeError(f"policy iteration: not settled after {max_rounds} rounds")


def greedy(q: Tensor) -> Tensor:
    """The deterministic policy (..., S, A) of the first best action."""
    return torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)


def evaluate_policy(mdp: TabularMDP, policy: Tensor, gamma: float) -> Tensor:
    """Values (..., S) of a policy (..., S, A), by one linear solve over the states that go on.

    Raises:
        ValueError: if at ``gamma=1`` the policy may never end, so that it has no finite value.
    """
    alive = mdp.terminal.logical_not()
    chain = torch.einsum("...sa,sat->...st", policy, mdp.transition)[..., alive, :][..., alive]
    reward = (policy * mdp.reward).sum(-1)[..., alive]
    system = torch.eye(chain.shape[-1], dtype=torch.float64) - gamma * chain
    chain_shape = torch.broadcast_shapes(system.shape[:-2], reward.shape[:-1])
    system = system.expand(*chain_shape, *system.shape[-2:])
    solved = _solve(system, reward.expand(*chain_shape, reward.shape[-1]))
    value = torch.zeros(*chain_shape, mdp.terminal.shape[0], dtype=torch.float64)
    value[..., alive] = solved
    return value


def occupancy(mdp: TabularMDP, policy: Tensor, gamma: float) -> Tensor:
    """Expected discounted visits x(s, a), (..., S, A), by the transposed solve.

    ``sum_a x(t, a) = initial(t) + gamma * sum_{s, a} x(s, a) P(t | s, a)`` on states that go on;
    ``sum x * R`` is the expected return.
    """
    alive = mdp.terminal.logical_not()
    chain = torch.einsum("...sa,sat->...st", policy, mdp.transition)[..., alive, :][..., alive]
    system = torch.eye(chain.shape[-1], dtype=torch.float64) - gamma * chain
    start = mdp.initial[alive].expand(*system.shape[:-2], -1)
    visits = torch.zeros(*system.shape[:-2], mdp.terminal.shape[0], dtype=torch.float64)
    visits[..., alive] = _solve(system.transpose(-1, -2), start)
    return visits.unsqueeze(-1) * policy


def expected_return(mdp: TabularMDP, policy: Tensor, gamma: float) -> Tensor:
    """The expected discounted return (...,) of a policy from the start distribution."""
    return evaluate_policy(mdp, policy, gamma) @ mdp.initial


def _solve(system: Tensor, right: Tensor) -> Tensor:
    solved, info = torch.linalg.solve_ex(system, right.unsqueeze(-1))
    if bool((info != 0).any()) or not bool(torch.isfinite(solved).all()):
        raise ValueError(
            "gamma=1: under this policy some states never reach a terminal one; use gamma < 1"
        )
    return solved.squeeze(-1)


__all__ = [
    "TabularMDP",
    "evaluate_policy",
    "expected_return",
    "greedy",
    "mdp_of",
    "occupancy",
    "policy_iteration",
    "q_values",
    "shaped",
    "value_iteration",
]
