"""Cohort: patients followed over visits, with two knees each, and what is labelled progression."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

SITES = ("A", "B", "C", "D", "E")
SIDES = ("left", "right")
MONTHS = (0, 12, 24, 36, 48, 72, 96)
PATIENT_FEATURES = ("age", "bmi", "sf12")
KNEE_FEATURES = ("jsw", "womac", "inj", "surg")
LEAST_JSW = 1.6  # mm; knees with less at baseline have little left to lose (Nguyen et al. 2024)
JSW_LOSS, SF12_LOSS = 0.7, 7.0  # a progression: millimetres, points
NEVER = 99  # in place of a visit: no progression is left
_EXACT = 1e-9  # 4.3 - 3.6 is below 0.7 in binary


@dataclass(frozen=True)
class Cohort:
    """N patients at V visits; missing numbers are nan.

    Args:
        site: (N,) int64, index into ``SITES``.
        sex: (N,) float64, 1 male, 2 female.
        age: (N, V) float64, years.
        bmi: (N, V) float64, kg/m2.
        sf12: (N, V) float64, physical component, points; higher is better.
        kl: (N, V, 2) float64, Kellgren-Lawrence grade 0 to 4, of the left and the right knee.
        jsw: (N, V, 2) float64, medial fixed joint space width at x = 0.25, mm; less is worse.
        womac: (N, V, 2) float64, total score 0 to 96; higher is worse.
        inj: (N, V, 2) float64, 1 after an injury.
        surg: (N, V, 2) float64, 1 after surgery.
        person: (N,) int64, equal for rows of one person.
        present: (N, 2) bool, whether there is such a knee in the data.
    """

    site: Tensor
    sex: Tensor
    age: Tensor
    bmi: Tensor
    sf12: Tensor
    kl: Tensor
    jsw: Tensor
    womac: Tensor
    inj: Tensor
    surg: Tensor
    person: Tensor
    present: Tensor

    def __len__(self) -> int:
        return len(self.site)

    def rows(self, index: Tensor) -> Cohort:
        """Some of the patients."""
        return Cohort(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def until(self, horizon: int) -> Cohort:
        """The first ``horizon`` visits after baseline.

        Raises:
            ValueError: if there are fewer.
        """
        have = self.age.shape[1] - 1
        if not 1 <= horizon <= have:
            raise ValueError(f"horizon={horizon}: expected 1 to {have}, the visits of the cohort")
        names = (*PATIENT_FEATURES, "kl", *KNEE_FEATURES)
        return replace(self, **{k: getattr(self, k)[:, : horizon + 1] for k in names})

    def knees(self) -> Cohort:
        """Each knee as a patient of its own: the part axis has length 1."""
        both = {k: getattr(self, k) for k in ("kl", *KNEE_FEATURES)}
        parts = {k: torch.cat([x[..., :1], x[..., 1:]]) for k, x in both.items()}
        whole = ("site", "sex", *PATIENT_FEATURES, "person")
        twice = {k: torch.cat([getattr(self, k)] * 2) for k in whole}
        present = torch.cat([self.present[:, :1], self.present[:, 1:]])
        return Cohort(**twice, **parts, present=present).rows(present[:, 0])


def included(cohort: Cohort) -> tuple[Cohort, dict[str, int]]:
    """The patients that are complete and whose knees have joint space to lose.

    Returns:
        The cohort, and how many patients each filter dropped.
    """
    dropped: dict[str, int] = {}
    missing = torch.zeros(len(cohort), dtype=torch.bool)
    for name in PATIENT_FEATURES:
        gone = getattr(cohort, name).isnan().any(1)
        dropped[f"{name} missing"] = int((gone & ~missing).sum())
        missing |= gone
    for name in ("kl", *KNEE_FEATURES):
        gone = (getattr(cohort, name).isnan().any(1) & cohort.present).any(1)
        dropped[f"{name} missing"] = int((gone & ~missing).sum())
        missing |= gone
    narrow = ((cohort.jsw[:, 0] < LEAST_JSW) & cohort.present).any(1) & ~missing
    dropped[f"joint space below {LEAST_JSW} mm at baseline"] = int(narrow.sum())
    return cohort.rows(~(missing | narrow)), dropped


def label_progression(
    values: Tensor, marker: str = "jsw", multiple: bool = True
) -> tuple[Tensor, Tensor]:
    """Visits at which a marker has progressed.

    ``jsw``: a loss of 0.7 mm or more against the reference, which is the baseline, then the value
    of the last progression (with ``multiple=False``, only the first progression counts and the
    reference rises with the marker). ``kl``: a rise by a grade or more against the reference.
    ``sf12``: a fall by 7 points or more against the visit before. Comparisons allow for 1e-9,
    because decimal numbers are not exact in binary. Missing values are passed over.

    Args:
        values: (..., V) float64.
        marker: ``jsw``, ``kl`` or ``sf12``.
        multiple: whether progression can happen again.

    Returns:
        (..., V) bool, and (...,) bool: False where the row must be left out (``kl`` with
        ``multiple=False``: a grade that falls).

    Example:
        >>> label_progression(torch.tensor([5.0, 4.4, 4.3, 3.6, 3.5], dtype=torch.float64))[0]
        tensor([False, False,  True,  True, False])
    """
    if marker not in ("jsw", "kl", "sf12"):
        raise ValueError(f"marker={marker!r}: expected 'jsw', 'kl' or 'sf12'")
    worse = -values if marker == "kl" else values  # less is worse
    step = {"jsw": JSW_LOSS, "kl": 1.0, "sf12": SF12_LOSS}[marker]
    reference = worse[..., 0]
    found = torch.zeros_like(values, dtype=torch.bool)
    kept = torch.ones_like(values[..., 0], dtype=torch.bool)
    for t in range(1, values.shape[-1]):
        now = worse[..., t]
        seen = now.isnan().logical_not()
        event = seen & (reference - now >= step - _EXACT)
        if not multiple:
            event &= found.any(-1).logical_not()
            if marker == "kl":
                kept &= (seen & (now > reference + _EXACT)).logical_not()
            if marker == "jsw":
                reference = torch.where(seen & (now > reference), now, reference)
        found[..., t] = event
        moves = seen if marker == "sf12" else event
        reference = torch.where(moves, now, reference)
    return found, kept


def event_table(found: Tensor) -> Tensor:
    """The sorted visits of each patient's progressions, (N, V + 1) int64, padded with ``NEVER``.

    Args:
        found: (N, V) bool.
    """
    visits = torch.arange(found.shape[1])
    times = torch.where(found, visits, NEVER).sort(1).values
    return torch.cat([times, torch.full_like(times[:, :1], NEVER)], 1)


def ranges(cohort: Cohort) -> dict[str, tuple[float, float]]:
    """The least and the greatest value of each number in a (training) cohort, over all visits."""
    out = {}
    for name in (*PATIENT_FEATURES, "jsw", "womac"):
        x = getattr(cohort, name)
        if name in KNEE_FEATURES:
            x = x.masked_fill(~cohort.present.unsqueeze(1), float("nan"))
        x = x[~x.isnan()]
        low, high = float(x.min()), float(x.max())
        out[name] = (low, high if high > low else low + 1.0)
    return out


def features(
    cohort: Cohort,
    scale: dict[str, tuple[float, float]],
    marker: str = "both",
    knees: str = "both",
) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """What each visit reveals.

    Args:
        cohort: complete patients.
        scale: from ``ranges`` of the training patients.
        marker: whose joint space width is among the features: ``both`` knees', only the ``right``
            one's, or ``none``; a knee alone has its own unless it is ``none``.
        knees: which knees have features at all: ``both``, or only the ``right`` one.

    Returns:
        (N, V, F) float32, the features' names, and (F,) bool, which ones a questionnaire tells.
    """
    count, visits = cohort.age.shape
    columns: list[tuple[str, Tensor, bool]] = []

    def scaled(name: str, x: Tensor) -> Tensor:
        low, high = scale[name]
        return (x - low) / (high - low)

    for name in PATIENT_FEATURES:
        columns.append((name, scaled(name, getattr(cohort, name)), True))
    parts = cohort.kl.shape[-1]
    for part in range(parts):
        side = SIDES[part] if parts == 2 else "knee"
        if parts == 2 and knees not in ("both", side):
            continue
        here = cohort.present[:, part].unsqueeze(1)
        for grade in range(5):
            hot = (cohort.kl[..., part] == grade).to(torch.float64)
            columns.append((f"kl{grade}_{side}", torch.where(here, hot, -1.0), False))
        for name in KNEE_FEATURES:
            unseen = marker == "none" or (marker != "both" and parts == 2 and side != marker)
            if name == "jsw" and unseen:
                continue
            x = getattr(cohort, name)[..., part]
            x = scaled(name, x) if name in scale else x
            columns.append((f"{name}_{side}", torch.where(here, x, -1.0), name != "jsw"))
    columns.append(("sex", (cohort.sex - 1.0).unsqueeze(1).expand(count, visits), True))
    table = torch.stack([x for _, x, _ in columns], -1).to(torch.float32)
    asked = torch.tensor([told for _, _, told in columns])
    return table, tuple(name for name, _, _ in columns), asked


def split(cohort: Cohort, which: str, test_site: str) -> Cohort:
    """The patients of all sites but one (``train``), or of that one (``test``).

    Raises:
        ValueError: for a wrong argument, an empty part, or a person who is in both.
    """
    if which not in ("train", "test"):
        raise ValueError(f"split={which!r}: expected 'train' or 'test'")
    if test_site not in SITES:
        raise ValueError(f"test_site={test_site!r}: expected one of {', '.join(SITES)}")
    held = cohort.site == SITES.index(test_site)
    if bool(torch.isin(cohort.person[held], cohort.person[~held]).any()):
        raise ValueError(
            f"test_site={test_site!r}: a patient has visits at this site and at another, and would "
            "be both trained and tested on"
        )
    part = cohort.rows(held if which == "test" else ~held)
    if not len(part):
        raise ValueError(f"split={which!r}, test_site={test_site!r}: no patient is left")
    return part


def no_patients(dropped: dict[str, Any]) -> str:
    """Why nobody is left, in one line."""
    return "no patient is left: " + "; ".join(
        f"{n} dropped for {why}" for why, n in dropped.items()
    )
