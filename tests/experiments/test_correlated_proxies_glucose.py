"""Claims of the glucose task can come out every way, and its coefficients are chosen elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from rewardzoo.experiments import correlated_proxies_glucose as glucose
from rewardzoo.experiments.common import proxies
from rewardzoo.experiments.correlated_proxies import ACTION_KL, HACKED, HONEST, SQRT_CHI2
from rewardzoo.results import ArmResult, Results

NOISE = np.array([-2.0, 1.0, 0.0, 2.0, -1.0]) * 1e-4
BASE = -0.003


def results(**objective: float) -> Results:
    """Made-up objectives by arm, ``base`` where none is given."""
    arms = []
    for arm in glucose.EXPERIMENT.grid:
        x = objective.get(arm.label, BASE) + NOISE
        final = {"objective": x, "base": np.full(5, BASE) - NOISE, "r": np.full(5, 0.5)}
        final |= {"raised_at": np.full(5, np.inf), "fallen_at": np.full(5, np.inf)}
        steps = np.arange(6.0)
        curves = {
            "step": np.tile(steps, (5, 1)),
            "objective": np.where(steps % 3 == 2, x[:, None], np.nan),
        }
        arms.append(
            ArmResult(arm.label, "", "", "", list(range(5)), curves, {**final, "score": NOISE})
        )
    return Results("x", "", "", arms, "", "")


def verdict(claim: str, **objective: float) -> str:
    check = next(c.check for c in glucose.EXPERIMENT.claims if c.sentence == claim)
    return check(results(**objective)).outcome


@pytest.mark.parametrize(
    ("reached", "outcome"), [(-0.04, "holds"), (-0.001, "fails"), (BASE, "inconclusive")]
)
def test_the_cost_is_hacked_or_not(reached: float, outcome: str) -> None:
    assert verdict("The cost is hacked", **{HACKED: reached}) == outcome


@pytest.mark.parametrize(
    ("claim", "ours", "theirs"),
    [
        ("sqrt(chi2) beats the base", f"{SQRT_CHI2}, 0.3", None),
        ("sqrt(chi2) beats action KL", f"{SQRT_CHI2}, 0.3", ACTION_KL),
        ("Occupancy KL beats action KL", f"{proxies.KL}, 1", ACTION_KL),
        ("The theory's coefficient improves on the base", f"{SQRT_CHI2}, 1", None),
    ],
)
def test_regularisers_are_compared_at_their_best(claim: str, ours: str, theirs: str | None) -> None:
    name = ours.split(",")[0]
    worse = {proxies.arm(name, f): -0.02 for f in proxies.FACTORS[name]}
    assert verdict(claim, **{**worse, ours: -0.001}) == "holds"
    assert verdict(claim, **{**worse, ours: -0.01}) == "fails"
    assert verdict(claim, **{**worse, ours: BASE}) == "inconclusive"
    if theirs is not None:
        assert verdict(claim, **{ours: -0.001, f"{theirs}, 1": -0.0005}) == "fails"


def test_the_coefficient_of_a_seed_is_chosen_on_the_others() -> None:
    """Arm b is best on seed 0 alone: no seed but the others' mean may say so."""
    made = results()
    labels = [proxies.arm(SQRT_CHI2, f) for f in (0.3, 1.0)]
    made[labels[0]].final["objective"] = np.array([1.0, 1.0, 1.0, 1.0, 1.0])
    made[labels[1]].final["objective"] = np.array([9.0, 0.0, 0.0, 0.0, 0.0])
    found, chosen = proxies.best_of_others(made, labels)
    assert found.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert chosen == [labels[0], *[labels[1]] * 4]


def test_the_picture_can_be_drawn() -> None:
    canvas = Canvas()
    proxies.draw(canvas, results(**{HONEST: -0.002}), "a day")
    left, right = canvas.axes
    assert len(right.lines) == 15 and all(
        np.isfinite(line.get_ydata()).all() for line in right.lines
    )
    assert left.get_xscale() == "log"


@pytest.mark.slow
def test_a_tiny_run() -> None:
    from rewardzoo.experiment import Budget

    class Trial:
        seed, device = 0, "cpu"
        budget = Budget(total_timesteps=4_608, num_envs=16, eval_episodes=0, seeds=1)

        def __init__(self) -> None:
            self.steps: list[int] = []

        def log(self, step: int, **numbers: Any) -> None:
            self.steps.append(step)

    trial = Trial()
    found = glucose.learn(trial, "glucose_cost", SQRT_CHI2, 1.0)
    assert trial.steps == [1_536, 3_072, 4_608]
    assert 0.3 < found["r"] < 0.8 and found["base"] < 0.0 and np.isfinite(found["objective"])
