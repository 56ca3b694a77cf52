"""Occupancies of policies, their divergences, and the bound on reward hacking that they give.

Laidlaw, Singhal, Dragan (2024), "Correlated proxies: a new definition and improved mitigation for
reward hacking". NumPy float64; an occupancy is (..., S, A) and sums to 1.
"""

from __future__ import annotations

import math

import numpy as np

from .planning import Array


def policy_occupancy(policy: Array, transition: Array, initial: Array, gamma: float) -> Array:
    """``(1 - gamma) E sum_t gamma^t 1[s_t = s, a_t = a]`` of a policy (..., S, A).

    Args:
        policy: action probabilities.
        transition: (..., S, A, S).
        initial: (S,).
        gamma: discount in [0, 1).
    """
    chain = np.einsum("...sa,...sat->...ts", policy, transition, optimize=True)
    start = np.broadcast_to(((1.0 - gamma) * initial)[:, None], (*chain.shape[:-1], 1))
    visits = np.linalg.solve(np.eye(chain.shape[-1]) - gamma * chain, start)
    return np.asarray(visits * policy, np.float64)


def policy_of(occupancy: Array) -> Array:
    """Action probabilities (..., S, A) of an occupancy; uniform where it never comes."""
    visits = occupancy.sum(-1, keepdims=True)
    share = occupancy / np.where(visits > 0, visits, 1.0)
    return np.where(visits > 0, share, 1.0 / occupancy.shape[-1])


def chi2(occupancy: Array, base: Array) -> Array:
    """``E_occupancy[occupancy / base - 1]``, infinite where the base never comes."""
    return _sum(occupancy, base, lambda x, b: x * x / b) - 1.0


def kl(occupancy: Array, base: Array) -> Array:
    """``E_occupancy[log(occupancy / base)]`` in nats."""
    return _sum(occupancy, base, lambda x, b: x * np.log(np.where(x > 0, x, 1.0) / b))


def tv(occupancy: Array, base: Array) -> Array:
    """Half of the sum of absolute differences."""
    return np.asarray(np.abs(occupancy - base).sum((-2, -1)) / 2.0)


def moments(base: Array, reward: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of a reward (..., S, A) under an occupancy."""
    mean = (base * reward).sum((-2, -1))
    variance = (base * reward * reward).sum((-2, -1)) - mean * mean
    return mean, np.sqrt(np.maximum(variance, 0.0))


def correlation(base: Array, first: Array, second: Array) -> Array:
    """Of two rewards (..., S, A) under an occupancy: the r of an r-correlated proxy."""
    (m1, s1), (m2, s2) = moments(base, first), moments(base, second)
    cross = (base * first * second).sum((-2, -1)) - m1 * m2
    return np.asarray(cross / (s1 * s2))


def objective_bound(proxy_gain: float, divergence: float, r: float) -> float:
    """What the objective gains at least, in its standard deviations under the base policy.

    ``(proxy_gain - sqrt((1 - r^2) chi2)) / r``. Proof: standardise; the proxy is ``r R + sqrt(1 -
    r^2) Z`` with Z of variance 1 and uncorrelated with R under the base. By Cauchy and Schwarz Z
    gains at most ``sqrt(chi2)``, and exactly that if Z is proportional to ``occupancy / base - 1``.

    Args:
        proxy_gain: of the policy over the base, in the proxy's standard deviations.
        divergence: chi2 of the occupancies.
        r: correlation of proxy and objective under the base policy.
    """
    if not 0.0 < r <= 1.0:
        raise ValueError(f"r={r}: expected a correlation in (0, 1]")
    return (proxy_gain - math.sqrt(max(0.0, (1.0 - r * r) * divergence))) / r


def theory_coefficient(sigma: float, r: float) -> float:
    """``sigma sqrt(1 - r^2)``: what to take ``sqrt(chi2)`` with from the proxy's return."""
    return sigma * math.sqrt(max(0.0, 1.0 - r * r))


def _sum(x: Array, base: Array, term: object) -> Array:
    """Sum of ``term`` where x is above 0; infinite where the base is 0 there."""
    x, base = np.broadcast_arrays(x, base)
    seen = base > 0
    inside = np.where(seen, term(x, np.where(seen, base, 1.0)), 0.0)  # type: ignore[operator]
    outside = (x > 0) & ~seen
    return np.asarray(np.where(outside.any((-2, -1)), np.inf, inside.sum((-2, -1))))
