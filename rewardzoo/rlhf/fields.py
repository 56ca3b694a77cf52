"""A row's fields by type: what these return can be used, and what cannot be used is named."""

from __future__ import annotations

import math
from typing import Any

from .records import Record

Text = str | list[int]  # text, or token ids
_WORDS = {"true": 1.0, "false": 0.0}  # as csv files have them


def shown(value: Any) -> str:
    """A value as an error shows it, on one line and short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(record: Record, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A field as a finite number from ``low`` to ``high``; true is 1 and false 0.

    Raises:
        DataError: for anything else, as all functions here do.
    """
    return as_number(record, name, record[name], low, high)


def numbers(
    record: Record,
    name: str,
    count: int,
    of: str,
    low: float = -math.inf,
    high: float = math.inf,
) -> list[float]:
    """A field as a list of numbers, one for each of the ``count`` things that ``of`` names."""
    values = items(record, name)
    if len(values) != count:
        raise record.error(name, f"{len(values)} of them for {count} {of}; give one for each")
    return [as_number(record, name, x, low, high, f"item {i}, ") for i, x in enumerate(values)]


def whole(record: Record, name: str, low: int, high: int) -> int:
    """A field as a whole number from ``low`` to ``high``."""
    value = number(record, name, low, high)
    if value != int(value):
        raise record.error(name, f"{shown(record[name])}: expected a whole number")
    return int(value)


def truth(record: Record, name: str) -> bool:
    """A field as true or false, which 1 and 0 may stand for."""
    value = number(record, name, 0, 1)
    if value not in (0, 1):
        raise record.error(name, f"{shown(record[name])}: expected true or false")
    return bool(value)


def tag(record: Record, name: str) -> str:
    """A field as the name of something, "" where the row has none."""
    value = record.fields.get(name)
    return "" if value is None else str(value)


def items(record: Record, name: str) -> list[Any]:
    """A field as a list that is not empty."""
    value = record[name]
    if not isinstance(value, list):
        raise record.error(name, f"{shown(value)}: expected a list")
    if not value:
        raise record.error(name, "[]: expected at least one")
    return value


def has_text(record: Record, name: str) -> bool:
    """Whether a row has a text, or in its place the column of token ids, ``prompt_ids``."""
    return name in record or f"{name}_ids" in record


def text(record: Record, name: str, vocab_size: int | None = None) -> Text:
    """A field as text or token ids; a column ``prompt_ids`` goes before one ``prompt``."""
    name = f"{name}_ids" if f"{name}_ids" in record else name
    return check_text(record, name, record[name], vocab_size)


def texts(record: Record, name: str, vocab_size: int | None = None) -> list[Text]:
    """A field as a list of texts, or of lists of token ids."""
    return [
        check_text(record, name, value, vocab_size, f"item {i}, ")
        for i, value in enumerate(items(record, name))
    ]


def check_text(
    record: Record, name: str, value: Any, vocab_size: int | None = None, where: str = ""
) -> Text:
    """``value`` of a field, or an error unless it is text, or token ids of the vocabulary."""
    if not value or (isinstance(value, str) and not value.strip()):
        raise record.error(name, f"{where}empty: expected text or token ids, not {shown(value)}")
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(type(x) is int for x in value):
        raise record.error(name, f"{where}{shown(value)}: expected text or token ids")
    for token in value:
        if token < 0 or (vocab_size is not None and token >= vocab_size):
            expected = ">= 0" if vocab_size is None else f"0 to {vocab_size - 1}, the vocabulary"
            raise record.error(name, f"{where}token {token}: expected {expected}")
    return value


def as_number(
    record: Record,
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    where: str = "",
) -> float:
    """``value`` of a field as a finite number, or an error."""
    try:
        found = _WORDS.get(value.lower(), value) if isinstance(value, str) else value
        found = float(found)
    except (OverflowError, TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found) or not low <= found <= high:
        bounds = "" if low == -math.inf else f" >= {low:g}"
        bounds = bounds if high == math.inf else f" from {low:g} to {high:g}"
        raise record.error(name, f"{where}{shown(value)}: expected a finite number{bounds}")
    return found
