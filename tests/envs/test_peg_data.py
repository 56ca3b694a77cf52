"""Recordings of attempts: HDF5 round trip, robots' files, and every kind of damage by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardzoo.envs.peg_in_hole_contact.data import (
    FTEpisode,
    first_contact,
    load_ft_episodes,
    read_episodes,
    simulate_attempts,
    trimmed,
    write_episodes,
)
from rewardzoo.envs.peg_in_hole_contact.model import PegInHoleContactParams

h5py = pytest.importorskip("h5py")


def table(rows: int = 150, label: float = 1.0, hz: float = 50.0) -> np.ndarray:
    """(T, 8): time, six readings, label."""
    g = np.random.default_rng(rows)
    t = np.arange(rows) / hz
    return np.column_stack([t, g.normal(size=(rows, 6)), np.full(rows, label)])


def test_hdf5_round_trip(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    episodes = [
        FTEpisode(
            np.arange(n) / 50, g.normal(size=(n, 6)).astype(np.float32), bool(n % 2), f"no {n}"
        )
        for n in (3, 50, 7)
    ]
    write_episodes(tmp_path / "new" / "a.h5", episodes, {"robot": "none", "tilt": 3.0})
    again = read_episodes(tmp_path / "new" / "a.h5")
    for a, b in zip(episodes, again, strict=True):
        assert (a.t == b.t).all() and (a.wrench == b.wrench).all()
        assert (a.success, a.name) == (b.success, b.name)
    with h5py.File(tmp_path / "new" / "a.h5") as file:
        assert file.attrs["robot"] == "none" and file.attrs["units"] == "s, N, N m"
    assert not list(tmp_path.rglob("*.part"))
    with pytest.raises(ValueError, match="at least one"):
        write_episodes(tmp_path / "b.h5", [])


def test_damaged_hdf5_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        read_episodes(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ValueError, match="no HDF5 file of attempts"):
        read_episodes(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="format None, expected 'rewardzoo-attempts-1'"):
        read_episodes(tmp_path / "other.h5")
    write_episodes(tmp_path / "cut.h5", [FTEpisode(np.arange(9) / 50, np.zeros((9, 6)), True, "")])
    with h5py.File(tmp_path / "cut.h5", "a") as file:
        del file["wrench"]
        file["wrench"] = np.zeros((4, 6))
    with pytest.raises(ValueError, match="do not fit together"):
        read_episodes(tmp_path / "cut.h5")


def test_simulated_attempts_are_episodes() -> None:
    pytest.importorskip("mujoco")
    params = PegInHoleContactParams(pos_sigma=0.0, tilt_sigma_deg=0.0)
    (episode,) = simulate_attempts(1, params, seed=3, threads=0)
    assert episode.success and episode.wrench.shape == (len(episode.t), 6)
    assert episode.duration == pytest.approx(len(episode.t) / 50) and episode.name == "seed 3"


def test_robots_files_of_all_kinds(tmp_path: Path) -> None:
    good, bad = table(150, 1.0), table(160, 0.0)
    np.save(tmp_path / "a.npy", np.column_stack([good, np.zeros(150)]))  # more columns are ignored
    np.savetxt(tmp_path / "b.csv", bad, delimiter=",")
    names = ["label", "t", "fx", "fy", "fz", "tx", "ty", "tz"]
    rows = [",".join(names)] + [",".join(map(repr, r.tolist())) for r in bad[:, [7, *range(7)]]]
    (tmp_path / "c.csv").write_text("\n".join(rows))
    write_episodes(
        tmp_path / "d.h5", [FTEpisode(good[:, 0], good[:, 1:7].astype(np.float32), True, "d")]
    )
    (tmp_path / "notes.txt").write_text("not a recording")
    a, b, c, d = load_ft_episodes(tmp_path)
    assert [e.success for e in (a, b, c, d)] == [True, False, False, True]
    assert [e.name for e in (a, b, c, d)] == ["a", "b", "c", "d"]
    for episode, want in ((a, good), (b, bad), (c, bad), (d, good)):
        np.testing.assert_allclose(episode.wrench, want[:, 1:7], rtol=1e-6)
        np.testing.assert_allclose(episode.t, want[:, 0])
    (one,) = load_ft_episodes(tmp_path / "b.csv")
    assert (one.wrench == b.wrench).all()


def broken(kind: str) -> np.ndarray:
    x = table()
    if kind == "nan":
        x[7, 3] = np.nan
    elif kind == "label":
        x[:, 7] = 2.0
    elif kind == "varying":
        x[40:, 7] = 0.0
    elif kind == "columns":
        x = x[:, :7]
    elif kind == "time":
        x[9, 0] = x[8, 0]
    elif kind == "rate":
        x = table(hz=40.0)
    elif kind == "short":
        x = table(99)
    return x


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "bad.npy: row 7: fz is nan"),
        ("label", r"bad.npy: row 0: label 2, expected 1 \(success\) or 0 \(failure\)"),
        ("varying", "bad.npy: row 40: label 0, .*the same in every row"),
        ("columns", r"bad.npy: shape \(150, 7\), expected \(T, 8\): t, fx"),
        ("time", "bad.npy: row 9: time 0.16 s does not increase"),
        ("rate", "bad.npy: 40.0 samples a second, expected 50"),
        ("short", "bad.npy: 99 rows, expected at least 100"),
    ],
)
def test_bad_recordings_are_named(kind: str, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", broken(kind))
    with pytest.raises(ValueError, match=message):
        load_ft_episodes(tmp_path / "bad.npy")
    np.save(tmp_path / "good.npy", table())
    with pytest.warns(UserWarning, match=f"1 of 2 files left out, the first: .*{message[:8]}"):
        assert len(load_ft_episodes(tmp_path, strict=False)) == 1


def test_bad_csv_and_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("t,fx,fy,fz,tx,ty,label\n" + "0,0,0,0,0,0,1\n" * 120)
    with pytest.raises(ValueError, match="x.csv: no column 'tz'"):
        load_ft_episodes(tmp_path)
    (tmp_path / "x.csv").write_text("0,0,0,0,0,0,0,1\n0.02,0,0,zero,0,0,0,1\n")
    with pytest.raises(ValueError, match="x.csv: row 1: .*expected 8 numbers"):
        load_ft_episodes(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        load_ft_episodes(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no .npy, .csv, .h5, .hdf5 file in it"):
        load_ft_episodes(tmp_path / "empty")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="objects.npy: no array of numbers"):
        load_ft_episodes(tmp_path / "objects.npy")


def test_resampling_keeps_a_ramp(tmp_path: Path) -> None:
    x = table(400, hz=100.0)
    x[:, 3] = 2.0 * x[:, 0]
    np.save(tmp_path / "fast.npy", x)
    (episode,) = load_ft_episodes(tmp_path / "fast.npy", resample=True)
    np.testing.assert_allclose(np.diff(episode.t), 0.02, atol=1e-9)
    np.testing.assert_allclose(episode.wrench[:, 2], 2.0 * episode.t, atol=1e-5)
    assert episode.t[-1] == pytest.approx(x[-1, 0], abs=0.02)


def contacting(at: float, seconds: float = 20.0) -> FTEpisode:
    t = np.arange(round(seconds * 50)) / 50
    wrench = np.zeros((len(t), 6), np.float32)
    wrench[:, 2] = np.where(t >= at, -5.0 - (t - at), 0.0)
    wrench[::2, 2] += 1e-3
    return FTEpisode(t, wrench, True, f"{at}")


def test_trimming_to_first_contact() -> None:
    episode = contacting(4.0)
    start = first_contact(episode)
    assert start is not None and 4.0 - 0.2 <= episode.t[start] <= 4.0
    early, late = contacting(0.5), contacting(16.0, 80.0)
    assert first_contact(late) is None
    kept: Any = trimmed([episode, late])
    assert len(kept) == 1 and kept[0].t[0] == episode.t[start]
    again = first_contact(early)  # what happens before 1.5 s does not count
    assert again is None or early.t[again] >= 1.5
