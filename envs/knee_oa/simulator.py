"""KneeSimulator: patients with knee osteoarthritis, drawn from published figures.

Every constant stands in ``simulator.json`` with its unit and its source. Nothing here is a
patient's record.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rewardzoo.random import Rng

from .cohort import MONTHS, SITES, Cohort

_STREAM = 4
VISITS = len(MONTHS)  # the simulator's are a year apart


@functools.cache
def constants() -> dict[str, dict[str, Any]]:
    """The entries of ``simulator.json``: ``value``, ``unit`` and ``source`` of each constant."""
    text = importlib.resources.files(__package__).joinpath("simulator.json").read_text()
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


class KneeSimulator:
    """Draws patients: covariates, grades that worsen with risk, joint space that is lost with them.

    A knee's grade worsens in a year with a probability that depends on the grade, on age, weight,
    sex and injury, on frailty of the person and of the knee, and on whether the knee is a fast
    progressor; the joint space lost depends on the grades before and after. What is recorded at a
    visit carries a fresh reading error and the site's bias.

    Args:
        config: values to use in place of those of ``simulator.json``, by name.

    Example:
        >>> cohort = KneeSimulator().sample(1000, seed=0)
        >>> cohort.jsw.shape
        torch.Size([1000, 7, 2])
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.values = {name: entry["value"] for name, entry in constants().items()}
        for name, value in (config or {}).items():
            if name not in self.values:
                raise ValueError(f"config: {name!r} is unknown; it has {', '.join(self.values)}")
            self.values[name] = value

    def sample(self, count: int, seed: int = 0, visits: int = VISITS) -> Cohort:
        """``count`` patients at ``visits`` yearly visits; patient i is the same for any count."""
        if not count >= 1:
            raise ValueError(f"count={count}: expected an integer >= 1")
        v = self.values
        rows = torch.arange(count)
        rng = self._rng(rows, seed, 0)
        site = rng.integers(0, len(SITES))
        age = _clipped(rng, v["age"])
        female = rng.uniform() < v["female"]
        bmi = _clipped(rng, v["bmi"])
        inj = _flag(rng, v["injury"][0])
        surg = _flag(rng, v["surgery"][0])
        frailty = v["frailty"][0] * _normal(rng, 1) + v["frailty"][1] * _normal(rng, 2)
        grade = self._first_grade(rng)
        lin = (
            (math.log(v["odds_age"]) * (age - 61.0) / 5.0)
            + (math.log(v["odds_bmi"]) * (bmi - 28.6) / 5.0)
            + math.log(v["odds_female"]) * (female.double() - v["female"])
        ).unsqueeze(1) + math.log(v["odds_injury"]) * (inj - v["injury"][0])
        risk = lin + frailty
        logit = v["fast"][0] + risk + v["fast"][1] * (grade >= 2)
        fast = (rng.uniform(2) < logit.sigmoid()).double()
        width = torch.tensor(v["jsw_mean"], dtype=torch.float64)[grade]
        width = (
            width + v["jsw_female"] * female.double().unsqueeze(1) + v["jsw_sd"] * _normal(rng, 2)
        )
        width = width.clamp(min=0.0)
        pain = v["womac"][3] * _normal(rng, 1) + v["womac"][4] * _normal(rng, 2)
        wellbeing = v["sf12"][2] * _normal(rng, 1).squeeze(1)
        bias = v["site_bias"] * _normal(self._rng(torch.arange(len(SITES)), seed, VISITS), 1)[site]

        columns: dict[str, list[Tensor]] = {
            k: [] for k in ("age", "bmi", "sf12", "kl", "jsw", "womac", "inj", "surg")
        }
        for t in range(visits):
            if t:
                rng = self._rng(rows, seed, t)
                grade, width = self._year(rng, grade, width, risk, fast)
                bmi = (bmi + v["bmi_drift"] * _normal(rng)).clamp(*v["bmi"][2:])
                inj = inj.maximum(_flag(rng, v["injury"][1]))
                surg = surg.maximum(_flag(rng, v["surgery"][1]))
            level, a_grade, fast_pain, _, _, spread = v["womac"]
            logit = level + a_grade * grade + fast_pain * fast + pain + spread * _normal(rng, 2)
            womac = (96.0 * logit.sigmoid()).round()
            mean, slope, _, spread, low, high = v["sf12"]
            sf12 = mean + slope * (womac.mean(1) - 15.0) + wellbeing + spread * _normal(rng)
            reading = width + bias + v["reading_sd"] * _normal(rng, 2)
            now = {
                "age": age + t,
                "bmi": bmi,
                "sf12": sf12.clamp(low, high),
                "kl": grade.double(),
                "jsw": reading.clamp(min=0.0),
                "womac": womac,
                "inj": inj,
                "surg": surg,
            }
            for name, x in now.items():
                columns[name].append(x)
        return Cohort(
            site=site,
            sex=1.0 + female.double(),
            person=rows,
            present=torch.ones(count, 2, dtype=torch.bool),
            **{name: torch.stack(xs, 1) for name, xs in columns.items()},
        )

    def _rng(self, rows: Tensor, seed: int, step: int) -> Rng:
        return Rng(rows, torch.full_like(rows, seed), step, _STREAM)

    def _first_grade(self, rng: Rng) -> Tensor:
        """(N, 2) int64: a latent normal number a knee, correlated within the person, cut up."""
        shared = self.values["kl_correlation"]
        latent = math.sqrt(shared) * _normal(rng, 1) + math.sqrt(1 - shared) * _normal(rng, 2)
        below = torch.tensor(self.values["kl_shares"], dtype=torch.float64).cumsum(0)[:-1]
        cuts = torch.special.ndtri(below)
        return (latent.unsqueeze(-1) > cuts).sum(-1)

    def _year(
        self, rng: Rng, grade: Tensor, width: Tensor, risk: Tensor, fast: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Grade and joint space a year later."""
        v = self.values
        base = torch.tensor(v["worsening"], dtype=torch.float64).logit()[grade]
        chance = (base + risk + v["fast_worsening"] * fast + v["worsening_shift"]).sigmoid()
        worse = rng.uniform(2) < chance
        grades = 1 + (rng.uniform(2) < v["two_grades"]).long()
        after = (grade + worse * grades).clamp(max=4)
        loss = torch.tensor(v["loss"], dtype=torch.float64)[grade, after]
        loss = loss + v["fast_loss"][0] * fast + v["fast_loss"][1]
        loss = loss + v["loss_sd"] * _normal(rng, 2)
        return after, (width - loss).clamp(min=0.0)


def _normal(rng: Rng, *shape: int) -> Tensor:
    return rng.normal(*shape).double()


def _flag(rng: Rng, share: float) -> Tensor:
    return (rng.uniform(2) < share).double()


def _clipped(rng: Rng, numbers: list[float]) -> Tensor:
    mean, sd, low, high = numbers
    return (mean + sd * _normal(rng)).clamp(low, high)
