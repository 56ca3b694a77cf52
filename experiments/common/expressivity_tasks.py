"""Ten tasks that tell formalisms of objectives apart, each with what expresses it and what cannot.

Subramani et al. (2024). An objective is an order of stationary policies. A task here is such an
order on a tiny environment; of each formalism that is said to express it the specification is
evaluated on a grid of policies, exactly, and its order compared; of each that is said not to, a
certificate is computed. Only one separation, that of lexicographic orders from real-valued
functions, is a matter of cardinality and has a proof but no computation.

Orders of visits prove nothing: a stationary policy's occupancy determines its action probabilities
wherever it comes, and so the law of its trajectories. What does are shapes of level sets, jumps,
and the number of levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rewardzoo.envs.expressivity import dynamics
from rewardzoo.metrics.expressivity import (
    Model,
    averages,
    linear_order,
    machine_continuity,
    machine_occupancies,
    no_level_line,
    occupancies,
    pairs,
    regularised_features,
    same_order,
    satisfaction,
    trajectories,
)
from rewardzoo.rewards.machine import Machine

GAMMA = 0.9
MEMBERS: Mapping[str, str] = {
    "MR": "Markov rewards",
    "LAR": "limit-average rewards",
    "LTL": "linear temporal logic",
    "RM": "reward machines",
    "ONMR": "outer nonlinear Markov rewards",
    "RRL": "regularised rewards",
    "FTR": "functions from trajectories = inner nonlinear (one or many rewards)",
    "OMORL": "outer multi-objective = functions of occupancies = of trajectory lotteries",
    "GOMORL": "generalised outer multi-objective = orders of occupancies = of lotteries",
    "FPR": "functions from policies",
    "PO": "orders of policies",
}
"""The seventeen formalisms in the eleven classes of equals."""

INCLUSIONS: Sequence[tuple[str, str, str]] = (
    ("RM", "MR", "a machine of one state"),
    ("FTR", "RM", "the machine's discounted sum is a function of the trajectory"),
    ("FTR", "LAR", "under a stationary policy the average converges, and is bounded"),
    ("FTR", "LTL", "the indicator of satisfaction"),
    ("ONMR", "MR", "the identity"),
    ("RRL", "MR", "weight 0"),
    ("OMORL", "FTR", "an expectation is a function of the lottery"),
    ("OMORL", "ONMR", "one reward"),
    ("OMORL", "RRL", "the occupancy determines the policy where it is charged"),
    ("GOMORL", "OMORL", "a function orders"),
    ("FPR", "OMORL", "the policy determines the lottery"),
    ("PO", "GOMORL", "the policy determines the lottery"),
    ("PO", "FPR", "a function orders"),
)
"""(the wider, the narrower, why)."""


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


@dataclass(frozen=True, eq=False)
class Task:
    """An order of the stationary policies of a tiny environment.

    Args:
        name: short.
        sentence: what is wanted.
        model: the environment.
        policies: (K, S, A), a grid.
        value: (K,), which orders them.
        expressed: by formalism, the values of its specification on the grid.
        refuted: by formalism, the certificate, given a generator for those that search.
    """

    name: str
    sentence: str
    model: Model
    policies: np.ndarray
    value: np.ndarray
    expressed: Mapping[str, Callable[[], np.ndarray]]
    refuted: Mapping[str, Callable[[np.random.Generator], Evidence]]

    def agreement(self, formalism: str) -> float:
        """The share of pairs of policies that the formalism's specification orders as the task."""
        return same_order(self.expressed[formalism](), self.value)


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


def by_arrival(model: Model, place: int) -> np.ndarray:
    """(S, A, S) int64: 1 where the step leads to ``place``."""
    labels = np.zeros(model.transition.shape, np.int64)
    labels[:, :, place] = 1
    return labels


# ---- certificates --------------------------------------------------------------------------------


def linear(features: np.ndarray, value: np.ndarray) -> Evidence:
    """No linear function of the features has the order of the values."""
    scale = np.abs(features).max()
    found = linear_order(features / scale if scale > 0 else features, *pairs(value))
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


def continuity(
    model: Model, policies: np.ndarray, value: np.ndarray, labels: np.ndarray, size: int
) -> Evidence:
    """Values of machines are continuous; the task jumps. All machines of ``size`` states, searched.

    For any machine with rewards up to ``B``, a gap ``d`` between a policy and those arbitrarily
    near it that tie with others would need ``d <= 2 B e / (1 - gamma)^2`` for every distance ``e``.
    """
    count = int(labels.max()) + 1
    refuted = tried = 0
    for moves in itertools.product(range(size), repeat=size * count):
        table = np.array(moves).reshape(size, count)
        seen = machine_occupancies(model, policies, table, 0, labels, GAMMA)
        tried += 1
        refuted += linear(seen.reshape(len(policies), -1), value).holds
    vanishes = machine_continuity(1.0, 1e-9, GAMMA) < 1e-6
    words = f"of {tried} machines with {size} states refuted, with any rewards"
    return Evidence("continuity", vanishes and refuted == tried, refuted, words)


def curves(model: Model, rng: np.random.Generator, tries: int = 2000) -> Evidence:
    """No function of a discounted return ranks by q for all p > 0 alike, on LeaveOrStay.

    For each q the return J(p, q), p > 0, would have to stay in a set of its own. But the visits
    x(p, q) are a segment from one point x(0), the same for all q, to x(1, q), gone along
    continuously with p; and these ends lie on a line, in the order of q. So, whatever the reward,
    J(., q) covers all between J(0) and J(0) + c0 + c1 q. That is one and the same for all q if c1
    is 0; if not, it leaves J(0) for all q but one at most, and of three that leave two leave to the
    same side, and overlap. Both facts are about visits, hence about all rewards, and are checked.
    Random rewards are tried besides: the number is their least overlap, as a share of J's range.
    """
    p, q = np.linspace(0.0, 1.0, 101), (0.25, 0.5, 0.75, 1.0)
    policies = grid(model, coins(*p), coins(*q))
    visits = occupancies(model, policies, GAMMA).reshape(len(p), len(q), -1)
    rewards = rng.normal(size=(tries, visits.shape[-1]))
    rewards[: tries // 4] *= rng.random((tries // 4, visits.shape[-1])) < 0.5
    returns = visits @ rewards[np.ptp(rewards, 1) > 0].T  # (p, q, tries)
    up = np.sort((returns - returns[:1]).max(0), 0)[-2]
    down = np.sort((returns[:1] - returns).max(0), 0)[-2]
    share = np.maximum(up, down) / np.maximum(np.ptp(returns, (0, 1)), 1e-12)
    constant = np.ptp(returns, (0, 1)) < 1e-9
    least = float(np.where(constant, 1.0, share).min())
    off = bent(visits, p, np.array(q))
    words = (
        f"least overlap over {returns.shape[2]} random rewards; of all others proved by visits "
        f"that go straight from one point to ends on a line, within {off:.0e}"
    )
    return Evidence("curves", least > 0 and off < 1e-10, least, words)


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


# ---- tasks ---------------------------------------------------------------------------------------


def ranking() -> Task:
    """Action a before b before c."""
    model = model_of(dynamics.OneState)
    policies = grid(model, triangle(6))
    worth = np.array([2.0, 1.0, 0.0])

    def value(x: np.ndarray) -> np.ndarray:
        return x[:, 0] @ worth

    return Task(
        "ranking",
        "prefer a to b to c, and mixtures in proportion",
        model,
        policies,
        value(policies),
        {
            "MR": lambda: occupancies(model, policies, GAMMA)[:, 0] @ worth,
            "LAR": lambda: averages(model, policies)[:, 0] @ worth,
        },
        {"LTL": lambda rng: levels(model, value)},
    )


def same_twice() -> Task:
    """Two choices that are the same."""
    model = model_of(dynamics.TwoChoices)
    some = coins(*np.linspace(0.0, 1.0, 9))
    policies = grid(model, some, some)
    pure = grid(model, coins(0.0, 1.0), coins(0.0, 1.0))
    labels = by_action(model)
    machine = Machine.read(
        "0\n[3]\n(0, 1, 'a', 0)\n(0, 2, '!a', 0)\n"
        "(1, 3, 'a', 1)\n(1, 3, '!a', 0)\n(2, 3, '!a', 1)\n(2, 3, 'a', 0)"
    )

    def chart(y: np.ndarray) -> np.ndarray:
        p, q = y.T
        return p * q + (1.0 - p) * (1.0 - q)

    def value(x: np.ndarray) -> np.ndarray:
        return chart(x[:, :2, 0])

    def by_machine() -> np.ndarray:
        seen = machine_occupancies(model, policies, machine.table, 0, labels, GAMMA)
        return (seen * machine.reward).sum((1, 2))

    goal = "(a & X a) | (!a & X !a)"
    return Task(
        "the same twice",
        "choose twice the same",
        model,
        policies,
        value(policies),
        {"RM": by_machine, "LTL": lambda: satisfaction(model, policies, goal, labels)},
        {
            "MR": lambda rng: linear(occupancies(model, pure, GAMMA).reshape(4, -1), value(pure)),
            "RRL": lambda rng: linear(regularised_features(model, pure, GAMMA), value(pure)),
            # Visits are affine in (p, q); the gradient is (2 q - 1, 2 p - 1).
            "ONMR": lambda rng: lines(chart, (0.25, 0.25), 0.2, 1.28),
        },
    )


def always() -> Task:
    """Never anything but a."""
    model = model_of(dynamics.OneState)
    chances = np.array([0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0])
    rest = 1.0 - chances
    policies = grid(model, np.stack((chances, rest / 2, rest / 2), -1))
    labels = by_action(model)
    value = (chances == 1.0).astype(float)
    goal = "G a"

    def outer() -> np.ndarray:
        expected = occupancies(model, policies, GAMMA)[:, 0, 0]
        return (expected > 1.0 / (1.0 - GAMMA) - 1e-9).astype(float)

    def regularised() -> np.ndarray:
        visits = occupancies(model, policies, GAMMA).sum(-1)
        penalty = np.where((policies == np.eye(3)[0]).all(-1), 0.0, 1.0)
        return -(visits * penalty).sum(-1)

    return Task(
        "always",
        "always a: anything less is worth nothing",
        model,
        policies,
        value,
        {
            "LTL": lambda: satisfaction(model, policies, goal, labels),
            "ONMR": outer,
            "RRL": regularised,
        },
        {
            "LAR": lambda rng: linear(averages(model, policies).reshape(7, -1), value),
            "RM": lambda rng: continuity(model, policies, value, labels, 3),
        },
    )


def leaving() -> Task:
    """To leave some time."""
    model = model_of(dynamics.LeaveOrStay)
    policies = grid(model, coins(0.0, 0.01, 0.25, 0.5, 0.75, 1.0), coins(0.0, 0.5, 1.0))
    value = (policies[:, 0, 0] > 0).astype(float)
    place = np.array([[0.0, 0.0], [1.0, 1.0]])
    pairs_of = np.arange(4).reshape(2, 2, 1).repeat(2, 2)  # a label for each state and action
    goal = "F a"

    def outer() -> np.ndarray:
        return ((occupancies(model, policies, GAMMA) * place).sum((1, 2)) > 1e-9).astype(float)

    return Task(
        "leaving",
        "leave, sooner or later; what happens then is all the same",
        model,
        policies,
        value,
        {
            "LAR": lambda: (averages(model, policies) * place).sum((1, 2)),
            "LTL": lambda: satisfaction(model, policies, goal, by_arrival(model, 1)),
            "ONMR": outer,
        },
        {
            "RRL": lambda rng: linear(regularised_features(model, policies, GAMMA), value),
            "RM": lambda rng: continuity(model, policies, value, pairs_of, 2),
        },
    )


def first_step() -> Task:
    """A single choice."""
    model = model_of(dynamics.OneChoice)
    policies = grid(model, triangle(6))
    value = policies[:, 0, 0]
    goal = "a"
    return Task(
        "the first step",
        "choose a, once",
        model,
        policies,
        value,
        {
            "MR": lambda: occupancies(model, policies, GAMMA)[:, 0, 0],
            "LTL": lambda: satisfaction(model, policies, goal, by_action(model)),
        },
        {"LAR": lambda rng: linear(averages(model, policies).reshape(len(policies), -1), value)},
    )


def entropy(p: np.ndarray) -> np.ndarray:
    """In nats, over the last axis."""
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)


def at_random() -> Task:
    """One choice, as random as can be."""
    model = model_of(dynamics.OneChoice)
    policies = grid(model, triangle(6))
    value = entropy(policies[:, 0])

    def chart(y: np.ndarray) -> np.ndarray:
        return entropy(np.concatenate((y, 1.0 - y.sum(-1, keepdims=True)), -1))

    return Task(
        "at random",
        "choose as randomly as possible, once",
        model,
        policies,
        value,
        {
            "RRL": lambda: (occupancies(model, policies, GAMMA).sum(-1) * entropy(policies)).sum(
                -1
            ),
            "OMORL": lambda: entropy(occupancies(model, policies, GAMMA)[:, 0]),
        },
        {
            "FTR": lambda rng: linear(trajectories(model, policies, 1), value),
            # Within .1 of (.2, .3) the gradient is below (log 6.42, log 3.21).
            "ONMR": lambda rng: lines(chart, (0.2, 0.3), 0.1, 2.2),
        },
    )


def at_least() -> Task:
    """Enough of a, in the mean."""
    model = model_of(dynamics.TwoChoices)
    some = coins(*np.linspace(0.0, 1.0, 9))
    policies = grid(model, some, some)
    pure = grid(model, coins(0.0, 1.0), coins(0.0, 1.0))
    worth = np.zeros((3, 2))
    worth[:2, 0] = 1.0, 1.0 / GAMMA

    def value(x: np.ndarray) -> np.ndarray:
        return (x[:, :2, 0].sum(1) > 1.0 - 1e-9).astype(float)

    def outer() -> np.ndarray:
        expected = (occupancies(model, policies, GAMMA) * worth).sum((1, 2))
        return (expected > 1.0 - 1e-9).astype(float)

    return Task(
        "at least once",
        "choose a at least once in the mean",
        model,
        policies,
        value(policies),
        {"ONMR": outer},
        {
            "RRL": lambda rng: linear(regularised_features(model, pure, GAMMA), value(pure)),
            "FTR": lambda rng: linear(trajectories(model, policies, 2), value(policies)),
        },
    )


def in_the_long_run() -> Task:
    """What is done for ever after leaving."""
    model = model_of(dynamics.LeaveOrStay)
    policies = grid(model, coins(0.0, 0.01, 0.5, 1.0), coins(*np.linspace(0.0, 1.0, 9)))
    worth = np.array([[0.0, 0.0], [1.0, 0.0]])
    return Task(
        "in the long run",
        "leave some time, and then choose a as often as possible",
        model,
        policies,
        np.where(policies[:, 0, 0] > 0, policies[:, 1, 0], 0.0),
        {"LAR": lambda: (averages(model, policies) * worth).sum((1, 2))},
        {"ONMR": lambda rng: curves(model, rng)},
    )


def unseen() -> Task:
    """What is done where one never comes."""
    model = model_of(dynamics.Unvisited)
    policies = grid(model, coins(0.5), coins(*np.linspace(0.0, 1.0, 9)))
    value = policies[:, 1, 0]
    return Task(
        "unseen",
        "choose a in a place that cannot be reached",
        model,
        policies,
        value,
        {"FPR": lambda: policies[:, 1, 0]},
        {"GOMORL": lambda rng: lottery(model, policies, value)},
    )


def lexicographic() -> Task:
    """First a, then b."""
    model = model_of(dynamics.OneChoice)
    policies = grid(model, triangle(6))

    def rank(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        keys = np.stack((first, second), -1).round(9)
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(float)

    def by_visits() -> np.ndarray:
        visits = occupancies(model, policies, GAMMA)[:, 0]
        return rank(visits[:, 0], visits[:, 1])

    return Task(
        "one before the other",
        "choose a as often as possible, and among equals b",
        model,
        policies,
        rank(policies[:, 0, 0], policies[:, 0, 1]),
        {"GOMORL": by_visits},
        {"FPR": lambda rng: cardinality()},
    )


TASKS: Sequence[Callable[[], Task]] = (
    ranking,
    same_twice,
    always,
    leaving,
    first_step,
    at_random,
    at_least,
    in_the_long_run,
    unseen,
    lexicographic,
)


# ---- the diagram ---------------------------------------------------------------------------------


class Relation(NamedTuple):
    """Whether the formalism ``first`` expresses all that ``second`` can.

    Args:
        first: a class of ``MEMBERS``.
        second: another.
        says: "expresses", "does not" or "open".
        witness: the chain of inclusions, or the task and its evidence.
    """

    first: str
    second: str
    says: str
    witness: str


def above(first: str, second: str) -> list[str] | None:
    """The shortest chain of inclusions down from ``first`` to ``second``, or None."""
    chains = [[first]]
    for chain in chains:
        if chain[-1] == second:
            return chain
        chains.extend([*chain, low] for high, low, _ in INCLUSIONS if high == chain[-1])
    return None


def diagram(
    agreement: Mapping[tuple[str, str], float], evidence: Mapping[tuple[str, str], Evidence]
) -> list[Relation]:
    """All pairs, from inclusions and from the tasks whose computation came out as it should.

    Args:
        agreement: by task and formalism that expresses it, ``Task.agreement``.
        evidence: by task and formalism that cannot.
    """
    found = []
    for first, second in itertools.permutations(MEMBERS, 2):
        chain = above(first, second)
        splits = [
            f"{task}: {second} by {able}, {first} by {unable} ({why.kind})"
            for (task, unable), why in evidence.items()
            if why.holds and above(unable, first)
            for (other, able), share in agreement.items()
            if other == task and share == 1.0 and above(second, able)
        ]
        if chain and splits:
            raise AssertionError(f"{first} includes {second} and does not: {splits[0]}")
        says = "expresses" if chain else "does not" if splits else "open"
        witness = " > ".join(chain) if chain else splits[0] if splits else ""
        found.append(Relation(first, second, says, witness))
    return found
