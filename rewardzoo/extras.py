"""Optional packages: imported where they are needed, and by one sentence when they are missing."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """A module of one of this project's extras.

    Args:
        module: its name.
        extra: that brings it.

    Raises:
        ImportError: if it is missing, with the command that installs it.

    Example:
        >>> require("json", "all").loads("1")
        1
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is missing: pip install "rewardzoo[{extra}]"') from error
