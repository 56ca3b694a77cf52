"""Claims about reward distances can come out every way."""

from __future__ import annotations

import numpy as np
import pytest

from rewardzoo.experiments import starc_regret
from rewardzoo.experiments.starc_regret import DENSE, DISTANCES, FORK, SPARSE
from rewardzoo.results import ArmResult, Results

NOISE = np.array([-2.0, 1.0, 0.0, 2.0, -1.0]) * 1e-3
BOUNDS, WRONG = "Both regret bounds hold", "EPIC and DARD can be arbitrarily wrong"


def results(**given: dict[str, float]) -> Results:
    """Made-up correlations by arm ("sparse", "dense", "fork") and distance, .5 where none is given."""
    arms = []
    for i, (label, key) in enumerate(((SPARSE, "sparse"), (DENSE, "dense"), (FORK, "fork"))):
        numbers = dict.fromkeys(DISTANCES, 0.5) | {"bounds": 1.0}
        numbers |= {"least_ratio": 0.1, "greatest_ratio": 2.0}
        if label == FORK:
            numbers = {"starc": 2.0, "epic": 0.01, "dard": 0.01}
        noise = {k: (1 - 2 * (j % 2)) * NOISE * (label != FORK) for j, k in enumerate(numbers)}
        noise |= {"bounds": 0.0 * NOISE}
        final = {k: v + noise[k] for k, v in (numbers | given.get(key, {})).items()}
        arms.append(ArmResult(label, "", "", "", [5 * i + j for j in range(5)], {}, final))
    return Results("x", "", "", arms, "", "")


def outcome(claim: str, found: Results) -> str:
    check = next(c.check for c in starc_regret.EXPERIMENT.claims if c.sentence == claim)
    return check(found).outcome


def test_bounds_hold_unless_a_pair_is_outside() -> None:
    assert outcome(BOUNDS, results()) == "holds"
    for arm in ("sparse", "dense"):
        assert outcome(BOUNDS, results(**{arm: {"bounds": 0.0}})) == "fails"


@pytest.mark.parametrize("changed", [{"epic": 0.3}, {"dard": 0.3}, {"starc": 1.9}])
def test_opposites_seem_near_to_epic_and_dard_alone(changed: dict[str, float]) -> None:
    assert outcome(WRONG, results()) == "holds"
    assert outcome(WRONG, results(fork=changed)) == "fails"


@pytest.mark.parametrize(
    ("claim", "arm", "one"),
    [
        ("STARC beats EPIC", "sparse", "starc"),
        ("STARC beats DARD", "sparse", "starc"),
        ("EPIC beats nothing", "sparse", "epic"),
        ("STARC beats EPIC where everything can happen", "dense", "starc"),
    ],
)
def test_a_distance_tells_regret_better_worse_or_as_well(claim: str, arm: str, one: str) -> None:
    for reached, want in ((0.9, "holds"), (0.1, "fails"), (0.5, "inconclusive")):
        assert outcome(claim, results(**{arm: {one: reached}})) == want
    other = {"sparse": "dense", "dense": "sparse"}[arm]
    assert outcome(claim, results(**{other: {one: 0.9}})) == "inconclusive"


def test_every_claim_is_tried_here() -> None:
    assert len(starc_regret.EXPERIMENT.claims) == 6
