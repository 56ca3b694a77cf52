"""Fourteen tasks that tell formalisms of objectives apart: what expresses each and what cannot.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rewardzoo.envs.expressivity import dynamics
from rewardzoo.metrics.expressivity import (
    Model,
    averages,
    machine_occupancies,
    occupancies,
    regularised_features,
    same_order,
    satisfaction,
    trajectories,
)
from rewardzoo.rewards.machine import Machine

from .expressivity_certificates import (
    GAMMA,
    Evidence,
    by_a_or_b,
    by_action,
    by_arrival,
    by_markov,
    cardinality,
    coins,
    continuity,
    curves,
    grid,
    levels,
    linear,
    lines,
    lottery,
    model_of,
    no_jump,
    triangle,
)


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
        refuted: by formalism, the certificate.
    """

    name: str
    sentence: str
    model: Model
    policies: np.ndarray
    value: np.ndarray
    expressed: Mapping[str, Callable[[], np.ndarray]]
    refuted: Mapping[str, Callable[[], Evidence]]

    def agreement(self, formalism: str) -> float:
        """The share of pairs of policies that the formalism's specification orders as the task."""
        return same_order(self.expressed[formalism](), self.value)


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
        {"LTL": lambda: levels(model, value)},
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
            "MR": lambda: linear(occupancies(model, pure, GAMMA).reshape(4, -1), value(pure)),
            "RRL": lambda: linear(regularised_features(model, pure, GAMMA), value(pure)),
            # Visits are affine in (p, q); the gradient is (2 q - 1, 2 p - 1).
            "ONMR": lambda: lines(chart, (0.25, 0.25), 0.2, 1.28),
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
            "LAR": lambda: linear(averages(model, policies).reshape(7, -1), value),
            "RM": lambda: continuity(model, policies, value, labels, 3),
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
            "RRL": lambda: linear(regularised_features(model, policies, GAMMA), value),
            "RM": lambda: continuity(model, policies, value, pairs_of, 2),
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
        {"LAR": lambda: linear(averages(model, policies).reshape(len(policies), -1), value)},
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
            "FTR": lambda: linear(trajectories(model, policies, 1), value),
            # Within .1 of (.2, .3) the gradient is below (log 6.42, log 3.21).
            "ONMR": lambda: lines(chart, (0.2, 0.3), 0.1, 2.2),
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
            "RRL": lambda: linear(regularised_features(model, pure, GAMMA), value(pure)),
            "FTR": lambda: linear(trajectories(model, policies, 2), value(policies)),
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
        {"ONMR": lambda: curves(model)},
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
        {"GOMORL": lambda: lottery(model, policies, value)},
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
        {"FPR": lambda: cardinality()},
    )


def one_then_other() -> Task:
    """Action a, and then b."""
    model = model_of(dynamics.OneState)
    policies = grid(model, triangle(6))
    # Two that tie at .16, and half way between them .162.
    tie = grid(model, np.array([[0.4, 0.4, 0.2], [0.5, 0.32, 0.18], [0.45, 0.36, 0.19]]))
    labels = by_a_or_b(model)
    machine = Machine.read(
        "0\n[2]\n(0, 1, 'a', 0)\n(0, 2, '!a', 0)\n(1, 2, 'b', 1)\n(1, 2, '!b', 0)"
    )

    def value(x: np.ndarray) -> np.ndarray:
        return x[:, 0, 0] * x[:, 0, 1]

    def by_machine() -> np.ndarray:
        seen = machine_occupancies(model, policies, machine.table, 0, labels, GAMMA)
        return (seen * machine.reward).sum((1, 2))

    def by_trajectory() -> np.ndarray:
        chances = trajectories(model, policies, 2).reshape(-1, 3, 3)
        return chances[:, 0, 1]

    return Task(
        "one, then the other",
        "begin with a, and then b",
        model,
        policies,
        value(policies),
        {
            "RM": by_machine,
            "LTL": lambda: satisfaction(model, policies, "a & X b", labels),
            "FTR": by_trajectory,
        },
        {
            "MR": lambda: linear(occupancies(model, tie, GAMMA).reshape(3, -1), value(tie)),
            "LAR": lambda: linear(averages(model, tie).reshape(3, -1), value(tie)),
            # Visits are affine in (p_a, p_b); the gradient is (p_b, p_a).
            "ONMR": lambda: lines(lambda y: y[:, 0] * y[:, 1], (0.4, 0.4), 0.1, 0.71),
        },
    )


def often_enough() -> Task:
    """Three tenths of a, or more."""
    model = model_of(dynamics.OneState)
    chances = np.array([0.05, 0.1, 0.2, 0.29, 0.3, 0.4, 0.6, 0.9])
    rest = 1.0 - chances
    policies = grid(model, np.stack((chances, rest / 2, rest / 2), -1))
    labels = by_action(model)

    def value(x: np.ndarray) -> np.ndarray:
        return (x[:, 0, 0] > 0.3 - 1e-9).astype(float)

    def outer() -> np.ndarray:
        expected = occupancies(model, policies, GAMMA)[:, 0, 0]
        return (expected > 0.3 / (1.0 - GAMMA) - 1e-9).astype(float)

    jumps = value(policies)
    return Task(
        "often enough",
        "choose a with a chance of at least three tenths; more is no better",
        model,
        policies,
        jumps,
        {"ONMR": outer},
        {
            "MR": lambda: by_markov(model, value),
            "LAR": lambda: linear(averages(model, policies)[:, 0], jumps),
            "RM": lambda: continuity(model, policies, jumps, labels, 2),
            "LTL": lambda: no_jump(model, policies, jumps, labels, 3),
        },
    )


def three_tenths() -> Task:
    """Three tenths of a, as nearly as can be."""
    model = model_of(dynamics.OneState)
    chances = np.linspace(0.0, 1.0, 11)
    rest = 1.0 - chances
    policies = grid(model, np.stack((chances, rest / 2, rest / 2), -1))
    # -(p - .3)^2 = -.49 p^2 + .42 p (1 - p) - .09 (1 - p)^2.
    machine = Machine.read(
        "0\n[3]\n(0, 1, 'a', 0)\n(0, 2, '!a', 0)\n"
        "(1, 3, 'a', -0.49)\n(1, 3, '!a', 0.21)\n(2, 3, 'a', 0.21)\n(2, 3, '!a', -0.09)"
    )

    def value(x: np.ndarray) -> np.ndarray:
        return -((x[:, 0, 0] - 0.3) ** 2)

    def outer() -> np.ndarray:
        expected = occupancies(model, policies, GAMMA)[:, 0, 0]
        return -(((1.0 - GAMMA) * expected - 0.3) ** 2)

    def by_machine() -> np.ndarray:
        seen = machine_occupancies(model, policies, machine.table, 0, by_action(model), GAMMA)
        return (seen * machine.reward).sum((1, 2))

    return Task(
        "three tenths",
        "choose a with a chance of three tenths, or as near as can be",
        model,
        policies,
        value(policies),
        {"ONMR": outer, "RM": by_machine},
        {
            "MR": lambda: by_markov(model, value),
            "LAR": lambda: linear(averages(model, policies)[:, 0], value(policies)),
        },
    )


def worse_off() -> Task:
    """Two stakeholders: one likes a, the other b."""
    model = model_of(dynamics.OneState)
    policies = grid(model, triangle(6))

    def value(x: np.ndarray) -> np.ndarray:
        return x[:, 0, :2].min(-1)

    return Task(
        "the worse off",
        "the better for whoever of two gets less, one of whom likes a and the other b",
        model,
        policies,
        value(policies),
        {"OMORL": lambda: occupancies(model, policies, GAMMA)[:, 0, :2].min(-1)},
        {
            "MR": lambda: by_markov(model, value),
            "LAR": lambda: linear(averages(model, policies)[:, 0], value(policies)),
            # The level set through a corner turns there; one step changes the less by one at most.
            "ONMR": lambda: lines(lambda y: y.min(-1), (0.3, 0.3), 0.1, 1.0),
        },
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
    one_then_other,
    often_enough,
    three_tenths,
    worse_off,
)
