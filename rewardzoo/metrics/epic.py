"""EPIC and DARD distances: Pearson correlation of canonical rewards over a coverage distribution.

Both see transitions that cannot happen, so that two rewards with opposite optima may be as near as
one likes, and reward moved between successors counts as a difference. ``starc.py`` has neither
flaw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .canonical import dard, epic
from .planning import Array, check_model
from .starc import with_successors


def epic_distance(
    first: ArrayLike, second: ArrayLike, transition: ArrayLike, gamma: float
) -> Array:
    """``sqrt((1 - rho) / 2)`` in [0, 1]; transitions are covered uniformly, possible or not.

    Args:
        first: (..., S, A, S) or (..., S, A).
        second: like ``first``.
        transition: (..., S, A, S); only its shape matters.
        gamma: discount.

    Paper: Gleave et al. (2021), "Quantifying differences in reward functions", definition 4.7.
    """
    moves = np.asarray(transition, np.float64)
    check_model(moves, gamma)
    x, y = (epic(with_successors(r, moves), moves, gamma) for r in (first, second))
    return _pearson_distance(x, y, np.ones(moves.shape[-3:]))


def dard_distance(
    first: ArrayLike, second: ArrayLike, transition: ArrayLike, gamma: float
) -> Array:
    """``sqrt((1 - rho) / 2)`` in [0, 1]; covered are uniform states and actions, and what follows.

    Paper: Wulfe et al. (2022), "Dynamics-aware comparison of learned reward functions".
    """
    moves = np.asarray(transition, np.float64)
    check_model(moves, gamma)
    x, y = (dard(with_successors(r, moves), moves, gamma) for r in (first, second))
    return _pearson_distance(x, y, moves)


def _pearson_distance(x: Array, y: Array, weights: Array) -> Array:
    """Over the last three axes; 1 / sqrt(2) from a constant to anything but a constant."""
    axes = (-3, -2, -1)
    w = weights / weights.sum(axes, keepdims=True)
    x, y = (v - (w * v).sum(axes, keepdims=True) for v in (x, y))
    scale = np.sqrt((w * x * x).sum(axes) * (w * y * y).sum(axes))
    rho = (w * x * y).sum(axes) / np.where(scale > 0, scale, np.inf)
    found: Array = np.sqrt(np.clip(1.0 - rho, 0.0, 2.0) / 2.0)
    return found
