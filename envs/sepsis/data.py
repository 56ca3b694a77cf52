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
    """Read and check the tables, once a process; the arrays are read-only.

    Raises:
        ModuleNotFoundError: if the ``icu-sepsis`` package is missing.
        FileNotFoundError: if it does not hold the tables.
        ValueError: if a table has another shape or does not hold probabilities.
    """
    spec = importlib.util.find_spec("icu_sepsis")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "rewardzoo/SepsisICU-v0 needs the tables of ICU-Sepsis: pip install icu-sepsis"
        )
    found = read(Path(spec.submodule_search_locations[0]) / "envs" / "assets")
    for array in found:
        array.setflags(write=False)
    return found


def read(folder: Path) -> Tables:
    """The tables in ``dynamics.npz`` and ``admissible_actions.txt`` of a folder, checked."""
    keys = ("tx_mat", "d_0", "expert_policy", "state_cluster_centers", "sofa_scores")
    try:
        with np.load(folder / "dynamics.npz") as data:  # its r_mat, 100 MB, is never unpacked
            transition, initial, expert_policy, centres, sofa = (data[key] for key in keys)
        lines = (folder / "admissible_actions.txt").read_text().splitlines()
    except (FileNotFoundError, KeyError) as error:
        raise FileNotFoundError(
            f"ICU-Sepsis tables in {folder}: {error}; "
            "pip install --force-reinstall icu-sepsis==2.0.1"
        ) from error
    counts = [int(word) for word in lines[0].split()]  # of each state, then one line for each
    if len(counts) != NUM_STATES or len(lines) != NUM_STATES + 1:
        raise ValueError(f"ICU-Sepsis table admissible: expected {NUM_STATES} states")
    admissible = np.zeros((NUM_STATES, NUM_ACTIONS), dtype=bool)
    for state, line in enumerate(lines[1:]):
        actions = [int(word) for word in line.split()]
        if len(actions) != counts[state] or not set(actions) <= set(range(NUM_ACTIONS)):
            raise ValueError(f"ICU-Sepsis table admissible: state {state}: {line!r}")
        admissible[state, actions] = True
    return _checked(Tables(transition, initial, expert_policy, centres, sofa, admissible))


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
    distributions = {
        "transition": found.transition,
        "initial": found.initial,
        "expert_policy": found.expert_policy[:DEATH],
    }
    for name, rows in distributions.items():
        wrong = (np.abs(rows.sum(-1) - 1.0) > 1e-8) | (rows < 0).any(-1)
        if wrong.any():
            where = np.argwhere(wrong)[0].tolist()
            raise ValueError(f"ICU-Sepsis table {name}{where}: expected probabilities, sum 1")
    return found
