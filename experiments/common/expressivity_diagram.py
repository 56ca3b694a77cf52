"""Which formalism of objectives expresses all that another can: inclusions, and tasks that split.

Subramani et al. (2024). Inclusions are by construction and known; that one formalism does not
include another is shown by a task of ``expressivity_tasks.py`` that only the other expresses.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .expressivity_certificates import Evidence

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
