"""Finite memories over labels: reward machines as text and tables, and automata of LTLf goals.

Toro Icarte et al. (2022), "Reward machines: exploiting reward function structure in reinforcement
learning". A label is a set of propositions; as a number it has bit ``i`` set where proposition
``i`` is true, and tables have a column for each of the ``2**P``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .formulas import (
    BROKEN,
    MAX_PROPOSITIONS,
    PAID,
    Debt,
    Formula,
    FormulaError,
    holds,
    may_end,
    owed,
    parse,
    progress,
    propositions,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_EDGE = re.compile(r"\(\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(['\"])(.*?)\3\s*,\s*(.+?)\s*\)$")
_NUMBER = re.compile(r"(?:ConstantRewardFunction\(\s*(.+?)\s*\))|(.+)")


@dataclass(frozen=True, eq=False)
class Machine:
    r"""A reward machine.

    Args:
        propositions: their names; bit ``i`` of a label is the ``i``-th.
        table: (U, 2**P) int64, the next state of each state and label.
        reward: (U, 2**P) float64, what the step pays.
        terminal: (U,) bool, states in which the task is over: they are never left and pay 0.
        initial: the first state.

    Example:
        >>> m = Machine.read("0\n[2]\n(0, 1, 'key', 0)\n(1, 2, 'door', 1)")
        >>> m.propositions, m.table.shape
        (('door', 'key'), (3, 4))
        >>> m.run([{"door"}, {"key"}, set(), {"door"}])
        [0.0, 0.0, 0.0, 1.0]
    """

    propositions: tuple[str, ...]
    table: Ints
    reward: Floats
    terminal: Bools
    initial: int = 0

    @staticmethod
    def read(text: str | Path) -> Machine:
        """A machine from its text, or from a file that holds it.

        Lines: the initial state; the list of terminal states; then an edge each, ``(u, v,
        'formula', reward)`` with a Boolean formula over propositions. ``#`` begins a comment. Where
        no edge of a state applies, the machine stays and pays 0. A reward is a number, or
        ``ConstantRewardFunction(number)``, as the files of the paper's authors have it.

        Raises:
            ValueError: naming the line, or two edges of a state that apply at once.
        """
        if isinstance(text, Path) or "\n" not in text:
            path = Path(text)
            if not path.is_file():
                raise ValueError(f"machine={str(text)!r}: neither a machine's text nor a file")
            text = path.read_text(encoding="utf-8")
        lines = [(i, line.split("#")[0].strip()) for i, line in enumerate(text.splitlines(), 1)]
        lines = [(i, line) for i, line in lines if line]
        if len(lines) < 3:
            raise ValueError("machine: expected an initial state, terminal states, and edges")
        initial = _integers(*lines[0])
        terminal = _integers(*lines[1])
        if len(initial) != 1:
            raise ValueError(f"machine, line {lines[0][0]}: expected one initial state")
        edges = [_edge(i, line) for i, line in lines[2:]]
        return _tabulate(initial[0], terminal, edges)

    def text(self) -> str:
        """What ``read`` reads: one edge for each pair of states and reward."""
        lines = [str(self.initial), str(np.flatnonzero(self.terminal).tolist())]
        for u in np.flatnonzero(~self.terminal):
            kinds: dict[tuple[int, float], list[int]] = {}
            for label, key in enumerate(zip(self.table[u], self.reward[u], strict=True)):
                kinds.setdefault((int(key[0]), float(key[1])), []).append(label)
            for (v, reward), labels in kinds.items():
                lines.append(f"({u}, {v}, '{self._formula(labels)}', {reward!r})")
        return "\n".join(lines) + "\n"

    def run(self, trace: list[set[str]]) -> list[float]:
        """What each step of a trace of labels is paid."""
        state, paid = self.initial, []
        for label in trace:
            code = sum(1 << i for i, name in enumerate(self.propositions) if name in label)
            paid.append(float(self.reward[state, code]))
            state = int(self.table[state, code])
        return paid

    def values(self, gamma: float) -> Floats:
        """(U,) the best that each state can get if every label could be had at every step."""
        value = np.zeros(len(self.table))
        for _ in range(100_000):
            new = np.where(self.terminal, 0.0, (self.reward + gamma * value[self.table]).max(1))
            if np.abs(new - value).max() < 1e-12:
                return new
            value = new
        raise ValueError(f"gamma={gamma}: the machine pays for ever; use gamma < 1")

    def _formula(self, labels: list[int]) -> str:
        if len(labels) == self.table.shape[1]:
            return "true"
        names = self.propositions
        terms = [
            "&".join(name if label >> i & 1 else f"!{name}" for i, name in enumerate(names))
            for label in labels
        ]
        return " | ".join(terms)


@dataclass(frozen=True, eq=False)
class Automaton:
    """The least deterministic automaton of an LTLf formula; state 0 is the first.

    Args:
        propositions: as in ``Machine``.
        table: (U, 2**P) int64.
        accepting: (U,) bool, the trace satisfies the formula if it ends here.
        certain: (U,) bool, accepting whatever follows.
        doomed: (U,) bool, never accepting again.
    """

    propositions: tuple[str, ...]
    table: Ints
    accepting: Bools
    certain: Bools
    doomed: Bools


def automaton(formula: Formula | str) -> Automaton:
    """Compile a formula, by progression and then by merging states that nothing tells apart.

    Example:
        >>> a = automaton("F(a & X F b)")
        >>> len(a.table), a.accepting.tolist()
        (3, [False, False, True])
    """
    if isinstance(formula, str):
        formula = parse(formula)
    names = _checked_names(propositions(formula))
    labels = _labels(names)
    states: dict[Debt, int] = {owed(formula): 0}
    rows: list[list[int]] = []
    queue = list(states)
    for debt in queue:
        row = []
        for label in labels:
            after = progress(debt, label)
            if after not in states:
                states[after] = len(states)
                queue.append(after)
            row.append(states[after])
        rows.append(row)
    accepting = np.array([may_end(debt) for debt in states])
    for debt in (PAID, BROKEN):  # what no step leaves, though its form says nothing of labels
        assert debt not in states or rows[states[debt]] == [states[debt]] * len(labels)
    return _least(names, np.array(rows), accepting)


def goal(formula: Formula | str) -> Machine:
    """The machine that pays 1 when a co-safe formula is satisfied, and is then over.

    Raises:
        ValueError: unless the formula is (syntactically) co-safe: of others no finite prefix
            needs to show that they hold.
    """
    found = automaton(formula)
    if found.doomed.all() or not found.certain.any():
        raise ValueError(f"formula {str(formula)!r}: no finite trace makes it certain")
    paid = found.certain[found.table] & ~found.certain[:, None]
    return Machine(found.propositions, found.table, paid.astype(np.float64), found.certain)


def _least(names: tuple[str, ...], table: Ints, accepting: Bools) -> Automaton:
    """Merge states by Moore's refinement, and number them as they are first met."""
    block = accepting.astype(np.int64)
    while True:
        key = np.concatenate((block[:, None], block[table]), 1)
        _, finer = np.unique(key, axis=0, return_inverse=True)
        finer = finer.reshape(-1)
        if finer.max() == block.max():
            break
        block = finer
    first: dict[int, int] = {}
    order = [state for state in range(len(table)) if first.setdefault(finer[state], state) == state]
    number = {int(finer[state]): i for i, state in enumerate(order)}
    least = np.array([[number[int(finer[v])] for v in table[state]] for state in order])
    yes = accepting[order]
    stays = (least == np.arange(len(order))[:, None]).all(1)
    return Automaton(names, least, yes, stays & yes, stays & ~yes)


def _labels(names: tuple[str, ...]) -> list[frozenset[str]]:
    """The label of each column of a table."""
    return [
        frozenset(name for i, name in enumerate(names) if code >> i & 1)
        for code in range(1 << len(names))
    ]


def _checked_names(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > MAX_PROPOSITIONS:
        raise ValueError(
            f"{len(names)} propositions: expected at most {MAX_PROPOSITIONS} "
            "(tables have a column for each of their 2**P combinations)"
        )
    return names


def _integers(number: int, line: str) -> list[int]:
    if not re.fullmatch(r"\[?[\s\d,-]*\]?", line):
        raise ValueError(f"machine, line {number}: {line!r}, expected states, as 0 or [1, 2]")
    return [int(word) for word in re.findall(r"-?\d+", line)]


_Edge = tuple[int, int, int, Formula, float]


def _edge(number: int, line: str) -> _Edge:
    found = _EDGE.match(line)
    if found is None:
        raise ValueError(
            f"machine, line {number}: {line!r}, expected an edge, (u, v, 'formula', reward)"
        )
    try:
        formula = parse(found[4], temporal=False)
    except FormulaError as error:
        raise ValueError(f"machine, line {number}: {error}") from None
    value = _NUMBER.match(found[5])
    assert value is not None
    try:
        reward = float(value[1] or value[2])
    except ValueError:
        raise ValueError(
            f"machine, line {number}: reward {found[5]!r}, expected a number"
        ) from None
    return number, int(found[1]), int(found[2]), formula, reward


def _tabulate(initial: int, terminal: list[int], edges: list[_Edge]) -> Machine:
    states = sorted({initial, *terminal, *(u for _, u, _, _, _ in edges), *(e[2] for e in edges)})
    place = {state: i for i, state in enumerate(states)}
    names = {name for edge in edges for name in propositions(edge[3])}
    known = _checked_names(tuple(sorted(names)))
    labels = _labels(known)
    table = np.repeat(np.arange(len(states))[:, None], len(labels), 1)
    reward = np.zeros(table.shape)
    line_of = np.zeros(table.shape, np.int64)
    for number, u, v, formula, paid in edges:
        if u in terminal:
            raise ValueError(f"machine, line {number}: state {u} is terminal and has an edge")
        for code, label in enumerate(labels):
            if not holds(formula, label):
                continue
            row = place[u], code
            if line_of[row] and (table[row], reward[row]) != (place[v], paid):
                raise ValueError(
                    f"machine, lines {line_of[row]} and {number}: in state {u} both edges apply "
                    f"to the label {sorted(label)}; make the formulas exclude each other"
                )
            table[row], reward[row], line_of[row] = place[v], paid, number
    ended = np.isin(states, terminal)
    return Machine(known, table, reward, ended, place[initial])
