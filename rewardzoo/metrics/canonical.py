"""Canonical rewards: one representative of all rewards that differ by shaping alone.

``advantage`` (VAL) and ``minimal`` (MIN) depend on a reward through its expectation over successors
only, so that moving reward between the successors of a state and action changes nothing; ``epic``
and ``dard`` look at successors that cannot follow, and lose that.

Paper: Skalse et al. (2024), "STARC: a general framework for quantifying differences between reward
functions"; Gleave et al. (2021), EPIC; Wulfe et al. (2022), DARD.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .planning import Array, expected


def advantage(reward: Array, transition: Array, gamma: float, policy: Array | None = None) -> Array:
    """``E_{s'}[R(s, a, s') - V(s) + gamma V(s')]``: the advantage of a fixed policy, (..., S, A).

    Args:
        reward: (..., S, A, S).
        transition: (..., S, A, S).
        gamma: discount.
        policy: (S, A), every action possible; default: the uniform one.
    """
    r = expected(reward, transition)
    states, actions = r.shape[-2:]
    pi = np.full((states, actions), 1.0 / actions) if policy is None else policy
    chain = np.einsum("sa,...sat->...st", pi, transition)
    paid = np.einsum("sa,...sa->...s", pi, r)
    value = np.linalg.solve(np.eye(states) - gamma * chain, paid[..., None])[..., 0]
    future = np.einsum("...sat,...t->...sa", transition, value)
    found: Array = r + gamma * future - value[..., None]
    return found


def minimal(reward: Array, transition: Array, gamma: float) -> Array:
    """The one of least L2 norm among all shapings and redistributions, (..., S, A).

    That is the expected reward less its projection onto ``{gamma E phi(s') - phi(s)}``, hence a
    difference of two discounted occupancies up to scale.
    """
    r = expected(reward, transition)
    states, actions = r.shape[-2:]
    shaping = shaping_matrix(transition, gamma)
    gram = np.swapaxes(shaping, -1, -2) @ shaping
    flat = r.reshape(*r.shape[:-2], states * actions, 1)
    phi = np.linalg.solve(gram, np.swapaxes(shaping, -1, -2) @ flat)
    found: Array = (flat - shaping @ phi).reshape(r.shape)
    return found


def shaping_matrix(transition: Array, gamma: float) -> Array:
    """(..., S * A, S): from a potential to the expected reward that shaping adds."""
    states, actions = transition.shape[-3:-1]
    flat = transition.reshape(*transition.shape[:-3], states * actions, states)
    matrix: Array = gamma * flat - np.repeat(np.eye(states), actions, 0)
    return matrix


def epic(reward: Array, transition: Array, gamma: float) -> Array:
    """``R + E[gamma R(s', A, S') - R(s, A, S') - gamma R(S, A, S')]``, (..., S, A, S).

    ``S``, ``A`` and ``S'`` are uniform and independent, whatever the transitions.

    Paper: Gleave et al. (2021), "Quantifying differences in reward functions", definition 4.1.
    """
    mean = reward.mean((-2, -1))
    found: Array = (
        reward
        + gamma * mean[..., None, None, :]
        - mean[..., :, None, None]
        - gamma * mean.mean(-1)[..., None, None, None]
    )
    return found


def dard(reward: Array, transition: Array, gamma: float) -> Array:
    """``R + E[gamma R(s', A, S'') - R(s, A, S') - gamma R(S', A, S'')]``, (..., S, A, S).

    ``A`` is uniform, ``S'`` follows ``s`` and ``A``, ``S''`` follows ``s'`` and ``A``. (Nothing
    says that ``S''`` can follow ``S'``.)

    Paper: Wulfe et al. (2022), "Dynamics-aware comparison of learned reward functions", eq. 4.
    """
    follow = transition.mean(-2)  # (..., S, S), under the uniform policy
    mean = expected(reward, transition).mean(-1)  # (..., S)
    between = np.einsum("...su,...uv,...tv->...st", follow, reward.mean(-2), follow)
    found: Array = (
        reward
        + gamma * mean[..., None, None, :]
        - mean[..., :, None, None]
        - gamma * between[..., :, None, :]
    )
    return found


def none(reward: Array, transition: Array, gamma: float) -> Array:
    """The expected reward as it is, (..., S, A)."""
    return expected(reward, transition)


CANONICAL: dict[str, Callable[[Array, Array, float], Array]] = {
    "val": advantage,
    "minimal": minimal,
    "epic": epic,
    "dard": dard,
    "none": none,
}
