"""What optimising one reward can cost under another, exactly, and what STARC distances say of it.

The worst case is over all pairs of policies between which the second reward prefers the wrong one:

    regret(R1, R2) = max { J1(a) - J1(b) : J2(b) >= J2(a) } / (max J1 - min J1).

Over differences of two occupancies this is a linear program with one constraint. Its dual has one
variable: ``min_{k >= 0} max_a,b (J1 - k J2)(a) - (J1 - k J2)(b)``, a convex, piecewise linear
function of ``k`` whose value and slope planning gives; so thousands are solved at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .canonical import shaping_matrix
from .planning import Array, best_policy, check_model, discounted_visits, expected, inner
from .starc import return_range, with_successors


def worst_case_regret(
    first: ArrayLike,
    second: ArrayLike,
    transition: ArrayLike,
    initial: ArrayLike,
    gamma: float,
) -> Array:
    """The regret under ``first`` of preferring by ``second``, (...) in [0, 1]; not symmetric.

    Args:
        first: (..., S, A, S) or (..., S, A), what is meant.
        second: like ``first``, what is optimised.
        transition: (..., S, A, S).
        initial: (S,) start distribution.
        gamma: discount in [0, 1).

    Returns:
        0 where ``first`` is trivial; 1 where ``second`` is and ``first`` is not.
    """
    moves, start = np.asarray(transition, np.float64), np.asarray(initial, np.float64)
    check_model(moves, gamma)
    r1, r2 = (expected(with_successors(r, moves), moves) for r in (first, second))
    r1, r2 = np.broadcast_arrays(r1, r2)
    lead = np.broadcast_shapes(r1.shape[:-2], moves.shape[:-3])
    r1, r2 = (np.broadcast_to(r, (*lead, *r.shape[-2:])) for r in (r1, r2))
    spread1, spread2 = (return_range(r, moves, start, gamma) for r in (r1, r2))
    scale = np.abs(r1).max((-2, -1)) / (1.0 - gamma)
    trivial1 = spread1 <= 1e-10 * scale
    trivial2 = spread2 <= 1e-10 * np.abs(r2).max((-2, -1)) / (1.0 - gamma)
    r2 = r2 / np.where(trivial2, 1.0, spread2)[..., None, None]
    r1 = r1 / np.where(trivial1, 1.0, spread1)[..., None, None]

    def line(k: Array) -> tuple[Array, Array]:
        """Where the maximisers at ``k`` stand: J1 and J2 of their difference."""
        mixed = r1 - k[..., None, None] * r2
        high, low = (best_policy(sign * mixed, moves, gamma)[1] for sign in (1.0, -1.0))
        more, less = (discounted_visits(policy, moves, start, gamma) for policy in (high, low))
        gap = more - less
        return inner(gap, r1), inner(gap, r2)

    zero = np.zeros(lead)
    a0, b0 = line(zero)  # on the left J2 agrees with J1: b > 0, unless the minimum is at 0
    a1, b1 = line(zero + 2.0)  # beyond 2 the value exceeds that at 0
    best = np.where(b0 <= 0, a0, np.minimum(a0, a1 - 2.0 * b1))
    for _ in range(100):
        apart = (b0 > 1e-12) & (b1 < -1e-12)
        k = np.where(apart, (a0 - a1) / np.where(apart, b0 - b1, 1.0), 0.0)
        a, b = line(k)
        value = a - k * b
        best = np.where(apart, np.minimum(best, value), best)
        settled = ~apart | (value <= a0 - k * b0 + 1e-11)
        if settled.all():
            break
        left = b > 0
        move = ~settled
        a0, b0 = np.where(move & left, a, a0), np.where(move & left, b, b0)
        a1, b1 = np.where(move & ~left, a, a1), np.where(move & ~left, b, b1)
    best = np.where(trivial2, 1.0, best)
    regret: Array = np.clip(np.where(trivial1, 0.0, best), 0.0, 1.0)
    return regret


def regret_constants(
    transition: ArrayLike, initial: ArrayLike, gamma: float, canonical: str = "val"
) -> tuple[Array, Array]:
    r"""``(L, U)`` with ``L d <= worst_case_regret <= U d`` for every pair of rewards.

    ``d`` is the L2 STARC distance of ``canonical``, "val" (uniform policy) or "minimal". Both are
    worst cases over rewards, hence loose; ``U`` is infinite where a policy can avoid a state
    for ever, ``L`` is 0 where the uniform policy never comes.

    Derivation. Let X be the polytope of occupancies, of diameter at most ``D = sqrt(2) / (1 -
    gamma)``, and c_i the canonical rewards, of length |c_i|, so that J_i is ``<x, c_i>`` plus a
    constant. (U) If J2 prefers b to a, then ``<a - b, c1/|c1|> <= <a - b, c1/|c1| - c2/|c2|> <= D
    d``. The range of J1 is at least ``m |c1|``, where ``m = 2 min_s x(s) / sqrt(A)`` and x(s) is
    the least discounted number of visits that any policy pays to s: by the performance difference
    lemma the greedy policy of the advantage gains, and the anti-greedy one loses, that much. So
    ``U = D / m``. (L) Around the uniform policy's occupancy there is a ball of radius ``r``, its
    least entry, within X (in the directions w that X spans); so both policies of a pair can be had
    along any such direction. Let w_i be the projection of c_i; "minimal" is w itself. Along the
    part of w1 that J2 does not see, the gain is ``2 r |w1| g``, with g the sine of the angle of w1
    and w2, or 1 beyond 90 degrees: at least half of ``|w1/|w1| - w2/|w2||``. The range of J1 is at
    most ``D |w1|``, so ``L = r / D`` for "minimal". For "val" the distance is at most that of
    "minimal" over s, the least singular value of the projection from advantages to w (Dunkl and
    Williams 1964): ``L = s r / D``.
    """
    moves, start = np.asarray(transition, np.float64), np.asarray(initial, np.float64)
    check_model(moves, gamma)
    states, actions = moves.shape[-3:-1]
    diameter = np.sqrt(2.0) / (1.0 - gamma)
    # Least visits of each state: S problems in which being there costs 1.
    cost = -np.eye(states)[:, :, None] * np.ones(actions)
    each = np.broadcast_to(cost, (*moves.shape[:-3], *cost.shape))
    value, _ = best_policy(each, moves[..., None, :, :, :], gamma)
    least = -(value @ start).max(-1)
    with np.errstate(divide="ignore"):
        upper = diameter * np.sqrt(actions) / (2.0 * np.maximum(least, 0.0))
    system = np.eye(states) - gamma * np.swapaxes(moves.mean(-2), -1, -2)
    visits = np.linalg.solve(system, np.broadcast_to(start[:, None], (*system.shape[:-1], 1)))
    radius = visits[..., 0].min(-1) / actions
    lower = radius / diameter
    if canonical == "val":
        lower = lower * _least_singular_value(moves, gamma)
    elif canonical != "minimal":
        raise ValueError(f"canonical={canonical!r}: bounds are known for 'val' and 'minimal'")
    return lower, upper


def _least_singular_value(transition: Array, gamma: float) -> Array:
    """Of the projection from mean-free tables onto differences of occupancies."""
    states, actions = transition.shape[-3:-1]
    shaping = shaping_matrix(transition, gamma)
    turned = np.swapaxes(shaping, -1, -2)
    onto_shaping = shaping @ np.linalg.solve(turned @ shaping, turned)
    contrast = np.linalg.qr(np.eye(actions) - 1.0 / actions)[0][:, : actions - 1]
    free = np.kron(np.eye(states), contrast)
    left = (np.eye(states * actions) - onto_shaping) @ free
    least: Array = np.linalg.svd(left, compute_uv=False).min(-1)
    return least
