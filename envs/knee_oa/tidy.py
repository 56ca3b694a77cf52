"""The tidy table of knees: one row a patient, month and side; read, checked and written."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewardzoo.data.tables import Problem, Table, TableError, blank, read_table

from .cohort import KNEE_FEATURES, MONTHS, PATIENT_FEATURES, SIDES, SITES, Cohort, included

COLUMNS = (
    *("id", "site", "month", "side", "age", "sex", "bmi", "sf12"),
    *("kl", "jsw", "womac", "inj", "surg"),
)
BOUNDS = {
    "age": (18, 110),
    "bmi": (10, 90),
    "sf12": (0, 100),
    "kl": (0, 4),
    "jsw": (0, 15),
    "womac": (0, 96),
    "inj": (0, 1),
    "surg": (0, 1),
}
"""What each number may be; anything else is a fault. Years, kg/m2, points, grade, mm, points."""
WHOLE = ("kl", "inj", "surg")


def recognises(where: Path, header: set[str]) -> bool:
    """Whether it is a file with most of the columns."""
    return len(set(COLUMNS) & header) >= 8 and "month" in header


def load_tidy(path: str | Path, allow_single_knee: bool = False) -> Cohort:
    """The cohort in a tidy table (CSV).

    Its columns are ``id, site, month, side, age, sex, bmi, sf12, kl, jsw, womac, inj, surg``:
    ``site`` is A to E, ``month`` one of 0, 12, 24, 36, 48, 72, 96, ``side`` 0 left or 1 right,
    ``sex`` 1 male or 2 female; an empty number is missing. Visits that a patient lacks are missing
    too; ``cohort.included`` drops incomplete patients and counts them.

    Args:
        path: of the file.
        allow_single_knee: take patients with one knee.

    Raises:
        TableError: naming file, row and column of every fault: a missing column, a month off the
            grid, a number out of bounds, a row that is there twice, a patient without a baseline
            visit or with one knee, and values of a patient that differ where they must agree.
    """
    table = read_table(path, COLUMNS)
    cohort = _cohort(table, allow_single_knee)
    table.raise_if_wrong()
    return cohort


def _cohort(table: Table, allow_single_knee: bool) -> Cohort:
    ids = table.text("id")
    site = table.choice("site", {name: i for i, name in enumerate(SITES)})
    month = table.choice("month", {str(m): i for i, m in enumerate(MONTHS)})
    side = table.choice("side", {"0": 0, "1": 1})
    sex = table.choice("sex", {"1": 1, "2": 2})
    numbers = {
        name: table.number(name, *BOUNDS[name], integer=name in WHOLE, missing=blank)
        for name in BOUNDS
    }
    if table.problems:  # rows cannot be told apart where these are wrong
        raise TableError(table.problems)
    order = {name: i for i, name in enumerate(dict.fromkeys(ids))}
    who = np.array([order[name] for name in ids])
    _check_rows(table, who, month, side, site, sex, numbers, allow_single_knee)
    count = len(order)
    columns: dict[str, Any] = {}
    for name in PATIENT_FEATURES:
        columns[name] = np.full((count, len(MONTHS)), np.nan)
        columns[name][who, month] = numbers[name]
    for name in ("kl", *KNEE_FEATURES):
        columns[name] = np.full((count, len(MONTHS), 2), np.nan)
        columns[name][who, month, side] = numbers[name]
    present = np.zeros((count, 2), bool)
    present[who, side] = True
    of_patient = np.empty(count, np.int64)
    sexes = np.empty(count)
    of_patient[who], sexes[who] = site, sex
    return Cohort(
        site=torch.tensor(of_patient),
        sex=torch.tensor(sexes),
        person=torch.arange(count),
        present=torch.tensor(present),
        **{name: torch.tensor(x) for name, x in columns.items()},
    )


def _check_rows(
    table: Table,
    who: np.ndarray,
    month: np.ndarray,
    side: np.ndarray,
    site: np.ndarray,
    sex: np.ndarray,
    numbers: Mapping[str, np.ndarray],
    allow_single_knee: bool,
) -> None:
    """Faults that lie between rows."""
    key = (who * len(MONTHS) + month) * 2 + side
    _, first, back = np.unique(key, return_index=True, return_inverse=True)
    earlier = first[back]
    again = np.flatnonzero(earlier != np.arange(len(key)))
    for row in again.tolist():
        table.add(row, "id", f"the same id, month and side as row {table.rows[earlier[row]]}")
    count = int(who.max()) + 1
    first_row = np.full(count, -1)
    for row in range(len(who) - 1, -1, -1):
        first_row[who[row]] = row
    for name, x in (("site", site), ("sex", sex)):
        reference = first_row[who]
        for row in np.flatnonzero(x != x[reference]).tolist():
            table.add(row, name, f"differs from row {table.rows[reference[row]]} of this patient")
    # What belongs to the patient is the same in both rows of a month.
    visit = who * len(MONTHS) + month
    _, first, back = np.unique(visit, return_index=True, return_inverse=True)
    other = first[back]
    for name in PATIENT_FEATURES:
        x = numbers[name]
        differs = (x != x[other]) & ~(np.isnan(x) & np.isnan(x[other]))
        for row in np.flatnonzero(differs).tolist():
            table.add(row, name, f"differs from row {table.rows[other[row]]}, of the same visit")
    has_baseline = np.zeros((count, 2), bool)
    has_baseline[who[month == 0], side[month == 0]] = True
    has_side = np.zeros((count, 2), bool)
    has_side[who, side] = True
    for patient in np.flatnonzero((has_side & ~has_baseline).any(1)).tolist():
        table.add(int(first_row[patient]), "month", "this patient's knee has no row of month 0")
    if not allow_single_knee:
        for patient in np.flatnonzero(~has_side.all(1)).tolist():
            table.add(
                int(first_row[patient]),
                "side",
                "this patient has one knee only; allow_single_knee=True takes such patients",
            )


def check(where: Path) -> dict[str, int]:
    """Read it as training would; how many patients are there and which are left out."""
    return summary(load_tidy(where), where.name)


def summary(cohort: Cohort, name: str, horizon: int = 4) -> dict[str, int]:
    """Counts of patients, for people.

    Raises:
        TableError: if no patient is left.
    """
    kept, dropped = included(cohort.until(horizon))
    counts = {"patients": len(cohort)}
    counts.update({f"left out: {why}": n for why, n in dropped.items() if n})
    counts[f"patients complete over {horizon} visits"] = len(kept)
    if not len(kept):
        reasons = "; ".join(f"{n} for {why}" for why, n in dropped.items() if n)
        message = f"no patient is left over {horizon} visits: dropped {reasons}"
        raise TableError([Problem(name, None, None, message)])
    return counts


def write_tidy(cohort: Cohort, path: str | Path) -> None:
    """Write a cohort as a tidy table; missing numbers are left empty, whole rows of them out."""
    names = (*PATIENT_FEATURES, "kl", *KNEE_FEATURES)
    x = {name: getattr(cohort, name).tolist() for name in names}
    site, sex, person = cohort.site.tolist(), cohort.sex.tolist(), cohort.person.tolist()
    present = cohort.present.tolist()
    visits = min(cohort.age.shape[1], len(MONTHS))
    with Path(path).open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        for i, t, side in itertools.product(range(len(cohort)), range(visits), range(len(SIDES))):
            knee = [x[name][i][t][side] for name in ("kl", *KNEE_FEATURES)]
            if not present[i][side] or all(np.isnan(knee)):
                continue
            age, bmi, sf12 = (_cell(x[name][i][t]) for name in PATIENT_FEATURES)
            who = (f"P{person[i]}", SITES[site[i]], MONTHS[t], side, age, int(sex[i]), bmi, sf12)
            lines.writerow([*who, *(_cell(number) for number in knee)])


def _cell(x: float) -> str:
    return "" if np.isnan(x) else f"{x:.10g}"
