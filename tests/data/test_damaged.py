"""A damaged table gives named faults, or loads as what it says: never a traceback, never else.

What it says is read a second time, by the standard library's ``csv`` and ``float``.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardzoo.data import TableError, check
from rewardzoo.envs.knee_oa.cohort import MONTHS, SITES
from rewardzoo.envs.knee_oa.data import load_oai, load_tidy
from rewardzoo.envs.knee_oa.oai import VISIT_CODES
from rewardzoo.envs.sepsis.mimic import load_mimic
from rewardzoo.envs.sepsis.mimic_stays import FEATURES_44


def rows_of(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    text = path.read_bytes().decode("utf-8-sig")
    found = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [{k.strip().lower(): v.strip() for k, v in row.items()} for row in found]


def number(text: str) -> float:
    return float(text) if text else math.nan


def equal(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def tidy_says(path: Path) -> None:
    cohort, rows = load_tidy(path), rows_of(path)
    order = {name: i for i, name in enumerate(dict.fromkeys(r["id"] for r in rows))}
    assert len(cohort) == len(order)
    seen = np.zeros((len(order), len(MONTHS), 2), bool)
    for r in rows:
        i, t, side = order[r["id"]], MONTHS.index(int(r["month"])), int(r["side"])
        seen[i, t, side] = True
        assert SITES[cohort.site[i]] == r["site"] and int(cohort.sex[i]) == int(r["sex"])
        for name in ("age", "bmi", "sf12"):
            assert equal(float(getattr(cohort, name)[i, t]), number(r[name]))
        for name in ("kl", "jsw", "womac", "inj", "surg"):
            assert equal(float(getattr(cohort, name)[i, t, side]), number(r[name]))
    assert seen.sum() == len(rows)
    assert bool(cohort.jsw[~np.array(seen)].isnan().all())


def windows_say(path: Path) -> None:
    stays, rows = load_mimic(path), rows_of(path)
    by_stay: dict[int, list[dict[str, str]]] = {}
    for r in rows:
        by_stay.setdefault(int(float(r["traj"])), []).append(r)
    whole = {k: v for k, v in by_stay.items() if len(v) > 1}
    assert stays.stay.tolist() == list(whole) and stays.dropped == len(by_stay) - len(whole)
    for i, mine in enumerate(whole.values()):
        want = [[float(r[f"o:{name}".lower()]) for name in FEATURES_44] for r in mine]
        np.testing.assert_array_equal(stays.features[i, : len(mine)], np.float32(want))
        assert stays.action[i, : len(mine)].tolist() == [float(r["a:action"]) for r in mine]
        assert [float(r["r:reward"]) for r in mine[:-1]] == [0.0] * (len(mine) - 1)
        assert float(mine[-1]["r:reward"]) == (1 if stays.survived[i] else -1)


def clinician_says(path: Path) -> None:
    stays, rows = load_mimic(path), rows_of(path)
    by_stay: dict[int, list[dict[str, str]]] = {}
    for r in rows:
        by_stay.setdefault(int(float(r["icustayid"])), []).append(r)
    whole = {k: v for k, v in by_stay.items() if len(v) > 1}
    assert stays.stay.tolist() == list(whole)
    mine = [(i, t, r) for i, rs in enumerate(whole.values()) for t, r in enumerate(rs)]
    train = np.array([int(stays.split[i]) == 0 for i, _, _ in mine])
    for name, transform in (("HR", np.asarray), ("BUN", lambda x: np.log(0.1 + x))):
        x = transform(np.array([float(r[name.lower()]) for _, _, r in mine]))
        got = [float(stays.features[i, t, FEATURES_44.index(name)]) for i, t, _ in mine]
        want = (x - x[train].mean()) / x[train].std()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    for i, t, r in mine:
        action = int(stays.action[i, t])
        assert (action >= 5) == (float(r["input_4hourly"]) > 0)
        assert (action % 5 > 0) == (float(r["max_dose_vaso"]) > 0)
        assert bool(stays.survived[i]) == (float(r["mortality_90d"]) == 0)


def oai_says(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # readings that differ
        cohort = load_oai(folder)
    files = {p.name.lower(): p for p in folder.iterdir()}
    people = [r["id"] for r in rows_of(files["enrollees.txt"], "|")]

    def labelled(text: str) -> float:
        absent = (
            not text or "missing" in text.lower() or (text[0] == "." and not text[1:2].isdigit())
        )
        return math.nan if absent else float(text.split(":")[0])

    for v, code in enumerate(VISIT_CODES[:5]):
        clinical = {r["id"]: r for r in rows_of(files[f"allclinical{code}.txt"], "|")}
        knees: dict[str, dict[tuple[str, int], float]] = {}
        for name, file, column in (
            ("kl", f"kxr_sq_bu{code}.txt", f"v{code}xrkl"),
            ("jsw", f"kxr_qjsw_duryea{code}.txt", f"v{code}jsw250"),
        ):
            first = knees.setdefault(name, {})
            for r in rows_of(files[file], "|"):
                first.setdefault((r["id"], 2 - int(r["side"][0])), labelled(r[column]))
        kept = [
            name for name in people
            if all((name, s) in (first := {**knees["kl"], **knees["jsw"]}) for s in (0, 1)) or v
        ]  # fmt: skip
        if v == 0:
            among = [
                name for name in kept
                if all(not (math.isnan(knees["kl"].get((name, s), math.nan))
                            and math.isnan(knees["jsw"].get((name, s), math.nan))) for s in (0, 1))
            ]  # fmt: skip
            assert len(among) == len(cohort)
        for i, name in enumerate(among):
            r = clinical.get(name)
            bmi = labelled(r["p01bmi" if v == 0 else f"v{code}bmi"]) if r else math.nan
            assert equal(float(cohort.bmi[i, v]), bmi)
            for side, letter in enumerate("lr"):
                womac = labelled(r[f"v{code}womts{letter}"]) if r else math.nan
                assert equal(float(cohort.womac[i, v, side]), womac)
                for marker in ("kl", "jsw"):
                    want = knees[marker].get((name, side), math.nan)
                    assert equal(float(getattr(cohort, marker)[i, v, side]), want)


SCHEMAS: dict[str, tuple[Callable[[Path], None], str]] = {
    "tidy": (tidy_says, ","),
    "windows": (windows_say, ","),
    "clinician": (clinician_says, ","),
    "oai": (oai_says, "|"),
}


def damage_often(made_up: Any, schema: str, folder: Path, count: int, seed: int) -> None:
    says, delimiter = SCHEMAS[schema]
    rng = np.random.default_rng(seed)
    where = getattr(made_up, schema)(folder)
    files = sorted(where.iterdir()) if where.is_dir() else [where]
    faults = loaded = 0
    for i in range(count):
        file = files[int(rng.integers(len(files)))]
        before = file.read_bytes()
        kind, content = made_up.damage(before, rng, delimiter)
        file.write_bytes(content)
        context = f"{schema}, damage {i} of seed {seed}: {kind} in {file.name}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                report = check(where)  # no traceback: it may raise nothing at all
            for problem in report.problems:
                assert made_up.HIDDEN not in str(problem), context
                assert problem.file and problem.message, context
            if kind in made_up.ALWAYS_FAULTS:
                assert not report.ok, context
            if kind in made_up.HARMLESS:
                assert report.ok, context
            try:
                says(where)
            except TableError:
                assert not report.ok, context
                faults += 1
            except (AssertionError, KeyError, ValueError) as error:
                raise AssertionError(context) from error
            else:
                loaded += 1
        finally:
            file.write_bytes(before)
    assert faults > 0.2 * count and loaded > 0.1 * count  # both happen


@pytest.mark.parametrize("schema", SCHEMAS)
def test_damage_is_named_or_harmless(made_up: Any, tmp_path: Path, schema: str) -> None:
    damage_often(made_up, schema, tmp_path, 25, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_thousand_damages_are_named_or_harmless(
    made_up: Any, tmp_path: Path, schema: str
) -> None:
    damage_often(made_up, schema, tmp_path, 1000, seed=1)
