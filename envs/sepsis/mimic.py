"""Logged intensive-care stays of MIMIC-III cohorts, for offline learning.

The cohorts are available to credentialed users and not part of this package. Two tables are read:
``mimic_windows`` (one row a window of four hours, ready to learn from) and ``mimic_clinician`` (the
AI-Clinician's table of Komorowski et al. 2018, from which actions and features are made). Both
give ``LoggedStays`` over the 44 features of ``rewardzoo/SepsisICU-v0`` with ``obs="features"``.
"""

from __future__ import annotations

from pathlib import Path

from rewardzoo.data.check import header_of

from . import mimic_clinician, mimic_windows
from .mimic_stays import LoggedStays


def load_mimic(path: str | Path, seed: int = 0) -> LoggedStays:
    """The stays in a file of either kind, split 70/15/15 with equal shares of deaths.

    Raises:
        TableError: naming file, row and column of every fault.
    """
    file = Path(path)
    header = header_of(file)
    kind = mimic_clinician if mimic_clinician.recognises(file, header) else mimic_windows
    return kind.load(file, seed)
