"""Exact planning in batches of finite Markov decision processes, as distances of rewards need it.

NumPy float64. Leading axes broadcast: many rewards on one transition, or one on many. Terminal
states are absorbing ones that pay 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Policy = NDArray[np.int64]


def best_policy(reward: Array, transition: Array, gamma: float) -> tuple[Array, Policy]:
    """Optimal values (..., S) and a deterministic optimal policy (..., S), by policy iteration.

    Args:
        reward: (..., S, A), expected over successors.
        transition: (..., S, A, S).
        gamma: discount in [0, 1).
    """
    policy = np.asarray(reward.argmax(-1))
    while True:
        value = policy_value(policy, reward, transition, gamma)
        q = reward + gamma * np.einsum("...sat,...t->...sa", transition, value)
        current = np.take_along_axis(q, policy[..., None], -1)[..., 0]
        better = q.max(-1) > current + 1e-11 * (1.0 + np.abs(current))
        if not better.any():
            return value, policy
        policy = np.where(better, q.argmax(-1), policy)


def policy_value(policy: Policy, reward: Array, transition: Array, gamma: float) -> Array:
    """Values (..., S) of a deterministic policy (..., S)."""
    moves = _moves(policy, transition)
    paid = np.take_along_axis(reward, policy[..., None], -1)
    solved = np.linalg.solve(np.eye(moves.shape[-1]) - gamma * moves, paid)
    return np.asarray(solved[..., 0], np.float64)


def discounted_visits(policy: Policy, transition: Array, initial: Array, gamma: float) -> Array:
    """(..., S, A), of a deterministic policy; they sum to ``1 / (1 - gamma)``."""
    moves = _moves(policy, transition)
    states = moves.shape[-1]
    system = np.eye(states) - gamma * np.swapaxes(moves, -1, -2)
    start = np.broadcast_to(initial[..., None], (*moves.shape[:-2], states, 1))
    visits = np.linalg.solve(system, start)
    chosen = policy[..., None] == np.arange(transition.shape[-2])
    found: Array = np.where(chosen, visits, 0.0)
    return found


def expected(reward: ArrayLike, transition: ArrayLike) -> Array:
    """``sum_t P(t | s, a) R(s, a, t)``, (..., S, A)."""
    total: Array = np.einsum("...sat,...sat->...sa", np.asarray(transition), np.asarray(reward))
    return total


def inner(x: Array, y: Array) -> Array:
    """``sum_{s, a} x y``, (...)."""
    total: Array = np.einsum("...sa,...sa->...", x, y)
    return total


def random_transitions(
    rng: np.random.Generator, count: int, states: int, actions: int, branching: int
) -> Array:
    """(count, S, A, S): from each state and action ``branching`` random successors at most."""
    if not 1 <= branching <= states:
        raise ValueError(f"branching={branching}: expected 1 to {states}, the number of states")
    order = rng.random((count, states, actions, states)).argsort(-1).argsort(-1)
    mass = rng.exponential(size=order.shape) * (order < branching)
    found: Array = mass / mass.sum(-1, keepdims=True)
    return found


def check_model(transition: Array, gamma: float) -> None:
    """Raise ValueError unless rows are probabilities and ``0 <= gamma < 1``."""
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"gamma={gamma}: expected a number in [0, 1), the agent's discount")
    if transition.ndim < 3 or transition.shape[-1] != transition.shape[-3]:
        raise ValueError(f"transition: shape {transition.shape}, expected (..., S, A, S)")
    wrong = (np.abs(transition.sum(-1) - 1.0) > 1e-8) | (transition < 0).any(-1)
    if wrong.any():
        where = [int(i) for i in np.argwhere(wrong)[0]]
        raise ValueError(f"transition{where}: expected probabilities that sum to 1")


def _moves(policy: Policy, transition: Array) -> Array:
    """(..., S, S), the chain of a deterministic policy."""
    lead = np.broadcast_shapes(policy.shape[:-1], transition.shape[:-3])
    shape = transition.shape[-3:]
    index = np.broadcast_to(policy, (*lead, shape[0]))[..., None, None]
    moves: Array = np.take_along_axis(np.broadcast_to(transition, (*lead, *shape)), index, -2)
    return moves[..., 0, :]
