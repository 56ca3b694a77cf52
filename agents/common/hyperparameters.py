"""Hyperparameters as frozen dataclasses: the one source for the CLI, the docs and checkpoints."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Any, TypeVar

T = TypeVar("T")


def hyper(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A documented field, optionally with inclusive bounds."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


def build(kind: type[T], values: dict[str, Any]) -> T:
    """An instance of ``kind`` from keyword arguments, with every number checked.

    Raises:
        TypeError: for an unknown name, with the nearest known one.
        ValueError: for a number that is not finite or out of bounds.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
            raise TypeError(f"hyperparameter {name!r} is unknown: {hint}")
        _check(name, value, fields[name])
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _check(name: str, value: Any, field: dataclasses.Field[Any]) -> None:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if value is None and "None" in str(field.type):
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if low is None and high is None:
        if number and not math.isfinite(value):
            raise ValueError(f"{name}={value}: expected a finite number")
        return
    bounds = (
        f"{'' if low is None else f'{low:g} <= '}{name}{'' if high is None else f' <= {high:g}'}"
    )
    if not number or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: expected a finite number with {bounds}")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name}={value}: expected {bounds}")
    if isinstance(field.default, int) and not isinstance(field.default, bool):
        if not isinstance(value, int):
            raise ValueError(f"{name}={value}: expected an integer")
