"""Recorded attempts with force and torque: of the simulator, and of real robots.

HDF5 holds many attempts in one file: ``wrench`` (sum of T, 6) and ``time`` (sum of T,), one attempt
after the other, ``length``, ``success`` and ``name`` (A,). Robots' recordings come as one ``.npy``
or ``.csv`` an attempt, with the columns of the laboratory that published the method: time, force in
x, y, z, torque in x, y, z, and the label, 1 success or 0 failure, in every row. None are shipped.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewardzoo.extras import require

from .model import CONTROL_HZ, PegInHoleContactParams

COLUMNS = ("t", "fx", "fy", "fz", "tx", "ty", "tz", "label")
_FORMAT = "rewardzoo-attempts-1"
_OFF = 0.05  # how far the sampling rate may be off


class FTEpisode(NamedTuple):
    """One attempt, from its start to its end."""

    t: NDArray[np.float64]  # (T,) s
    wrench: NDArray[np.float32]  # (T, 6) N and N m
    success: bool
    name: str

    @property
    def duration(self) -> float:
        """Seconds, the last sample's own included."""
        return float(self.t[-1] - self.t[0] + (self.t[-1] - self.t[0]) / max(1, len(self.t) - 1))


def simulate_attempts(
    count: int,
    params: PegInHoleContactParams | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> list[FTEpisode]:
    """Attempts of the simulated robot, run to their end.

    Args:
        count: how many.
        params: the environment's constants.
        seed: attempt ``i`` is the first one of an environment seeded with ``seed + i``.
        threads: of physics; None takes all that the process may use.
    """
    from .process import record_attempts

    found = params or PegInHoleContactParams()
    wrench, ticks, success = record_attempts(count, found, seed, threads)
    return [
        FTEpisode(np.arange(n) / CONTROL_HZ, wrench[i, :n], bool(success[i]), f"seed {seed + i}")
        for i, n in enumerate(ticks)
    ]


def write_episodes(
    path: str | Path, episodes: Sequence[FTEpisode], attributes: Mapping[str, Any] | None = None
) -> None:
    """Write attempts to an HDF5 file, whole or not at all.

    Args:
        path: of the file.
        episodes: at least one.
        attributes: about all of them: numbers and words.
    """
    if not episodes:
        raise ValueError("episodes: expected at least one")
    h5py = require("h5py", "mujoco")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with h5py.File(part, "w") as file:
        file.attrs.update({"format": _FORMAT, "units": "s, N, N m", **(attributes or {})})
        file["wrench"] = np.concatenate([e.wrench for e in episodes]).astype(np.float32)
        file["time"] = np.concatenate([e.t for e in episodes])
        file["length"] = np.array([len(e.t) for e in episodes])
        file["success"] = np.array([e.success for e in episodes])
        file["name"] = np.array([e.name for e in episodes], dtype=h5py.string_dtype())
    part.replace(target)


def read_episodes(path: str | Path) -> list[FTEpisode]:
    """Read what ``write_episodes`` wrote.

    Raises:
        ValueError: if it is something else.
    """
    h5py = require("h5py", "mujoco")
    if not Path(path).is_file():
        raise ValueError(f"path={str(path)!r}: there is no such file")
    try:
        with h5py.File(path, "r") as file:
            found = file.attrs.get("format")
            if found != _FORMAT:
                raise ValueError(f"path={str(path)!r}: format {found!r}, expected {_FORMAT!r}")
            wrench, time = file["wrench"][:], file["time"][:]
            length, success = file["length"][:], file["success"][:]
            names = [name.decode() for name in file["name"][:]]
    except (OSError, KeyError) as error:
        raise ValueError(f"path={str(path)!r}: no HDF5 file of attempts ({error})") from None
    total = int(length.sum())
    if wrench.shape != (total, 6) or time.shape != (total,) or len(success) != len(length):
        raise ValueError(f"path={str(path)!r}: its arrays do not fit together; record it again")
    ends = np.cumsum(length)
    return [
        FTEpisode(time[end - n : end], wrench[end - n : end], bool(won), name)
        for end, n, won, name in zip(ends, length, success, names, strict=True)
    ]


def load_ft_episodes(
    path: str | Path, strict: bool = True, resample: bool = False, window: float = 2.0
) -> list[FTEpisode]:
    """Recordings of a real robot, checked.

    Args:
        path: an ``.npy``, ``.csv``, ``.h5`` or ``.hdf5`` file, or a folder of them.
        strict: raise at the first bad recording; False leaves bad ones out, with one warning.
        resample: bring recordings of another rate to 50 Hz by linear interpolation.
        window: s, the shortest recording that can be used.

    Raises:
        ValueError: naming the file, the row and what is expected there.
    """
    root = Path(path)
    if not root.exists():
        raise ValueError(f"path={str(path)!r}: there is no such file or folder")
    kinds = (".npy", ".csv", ".h5", ".hdf5")
    files = sorted(f for f in root.rglob("*") if f.suffix in kinds) if root.is_dir() else [root]
    if not files:
        raise ValueError(f"path={str(path)!r}: no {', '.join(kinds)} file in it")
    episodes: list[FTEpisode] = []
    wrong: list[str] = []
    for file in files:
        try:
            for episode in _read(file):
                episodes.append(_checked(episode, file, resample, window))
        except ValueError as error:
            if strict:
                raise
            wrong.append(str(error))
    if wrong:
        warnings.warn(
            f"{len(wrong)} of {len(files)} files left out, the first: {wrong[0]}", stacklevel=2
        )
    return episodes


def first_contact(
    episode: FTEpisode, threshold: float = 0.05, after: float = 1.5, within: float = 15.0
) -> int | None:
    """The first sample where the axial force moves, or None if it does not in time.

    The published rule: the range of 10 samples of Fz, scaled by its interquartile range over the
    recording, reaches ``threshold``. (It looks at the whole recording: for preparing recorded data,
    never for decisions.)

    Args:
        episode: a recording.
        threshold: in interquartile ranges.
        after: s, where the search begins.
        within: s, where it ends.
    """
    force = episode.wrench[:, 2].astype(np.float64)
    low, high = np.quantile(force, [0.25, 0.75])
    scaled = force / max(high - low, 1e-9)
    if len(scaled) < 10:
        return None
    views = np.lib.stride_tricks.sliding_window_view(scaled, 10)
    moved = np.ptp(views, axis=1) >= threshold
    t = episode.t[: len(moved)] - episode.t[0]
    found = np.flatnonzero(moved & (t >= after) & (t <= within))
    return int(found[0]) if len(found) else None


def trimmed(episodes: Iterable[FTEpisode], **rule: float) -> list[FTEpisode]:
    """The episodes from their first contact on; those without one are left out."""
    out = []
    for episode in episodes:
        start = first_contact(episode, **rule)
        if start is not None:
            out.append(episode._replace(t=episode.t[start:], wrench=episode.wrench[start:]))
    return out


def _read(file: Path) -> list[FTEpisode]:
    if file.suffix in (".h5", ".hdf5"):
        return read_episodes(file)
    if file.suffix == ".npy":
        try:
            table = np.load(file, allow_pickle=False)
        except (ValueError, OSError) as error:
            raise ValueError(f"{file}: no array of numbers ({error})") from None
    else:
        table = _read_csv(file)
    if table.ndim != 2 or table.shape[1] < len(COLUMNS) or not len(table):
        raise ValueError(
            f"{file}: shape {table.shape}, expected (T, {len(COLUMNS)}): {', '.join(COLUMNS)}"
        )
    table = table[:, : len(COLUMNS)].astype(np.float64)
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise ValueError(f"{file}: row {row}: {COLUMNS[column]} is {table[row, column]}")
    label = table[:, 7]
    bad = np.flatnonzero(~np.isin(label, (0.0, 1.0)) | (label != label[0]))
    if len(bad):
        raise ValueError(
            f"{file}: row {bad[0]}: label {label[bad[0]]:g}, expected 1 (success) or 0 (failure), "
            "the same in every row"
        )
    wrench = table[:, 1:7].astype(np.float32)
    return [FTEpisode(table[:, 0], wrench, bool(label[0] == 1.0), file.stem)]


def _read_csv(file: Path) -> NDArray[np.float64]:
    rows = [row for row in csv.reader(file.read_text().splitlines()) if row]
    if rows and not _is_number(rows[0][0]):
        named = [name.strip() for name in rows.pop(0)]
        if missing := [c for c in COLUMNS if c not in named]:
            raise ValueError(f"{file}: no column {missing[0]!r}, expected {', '.join(COLUMNS)}")
        places = [named.index(c) for c in COLUMNS]
    else:
        places = list(range(len(COLUMNS)))
    out = np.empty((len(rows), len(COLUMNS)))
    for i, row in enumerate(rows):
        try:
            out[i] = [float(row[k]) for k in places]
        except (ValueError, IndexError):
            raise ValueError(f"{file}: row {i}: {row}, expected {len(COLUMNS)} numbers") from None
    return out


def _checked(episode: FTEpisode, file: Path, resample: bool, window: float) -> FTEpisode:
    t = episode.t
    back = np.flatnonzero(np.diff(t) <= 0)
    if len(back):
        raise ValueError(f"{file}: row {back[0] + 1}: time {t[back[0] + 1]:g} s does not increase")
    if len(t) < round(window * CONTROL_HZ):
        raise ValueError(
            f"{file}: {len(t)} rows, expected at least {round(window * CONTROL_HZ)}, one window"
        )
    rate = (len(t) - 1) / (t[-1] - t[0])
    if not math.isclose(rate, CONTROL_HZ, rel_tol=_OFF):
        if not resample:
            raise ValueError(
                f"{file}: {rate:.1f} samples a second, expected {CONTROL_HZ} (resample=True "
                "interpolates)"
            )
        grid = np.arange(t[0], t[-1] + 1e-9, 1.0 / CONTROL_HZ)
        columns = [np.interp(grid, t, column) for column in episode.wrench.T]
        wrench = np.stack(columns, 1).astype(np.float32)
        return episode._replace(t=grid, wrench=wrench)
    return episode


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
