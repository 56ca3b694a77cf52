"""The AI-Clinician's table (Komorowski et al. 2018): raw values, from which actions are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rewardzoo.data.tables import read_table

from .data import LOG_Z_SCORED, Z_SCORED
from .mimic_stays import FEATURES_44, LoggedStays, collect, draw_split, stays_of, summary

FLUIDS, VASOPRESSOR = "input_4hourly", "max_dose_vaso"
_REQUIRED = ("bloc", "icustayid", *FEATURES_44, VASOPRESSOR, FLUIDS, "mortality_90d")
_BOUNDS = {"gender": (0, 1), "mechvent": (0, 1), "age": (0, 50_000), "GCS": (3, 15),
           "SOFA": (0, 24), "SIRS": (0, 4)}  # fmt: skip
_LEVELS = 5


def recognises(where: Path, header: set[str]) -> bool:
    """Whether it is a file of that table."""
    return "icustayid" in header and "bloc" in header and "traj" not in header


def load(path: str | Path, seed: int = 0) -> LoggedStays:
    """The stays in an AI-Clinician table.

    Actions are ``5 * fluids + vasopressor``, each level 0 for no dose and 1 to 4 by the quartile of
    the doses given; features are normalised as the tables of ICU-Sepsis are (binary ones less a
    half, others z-scored, skewed ones by their logarithm); quartiles, means and deviations are
    those of the training stays. A stay's outcome is ``mortality_90d``.

    Raises:
        TableError: naming file, row and column of every fault.
    """
    table = read_table(path, _REQUIRED)
    which, position, numbers = stays_of(table, "icustayid", "bloc")
    raw = {}
    for name in FEATURES_44:
        # Logarithms are taken of some, and log(.1 + x) needs x >= 0.
        low, high = (0.0, np.inf) if name in LOG_Z_SCORED else _BOUNDS.get(name, (-np.inf, np.inf))
        whole = name in ("gender", "mechvent")
        raw[name] = table.number(name, low, high, integer=whole)
    doses = {name: table.number(name, 0.0) for name in (FLUIDS, VASOPRESSOR)}
    died = table.number("mortality_90d", 0, 1, integer=True)
    if not table.problems:
        first = np.flatnonzero(position == 0)
        differs = np.flatnonzero(died != died[first][which]).tolist()
        table.add_all(differs, "mortality_90d", "differs from the stay's first window")
    table.raise_if_wrong()
    survived = np.empty(len(numbers), bool)
    survived[which] = died == 0
    split = draw_split(survived, np.bincount(which, minlength=len(numbers)), seed)
    training = split[which] == 0
    fluids, vasopressor = (_level(doses[name], training) for name in (FLUIDS, VASOPRESSOR))
    features = np.stack([_normalised(name, raw[name], training) for name in FEATURES_44], 1)
    action = _LEVELS * fluids + vasopressor
    return collect(which, position, numbers, features, action, survived, split, True)


def _level(dose: np.ndarray, training: np.ndarray) -> np.ndarray:
    """0 without a dose, else 1 to 4 by the quartile among the training stays' doses."""
    given = dose[training & (dose > 0)]
    cuts = np.quantile(given, [0.25, 0.5, 0.75]) if len(given) else np.zeros(3)
    return np.where(dose > 0, 1 + np.searchsorted(cuts, dose, side="left"), 0)


def _normalised(name: str, x: np.ndarray, training: np.ndarray) -> np.ndarray:
    if name not in (*Z_SCORED, *LOG_Z_SCORED):
        return x - 0.5
    if name in LOG_Z_SCORED:
        x = np.log(0.1 + x)
    mean, deviation = x[training].mean(), x[training].std()
    return (x - mean) / (deviation if deviation > 0 else 1.0)


def check(where: Path) -> dict[str, int]:
    """Read it as training would; how many stays are there."""
    return summary(load(where), where.name)
