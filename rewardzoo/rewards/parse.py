"""make_reward: a reward function from what a user types, ``"objective + 0.1*novelty()"``."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from ..registration import EXPERIMENTS, REWARDS, UnknownNameError, nearest, unknown
from .base import RewardFunction


class RewardSyntaxError(ValueError):
    """A text that is no reward function; the message names the part that is wrong."""


def make_reward(text: str) -> RewardFunction:
    """The reward function that ``text`` describes; the text is read, never evaluated as Python.

    It may hold registered names (``rewardzoo list rewards``), calls of them whose arguments are
    literals or again reward functions, numbers, ``+``, ``-`` and ``*``.

    Args:
        text: for instance ``"objective + 0.1*potential(phi='optimal_value', gamma=0.99)"``.

    Raises:
        RewardSyntaxError: naming the part that is wrong.
        UnknownNameError: for a name that is not registered; suggests the nearest.

    Example:
        >>> fn = make_reward("objective + 0.1*clip(novelty(), 0, 0.5)")
        >>> fn.name
        'objective + clip(novelty)'
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RewardSyntaxError(f"reward {text!r}: {reason}") from None
    fn = _read(tree, text)
    if not isinstance(fn, RewardFunction):
        raise RewardSyntaxError(
            f"reward {text!r}: this is a number, expected a reward function such as 'objective'"
        )
    return fn


def _read(node: ast.expr, text: str) -> Any:
    """The reward function or number of a part."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_read(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _read(operand, text)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult()):
            return _combine(node, _read(node.left, text), _read(node.right, text))
        case ast.Name(id=name):
            return _make(name, [], [], node, text)
        case ast.Call(func=ast.Name(id=name)):
            return _make(name, node.args, node.keywords, node, text)
    raise RewardSyntaxError(
        f"reward {text!r}: {ast.unparse(node)!r} is not allowed: expected names, calls, numbers, "
        "+, - and *"
    )


def _combine(node: ast.BinOp, left: Any, right: Any) -> Any:
    numbers = [not isinstance(side, RewardFunction) for side in (left, right)]
    part = ast.unparse(node)
    if isinstance(node.op, ast.Mult):
        if not any(numbers):
            raise RewardSyntaxError(f"{part!r}: expected a number times a reward function")
        return left * right
    if any(numbers) and not all(numbers):
        raise RewardSyntaxError(
            f"{part!r}: a number cannot be added to a reward function; expected number * function"
        )
    return left + right if isinstance(node.op, ast.Add) else left - right


def _make(
    name: str, args: list[ast.expr], keywords: list[ast.keyword], node: ast.expr, text: str
) -> RewardFunction:
    if name not in REWARDS:
        _ = list(EXPERIMENTS)  # an experiment may bring its own
    if name not in REWARDS:
        raise UnknownNameError(unknown("reward function", name, REWARDS))
    make = REWARDS[name]
    signature = inspect.signature(make)
    known = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    takes_any = len(known) < len(signature.parameters)
    positional = [_argument(arg, text) for arg in args]
    named: dict[str, Any] = {}
    for keyword in keywords:
        if keyword.arg is None:
            raise RewardSyntaxError(f"reward {text!r}: '**' is not allowed")
        if keyword.arg not in known and not takes_any:
            raise RewardSyntaxError(
                f"reward function {name!r} has no argument {keyword.arg!r}: "
                + nearest(keyword.arg, known)
            )
        named[keyword.arg] = _argument(keyword.value, text)
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        raise RewardSyntaxError(
            f"reward function {name!r}: {error}; it takes {name}{signature}".replace(" -> None", "")
        ) from None
    try:
        fn = make(*positional, **named)
    except (TypeError, ValueError) as error:
        raise RewardSyntaxError(f"{ast.unparse(node)}: {error}") from error
    if not isinstance(fn, RewardFunction):
        raise RewardSyntaxError(f"{name!r}: {type(fn).__name__} is no RewardFunction")
    return fn


def _argument(node: ast.expr, text: str) -> Any:
    """A literal, or a reward function."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _read(node, text)
