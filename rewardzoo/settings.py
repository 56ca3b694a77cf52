"""Settings of the command line: ``--set name=value``, repeatable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def parse_settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Values by name: JSON where it is JSON, nan and inf as numbers, else text.

    Raises:
        ValueError: for what is no ``name=value``.
    """
    values: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair}: expected name=value")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = float(text) if text.lower() in ("nan", "inf", "-inf") else text
    return values
