"""``check``: what is wrong with an export, before any training."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from .tables import Problem, TableError

# What tables there are, by name: how to tell one by its path and header, and how to check it.
# Reached by name, so that nothing here imports an environment.
KINDS: dict[str, str] = {
    "knee: tables of the Osteoarthritis Initiative": "rewardzoo.envs.knee_oa.oai",
    "knee: tidy table": "rewardzoo.envs.knee_oa.tidy",
    "sepsis: MIMIC-III windows": "rewardzoo.envs.sepsis.mimic_windows",
    "sepsis: AI-Clinician table": "rewardzoo.envs.sepsis.mimic_clinician",
}


@dataclass(frozen=True)
class Report:
    """What ``check`` found.

    Args:
        kind: what tables they were taken for; empty where that could not be told.
        problems: faults; with none the data can be trained on.
        counts: what was read and what was left out, and why; counts only.
    """

    kind: str
    problems: list[Problem] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the data can be trained on."""
        return not self.problems


def check(path: str | Path) -> Report:
    """Read an export as training would, and list what is wrong with it.

    Args:
        path: a file or folder: tables of the Osteoarthritis Initiative, a tidy table of knees,
            windows of MIMIC-III, or an AI-Clinician table.
    """
    where = Path(path)
    if not where.exists():
        return Report("", [Problem(where.name, None, None, "there is no such file or folder")])
    header = header_of(where)
    for kind, module in KINDS.items():
        found = importlib.import_module(module)
        if not found.recognises(where, header):
            continue
        try:
            counts = cast("Callable[[Path], Mapping[str, int]]", found.check)(where)
        except TableError as error:
            return Report(kind, error.problems)
        return Report(kind, [], counts)
    message = f"not one of the known tables: {'; '.join(KINDS)}"
    return Report("", [Problem(where.name, None, None, message)])


def header_of(where: Path) -> set[str]:
    """The column names of a file, whatever separates them; empty for folders and other files."""
    if not where.is_file():
        return set()
    with where.open("rb") as file:
        line = file.readline(1 << 20).decode("utf-8-sig", errors="replace")
    for sign in ("|", "\t", ";"):
        line = line.replace(sign, ",")
    return {name.strip().strip('"') for name in line.split(",")}
