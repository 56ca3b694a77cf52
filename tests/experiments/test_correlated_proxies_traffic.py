"""Claims of the traffic task can come out every way, and a tiny run measures what they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from rewardzoo.experiment import Budget
from rewardzoo.experiments import correlated_proxies_traffic as traffic
from rewardzoo.experiments.common.proxies import FACTORS, KL, arm
from rewardzoo.experiments.correlated_proxies import ACTION_KL, HACKED, HONEST, SQRT_CHI2
from rewardzoo.results import ArmResult, Results

NOISE = np.array([-2.0, 1.0, 0.0, 2.0, -1.0]) * 1e-3
BASE = -0.28


def results(**objective: float) -> Results:
    """Made-up objectives by arm, ``base`` where none is given."""
    arms = []
    for measure in traffic.EXPERIMENT.grid:
        x = objective.get(measure.label, BASE) + NOISE
        final = {"objective": x, "base": np.full(5, BASE) - NOISE, "r": np.full(5, 0.6)}
        final |= {"raised_at": np.full(5, np.inf), "fallen_at": np.full(5, np.inf)}
        curves = {"step": np.tile(np.arange(6.0), (5, 1)), "objective": np.tile(x[:, None], 6)}
        final["score"] = NOISE
        arms.append(ArmResult(measure.label, "", "", "", list(range(5)), curves, final))
    return Results("x", "", "", arms, "", "")


def verdict(claim: str, **objective: float) -> str:
    check = next(c.check for c in traffic.EXPERIMENT.claims if c.sentence == claim)
    return check(results(**objective)).outcome


@pytest.mark.parametrize(
    ("reached", "outcome"), [(-0.5, "holds"), (-0.2, "fails"), (BASE, "inconclusive")]
)
def test_the_speed_is_hacked_or_not(reached: float, outcome: str) -> None:
    assert verdict("The speed is hacked", **{HACKED: reached}) == outcome


@pytest.mark.parametrize(
    ("claim", "name", "factor"),
    [
        ("sqrt(chi2) beats the base", SQRT_CHI2, 0.3),
        ("sqrt(chi2) beats action KL", SQRT_CHI2, 0.3),
        ("Occupancy KL beats action KL", KL, 1.0),
        ("The theory's coefficient improves on the base", SQRT_CHI2, 1.0),
    ],
)
def test_regularisers_are_compared_at_their_best(claim: str, name: str, factor: float) -> None:
    worse = {arm(name, f): -0.4 for f in FACTORS[name]}
    ours = arm(name, factor)
    assert verdict(claim, **{**worse, ours: -0.2}) == "holds"
    assert verdict(claim, **{**worse, ours: -0.35}) == "fails"
    assert verdict(claim, **{**worse, ours: BASE}) == "inconclusive"
    if "action KL" in claim:
        assert verdict(claim, **{ours: -0.2, arm(ACTION_KL, 1.0): -0.1}) == "fails"


def test_the_picture_can_be_drawn() -> None:
    canvas = Canvas()
    traffic.EXPERIMENT.figures[0].draw(canvas, results(**{HONEST: -0.2}))
    assert canvas.axes[1].get_ylabel() == "objective of an episode"


@pytest.mark.slow
def test_a_tiny_run() -> None:
    pytest.importorskip("libsumo")

    class Trial:
        seed, device = 0, "cpu"
        budget = Budget(total_timesteps=1_200, num_envs=4, eval_episodes=0, seeds=1)

        def __init__(self) -> None:
            self.steps: list[int] = []

        def log(self, step: int, **numbers: Any) -> None:
            self.steps.append(step)

    trial = Trial()
    found = traffic.learn(trial, "traffic_speed", SQRT_CHI2, 1.0)
    assert trial.steps == [400, 800, 1_200]
    assert 0.3 < found["r"] < 0.95 and found["base"] < 0.0 and np.isfinite(found["objective"])
