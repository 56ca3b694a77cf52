"""The tables of ICU-Sepsis (Choudhary, Gupta, Thomas 2024), read from the ``icu-sepsis`` package.

They are estimated from MIMIC-III and published under the MIT licence. The package itself is not
imported, because that imports the unmaintained ``gym``.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_STATES, NUM_ACTIONS = 716, 25
DEATH, SURVIVAL, ABSORBING = 713, 714, 715

BINARY = ("gender", "mechvent", "max_dose_vaso", "re_admission")
Z_SCORED = (
    *("age", "Weight_kg", "GCS", "HR", "SysBP", "MeanBP", "DiaBP", "RR", "Temp_C", "FiO2_1"),
    *("Potassium", "Sodium", "Chloride", "Glucose", "Magnesium", "Calcium", "Hb", "WBC_count"),
    *("Platelets_count", "PTT", "PT", "Arterial_pH", "paO2", "paCO2", "Arterial_BE", "HCO3"),
    *("Arterial_lactate", "SOFA", "SIRS", "Shock_Index", "PaO2_FiO2", "cumulated_balance"),
)
LOG_Z_SCORED = (
    *("SpO2", "BUN", "Creatinine", "SGOT", "SGPT", "Total_bili", "INR", "input_total"),
    *("input_4hourly", "output_total", "output_4hourly"),
)
FEATURES: tuple[str, ...] = (*BINARY, *Z_SCORED, *LOG_Z_SCORED)
"""The 47 columns of the cluster centres, in order."""

ACTION_LEAKS = ("max_dose_vaso", "re_admission", "input_4hourly")
"""Left out of the 44 features of Sukovic and Radanovic (2024); two of them are the action."""


class Tables(NamedTuple):
    """The patient model; S = 716 states, A = 25 actions."""

    transition: NDArray[np.float64]  # (S, A, S), rows sum to 1
    initial: NDArray[np.float64]  # (S,)
    expert_policy: NDArray[np.float64]  # (S, A), zero in the three terminal states
    centres: NDArray[np.float64]  # (S, 47), normalised features
    sofa: NDArray[np.float64]  # (S,), mean SOFA score
    admissible: NDArray[np.bool_]  # (S, A)


@functools.cache
def tables() -> Tables:
    """Read and check the tables, once a process.

    Raises:
        ModuleNotFoundError: if the ``icu-sepsis`` package is missing.
        ValueError: if a table has another shape or does not hold probabilities.
    """
    spec = importlib.util.find_spec("icu_sepsis")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "rewardzoo/SepsisICU-v0 needs the tables of ICU-Sepsis: pip install icu-sepsis"
        )
    folder = Path(spec.submodule_search_locations[0]) / "envs" / "assets"
    with np.load(folder / "dynamics.npz") as data:
        arrays = {key: data[key] for key in data.files}
    admissible = np.zeros((NUM_STATES, NUM_ACTIONS), dtype=bool)
    lines = (folder / "admissible_actions.txt").read_text().splitlines()
    for state, line in enumerate(lines[1:]):  # the first line counts the actions of each state
        admissible[state, [int(a) for a in line.split()]] = True
    return _checked(
        Tables(
            transition=arrays["tx_mat"],
            initial=arrays["d_0"],
            expert_policy=arrays["expert_policy"],
            centres=arrays["state_cluster_centers"],
            sofa=arrays["sofa_scores"],
            admissible=admissible,
        )
    )


def _checked(found: Tables) -> Tables:
    shapes = {
        "transition": (NUM_STATES, NUM_ACTIONS, NUM_STATES),
        "initial": (NUM_STATES,),
        "expert_policy": (NUM_STATES, NUM_ACTIONS),
        "centres": (NUM_STATES, len(FEATURES)),
        "sofa": (NUM_STATES,),
    }
    for name, shape in shapes.items():
        array = getattr(found, name)
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"ICU-Sepsis table {name}: {array.shape}, expected finite {shape}")
    sums = found.transition.sum(-1)
    if (found.transition < 0).any() or not np.allclose(sums, 1.0, atol=1e-8):
        state, action = np.argwhere(~np.isclose(sums, 1.0, atol=1e-8))[0]
        raise ValueError(f"ICU-Sepsis table transition: state {state}, action {action}: not 1")
    return found
