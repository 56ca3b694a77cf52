"""STARC distances: canonicalise, normalise, measure (Skalse et al. 2024).

    s(R) = c(R) / n(c(R)),    d(R1, R2) = m(s(R1), s(R2))

With a canonicalisation that is blind to shaping and to the redistribution of reward over
successors (``val``, ``minimal``) it is 0 exactly for rewards that order all policies alike, and
bounds the regret of optimising one for the other from both sides (``regret.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .canonical import CANONICAL
from .planning import Array, best_policy, check_model


def starc_distance(
    first: ArrayLike,
    second: ArrayLike,
    transition: ArrayLike,
    gamma: float,
    canonical: str = "val",
    norm: str = "l2",
    metric: str = "l2",
    initial: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    normalised: bool = False,
) -> Array:
    """The distance of two rewards, (...), in [0, 2] where norm and metric are the same.

    Args:
        first: (..., S, A, S), or (..., S, A) where it does not depend on the successor.
        second: like ``first``.
        transition: (..., S, A, S); terminal states are absorbing and pay 0.
        gamma: discount in [0, 1).
        canonical: ``"val"``, ``"minimal"``, ``"none"``, or, which give no STARC metric, ``"epic"``
            and ``"dard"``.
        norm: ``"l1"``, ``"l2"``, ``"linf"``, or ``"range"``: best less worst return.
        metric: ``"l1"``, ``"l2"`` or ``"linf"``.
        initial: (S,) start distribution, for ``norm="range"``.
        weights: (S, A), of states and actions in norms and metrics; default: all 1.
        normalised: halve it, so that it lies in [0, 1].

    Raises:
        ValueError: naming the argument, for a wrong shape or name.

    Example:
        >>> import numpy as np
        >>> moves = np.full((2, 2, 2), 0.5)
        >>> reward = np.array([[1.0, 0.0], [0.0, 0.0]])
        >>> float(starc_distance(reward, -3.0 * reward, moves, gamma=0.9))
        2.0
    """
    moves = np.asarray(transition, np.float64)
    check_model(moves, gamma)
    pair = [
        standardised(with_successors(r, moves), moves, gamma, canonical, norm, initial, weights)
        for r in (first, second)
    ]
    distance = size(pair[0] - pair[1], metric, weights)
    return distance / 2.0 if normalised else distance


def starc_matrix(rewards: ArrayLike, transition: ArrayLike, gamma: float, **how: str) -> Array:
    """The distances (K, K) between K rewards, (K, S, A, S) or (K, S, A); see ``starc_distance``."""
    stack = with_successors(rewards, np.asarray(transition, np.float64))
    return starc_distance(stack[:, None], stack[None], transition, gamma, **how)  # type: ignore[arg-type]


def standardised(
    reward: Array,
    transition: Array,
    gamma: float,
    canonical: str = "val",
    norm: str = "l2",
    initial: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    """``c(R) / n(c(R))``; 0 for a reward under which all policies are equal."""
    if canonical not in CANONICAL:
        raise ValueError(f"canonical={canonical!r}: expected one of {', '.join(CANONICAL)}")
    form = CANONICAL[canonical](reward, transition, gamma)
    if norm == "range":
        if form.ndim > reward.ndim - 1 or initial is None:
            raise ValueError("norm='range': give initial, and 'val', 'minimal' or 'none'")
        length = return_range(form, transition, np.asarray(initial, np.float64), gamma)
    else:
        length = size(form, norm, weights, form.ndim - reward.ndim + 3)
    # What rounding leaves of a trivial reward is no direction.
    scale = np.abs(reward).max((-3, -2, -1)) / (1.0 - gamma)
    length = np.where(length <= 1e-10 * scale, np.inf, length)
    axes = tuple(range(length.ndim, form.ndim))
    found: Array = form / np.expand_dims(length, axes)
    return found


def size(x: Array, norm: str, weights: ArrayLike | None = None, axes: int = 2) -> Array:
    """A (weighted) norm over the last ``axes`` axes."""
    flat = np.abs(x).reshape(*x.shape[: x.ndim - axes], -1)
    w = np.ones(flat.shape[-1])
    if weights is not None:
        w = np.asarray(weights, np.float64).reshape(-1)
        if w.shape != flat.shape[-1:] or not (w >= 0).all():
            raise ValueError(f"weights: expected {flat.shape[-1]} numbers >= 0, one an (s, a)")
    if norm == "l1":
        total: Array = (flat * w).sum(-1)
    elif norm == "l2":
        total = np.sqrt((flat * flat * w).sum(-1))
    elif norm == "linf":
        total = np.where(w > 0, flat, 0.0).max(-1)
    else:
        raise ValueError(f"norm={norm!r}: expected l1, l2 or linf, or, for norms, range")
    return total


def return_range(reward: Array, transition: Array, initial: Array, gamma: float) -> Array:
    """Best less worst return of any policy, (...), for an expected reward (..., S, A)."""
    best, _ = best_policy(reward, transition, gamma)
    worst, _ = best_policy(-reward, transition, gamma)
    spread: Array = (best + worst) @ initial
    return spread


def with_successors(reward: ArrayLike, transition: Array) -> Array:
    """(..., S, A, S) from that or from (..., S, A)."""
    r = np.asarray(reward, np.float64)
    shape = transition.shape[-3:]
    if r.shape[-3:] == shape and r.ndim >= 3:
        return r
    if r.shape[-2:] != shape[:2]:
        raise ValueError(
            f"reward: shape {r.shape}, expected (..., {shape[0]}, {shape[1]}, {shape[0]})"
        )
    return np.broadcast_to(r[..., None], (*r.shape, shape[0]))
