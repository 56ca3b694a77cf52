"""Recorded cohorts of knees: what is written is read, and every listed fault has its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.data import TableError, check
from rewardzoo.envs.knee_oa.cohort import included
from rewardzoo.envs.knee_oa.data import load, load_oai, load_tidy, write_tidy
from rewardzoo.envs.knee_oa.oai import missing

NUMBERS = ("age", "bmi", "sf12", "kl", "jsw", "womac", "inj", "surg")


def same(a: Any, b: Any, visits: int) -> None:
    for name in ("site", "sex", "present"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in NUMBERS:
        torch.testing.assert_close(
            getattr(a, name)[:, :visits], getattr(b, name)[:, :visits], rtol=1e-9, atol=0,
            equal_nan=True,
        )  # fmt: skip


def edited(path: Path, row: int, column: str, value: str, delimiter: str = ",") -> Path:
    """The file with one cell changed; ``row`` as in the file, the header being 1."""
    lines = path.read_text().splitlines()
    place = lines[0].split(delimiter).index(column)
    cells = lines[row - 1].split(delimiter)
    cells[place] = value
    lines[row - 1] = delimiter.join(cells)
    path.write_text("\n".join(lines) + "\n")
    return path


def message(path: Path, **kwargs: Any) -> str:
    with pytest.raises(TableError) as error:
        load(path, **kwargs)
    return str(error.value)


def test_tidy_round_trip(made_up: Any, tmp_path: Path) -> None:
    written = made_up.cohort(12)
    same(load_tidy(made_up.tidy(tmp_path)), written, 7)
    # A knee that is not there, a number that is missing, and rows in another order.
    written.present[3, 1] = False
    for name in ("kl", "jsw", "womac", "inj", "surg"):
        getattr(written, name)[3, :, 1] = torch.nan
    written.bmi[5, 2] = torch.nan
    write_tidy(written, tmp_path / "odd.csv")
    header, *rows = (tmp_path / "odd.csv").read_text().splitlines()
    order = np.random.default_rng(0).permutation(len(rows))
    (tmp_path / "odd.csv").write_text("\n".join([header, *(rows[i] for i in order)]) + "\n")
    found = load_tidy(tmp_path / "odd.csv", allow_single_knee=True)
    first = {name: i for i, name in enumerate(dict.fromkeys(rows[i].split(",")[0] for i in order))}
    place = torch.tensor([first[f"P{int(p)}"] for p in written.person])
    same(found.rows(place), written, 7)


def test_oai_tables_give_the_same_cohort(made_up: Any, tmp_path: Path) -> None:
    same(load_oai(made_up.oai(tmp_path)), made_up.cohort(12), 5)


def test_oai_codes_for_missing_values() -> None:
    for text in ("", ".", ".A", ".V", ".a: Not expected", "8: Missing form", "A: missing"):
        assert missing(text)
    for text in ("0", "3: Grade 3", ".5", "-1"):
        assert not missing(text)


def test_incomplete_patients_are_left_out_and_counted(made_up: Any, tmp_path: Path) -> None:
    folder = made_up.oai(tmp_path)
    edited(folder / "AllClinical03.txt", 4, "V03WOMTSL", ".A: Not expected", "|")
    lines = (folder / "kxr_sq_bu05.txt").read_text().splitlines()
    (folder / "kxr_sq_bu05.txt").write_text("\n".join([*lines[:3], *lines[4:]]) + "\n")
    kept, dropped = included(load_oai(folder).until(4))
    assert len(kept) == 10 and dropped["womac missing"] == 1 and dropped["kl missing"] == 1
    report = check(folder)
    assert report.ok and report.kind.endswith("Osteoarthritis Initiative")
    assert report.counts["patients"] == 12
    assert report.counts["patients complete over 4 visits"] == 10


def test_differing_readings_warn_and_equal_ones_do_not(
    made_up: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = made_up.oai(tmp_path)
    path = folder / "kxr_sq_bu01.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[2]]) + "\n")
    same(load_oai(folder), made_up.cohort(12), 5)
    assert not recwarn.list
    cells = lines[2].split("|")
    cells[3] = "0" if not cells[3].startswith("0") else "4"
    path.write_text("\n".join([*lines, "|".join(cells)]) + "\n")
    with pytest.warns(UserWarning, match="kxr_sq_bu01.txt, column V01XRKL: 1 knees have readings"):
        same(load_oai(folder), made_up.cohort(12), 5)


def test_tables_make_an_environment(made_up: Any, tmp_path: Path) -> None:
    for source in (made_up.tidy(tmp_path, 30), made_up.oai(tmp_path, 30)):
        for split in ("train", "test"):
            envs = gymnasium.make_vec(
                "rewardzoo/KneeOA-v0", num_envs=8, source=str(source), split=split
            )
            obs, _ = envs.reset(seed=0)
            assert obs.shape == (8, 24) and bool(obs.isfinite().all())
            for _ in range(4):
                *_, terminated, _, _ = envs.step(torch.ones(8, dtype=torch.long))
            assert bool(terminated.all())


def test_a_single_knee_is_filled(made_up: Any, tmp_path: Path) -> None:
    path = made_up.tidy(tmp_path, 30)
    header, *rows = path.read_text().splitlines()
    kept = [r for r in rows if not (r.startswith("P") and r.split(",")[3] == "1")]
    path.write_text("\n".join([header, *kept]) + "\n")
    assert "column side: this patient has one knee only" in message(path)
    env = gymnasium.make("rewardzoo/KneeOA-v0", source=str(path), allow_single_knee=True)
    obs, _ = env.reset(seed=0)
    names = np.array(env.unwrapped.func.feature_names)
    right = [n.endswith("_right") for n in names]
    assert (obs[right] == -1.0).all() and (obs[[n.endswith("_left") for n in names]] != -1).any()


FAULTS = [
    (3, "site", "F", "knees.csv, row 3, column site: expected one of A, B, C, D, E"),
    (3, "month", "18", "knees.csv, row 3, column month: expected one of 0, 12, 24"),
    (3, "side", "2", "knees.csv, row 3, column side: expected one of 0, 1"),
    (3, "id", "", "knees.csv, row 3, column id: expected a value"),
    (9, "kl", "5", "knees.csv, row 9, column kl: expected a whole number from 0 to 4"),
    (9, "kl", "1.5", "knees.csv, row 9, column kl: expected a whole number from 0 to 4"),
    (9, "jsw", "-0.1", "knees.csv, row 9, column jsw: expected a finite number from 0 to 15"),
    (9, "jsw", "15.2", "knees.csv, row 9, column jsw: expected a finite number from 0 to 15"),
    (9, "womac", "97", "knees.csv, row 9, column womac: expected a finite number from 0 to 96"),
    (9, "sex", "0", "knees.csv, row 9, column sex: expected one of 1, 2"),
    (3, "side", "0", "knees.csv, row 3, column id: the same id, month and side as row 2"),
    (9, "bmi", "33.3", "knees.csv, row 9, column bmi: differs from row 8, of the same visit"),
    (9, "site", "?", "knees.csv, row 9, column site: expected one of"),
]


@pytest.mark.parametrize(("row", "column", "value", "text"), FAULTS, ids=lambda x: str(x)[:30])
def test_faults_of_tidy_tables_are_named(
    made_up: Any, tmp_path: Path, row: int, column: str, value: str, text: str
) -> None:
    assert message(edited(made_up.tidy(tmp_path), row, column, value)).startswith(text)


def test_a_patient_belongs_to_one_site(made_up: Any, tmp_path: Path) -> None:
    path = made_up.tidy(tmp_path)
    was = path.read_text().splitlines()[8].split(",")[1]
    other = "A" if was != "A" else "B"
    found = message(edited(path, 9, "site", other))
    assert found.startswith("knees.csv, row 9, column site: differs from row 2 of this patient")


def test_a_patient_has_a_baseline(made_up: Any, tmp_path: Path) -> None:
    path = made_up.tidy(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[3:]]) + "\n")
    assert "row 2, column month: this patient's knee has no row of month 0" in message(path)


def test_nobody_left_says_why(made_up: Any, tmp_path: Path) -> None:
    path = made_up.tidy(tmp_path)
    header, *rows = path.read_text().splitlines()
    early = [r for r in rows if r.split(",")[2] in ("0", "12")]
    path.write_text("\n".join([header, *early]) + "\n")
    assert check(path).problems[0].message == (
        "no patient is left over 4 visits: dropped 12 for age missing"
    )
    with pytest.raises(ValueError, match="no patient is left: 12 dropped for age missing"):
        gymnasium.make("rewardzoo/KneeOA-v0", source=str(path))
    with pytest.raises(ValueError, match="there is no such file"):
        gymnasium.make("rewardzoo/KneeOA-v0", source=str(tmp_path / "gone.csv"))


def test_faults_of_oai_tables_are_named(made_up: Any, tmp_path: Path) -> None:
    for i, (file, column, value, text) in enumerate(
        [
            ("kxr_sq_bu03.txt", "v03XRKL", "7", "kxr_sq_bu03.txt, row 5, column V03XRKL: expected"),
            ("kxr_sq_bu03.txt", "SIDE", "3", "kxr_sq_bu03.txt, row 5, column SIDE: expected one of"),
            ("KXR_QJSW_Duryea05.txt", "V05JSW250", "x", "KXR_QJSW_Duryea05.txt, row 5, column V05JSW"),
            ("AllClinical00.txt", "V00AGE", "7", "AllClinical00.txt, row 5, column V00AGE: expected"),
            ("AllClinical06.txt", "ID", "1", "AllClinical06.txt, row 5, column ID: there is no such"),
            ("AllClinical06.txt", "ID", "9000000", "AllClinical06.txt, row 5, column ID: the same ID"),
            ("Enrollees.txt", "V00SITE", "X", "Enrollees.txt, row 5, column V00SITE: expected one of"),
            ("Enrollees.txt", "P02SEX", "", "Enrollees.txt, row 5, column P02SEX: expected one of"),
        ]
    ):  # fmt: skip
        (tmp_path / str(i)).mkdir()
        folder = made_up.oai(tmp_path / str(i))
        edited(folder / file, 5, column, value, "|")
        found = message(folder)
        assert found.startswith(text), found


def test_missing_oai_files_are_named(made_up: Any, tmp_path: Path) -> None:
    folder = made_up.oai(tmp_path)
    (folder / "kxr_sq_bu05.txt").unlink()
    (folder / "AllClinical01.txt").unlink()
    with pytest.raises(TableError) as error:
        load_oai(folder)
    assert [str(p) for p in error.value.problems] == [
        "AllClinical01.txt: there is no such file",
        "kxr_sq_bu05.txt: there is no such file",
    ]
    (folder / "Enrollees.txt").unlink()
    (folder / "enrollees.sas7bdat").write_bytes(b"SAS")
    assert "export enrollees.sas7bdat as text, separated by |" in message(folder)
