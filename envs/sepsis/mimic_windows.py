"""Windows of MIMIC-III stays: ``traj, step, o:FEATURE, a:action, r:reward``, one row a window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rewardzoo.data.tables import read_table

from .data import NUM_ACTIONS
from .mimic_stays import (
    FEATURES_44,
    SPLITS,
    LoggedStays,
    collect,
    draw_split,
    merge,
    stays_of,
    summary,
)


def recognises(where: Path, header: set[str]) -> bool:
    """Whether it is a file with windows."""
    return "traj" in header and any(name.startswith("o:") for name in header)


def load(path: str | Path, seed: int = 0) -> LoggedStays:
    """The stays in a table of windows.

    Columns: ``traj`` (the stay's number), ``step`` (its window, one after the other), ``o:`` and
    the name of each of the 44 features, ``a:action`` (0 to 24), ``r:reward`` (0, and at the last
    window 1 for survival or -1 for death). Columns beginning with ``m:`` are passed over.

    Raises:
        TableError: naming file, row and column of every fault.
    """
    names = [f"o:{name}" for name in FEATURES_44]
    table = read_table(
        path,
        ["traj", "step", *names, "a:action", "r:reward"],
        ignored=lambda column: column.startswith("m:"),
    )
    which, position, numbers = stays_of(table, "traj", "step")
    features = np.stack([table.number(name) for name in names], 1)
    action = table.number("a:action", 0, NUM_ACTIONS - 1, integer=True)
    reward = table.number("r:reward", -1, 1, integer=True)
    last = np.append(which[1:] != which[:-1], True)
    early = np.flatnonzero((reward != 0) & ~np.isnan(reward) & ~last).tolist()
    table.add_all(early, "r:reward", "expected 0 before the stay's last window")
    late = np.flatnonzero((reward == 0) & last).tolist()
    table.add_all(late, "r:reward", "expected 1 or -1 at the stay's last window")
    table.raise_if_wrong()
    survived = np.zeros(len(numbers), bool)
    survived[which[last]] = reward[last] > 0
    lengths = np.bincount(which, minlength=len(numbers))
    split = draw_split(survived, lengths, seed)
    # Normalised features are of the order of 1; blood pressures and weights are not.
    normalised = bool(np.abs(np.median(features, 0)).max() < 10.0)
    return collect(
        which, position, numbers, features, action.astype(np.int64), survived, split, normalised
    )


def load_splits(paths: Sequence[str | Path]) -> LoggedStays:
    """The stays of a file for training, one for validation and one for testing.

    Raises:
        TableError: naming file, row and column of every fault; if a stay is in two files.
    """
    if len(paths) != len(SPLITS):
        raise ValueError(f"paths: {len(paths)} files, expected {len(SPLITS)}: {', '.join(SPLITS)}")
    return merge([load(path) for path in paths], [Path(path).name for path in paths])


def check(where: Path) -> dict[str, int]:
    """Read it as training would; how many stays are there."""
    return summary(load(where), where.name)
