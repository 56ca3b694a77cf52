"""Recorded cohorts of knees: a folder is taken for OAI tables, a file for a tidy table."""

from __future__ import annotations

from pathlib import Path

from .cohort import Cohort
from .oai import load_oai
from .tidy import load_tidy, write_tidy

__all__ = ["load", "load_oai", "load_tidy", "write_tidy"]


def load(source: str | Path, horizon: int = 4, allow_single_knee: bool = False) -> Cohort:
    """The cohort at a path.

    Raises:
        ValueError: if there is nothing there.
        TableError: naming file, row and column of every fault.
    """
    path = Path(source)
    if not path.exists():
        raise ValueError(
            f"source={str(source)!r}: expected 'sim', a tidy table or a folder of OAI tables; "
            "there is no such file"
        )
    if path.is_dir():
        return load_oai(path, horizon, allow_single_knee)
    return load_tidy(path, allow_single_knee)
