"""Results that were made up, and a trial of a few updates, for tests of experiments."""

from __future__ import annotations

import numpy as np

from rewardzoo.experiment import Budget
from rewardzoo.results import ArmResult, Results

NOISE = np.array([-0.4, 0.3, -0.2, 0.1, 0.4, -0.3, 0.2, -0.1])


def results(finals, curves=None):
    arms = [
        ArmResult(label, "", "", "", list(range(8)), (curves or {}).get(label, {}), final)
        for label, final in finals.items()
    ]
    return Results("x", "", "", arms, "", "")


class TinyTrial:
    """One seed of a job of eight updates."""

    def __init__(self, folder):
        self.seed, self.budget, self.folder = 0, Budget(8, 0, 16, 1), folder
        folder.mkdir(parents=True, exist_ok=True)

    def log(self, step, **numbers):
        pass
