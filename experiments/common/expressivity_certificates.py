"""Certificates that a formalism cannot say a task, and the grids of policies they are found on.

Each is exact: a contradiction of a linear programme, a bound that holds between the points tried,
or an argument whose premises are computed. See ``expressivity_tasks.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from rewardzoo.envs.expressivity import dynamics
from rewardzoo.metrics.expressivity import (
    LinearOrder,
    Model,
    expressible_by_mr,
    linear_order,
    machine_continuity,
    machine_occupancies,
    memory_frequencies,
    no_level_line,
    occupancies,
    pairs,
    trajectories,
)

GAMMA = 0.9


class Evidence(NamedTuple):
    """Why a formalism cannot express a task.

    Args:
        kind: linear, level lines, levels, continuity, curves, lottery or proof.
        holds: the certificate was found and checked.
        number: of the kind: a residual, a bound, a count.
        words: what the number is.
    """

    kind: str
    holds: bool
    number: float
    words: str


# ---- grids ---------------------------------------------------------------------------------------


def model_of(env: type[dynamics.Tiny]) -> Model:
    """The tables of a tiny environment."""
    func = env()
    moves, _, start = func.transition_matrix()
    return Model(moves, start, func.terminal_states)


def coins(*probabilities: float) -> np.ndarray:
    """(M, 2): chances of the first of two actions."""
    first = np.array(probabilities)
    return np.stack((first, 1.0 - first), -1)


def triangle(steps: int) -> np.ndarray:
    """(M, 3): all splits of 1 into three multiples of ``1 / steps``."""
    found = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    return np.array(found) / steps


def grid(model: Model, *choices: np.ndarray) -> np.ndarray:
    """(K, S, A): all combinations of the choices in the first states, uniform in the others."""
    states, actions = model.transition.shape[:2]
    rows = []
    for chosen in itertools.product(*choices):
        row = np.full((states, actions), 1.0 / actions)
        row[: len(chosen)] = chosen
        rows.append(row)
    return np.array(rows)


def by_action(model: Model) -> np.ndarray:
    """(S, A, S) int64: 1 where the action is a, the first."""
    labels = np.zeros(model.transition.shape, np.int64)
    labels[:, 0] = 1
    return labels


def by_a_or_b(model: Model) -> np.ndarray:
    """(S, A, S) int64: bits of a and of b, the first two actions."""
    labels = by_action(model)
    labels[:, 1] = 2
    return labels


def by_arrival(model: Model, place: int) -> np.ndarray:
    """(S, A, S) int64: 1 where the step leads to ``place``."""
    labels = np.zeros(model.transition.shape, np.int64)
    labels[:, :, place] = 1
    return labels


# ---- certificates --------------------------------------------------------------------------------


def linear(features: np.ndarray, value: np.ndarray) -> Evidence:
    """No linear function of the features has the order of the values."""
    scale = np.abs(features).max()
    return contradiction(linear_order(features / scale if scale > 0 else features, *pairs(value)))


def by_markov(model: Model, order: Callable[[np.ndarray], np.ndarray], steps: int = 10) -> Evidence:
    """No Markov reward has an order of policies (K, S, A)."""
    return contradiction(expressible_by_mr(model, order, GAMMA, steps))


def contradiction(found: LinearOrder) -> Evidence:
    """Whether there is one, and how exactly it adds up to 0."""
    return Evidence(
        "linear",
        found.certificate is not None and found.residual < 1e-7,
        found.residual,
        "residual of the contradiction (Farkas)",
    )


def lines(
    value: Callable[[np.ndarray], np.ndarray], point: Sequence[float], radius: float, slope: float
) -> Evidence:
    """No line through a point on which the value is constant."""
    bound = no_level_line(value, point, radius, slope)
    return Evidence("level lines", bound > 0, bound, "least variation along a line, certified")


def levels(model: Model, value: Callable[[np.ndarray], np.ndarray]) -> Evidence:
    """Deterministic policies of a deterministic environment satisfy a formula or do not."""
    states, actions = model.transition.shape[:2]
    every = np.array(list(itertools.product(np.eye(actions), repeat=states)))
    count = len(np.unique(value(every).round(9)))
    certain = bool(np.isin(model.transition, (0.0, 1.0)).all())
    words = "levels among all deterministic policies; satisfaction has two"
    return Evidence("levels", certain and count > 2, count, words)


def every_memory(size: int, labels: np.ndarray) -> Iterator[np.ndarray]:
    """All tables (size, L) of memories of so many states."""
    count = int(labels.max()) + 1
    for moves in itertools.product(range(size), repeat=size * count):
        yield np.array(moves).reshape(size, count)


def continuity(
    model: Model, policies: np.ndarray, value: np.ndarray, labels: np.ndarray, size: int
) -> Evidence:
    """Values of machines are continuous; the task jumps. All machines of ``size`` states, searched.

    For any machine with rewards up to ``B``, a gap ``d`` between a policy and those arbitrarily
    near it that tie with others would need ``d <= 2 B e / (1 - gamma)^2`` for every distance ``e``.
    """
    refuted = tried = 0
    for table in every_memory(size, labels):
        seen = machine_occupancies(model, policies, table, 0, labels, GAMMA)
        tried += 1
        refuted += linear(seen.reshape(len(policies), -1), value).holds
    vanishes = machine_continuity(1.0, 1e-9, GAMMA) < 1e-6
    words = f"of {tried} machines with {size} states refuted, with any rewards"
    return Evidence("continuity", vanishes and refuted == tried, refuted, words)


def no_jump(
    model: Model, policies: np.ndarray, value: np.ndarray, labels: np.ndarray, size: int
) -> Evidence:
    """Among policies that leave no action out, chances of satisfaction are continuous.

    A formula is a deterministic automaton of some size, and its chance that of ending in some of
    the recurrent classes: as no edge comes or goes between such policies, these stay the same, and
    the chance is a quotient of polynomials without a pole. The task jumps between two of them. All
    automata of ``size`` states are searched besides, with anything accepted.
    """
    refuted = tried = 0
    for table in every_memory(size, labels):
        tried += 1
        refuted += linear(memory_frequencies(model, policies, table, 0, labels), value).holds
    full = bool((policies > 0.0).all())
    words = f"of {tried} automata with {size} states refuted, whatever they accept"
    return Evidence("continuity", full and refuted == tried, refuted, words)


def curves(model: Model) -> Evidence:
    """No function of a discounted return ranks by q for all p > 0 alike, on LeaveOrStay.

    For each q the return J(p, q), p > 0, would have to stay in a set of its own. But the visits
    x(p, q) are a segment from one point x(0), the same for all q, to x(1, q), gone along
    continuously with p; and these ends lie on a line, in the order of q. So, whatever the reward,
    J(., q) covers all between J(0) and J(0) + c0 + c1 q. That is one and the same for all q if c1
    is 0; if not, it leaves J(0) for all q but one at most, and of three that leave two leave to the
    same side, and overlap. Both facts are about visits, hence about all rewards, and are checked;
    the least overlap of any reward is then the value of a few linear programmes.
    """
    p, q = np.linspace(0.0, 1.0, 101), (0.25, 0.5, 0.75, 1.0)
    policies = grid(model, coins(*p), coins(*q))
    visits = occupancies(model, policies, GAMMA).reshape(len(p), len(q), -1)
    off = bent(visits, p, np.array(q))
    least = least_overlap(visits[-1] - visits[0])
    words = (
        "least overlap of two returns, as a share of their range, over all rewards; visits go "
        f"straight from one point to ends on a line within {off:.0e}"
    )
    return Evidence("curves", least > 1e-6 and off < 1e-10, least, words)


def least_overlap(ends: np.ndarray) -> float:
    """The least, over all rewards that tell policies apart, of how far two intervals overlap.

    Interval i is from 0 to ``d_i = ends_i . reward``. The ends lie on a line, so that ``d`` rises
    or falls with i; one that falls has the overlaps of the negated reward. Of a rising one the
    first few are below 0, and the widest overlaps are of the last two above and of the first two
    below: for each number below a linear programme.

    Args:
        ends: (Q, K), in order along a line; Q >= 3.

    Returns:
        A share of the range that all intervals cover together.

    Example:
        >>> round(least_overlap(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])), 6)
        0.0
        >>> round(least_overlap(np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])), 6)
        0.666667
    """
    count = len(ends)
    shares = []
    for below in range(count + 1):
        sign = np.where(np.arange(count) < below, 1.0, -1.0)[:, None]
        pair = [ends[-2]] * (below <= count - 2) + [-ends[1]] * (below >= 2)
        limits = np.vstack([sign * ends, (ends[0] - ends[-1])[None], *pair])
        slack = np.append(np.zeros(count + 1), -np.ones(len(pair)))[:, None]
        covered = ends[-1] * (below < count) - ends[0] * (below > 0)
        found = linprog(
            np.append(np.zeros(ends.shape[1]), 1.0),
            A_ub=np.hstack((limits, slack)),
            b_ub=np.zeros(len(limits)),
            A_eq=np.append(covered, 0.0)[None],
            b_eq=[1.0],
            bounds=[(None, None)] * ends.shape[1] + [(0.0, None)],
        )
        if found.status == 0:  # else no reward has so many below
            shares.append(float(found.fun))
    return min(shares)


def bent(visits: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    """How far visits (P, Q, K) are from segments that begin in one point and end on a line.

    Args:
        visits: of the policies (p, q) on LeaveOrStay.
        p: (P,) chances of leaving, the first 0 and the last 1.
        q: (Q,), increasing.
    """
    start = visits[0, 0]
    along = p / (1.0 - GAMMA * (1.0 - p))  # of the way, from 0 to 1
    ends = visits[-1] - start
    straight = np.abs(visits - start - along[:, None, None] * ends).max()
    place = (q - q[0]) / (q[-1] - q[0])
    in_line = np.abs(ends - ends[0] - place[:, None] * (ends[-1] - ends[0])).max()
    return float(max(straight, in_line))


def lottery(model: Model, policies: np.ndarray, value: np.ndarray) -> Evidence:
    """Policies with one and the same lottery of trajectories differ."""
    seen = trajectories(model, policies, 2)
    apart = float(np.abs(seen - seen[:1]).max())
    words = "greatest difference of lotteries between policies that the task orders"
    return Evidence("lottery", bool(apart < 1e-12 and np.ptp(value) > 0), apart, words)


def cardinality() -> Evidence:
    """A real function of a lexicographic order would give each p an interval of its own.

    The intervals ``[u(p, 0), u(p, 1)]`` for p in [0, 1) would be disjoint and not empty: each holds
    a rational number, and there are not that many (Debreu 1954).
    """
    return Evidence("proof", True, np.nan, "uncountably many disjoint intervals; not computed")
