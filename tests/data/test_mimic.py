"""Logged stays of MIMIC-III cohorts: both schemas are read, and every listed fault has its name."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rewardzoo.data import TableError, check
from rewardzoo.envs.sepsis.data import LOG_Z_SCORED, Z_SCORED
from rewardzoo.envs.sepsis.dynamics import SepsisICU
from rewardzoo.envs.sepsis.mimic import load_mimic
from rewardzoo.envs.sepsis.mimic_stays import FEATURES_44, check_features, feature_hash
from rewardzoo.envs.sepsis.mimic_windows import load_splits


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def edited(path: Path, row: int, column: str, value: str) -> Path:
    lines = path.read_text().splitlines()
    cells = lines[row - 1].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[row - 1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    return path


def message(path: Path) -> str:
    with pytest.raises(TableError) as error:
        load_mimic(path)
    return str(error.value)


def test_features_are_those_of_the_environment() -> None:
    assert SepsisICU(obs="features").feature_names == FEATURES_44 and len(FEATURES_44) == 44


def test_windows_are_read_as_they_stand(made_up: Any, tmp_path: Path) -> None:
    path = made_up.windows(tmp_path)
    stays, rows = load_mimic(path), rows_of(path)
    assert stays.dropped == 1 and len(stays) == 29 and stays.normalised
    at = 0
    for i, stay in enumerate(stays.stay.tolist()):
        mine = [r for r in rows if int(r["traj"]) == stay]
        assert int(stays.valid[i].sum()) == len(mine)
        for t, row in enumerate(mine):
            want = [float(row[f"o:{name}"]) for name in FEATURES_44]
            np.testing.assert_allclose(stays.features[i, t], want, rtol=1e-6)
            assert int(stays.action[i, t]) == int(row["a:action"])
        assert bool(stays.survived[i]) == (float(mine[-1]["r:reward"]) == 1)
        assert float(stays.features[i, len(mine) :].abs().sum()) == 0.0
        at += len(mine)
    assert at == len(rows) - 1


def test_episodes_for_offline_learning(made_up: Any, tmp_path: Path) -> None:
    stays = load_mimic(made_up.windows(tmp_path, stays=200))
    sizes = {split: len(stays.episodes(split).action) for split in ("train", "validation", "test")}
    assert sum(sizes.values()) == len(stays) == 199
    assert sizes["train"] == pytest.approx(0.7 * 199, abs=2)
    assert sizes["test"] == pytest.approx(0.15 * 199, abs=2)
    deaths = [float((stays.episodes(s).reward.sum(1) < 0).double().mean()) for s in sizes]
    assert max(deaths) - min(deaths) < 0.05  # stratified: a death more or less in 30
    obs, action, reward, valid, terminated = stays.episodes("train")
    assert obs.shape[1] == action.shape[1] + 1 and bool(terminated.all())
    assert torch.equal(reward.abs().sum(1), torch.ones(len(reward)))
    last = valid.sum(1) - 1
    assert bool((reward[torch.arange(len(last)), last] != 0).all())
    again = load_mimic(made_up.windows(tmp_path, stays=200))
    assert torch.equal(again.split, stays.split)
    with pytest.raises(ValueError, match="split='dev'"):
        stays.episodes("dev")


def test_episodes_train_the_offline_agent(made_up: Any, tmp_path: Path) -> None:
    from rewardzoo.agents.common.logged import LoggedEpisodes
    from rewardzoo.agents.dueling_dqn import DuelingDQN

    stays = load_mimic(made_up.windows(tmp_path))
    agent = DuelingDQN(LoggedEpisodes(*stays.episodes("train")), num_actions=25)
    agent.learn(2)
    assert agent.q_values(stays.episodes("test").obs[:, 0]).shape == (
        len(stays.episodes("test").obs),
        25,
    )


def test_the_clinicians_table_gives_actions_and_features(made_up: Any, tmp_path: Path) -> None:
    path = made_up.clinician(tmp_path, stays=60)
    stays, rows = load_mimic(path, seed=3), rows_of(path)
    number = [int(r["icustayid"]) for r in rows]
    order = {stay: i for i, stay in enumerate(stays.stay.tolist())}
    training = np.array([int(stays.split[order[n]]) == 0 for n in number])

    def column(name: str) -> np.ndarray:
        return np.array([float(r[name]) for r in rows])

    place: dict[int, int] = {}
    where = []
    for n in number:
        where.append((order[n], place.get(n, 0)))
        place[n] = place.get(n, 0) + 1
    for name in ("HR", "gender", "BUN", "SOFA", "input_total", "cumulated_balance"):
        x = column(name)
        if name in LOG_Z_SCORED:
            x = np.log(x + 0.1)
        if name in (*Z_SCORED, *LOG_Z_SCORED):
            x = (x - x[training].mean()) / x[training].std()
        else:
            x = x - 0.5
        got = [float(stays.features[i, t, FEATURES_44.index(name)]) for i, t in where]
        np.testing.assert_allclose(got, x, atol=1e-5)
    levels = {}
    for name in ("input_4hourly", "max_dose_vaso"):
        dose = column(name)
        cuts = np.quantile(dose[training & (dose > 0)], [0.25, 0.5, 0.75])
        levels[name] = [0 if d == 0 else 1 + sum(d > c for c in cuts) for d in dose]
    want = [
        5 * f + v for f, v in zip(levels["input_4hourly"], levels["max_dose_vaso"], strict=True)
    ]
    assert [int(stays.action[i, t]) for i, t in where] == want
    assert len(set(want)) > 10
    died = {int(r["icustayid"]): r["mortality_90d"] == "1" for r in rows}
    assert [not bool(s) for s in stays.survived] == [died[n] for n in stays.stay.tolist()]


def test_statistics_are_those_of_the_training_stays(made_up: Any, tmp_path: Path) -> None:
    stays = load_mimic(made_up.clinician(tmp_path, stays=80))
    train = stays.split == 0
    for name in ("HR", "BUN"):
        x = stays.features[train][..., FEATURES_44.index(name)][stays.valid[train]]
        assert float(x.mean()) == pytest.approx(0.0, abs=1e-5)
        assert float(x.std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)


def test_statistics_leave_out_what_is_left_out(made_up: Any, tmp_path: Path) -> None:
    """A stay of a single window, whatever it holds, moves no mean and no quartile."""
    path = made_up.clinician(tmp_path)
    before = load_mimic(path)
    header, *rows = path.read_text().splitlines()
    cells = rows[0].split(",")
    for name, value in {"icustayid": "1", "HR": "9999", "max_dose_vaso": "99"}.items():
        cells[header.split(",").index(name)] = value
    path.write_text("\n".join([header, *rows, ",".join(cells)]) + "\n")
    after = load_mimic(path)
    assert after.dropped == 1
    assert torch.equal(after.features, before.features) and torch.equal(after.action, before.action)


WINDOW_FAULTS = [
    (3, "a:action", "25", "column a:action: expected a whole number from 0 to 24"),
    (3, "a:action", "1.5", "column a:action: expected a whole number from 0 to 24"),
    (3, "o:HR", "nan", "column o:HR: expected a finite number"),
    (3, "o:HR", "inf", "column o:HR: expected a finite number"),
    (3, "o:HR", "", "column o:HR: expected a finite number"),
    (3, "r:reward", "0.5", "column r:reward: expected a whole number from -1 to 1"),
    (2, "r:reward", "1", "column r:reward: expected 0 before the stay's last window"),
    (3, "step", "7", "column step: expected the window after that of the row before"),
]


@pytest.mark.parametrize(("row", "column", "value", "text"), WINDOW_FAULTS, ids=str)
def test_faults_of_windows_are_named(
    made_up: Any, tmp_path: Path, row: int, column: str, value: str, text: str
) -> None:
    path = edited(made_up.windows(tmp_path), row, column, value)
    found = message(path)
    assert found.startswith("windows.csv, row ") and text in found
    assert any(p.row == row for p in check(path).problems)


def test_a_stay_ends_with_its_outcome(made_up: Any, tmp_path: Path) -> None:
    path = made_up.windows(tmp_path)
    rows = rows_of(path)
    last = next(i for i, r in enumerate(rows) if r["r:reward"] != "0")
    found = message(edited(path, last + 2, "r:reward", "0"))
    text = "column r:reward: expected 1 or -1 at the stay's last window"
    assert found == f"windows.csv, row {last + 2}, {text}"


def test_a_stay_stands_together_and_is_not_too_long(made_up: Any, tmp_path: Path) -> None:
    path = made_up.windows(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[2:], lines[1]]) + "\n")
    assert "column traj: rows of one stay must follow one another" in message(path)
    lines = made_up.windows(tmp_path).read_text().splitlines()
    first = lines[1].split(",")
    long = [",".join([first[0], str(t), *first[2:-1], "1" if t == 21 else "0"]) for t in range(22)]
    rest = [x for x in lines[1:] if x.split(",")[0] != first[0]]
    path.write_text("\n".join([lines[0], *long, *rest]) + "\n")
    assert message(path) == "windows.csv, row 23, column step: more than 21 windows in one stay"


def test_missing_columns_are_named(made_up: Any, tmp_path: Path) -> None:
    path = made_up.windows(tmp_path)
    path.write_text(path.read_text().replace("o:HR", "o:Heart", 1))
    found = message(path)
    assert found.startswith("windows.csv, row 1, column o:HR: it is missing")
    path = made_up.clinician(tmp_path)
    path.write_text(path.read_text().replace("mortality_90d", "mortality", 1))
    assert message(path) == "clinician.csv, row 1, column mortality_90d: it is missing"


CLINICIAN_FAULTS = [
    ("bloc", "9", "column bloc: expected the window after"),
    ("max_dose_vaso", "-1", "column max_dose_vaso: expected a finite number >= 0"),
    ("BUN", "-1", "column BUN: expected a finite number >= 0"),
    ("GCS", "16", "column GCS: expected a finite number from 3 to 15"),
    ("gender", "2", "column gender: expected a whole number from 0 to 1"),
    ("mortality_90d", "2", "column mortality_90d: expected a whole number from 0 to 1"),
    ("HR", "", "column HR: expected a finite number"),
]


@pytest.mark.parametrize(("column", "value", "text"), CLINICIAN_FAULTS, ids=str)
def test_faults_of_the_clinicians_table_are_named(
    made_up: Any, tmp_path: Path, column: str, value: str, text: str
) -> None:
    found = message(edited(made_up.clinician(tmp_path), 3, column, value))
    assert found.startswith(f"clinician.csv, row 3, {text}")


def test_an_outcome_belongs_to_the_stay(made_up: Any, tmp_path: Path) -> None:
    path = made_up.clinician(tmp_path)
    was = rows_of(path)[1]["mortality_90d"]
    found = message(edited(path, 3, "mortality_90d", str(1 - int(was))))
    assert found == (
        "clinician.csv, row 3, column mortality_90d: differs from the stay's first window"
    )


def test_a_stay_is_in_one_split(made_up: Any, tmp_path: Path) -> None:
    paths = [
        made_up.windows(tmp_path, seed=i, name=f"{name}.csv", first=5000 * i)
        for i, name in enumerate(("train", "validation", "test"))
    ]
    stays = load_splits(paths)
    assert [len(stays.episodes(s).action) for s in ("train", "validation", "test")] == [29] * 3
    made_up.windows(tmp_path, seed=9, name="test.csv", first=5000)
    with pytest.raises(TableError) as error:
        load_splits(paths)
    assert str(error.value) == (
        "test.csv: 29 stays are in validation.csv too: no stay may be in two"
    )
    with pytest.raises(ValueError, match="paths: 2 files, expected 3"):
        load_splits(paths[:2])


def test_reports_count(made_up: Any, tmp_path: Path) -> None:
    report = check(made_up.windows(tmp_path))
    assert report.ok and report.kind == "sepsis: MIMIC-III windows"
    assert report.counts["stays"] == 30 and report.counts["left out: a single window"] == 1
    report = check(made_up.clinician(tmp_path))
    assert report.ok and report.kind == "sepsis: AI-Clinician table"


def test_another_feature_order_is_refused() -> None:
    saved = feature_hash()
    check_features(FEATURES_44, saved)
    with pytest.raises(ValueError, match="from other features, or from the same in another order"):
        check_features(FEATURES_44[::-1], saved)
