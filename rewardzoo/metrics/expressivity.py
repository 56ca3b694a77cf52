"""What a formalism of objectives can say of policies: exact values, and certificates that it can't.

Subramani et al. (2024), "On the expressivity of objective-specification formalisms in
reinforcement learning". An objective orders the stationary policies of an environment. To show that
a formalism expresses an order, give its specification and compare; to show that it cannot, give a
certificate: a contradiction among finitely many policies (``linear_order``, and for Markov rewards
``expressible_by_mr``), a proof that the level sets have the wrong shape (``no_level_line``), or a
bound on how fast its values can change (``machine_continuity``).

NumPy float64; policies are (K, S, A).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from ..rewards.formulas import for_ever, is_cosafe, parse
from ..rewards.machine import automaton
from .occupancy import policy_occupancy
from .planning import Array

Codes = NDArray[np.int64]
_SQUARINGS = 50  # of a lazy chain: 2**50 steps
_POLICIES = 20_000  # in a linear programme


@dataclass(frozen=True, eq=False)
class Model:
    """A finite environment without its reward.

    Args:
        transition: (S, A, S); terminal states loop.
        initial: (S,).
        terminal: (S,) bool; what happens there is nobody's choice and pays nothing.
    """

    transition: Array
    initial: Array
    terminal: NDArray[np.bool_]


def occupancies(model: Model, policies: Array, gamma: float) -> Array:
    """(K, S, A) discounted visits; 0 in terminal states. Markov rewards are linear in them."""
    found = policy_occupancy(policies, model.transition, model.initial, gamma) / (1.0 - gamma)
    return np.where(model.terminal[:, None], 0.0, found)


def averages(model: Model, policies: Array) -> Array:
    """(K, S, A) long-run frequencies; 0 in terminal states. Average rewards are linear in them."""
    chain = np.einsum("ksa,sat->kst", policies, model.transition)
    visits = np.einsum("s,kst->kt", model.initial, _limit(chain))
    return np.where(model.terminal[:, None], 0.0, visits[..., None] * policies)


def machine_occupancies(
    model: Model, policies: Array, table: Codes, initial: int, labels: Codes, gamma: float
) -> Array:
    """(K, U, L) discounted times of each label in each state of a memory.

    The value of a reward machine is linear in them.

    Args:
        model: the environment.
        policies: (K, S, A).
        table: (U, L), where each label leads.
        initial: the first state.
        labels: (S, A, S), the label of each transition.
        gamma: discount.
    """
    count, size = len(model.initial), len(table)
    chain = _product(model, policies, table, labels).reshape(len(policies), count * size, -1)
    start = np.zeros((count, size))
    start[:, initial] = model.initial
    system = np.eye(count * size) - gamma * np.swapaxes(chain, -1, -2)
    right = np.broadcast_to(start.reshape(-1, 1), (len(policies), count * size, 1))
    visits = np.linalg.solve(system, right).reshape(len(policies), count, size)
    visits = np.where(model.terminal[:, None], 0.0, visits)
    each = np.eye(table.shape[1])[labels]  # (S, A, S, L)
    seen: Array = np.einsum(
        "ksu,ksa,sat,satl->kul", visits, policies, model.transition, each, optimize=True
    )
    return seen


def memory_frequencies(
    model: Model, policies: Array, table: Codes, initial: int, labels: Codes
) -> Array:
    """(K, U) long-run frequencies of the states of a memory.

    Where the memory is a deterministic automaton over infinite words (Rabin, parity), the chance
    of acceptance is the chance to end in some of the recurrent classes. Under policies that leave
    no action out these are the same classes, and the chance is a sum of frequencies: linear in
    them, whatever is accepted.

    Args:
        model: the environment.
        policies: (K, S, A).
        table: (U, L), where each label leads.
        initial: the first state.
        labels: (S, A, S), the label of each transition.
    """
    count, size = len(model.initial), len(table)
    chain = _product(model, policies, table, labels).reshape(len(policies), count * size, -1)
    start = np.zeros((count, size))
    start[:, initial] = model.initial
    end = np.einsum("x,kxy->ky", start.reshape(-1), _limit(chain))
    return np.asarray(end.reshape(-1, count, size).sum(1))


def satisfaction(model: Model, policies: Array, formula: str, labels: Codes) -> Array:
    """(K,) probability that the infinite trace satisfies a co-safe or a safe formula.

    Of a co-safe one, that it becomes certain; of a safe one, that it is never lost.

    Args:
        model: the environment.
        policies: (K, S, A).
        formula: see ``rewardzoo.rewards.formulas``.
        labels: (S, A, S), in bits of the formula's propositions, sorted.

    Raises:
        FormulaError: if the formula is neither.
    """
    endless = for_ever(parse(formula))
    goal = automaton(endless)
    count, size = len(model.initial), len(goal.table)
    chain = _product(model, policies, goal.table, labels).reshape(len(policies), count * size, -1)
    start = np.zeros((count, size))
    start[:, 0] = model.initial
    end = np.einsum("x,kxy->ky", start.reshape(-1), _limit(chain)).reshape(-1, count, size)
    if is_cosafe(endless):
        found: Array = end[:, :, goal.certain].sum((1, 2))
        return found
    return np.asarray(1.0 - end[:, :, goal.doomed].sum((1, 2)))


def trajectories(model: Model, policies: Array, steps: int) -> Array:
    """(K, M) probability of each sequence of states and actions of so many steps.

    From the first state to the last: ``s_0 a_0 s_1 a_1 ... s_steps``. The expectation of any
    function of such a trajectory is linear in them.
    """
    reach = np.broadcast_to(model.initial, (len(policies), 1, len(model.initial)))
    for _ in range(steps):
        moves = np.einsum("kms,ksa,sat->kmsat", reach, policies, model.transition, optimize=True)
        reach = moves.reshape(len(policies), -1, len(model.initial))
    return np.asarray(reach.reshape(len(policies), -1))


def regularised_features(model: Model, policies: Array, gamma: float) -> Array:
    """(K, D): discounted visits, and how much of them is spent at each action distribution.

    ``E sum gamma^t (R(s, a) - alpha F[pi(s)])`` is linear in them, for every R and every F: the
    unknowns are R and F's values at the distributions that occur.
    """
    visits = occupancies(model, policies, gamma)
    kinds, which = np.unique(
        policies.reshape(-1, policies.shape[-1]).round(12), axis=0, return_inverse=True
    )
    spent = np.zeros((len(policies), len(kinds)))
    rows = np.arange(len(policies)).repeat(policies.shape[1])
    np.add.at(spent, (rows, which.reshape(-1)), visits.sum(-1).reshape(-1))
    return np.concatenate((visits.reshape(len(policies), -1), spent), 1)


# ---- certificates --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LinearOrder:
    """Whether an order is that of a linear function of some features.

    Args:
        weights: (D,) of one that has it, with a margin of 1; None if there is none.
        certificate: else, multipliers of the ``better`` pairs (>= 0, sum 1) and of the ``tied``
            ones under which all differences of features add up to 0 (Farkas' lemma): whatever the
            weights, the multiplied gaps add up to 0, which gaps above 0 cannot.
        residual: how far from 0 that sum is, or how far the weights are from the order.
    """

    weights: Array | None
    certificate: Array | None
    residual: float


def linear_order(
    features: Array, better: Sequence[tuple[int, int]], tied: Sequence[tuple[int, int]]
) -> LinearOrder:
    """Find weights under which ``better`` pairs differ and ``tied`` ones do not, or why none can.

    Args:
        features: (K, D).
        better: pairs (i, j), i strictly above j; at least one.
        tied: pairs (i, j) of equals.

    Example:
        >>> x = np.array([[0.0], [0.5], [1.0]])
        >>> linear_order(x, [(1, 0)], [(0, 2)]).certificate.tolist()
        [1.0, 0.5]
    """
    above = np.array([features[i] - features[j] for i, j in better])
    equal = np.array([features[i] - features[j] for i, j in tied]).reshape(-1, features.shape[1])
    found = linprog(
        np.zeros(features.shape[1]),
        A_ub=-above,
        b_ub=-np.ones(len(above)),
        A_eq=equal if len(equal) else None,
        b_eq=np.zeros(len(equal)) if len(equal) else None,
        bounds=(None, None),
    )
    if found.status == 0:
        off = max(
            0.0,
            float((1.0 - above @ found.x).max()),
            float(np.abs(equal @ found.x).max(initial=0.0)),
        )
        return LinearOrder(found.x, None, off)
    rows = np.concatenate((above, equal)).T
    count = len(above) + len(equal)
    mix = linprog(
        np.zeros(count),
        A_eq=np.vstack((rows, np.arange(count) < len(above))),
        b_eq=np.append(np.zeros(features.shape[1]), 1.0),
        bounds=[(0, None)] * len(above) + [(None, None)] * len(equal),
    )
    if mix.status != 0:
        raise RuntimeError("linear_order: neither weights nor a certificate; scale the features")
    return LinearOrder(None, mix.x, float(np.abs(rows @ mix.x).max()))


def expressible_by_mr(
    model: Model, order: Callable[[Array], Array], gamma: float, steps: int = 4
) -> LinearOrder:
    """A Markov reward whose returns order policies as wished, or why there is none.

    Asked are all deterministic policies and all whose probabilities are multiples of ``1 / steps``
    (uniform in terminal states, where nothing is chosen). A certificate among them is a proof; a
    reward is one for them: of the policies between nothing is known.

    Args:
        model: the environment.
        order: of policies (K, S, A) to (K,), higher is better; not the same for all.
        gamma: discount in [0, 1).
        steps: of the grid, >= 1.

    Returns:
        With the reward (S * A,) as weights, or with a certificate.

    Raises:
        ValueError: for steps that make too many policies, or an order of equals.

    Example:
        >>> model = Model(np.ones((1, 2, 1)), np.ones(1), np.zeros(1, bool))
        >>> expressible_by_mr(model, lambda p: p[:, 0, 0], 0.5).certificate is None
        True
        >>> expressible_by_mr(model, lambda p: p[:, 0].prod(1), 0.5).weights is None
        True
    """
    policies = policy_grid(model, steps)
    values = np.asarray(order(policies), np.float64)
    better, tied = pairs(values)
    if not better:
        raise ValueError(f"order: all {len(values)} policies are equal, which a reward of 0 says")
    visits = occupancies(model, policies, gamma).reshape(len(policies), -1)
    found = linear_order((1.0 - gamma) * visits, better, tied)
    if found.weights is None:
        return found
    return replace(found, weights=(1.0 - gamma) * found.weights)


def policy_grid(model: Model, steps: int) -> Array:
    """(K, S, A): all policies whose probabilities are multiples of ``1 / steps``.

    The deterministic ones are among them. Terminal states are uniform.

    Raises:
        ValueError: for too many.
    """
    states, actions = model.transition.shape[:2]
    live = np.flatnonzero(~model.terminal)
    if steps < 1:
        raise ValueError(f"steps={steps}: expected an integer >= 1")
    count = math.comb(steps + actions - 1, actions - 1) ** len(live)
    if count > _POLICIES:
        raise ValueError(
            f"steps={steps}: {count:,} policies, expected at most {_POLICIES:,}; take fewer steps"
        )
    splits = [
        np.diff(bars, prepend=-1, append=steps + actions - 1) - 1
        for bars in itertools.combinations(range(steps + actions - 1), actions - 1)
    ]
    choices = np.array(splits, np.float64) / steps
    chosen = np.array(list(itertools.product(range(len(choices)), repeat=len(live))), np.int64)
    policies = np.full((count, states, actions), 1.0 / actions)
    policies[:, live] = choices[chosen]
    return policies


def pairs(
    values: Sequence[float] | Array, tol: float = 1e-9
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The order of some values, as ``better`` and ``tied`` pairs of neighbours.

    Example:
        >>> pairs([0.0, 2.0, 0.0, 1.0])
        ([(3, 0), (1, 3)], [(2, 0)])
    """
    x = np.asarray(values, np.float64)
    order = np.argsort(x, kind="stable")
    better, tied, first = [], [], int(order[0])
    for place in order[1:]:
        if x[place] - x[first] > tol:
            better.append((int(place), first))
            first = int(place)
        else:
            tied.append((int(place), first))
    return better, tied


def same_order(x: Array, y: Array, tol: float = 1e-9) -> float:
    """The share of pairs that two rankings (K,) order alike; differences up to ``tol`` are ties."""

    def signs(v: Array) -> Array:
        gap = v[:, None] - v
        return np.sign(np.where(np.abs(gap) > tol, gap, 0.0))

    return float((signs(x) == signs(y)).mean())


def no_level_line(
    value: Callable[[Array], Array],
    point: Sequence[float],
    radius: float,
    slope: float,
    angles: int = 720,
) -> float:
    """A certified lower bound on how much a value varies along every line through a point.

    A nonlinear function of one expected return is constant wherever the return is; where
    occupancies are affine in two numbers, that is along some line. If the value varies along all of
    them, no such function has its order.

    Args:
        value: of points (M, 2) to (M,).
        point: (2,), at least ``radius`` inside of where the value is defined.
        radius: how far along a line to look.
        slope: a bound on the value's gradient within ``radius``.
        angles: directions to try; between two the value moves at most ``slope`` times the arc.

    Returns:
        The bound; above 0 it is a proof.
    """
    theta = np.arange(angles) * np.pi / angles
    direction = np.stack((np.cos(theta), np.sin(theta)), -1)
    reach = np.linspace(-radius, radius, 21)
    places = np.asarray(point) + reach[:, None, None] * direction
    found = value(places.reshape(-1, 2)).reshape(len(reach), angles)
    spread = np.abs(found - value(np.asarray([point]))).max(0)
    return float(spread.min() - slope * radius * np.pi / (2 * angles))


def machine_continuity(bound: float, distance: float, gamma: float) -> float:
    """How far apart the values of two policies can be under any machine, or any Markov reward.

    After ``t + 1`` choices the trajectories of policies at most ``distance`` apart in total
    variation are at most ``(t + 1) distance`` apart, so values at most ``2 bound distance sum_t
    gamma^t (t + 1)``.

    Args:
        bound: on the absolute reward of a step.
        distance: the largest total variation between their action distributions.
        gamma: discount.
    """
    return 2.0 * bound * distance / (1.0 - gamma) ** 2


def _product(model: Model, policies: Array, table: Codes, labels: Codes) -> Array:
    """(K, S, U, S, U), the chain of states and memory."""
    after = np.eye(len(table))[table[:, labels]]  # (U, S, A, S, U)
    moves: Array = np.einsum(
        "ksa,sat,usatv->ksutv", policies, model.transition, after, optimize=True
    )
    return moves


def _limit(chain: Array) -> Array:
    """(K, X, X), the average of all powers: of the lazy chain, which has the same, the last."""
    power = (np.eye(chain.shape[-1]) + chain) / 2.0
    for _ in range(_SQUARINGS):
        power = power @ power
        power = power / power.sum(-1, keepdims=True)  # rounding must not grow
    return power
