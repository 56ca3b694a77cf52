"""The tables of the Osteoarthritis Initiative, as its data release names them.

They are available on registration and not part of this package.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import torch

from rewardzoo.data.tables import Problem, Table, TableError, read_table

from .cohort import MONTHS, SITES, Cohort
from .tidy import BOUNDS, WHOLE, summary

VISIT_CODES = ("00", "01", "03", "05", "06", "08", "10")  # of MONTHS
_MISSING = re.compile(r"|\.[A-Za-z]?(:.*)?|.*:\s*missing.*", re.IGNORECASE)
_ENROLLEES, _CLINICAL, _GRADES, _WIDTHS = (
    "Enrollees.txt", "AllClinical{}.txt", "kxr_sq_bu{}.txt", "kxr_qjsw_duryea{}.txt",
)  # fmt: skip
_SIDE_CODES = {"1": 1, "2": 0, "1: Right": 1, "2: Left": 0}  # to 0 left, 1 right


def missing(text: str) -> bool:
    """Whether a cell holds one of the release's codes for a missing value."""
    return _MISSING.fullmatch(text) is not None


def recognises(where: Path, header: set[str]) -> bool:
    """Whether it is a folder that holds some of the tables."""
    if not where.is_dir():
        return False
    starts = ("enrollees", "allclinical", "kxr_sq_bu", "kxr_qjsw_duryea")
    return any(p.name.lower().startswith(starts) for p in where.iterdir())


def load_oai(folder: str | Path, horizon: int = 4, allow_single_knee: bool = False) -> Cohort:
    """The cohort in a folder of OAI tables, separated by vertical bars.

    For every visit code 00, 01, 03, 05, ... up to the horizon: ``AllClinicalVV.txt``,
    ``kxr_sq_buVV.txt``, ``kxr_qjsw_duryeaVV.txt``; and ``Enrollees.txt``. Names of files and
    columns may differ in case. Age at later visits is the baseline's plus the months; injuries and
    surgeries accumulate. Of several readings of one knee the first is taken, with a warning if
    they differ.

    Args:
        folder: where the tables are.
        horizon: visits after baseline to read, 1 to 6.
        allow_single_knee: take patients with one knee; otherwise they are left out.

    Raises:
        TableError: naming file, row and column of every fault.
    """
    problems: list[Problem] = []
    place = Path(folder)
    names = {p.name.lower(): p for p in place.iterdir()} if place.is_dir() else {}

    def table(name: str, columns: list[str]) -> Table | None:
        path = names.get(name.lower())
        if path is None:
            hint = ""
            if name == _ENROLLEES and "enrollees.sas7bdat" in names:
                hint = "; export enrollees.sas7bdat as text, separated by |"
            problems.append(Problem(name, None, None, f"there is no such file{hint}"))
            return None
        try:
            return read_table(path, columns, delimiter="|", ignore_case=True)
        except TableError as error:
            problems.extend(error.problems)
            return None

    enrollees = table(_ENROLLEES, ["ID", "V00SITE", "P02SEX"])
    parts = [_columns(v) for v in range(horizon + 1)]
    clinical = [table(_CLINICAL.format(VISIT_CODES[v]), c) for v, (c, _, _) in enumerate(parts)]
    grades = [table(_GRADES.format(VISIT_CODES[v]), c) for v, (_, c, _) in enumerate(parts)]
    widths = [table(_WIDTHS.format(VISIT_CODES[v]), c) for v, (_, _, c) in enumerate(parts)]
    if enrollees is None:
        raise TableError(problems)
    ids = enrollees.text("ID")
    order: dict[str, int] = {}
    for row, name in enumerate(ids):
        if name in order:
            enrollees.add(row, "ID", f"the same ID as row {enrollees.rows[order[name]]}")
        order.setdefault(name, row)
    site = enrollees.choice("V00SITE", {name: i for i, name in enumerate(SITES)})
    sexes = {"1": 1, "2": 2, "1: Male": 1, "2: Female": 2}
    sex = enrollees.choice("P02SEX", sexes)
    problems.extend(enrollees.problems)

    shape = (len(ids), len(MONTHS))
    whole = {k: np.full(shape, np.nan) for k in ("age", "bmi", "sf12")}
    both = {k: np.full((*shape, 2), np.nan) for k in ("kl", "jsw", "womac", "inj", "surg")}
    for v in range(horizon + 1):
        for read, found in ((_clinical, clinical[v]), (_grades, grades[v]), (_widths, widths[v])):
            if found is not None:
                read(found, v, order, whole, both)
                problems.extend(found.problems)
    if problems:
        raise TableError(problems)
    for t in range(1, len(MONTHS)):
        whole["age"][:, t] = whole["age"][:, 0] + MONTHS[t] / 12.0
    for name in ("inj", "surg"):  # ever, not in the last year
        both[name] = _ever(both[name])
    cohort = Cohort(
        site=torch.tensor(site),
        sex=torch.tensor(sex, dtype=torch.float64),
        person=torch.arange(len(ids)),
        present=torch.tensor(~np.isnan(both["kl"][:, 0]) | ~np.isnan(both["jsw"][:, 0])),
        **{k: torch.tensor(x) for k, x in {**whole, **both}.items()},
    )
    needed = 1 if allow_single_knee else 2
    return cohort.rows(cohort.present.sum(1) >= needed)


def _columns(v: int) -> tuple[list[str], list[str], list[str]]:
    """The columns of the three tables of a visit."""
    code = VISIT_CODES[v]
    first = v == 0
    clinical = [
        "ID",
        *(["V00AGE"] if first else []),
        "P01BMI" if first else f"V{code}BMI",
        f"V{code}HSPSS",
        *_sided(v, "womac"),
        *_sided(v, "inj"),
        *_sided(v, "surg"),
    ]
    return clinical, ["ID", "SIDE", f"V{code}XRKL"], ["ID", "SIDE", f"V{code}JSW250"]


def _sided(v: int, name: str) -> tuple[str, str]:
    """The columns of the left and of the right knee."""
    code = VISIT_CODES[v]
    if name == "womac":
        return f"V{code}WOMTSL", f"V{code}WOMTSR"
    if v == 0:
        stem = {"inj": "P01INJ", "surg": "P01KSURG"}[name]
        return f"{stem}L", f"{stem}R"
    stem = {"inj": "INJ", "surg": "KSRG"}[name]
    return f"V{code}{stem}L12", f"V{code}{stem}R12"


def _number(table: Table, column: str, name: str) -> np.ndarray:
    return table.number(
        column, *BOUNDS[name], integer=name in WHOLE, missing=missing, strip_label=True
    )


def _people(table: Table, order: dict[str, int]) -> np.ndarray:
    """The row of each ID among the enrollees; -1, and a fault, where there is none."""
    who = np.array([order.get(name, -1) for name in table.text("ID")], np.int64)
    stray = np.flatnonzero(who < 0).tolist()
    table.add_all(stray, "ID", f"there is no such ID in {_ENROLLEES}")
    return who


def _clinical(
    table: Table,
    v: int,
    order: dict[str, int],
    whole: dict[str, np.ndarray],
    both: dict[str, np.ndarray],
) -> None:
    who = _people(table, order)
    seen: dict[int, int] = {}
    for row, person in enumerate(who.tolist()):
        if person >= 0 and person in seen:
            table.add(row, "ID", f"the same ID as row {table.rows[seen[person]]}")
        seen.setdefault(person, row)
    code, known = VISIT_CODES[v], who >= 0
    columns = {"bmi": "P01BMI" if v == 0 else f"V{code}BMI", "sf12": f"V{code}HSPSS"}
    if v == 0:
        columns["age"] = "V00AGE"
    for name, column in columns.items():
        whole[name][who[known], v] = _number(table, column, name)[known]
    for name in ("womac", "inj", "surg"):
        for side, column in enumerate(_sided(v, name)):
            both[name][who[known], v, side] = _number(table, column, name)[known]


def _grades(
    table: Table,
    v: int,
    order: dict[str, int],
    whole: dict[str, np.ndarray],
    both: dict[str, np.ndarray],
) -> None:
    _readings(table, v, order, "kl", f"V{VISIT_CODES[v]}XRKL", both["kl"])


def _widths(
    table: Table,
    v: int,
    order: dict[str, int],
    whole: dict[str, np.ndarray],
    both: dict[str, np.ndarray],
) -> None:
    _readings(table, v, order, "jsw", f"V{VISIT_CODES[v]}JSW250", both["jsw"])


def _readings(
    table: Table, v: int, order: dict[str, int], name: str, column: str, out: np.ndarray
) -> None:
    """One number a knee; the first of several readings, with a warning if they differ."""
    who = _people(table, order)
    side = table.choice("SIDE", _SIDE_CODES)
    values = _number(table, column, name)
    differing = 0
    seen: dict[tuple[int, int], float] = {}
    for person, knee, value in zip(who.tolist(), side.tolist(), values.tolist(), strict=True):
        if person < 0 or knee < 0:
            continue
        key = (person, knee)
        if key not in seen:
            seen[key] = value
            out[person, v, knee] = value
        elif not (value == seen[key] or (np.isnan(value) and np.isnan(seen[key]))):
            differing += 1
    if differing:
        warnings.warn(
            f"{table.file}, column {column}: {differing} knees have readings that differ; the "
            "first is taken",
            stacklevel=4,
        )


def _ever(x: np.ndarray) -> np.ndarray:
    """Whether it has happened by each visit; missing stays missing."""
    gone = np.isnan(x)
    ever = np.maximum.accumulate(np.where(gone, 0.0, x), axis=1)
    return np.where(gone, np.nan, ever)


def check(where: Path) -> dict[str, int]:
    """Read it as training would; how many patients are there and which are left out."""
    return summary(load_oai(where), where.name)
