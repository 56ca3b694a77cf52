"""Formulas over propositions: Boolean ones, and temporal ones over finite traces (LTLf).

De Giacomo, Vardi (2013), "Linear temporal logic and linear dynamic logic on finite traces";
Bacchus, Kabanza (2000), "Using temporal logics to express search control knowledge for planning"
(progression).

Grammar, the loosest first: ``a <-> b``, ``a -> b``, ``a | b``, ``a & b``, ``a U b`` (until),
``a R b`` (release), ``! X WX F G`` (not, next, weak next, eventually, always), ``true``,
``false``, names, parentheses. ``X a`` asks for a next step, ``WX a`` is content at the end.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_PROPOSITIONS = 12
"""More than 4,096 labels: automata and machines are tables over all of them."""
_TOKEN = re.compile(r"\s*(?:(<->|->|&&?|\|\|?|[!~()])|([A-Za-z_][A-Za-z_0-9]*))")
_TEMPORAL = {"X", "WX", "F", "G", "U", "R"}
_BINARY = (("<->",), ("->",), ("|", "||"), ("&", "&&"), ("U", "R"))


class FormulaError(ValueError):
    """A text that is no formula; the message says where."""


class Formula(NamedTuple):
    """An operator and its operands; a proposition is ``("name", ("a",))``."""

    op: str
    args: tuple[Formula | str, ...] = ()

    def __str__(self) -> str:
        """As ``parse`` reads it."""
        if self.op == "name":
            return str(self.args[0])
        if not self.args:
            return self.op
        if len(self.args) == 1:
            gap = "" if self.op == "!" else " "
            return f"{self.op}{gap}{self.args[0]}"
        return f"({self.args[0]} {self.op} {self.args[1]})"

    def operands(self) -> tuple[Formula, ...]:
        """The operands that are formulas."""
        return tuple(arg for arg in self.args if isinstance(arg, Formula))


TRUE, FALSE = Formula("true"), Formula("false")


def parse(text: str, temporal: bool = True) -> Formula:
    """The formula that ``text`` says.

    Args:
        text: see the module's grammar.
        temporal: False leaves the letters of temporal operators to names.

    Raises:
        FormulaError: where it cannot be read.

    Example:
        >>> str(parse("F(a & X b)"))
        'F (a & X b)'
    """
    return _Parser(text, temporal).whole()


def propositions(formula: Formula) -> tuple[str, ...]:
    """The names in a formula, sorted."""
    return tuple(sorted({name for name in _names(formula)}))


def holds(formula: Formula, label: frozenset[str]) -> bool:
    """Whether a Boolean formula is true of the propositions in ``label``."""
    return satisfies(formula, [label])


def satisfies(formula: Formula, trace: Sequence[frozenset[str]], at: int = 0) -> bool:
    """Whether a non-empty finite trace satisfies a formula: the definition, word by word."""
    ends = at + 1 == len(trace)
    args = formula.operands()
    match formula.op:
        case "true" | "false":
            return formula.op == "true"
        case "name":
            return formula.args[0] in trace[at]
        case "!":
            return not satisfies(args[0], trace, at)
        case "&":
            return satisfies(args[0], trace, at) and satisfies(args[1], trace, at)
        case "|":
            return satisfies(args[0], trace, at) or satisfies(args[1], trace, at)
        case "->":
            return not satisfies(args[0], trace, at) or satisfies(args[1], trace, at)
        case "<->":
            return satisfies(args[0], trace, at) == satisfies(args[1], trace, at)
        case "X" | "WX":
            return formula.op == "WX" if ends else satisfies(args[0], trace, at + 1)
        case "F":
            return any(satisfies(args[0], trace, t) for t in range(at, len(trace)))
        case "G":
            return all(satisfies(args[0], trace, t) for t in range(at, len(trace)))
        case "U":
            return any(
                satisfies(args[1], trace, t)
                and all(satisfies(args[0], trace, k) for k in range(at, t))
                for t in range(at, len(trace))
            )
        case _:  # R: the second holds until, and with, the first; or for ever
            return all(
                satisfies(args[1], trace, t)
                or any(satisfies(args[0], trace, k) for k in range(at, t))
                for t in range(at, len(trace))
            )


def normal(formula: Formula, negated: bool = False) -> Formula:
    """The negation normal form, over ``& | X WX U R``, names and negated names."""
    args = formula.operands()
    match formula.op:
        case "true" | "false":
            return FALSE if (formula.op == "true") == negated else TRUE
        case "name":
            return Formula("!", (formula,)) if negated else formula
        case "!":
            return normal(args[0], not negated)
        case "->":
            return normal(Formula("|", (Formula("!", (args[0],)), args[1])), negated)
        case "<->":
            both = Formula("&", args)
            neither = Formula("&", tuple(Formula("!", (arg,)) for arg in args))
            return normal(Formula("|", (both, neither)), negated)
        case "F":
            return normal(Formula("U", (TRUE, args[0])), negated)
        case "G":
            return normal(Formula("R", (FALSE, args[0])), negated)
    dual = {"&": "|", "|": "&", "X": "WX", "WX": "X", "U": "R", "R": "U"}
    op = dual[formula.op] if negated else formula.op
    return Formula(op, tuple(normal(arg, negated) for arg in args))


def is_cosafe(formula: Formula) -> bool:
    """Whether every infinite trace that satisfies it has a finite prefix which shows it.

    Syntactic: no ``R`` (so no ``G``) in the negation normal form.
    """
    return "R" not in _operators(normal(formula))


def is_safe(formula: Formula) -> bool:
    """Whether every infinite trace that breaks it has a finite prefix which shows it."""
    return "U" not in _operators(normal(formula))


def for_ever(formula: Formula) -> Formula:
    """What decides a formula on infinite traces, read by the automaton of finite ones.

    An infinite trace has no end: the next step that a co-safe formula asks for will come (``WX``
    becomes ``X``), and one that a safe formula speaks of may not have come yet (``X`` becomes
    ``WX``). A co-safe formula holds where the automaton becomes certain, a safe one where it is
    never doomed.

    Raises:
        FormulaError: for a formula that is neither, which no finite prefix decides.
    """
    found = normal(formula)
    if is_cosafe(found):
        return _renamed(found, "WX", "X")
    if is_safe(found):
        return _renamed(found, "X", "WX")
    raise FormulaError(
        f"formula {str(formula)!r}: it needs a deterministic automaton over infinite words; "
        "formulas without R and G, or without U and F, in their negation normal form do not"
    )


# ---- progression -----------------------------------------------------------------------------

# What a trace still owes: alternatives, each a set of duties. A duty is a formula for the rest of
# the trace and whether the trace must go on for it (X) or may end (WX).
Duty = tuple[bool, Formula]
Debt = frozenset[frozenset[Duty]]
PAID: Debt = frozenset([frozenset()])
BROKEN: Debt = frozenset()


def owed(formula: Formula) -> Debt:
    """What is owed before the first step."""
    return frozenset([frozenset([(True, normal(formula))])])


def progress(debt: Debt, label: frozenset[str]) -> Debt:
    """What is owed after a step with this label."""
    alternatives = [_all(_step(formula, label) for _, formula in duties) for duties in debt]
    return _any(alternatives)


def may_end(debt: Debt) -> bool:
    """Whether the formula holds of a trace that ends here."""
    return any(not any(strong for strong, _ in duties) for duties in debt)


def _step(formula: Formula, label: frozenset[str]) -> Debt:
    args = formula.operands()
    match formula.op:
        case "true" | "false":
            return PAID if formula.op == "true" else BROKEN
        case "name":
            return PAID if formula.args[0] in label else BROKEN
        case "!":
            return BROKEN if args[0].args[0] in label else PAID
        case "X" | "WX":
            return frozenset([frozenset([(formula.op == "X", args[0])])])
        case "&":
            return _all(_step(arg, label) for arg in args)
        case "|":
            return _any([_step(arg, label) for arg in args])
        case "U":
            again: Debt = frozenset([frozenset([(True, formula)])])
            return _any([_step(args[1], label), _all([_step(args[0], label), again])])
        case _:
            again = frozenset([frozenset([(False, formula)])])
            return _all([_step(args[1], label), _any([_step(args[0], label), again])])


def _any(debts: Sequence[Debt]) -> Debt:
    """Their disjunction; an alternative that asks for more than another is dropped."""
    found = frozenset().union(*debts)
    return frozenset(d for d in found if not any(other < d for other in found))


def _all(debts: Iterator[Debt] | Sequence[Debt]) -> Debt:
    """Their conjunction."""
    choices = itertools.product(*debts)
    return _any([frozenset([frozenset().union(*choice)]) for choice in choices])


def _renamed(formula: Formula, old: str, new: str) -> Formula:
    args = tuple(_renamed(a, old, new) if isinstance(a, Formula) else a for a in formula.args)
    return Formula(new if formula.op == old else formula.op, args)


def _names(formula: Formula) -> Iterator[str]:
    if formula.op == "name":
        yield str(formula.args[0])
    for arg in formula.operands():
        yield from _names(arg)


def _operators(formula: Formula) -> set[str]:
    return {formula.op}.union(*(_operators(arg) for arg in formula.operands()))


class _Parser:
    """Recursive descent over the tokens of a text."""

    def __init__(self, text: str, temporal: bool) -> None:
        self.text, self.temporal = text, temporal
        self.tokens: list[str] = []
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None:
                raise FormulaError(
                    f"formula {text!r}: {text[place:].strip()[0]!r} is no part of it"
                )
            self.tokens.append(found[1] or found[2])
            place = found.end()
        self.at = 0

    def whole(self) -> Formula:
        formula = self.binary(0)
        if self.at < len(self.tokens):
            raise FormulaError(f"formula {self.text!r}: {self.tokens[self.at]!r} is one too many")
        return formula

    def binary(self, level: int) -> Formula:
        if level == len(_BINARY) or (level == len(_BINARY) - 1 and not self.temporal):
            return self.unary()
        left = self.binary(level + 1)
        if self.peek() not in _BINARY[level]:
            return left
        op = self.take()
        return Formula(op[0] if op in ("&&", "||") else op, (left, self.binary(level)))

    def unary(self) -> Formula:
        token = self.take()
        if token in ("!", "~"):
            return Formula("!", (self.unary(),))
        if token == "(":
            inner = self.binary(0)
            if self.take() != ")":
                raise FormulaError(f"formula {self.text!r}: a parenthesis is not closed")
            return inner
        if token.lower() in ("true", "false"):
            return Formula(token.lower())
        if self.temporal and token in _TEMPORAL:
            if token in ("U", "R"):
                raise FormulaError(f"formula {self.text!r}: {token} needs a formula on its left")
            return Formula(token, (self.unary(),))
        if not (token[0].isalpha() or token[0] == "_"):
            raise FormulaError(f"formula {self.text!r}: {token!r} stands where a name should")
        return Formula("name", (token,))

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        if self.at == len(self.tokens):
            raise FormulaError(f"formula {self.text!r}: it ends too early")
        self.at += 1
        return self.tokens[self.at - 1]
