"""A patient's features and doses in the words and units of a ward.

The tables of ICU-Sepsis are normalised and do not say by what. The score SOFA can be recovered
exactly (the tables hold it twice); for all other features ``CLINICAL`` holds round numbers typical
of adult sepsis patients in intensive care, good enough to read an explanation by, and used for
nothing else. Where you have the cohort, pass its own statistics.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from .data import FEATURES, LOG_Z_SCORED, SURVIVAL, tables


class Clinical(NamedTuple):
    """How to write a feature."""

    words: str
    unit: str
    mean: float  # of x, or of log(.1 + x) where the tables hold logarithms
    sd: float
    low: float  # the usual reference range of healthy adults; nan: none
    high: float


_NONE = math.nan
CLINICAL: dict[str, Clinical] = {
    "age": Clinical("age", "years", 65, 16, _NONE, _NONE),
    "Weight_kg": Clinical("weight", "kg", 82, 24, _NONE, _NONE),
    "GCS": Clinical("Glasgow coma scale", "of 15", 12.3, 3.6, 15, 15),
    "HR": Clinical("heart rate", "/min", 87, 17, 60, 100),
    "SysBP": Clinical("systolic pressure", "mmHg", 120, 20, 90, 140),
    "MeanBP": Clinical("mean pressure", "mmHg", 78, 13, 65, 105),
    "DiaBP": Clinical("diastolic pressure", "mmHg", 58, 13, 60, 90),
    "RR": Clinical("respiratory rate", "/min", 20, 5, 12, 20),
    "Temp_C": Clinical("temperature", "deg C", 37.0, 0.8, 36, 38),
    "FiO2_1": Clinical("inspired oxygen fraction", "", 0.45, 0.16, 0.21, 0.21),
    "Potassium": Clinical("potassium", "mmol/L", 4.1, 0.6, 3.5, 5.1),
    "Sodium": Clinical("sodium", "mmol/L", 139, 5, 135, 145),
    "Chloride": Clinical("chloride", "mmol/L", 105, 6, 98, 107),
    "Glucose": Clinical("glucose", "mg/dL", 140, 50, 70, 140),
    "Magnesium": Clinical("magnesium", "mg/dL", 2.0, 0.3, 1.7, 2.3),
    "Calcium": Clinical("calcium", "mg/dL", 8.2, 0.8, 8.5, 10.5),
    "Hb": Clinical("haemoglobin", "g/dL", 10.2, 1.7, 12, 17),
    "WBC_count": Clinical("white cells", "10^9/L", 12.5, 7.5, 4, 11),
    "Platelets_count": Clinical("platelets", "10^9/L", 215, 130, 150, 400),
    "PTT": Clinical("partial thromboplastin time", "s", 39, 19, 25, 37),
    "PT": Clinical("prothrombin time", "s", 16, 6, 11, 14),
    "Arterial_pH": Clinical("arterial pH", "", 7.39, 0.07, 7.35, 7.45),
    "paO2": Clinical("arterial oxygen", "mmHg", 120, 55, 75, 100),
    "paCO2": Clinical("arterial carbon dioxide", "mmHg", 41, 10, 35, 45),
    "Arterial_BE": Clinical("base excess", "mmol/L", 0, 4.5, -2, 2),
    "HCO3": Clinical("bicarbonate", "mmol/L", 25, 5, 22, 28),
    "Arterial_lactate": Clinical("arterial lactate", "mmol/L", 2.1, 1.6, 0.5, 2.0),
    "SIRS": Clinical("SIRS criteria met", "of 4", 1.6, 1.0, 0, 1),
    "Shock_Index": Clinical("shock index", "", 0.75, 0.2, 0.5, 0.7),
    "PaO2_FiO2": Clinical("oxygenation (PaO2/FiO2)", "mmHg", 290, 150, 400, 500),
    "cumulated_balance": Clinical("fluid balance since admission", "mL", 3500, 8000, _NONE, _NONE),
    "SpO2": Clinical("oxygen saturation", "%", 4.576, 0.03, 95, 100),
    "BUN": Clinical("urea nitrogen", "mg/dL", 3.2, 0.7, 7, 20),
    "Creatinine": Clinical("creatinine", "mg/dL", 0.2, 0.65, 0.6, 1.2),
    "SGOT": Clinical("aspartate transaminase", "U/L", 3.9, 1.1, 8, 40),
    "SGPT": Clinical("alanine transaminase", "U/L", 3.6, 1.1, 7, 40),
    "Total_bili": Clinical("bilirubin", "mg/dL", 0.0, 0.95, 0.1, 1.2),
    "INR": Clinical("INR", "", 0.37, 0.3, 0.8, 1.2),
    "input_total": Clinical("fluids since admission", "mL", 8.7, 1.2, _NONE, _NONE),
    "input_4hourly": Clinical("fluids in this window", "mL", 3.5, 2.9, _NONE, _NONE),
    "output_total": Clinical("urine since admission", "mL", 8.1, 1.4, _NONE, _NONE),
    "output_4hourly": Clinical("urine in this window", "mL", 5.0, 1.6, _NONE, _NONE),
}

FLUIDS_ML = (0, 30, 85, 320, 946)
"""Median intravenous fluids of the five levels, mL in 4 hours."""

VASOPRESSOR = (0, 0.04, 0.13, 0.27, 0.68)
"""Median vasopressor of the five levels, ug/kg/min of norepinephrine or its equivalent."""


@functools.cache
def sofa_scale() -> tuple[float, float]:
    """Mean and standard deviation by which the column SOFA of the tables was normalised."""
    data = tables()
    column = data.centres[:SURVIVAL, FEATURES.index("SOFA")]
    slope, intercept = np.polyfit(column, data.sofa[:SURVIVAL], 1)
    return float(intercept), float(slope)


def raw_value(name: str, value: float) -> float:
    """A normalised feature in clinical units; binary ones as a share from 0 to 1."""
    if name in ("gender", "mechvent", "max_dose_vaso", "re_admission"):
        return min(max(value + (0.6 if name == "re_admission" else 0.5), 0.0), 1.0)
    mean, sd = sofa_scale() if name == "SOFA" else CLINICAL[name][2:4]
    raw = mean + sd * value
    return max(math.exp(raw) - 0.1, 0.0) if name in LOG_Z_SCORED else raw


def describe_feature(name: str, value: float) -> str:
    """A normalised feature in words: value, unit, and where it lies."""
    value = float(value)
    raw = raw_value(name, value)
    if name in ("gender", "mechvent", "max_dose_vaso", "re_admission"):
        words = {
            "gender": "female",
            "mechvent": "mechanically ventilated",
            "max_dose_vaso": "on vasopressors",
            "re_admission": "readmitted",
        }
        return f"{words[name]}: {raw:.0%} of such patients"
    if name == "SOFA":
        words, unit, low, high = "SOFA score", "of 24", 0.0, 1.0
    else:
        words, unit, _, _, low, high = CLINICAL[name]
    if name == "SpO2":
        raw = min(raw, 100.0)
    figures = f"{raw:.0f}" if abs(raw) >= 100 else f"{raw:.3g}"
    place = "" if math.isnan(low) else f"{_place(raw, low, high)}, "
    return f"{words} {figures}{f' {unit}' if unit else ''} ({place}{value:+.1f} SD of the cohort)"


def _place(raw: float, low: float, high: float) -> str:
    if raw < low:
        return "low"
    return "high" if raw > high else "normal"


def describe_action(action: int) -> str:
    """An action's two doses: level and median dose."""
    fluids, vasopressor = divmod(int(action), 5)
    parts = [
        f"fluids level {fluids} (about {FLUIDS_ML[fluids]} mL in 4 h)" if fluids else "no fluids",
        f"vasopressor level {vasopressor} (about {VASOPRESSOR[vasopressor]} ug/kg/min)"
        if vasopressor
        else "no vasopressor",
    ]
    return ", ".join(parts)


def describe_state(state: int) -> str:
    """A state's number and SOFA score."""
    return f"Patient in state {state}, SOFA {tables().sofa[state]:.1f}"
