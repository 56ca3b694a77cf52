"""lipschitz_gail_variants: its claims come out each way; each arm changes one idea of the method."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import pytest

from rewardzoo.experiments.lipschitz_gail_variants import (
    ABSORBED,
    ARMS,
    CLIPPED,
    DEADLY,
    DISTILLED,
    EXPERIMENT,
    METHOD,
)
from rewardzoo.results import ArmResult, Results
from rewardzoo.rewards.adversarial import AdversarialReward

SEEDS = 5


def results(spread=0.01, **shares):
    """Made-up shares of the expert's return by arm, .95 where none is given; two of them vary."""
    noise = spread * np.array([-1.0, 1.0, 0.0, 0.5, -0.5])
    arms = []
    for arm in (*ARMS, DISTILLED):
        share = shares.get(arm, 0.95)
        final = {"objective": share + (noise if arm in (METHOD, ABSORBED) else 0.0 * noise)}
        step = np.tile(np.arange(1, 4) * 100.0, (SEEDS, 1))
        curves = {"step": step, "objective": share * step}
        arms.append(ArmResult(arm, "", "", "", list(range(SEEDS)), curves, final))
    return Results("lipschitz_gail_variants", "", "", arms, "smoke", "", {})


def outcomes(part, made):
    return {c.check(made).outcome for c in EXPERIMENT.claims if c.sentence.startswith(part)}


WORSE = {arm: 0.5 for arm in ("dragan", "nagard", CLIPPED, DISTILLED, DEADLY)}


def test_what_the_paper_says_holds():
    assert outcomes("", results(**WORSE)) == {"holds"}


@pytest.mark.parametrize(
    ("part", "fails", "open_"),
    [
        ("As good: k = 0.1", {"k = 0.1": 0.5}, {"k = 0.1": 0.85, "spread": 0.1}),
        ("As good: two-sided", {"two-sided": 1.2}, {"two-sided": 0.85, "spread": 0.1}),
        ("Less good: dragan", {"dragan": 0.9}, {"dragan": 0.85, "spread": 0.1}),
        (f"Less good: {CLIPPED}", {CLIPPED: 0.9}, {CLIPPED: 0.85, "spread": 0.1}),
        (f"Less good: {DISTILLED}", {DISTILLED: 0.9}, {DISTILLED: 0.85, "spread": 0.1}),
        ("A reward that is never positive", {DEADLY: 0.9}, {DEADLY: 0.85, "spread": 0.1}),
        ("Absorbing states", {ABSORBED: 0.95}, {DEADLY: 0.85, "spread": 0.1}),
    ],
)
def test_every_claim_can_fail_or_stay_open(part, fails, open_):
    assert outcomes(part, results(**fails)) == {"fails"}
    assert outcomes(part, results(**open_)) == {"inconclusive"}


def test_the_picture_is_drawn():
    drawn = matplotlib.figure.Figure()
    EXPERIMENT.figures[0].draw(drawn, results())
    assert drawn.axes[0].has_data()


def test_every_arm_is_one_that_the_reward_function_takes():
    for changed in ARMS.values():
        options = {k: v for k, v in changed.items() if k != "precondition"}
        AdversarialReward(None, **options)
