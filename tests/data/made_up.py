"""Small made-up tables in the schemas of the real ones, and ways to damage them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch

from rewardzoo.envs.knee_oa.cohort import Cohort
from rewardzoo.envs.knee_oa.data import write_tidy
from rewardzoo.envs.knee_oa.oai import MONTHS, VISIT_CODES
from rewardzoo.envs.knee_oa.simulator import KneeSimulator
from rewardzoo.envs.sepsis.mimic_stays import FEATURES_44

HIDDEN = "HIDDEN7531"  # put into damaged cells; no message may repeat it


def cohort(count: int = 12, seed: int = 0) -> Cohort:
    """Patients who are all included."""
    found = KneeSimulator().sample(4 * count, seed)
    wide = (found.jsw[:, 0] >= 1.6).all(1).nonzero()[:count, 0]
    found = found.rows(wide)
    found.age[:] = found.age[:, :1] + torch.tensor(MONTHS) / 12.0
    return found


def tidy(folder: Path, count: int = 12) -> Path:
    path = folder / "knees.csv"
    write_tidy(cohort(count), path)
    return path


def lines_of(header: list[str], rows: list[list[object]], delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerows([header, *rows])
    return out.getvalue()


def oai(folder: Path, count: int = 12, horizon: int = 4) -> Path:
    """The release's tables, with its labels, cases and codes for missing values."""
    c, place = cohort(count), folder / "oai"
    place.mkdir(exist_ok=True)
    ids = [9_000_000 + 7 * i for i in range(count)]

    def write(name: str, header: list[str], rows: list[list[object]]) -> None:
        (place / name).write_text(lines_of(header, rows, "|"))

    sexes = ["1: Male", "2: Female"]
    write("Enrollees.txt", ["ID", "V00SITE", "P02SEX", "V00COHORT"],
          [[ids[i], "ABCDE"[c.site[i]], sexes[int(c.sex[i]) - 1], "x"] for i in range(count)])  # fmt: skip
    for v in range(horizon + 1):
        code = VISIT_CODES[v]
        sides = ["L", "R"]
        header = ["ID", "V00AGE" if v == 0 else f"V{code}VISIT", "P01BMI" if v == 0 else f"V{code}BMI",
                  f"V{code}HSPSS", *(f"V{code}WOMTS{s}" for s in sides)]  # fmt: skip
        if v == 0:
            header += [*(f"P01INJ{s}" for s in sides), *(f"P01KSURG{s}" for s in sides)]
        else:
            header += [*(f"V{code}INJ{s}12" for s in sides), *(f"V{code}KSRG{s}12" for s in sides)]
        rows: list[list[object]] = []
        for i in range(count):
            flags = [
                f"{int(x)}: {'Yes' if x else 'No'}"
                for name in ("inj", "surg")
                for x in getattr(c, name)[i, v].tolist()
            ]
            first = float(c.age[i, 0]) if v == 0 else "v"
            numbers = [first, float(c.bmi[i, v]), float(c.sf12[i, v]), *c.womac[i, v].tolist()]
            rows.append([ids[i], *numbers, *flags])
        write(f"AllClinical{code}.txt", header, rows)
        knees = [(i, s) for i in range(count) for s in (0, 1)]
        write(f"kxr_sq_bu{code}.txt", ["ID", "SIDE", "READPRJ", f"v{code}XRKL"],
              [[ids[i], "2: Left" if s == 0 else "1: Right", 15,
                f"{int(c.kl[i, v, s])}: Grade {int(c.kl[i, v, s])}"] for i, s in knees])  # fmt: skip
        write(f"KXR_QJSW_Duryea{code}.txt", ["ID", "side", f"V{code}MCMJSW", f"V{code}JSW250"],
              [[ids[i], 2 - s, "", float(c.jsw[i, v, s])] for i, s in knees])  # fmt: skip
    return place


def windows(folder: Path, stays: int = 30, seed: int = 0, name: str = "windows.csv",
            first: int = 0) -> Path:  # fmt: skip
    """Windows of stays of 2 to 6 windows, and one of a single one."""
    rng = np.random.default_rng(seed)
    header = [
        "traj",
        "step",
        "m:charttime",
        *(f"o:{n}" for n in FEATURES_44),
        "a:action",
        "r:reward",
    ]
    rows: list[list[object]] = []
    for k in range(stays):
        length = 1 if k == 3 else int(rng.integers(2, 7))
        for t in range(length):
            reward = (1 if rng.random() < 0.7 else -1) if t == length - 1 else 0
            features = np.round(rng.normal(size=44), 4).tolist()
            rows.append([first + 10 * k, t, 5, *features, int(rng.integers(25)), reward])
    path = folder / name
    path.write_text(lines_of(header, rows, ","))
    return path


def clinician(folder: Path, stays: int = 40, seed: int = 0) -> Path:
    """An AI-Clinician table of raw values."""
    rng = np.random.default_rng(seed)
    extra = ["charttime", "elixhauser", "re_admission", "died_in_hosp"]
    header = ["bloc", "icustayid", *extra, *FEATURES_44, "max_dose_vaso", "input_4hourly",
              "mortality_90d"]  # fmt: skip
    rows: list[list[object]] = []
    for k in range(stays):
        died = int(rng.random() < 0.3)
        gender = int(rng.random() < 0.5)
        for t in range(int(rng.integers(2, 6))):
            values = dict(
                zip(FEATURES_44, np.round(rng.gamma(2.0, 10.0, 44), 3).tolist(), strict=True)
            )
            values.update(
                gender=gender, mechvent=int(rng.random() < 0.3), GCS=15 - t, SOFA=t, SIRS=2
            )
            vaso = round(float(rng.gamma(1, 0.2)), 3) if rng.random() < 0.4 else 0
            fluid = round(float(rng.gamma(1, 100.0)), 1) if rng.random() < 0.8 else 0
            rows.append([t + 1, 200_000 + k, 1, 2, 0, 0, *(values[n] for n in FEATURES_44), vaso,
                         fluid, died])  # fmt: skip
    path = folder / "clinician.csv"
    path.write_text(lines_of(header, rows, ","))
    return path


def damage(content: bytes, rng: np.random.Generator, delimiter: str) -> tuple[str, bytes]:
    """One random damage, and its name."""
    lines = content.split(b"\n")[:-1]
    sign = delimiter.encode()
    row = int(rng.integers(1, len(lines)))
    cells = lines[row].split(sign)
    names = lines[0].split(sign)
    column = int(rng.integers(len(names)))
    kind = str(rng.choice(sorted(DAMAGES)))
    if kind == "garbage":
        words = [HIDDEN.encode(), b"nan", b"inf", b"1e999", b"-3000", b"1_0", b"0x1F", b"+", b'"']
        cells[column % len(cells)] = words[int(rng.integers(len(words)))]
    elif kind == "missing cell":
        cells[column % len(cells)] = b""
    elif kind == "cell more":
        cells.insert(column % len(cells), HIDDEN.encode())
    elif kind == "cell less":
        del cells[column % len(cells)]
    lines[row] = sign.join(cells)
    if kind == "column lost":
        lines = [sign.join(c for i, c in enumerate(x.split(sign)) if i != column) for x in lines]
    elif kind == "column renamed":
        names[column] = HIDDEN.encode()
        lines[0] = sign.join(names)
    elif kind == "column twice":
        lines = [x + sign + x.split(sign)[column] for x in lines]
    elif kind == "columns in another order":
        order = rng.permutation(len(names))
        lines = [sign.join(x.split(sign)[i] for i in order) for x in lines]
    elif kind == "row twice":
        lines.insert(row, lines[row])
    elif kind == "row lost":
        del lines[row]
    elif kind == "rows exchanged":
        other = int(rng.integers(1, len(lines)))
        lines[row], lines[other] = lines[other], lines[row]
    elif kind == "another delimiter":
        lines = [x.replace(sign, b";") for x in lines]
    out = b"\n".join(lines) + b"\n"
    if kind == "cut off":
        out = out[: int(rng.integers(len(out)))]
    elif kind == "byte changed":
        place = int(rng.integers(len(out)))
        out = out[:place] + bytes([int(rng.integers(256))]) + out[place + 1 :]
    elif kind == "bytes inserted":
        place = int(rng.integers(len(out)))
        out = out[:place] + rng.bytes(3) + out[place:]
    elif kind == "noise":
        out = rng.bytes(400)
    elif kind == "empty":
        out = b""
    elif kind == "Windows line ends":
        out = out.replace(b"\n", b"\r\n")
    elif kind == "byte order mark":
        out = b"\xef\xbb\xbf" + out
    return kind, out


ALWAYS_FAULTS = {"cell more", "cell less", "another delimiter", "noise", "empty"}
HARMLESS = {"columns in another order", "Windows line ends", "byte order mark"}
DAMAGES = (
    ALWAYS_FAULTS
    | HARMLESS
    | {
        *("garbage", "missing cell", "column lost", "column renamed", "row lost"),
        *("rows exchanged", "cut off", "byte changed", "bytes inserted", "column twice"),
        "row twice",
    }
)
