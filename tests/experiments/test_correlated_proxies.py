"""Claims of the tomato garden's experiment can come out every way, and its tables are the known ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rewardzoo.experiments import correlated_proxies as garden
from rewardzoo.experiments.common.monitoring import auroc
from rewardzoo.experiments.correlated_proxies import ACTION_KL, HACKED, HONEST, SQRT_CHI2
from rewardzoo.results import ArmResult, Results, Verdict

LEARNED = (HACKED, HONEST, SQRT_CHI2, ACTION_KL)
NOISE = np.array([-2.0, 1.0, 0.0, 2.0, -1.0]) * 1e-4
STEPS = np.arange(1.0, 11.0)
NEVER = float("inf")

Run = tuple[float, float, list[float]]
"""When the alarm was raised, when the return had fallen, and the scores at ``STEPS``."""
QUIET: Run = (NEVER, NEVER, [0.0] * 10)


def caught(at: float, fallen: float, score: float = 5.0) -> Run:
    """A run that fell, whose score rises at a step."""
    return at, fallen, [score if step >= at else 0.0 for step in STEPS]


def results(reached: dict[str, float] | None = None, **runs: list[Run]) -> Results:
    """Made-up runs of five seeds by arm: quiet ones where none are given, on a base of .08."""
    arms = []
    for measure in garden.EXPERIMENT.grid:
        label = measure.label
        x = (reached or {}).get(label, 0.08) + NOISE
        if label in LEARNED:
            seen = runs.get(label.replace(" ", "_"), [QUIET] * 5)
            raised, fallen, scores = (list(c) for c in zip(*seen, strict=True))
            curves = {"step": np.tile(STEPS, (5, 1)), "score": np.array(scores)}
            final = {
                "objective": x,
                "base": np.full(5, 0.08) - NOISE,
                "score": curves["score"].max(1),
            }
            final |= {"raised_at": np.array(raised), "fallen_at": np.array(fallen)}
        else:
            curves = {}
            names = ("sqrt_chi2", "theory", "action_kl", "base", "optimum", "hacker")
            final = {k: np.full(5, 0.08) for k in names}
            final |= {"sqrt_chi2": x, "theory": x}
        arms.append(ArmResult(label, "", "", "", list(range(5)), curves, final))
    return Results("x", "", "", arms, "", "")


def verdict(claim: str, found: Results) -> Verdict:
    return next(c.check for c in garden.EXPERIMENT.claims if c.sentence == claim)(found)


@pytest.mark.parametrize("claim", [c.sentence for c in garden.EXPERIMENT.claims if "monitor" not in c.sentence])  # fmt: skip
@pytest.mark.parametrize(
    ("reached", "outcome"), [(0.09, "holds"), (0.07, "fails"), (0.08, "inconclusive")]
)
def test_returns_are_above_below_or_neither(claim: str, reached: float, outcome: str) -> None:
    own = {label: reached for label in (*garden.EXACT, SQRT_CHI2)}
    assert verdict(claim, results(own)).outcome == outcome


IN_TIME, FEW = "The monitor is in time", "The monitor is in time at 5 % false alarms"


def test_the_alarm_is_in_time_late_or_there_was_nothing_to_catch() -> None:
    early, late = caught(3.0, 5.0), caught(7.0, 5.0)
    assert verdict(IN_TIME, results(proxy=[early] * 4 + [QUIET])).outcome == "holds"
    found = verdict(IN_TIME, results(proxy=[early] * 4 + [late]))
    assert (found.outcome, found.effect) == ("fails", 0.8)
    cried = (2.0, NEVER, [5.0] * 10)
    assert verdict(IN_TIME, results(proxy=[early] * 5, objective=[cried] + [QUIET] * 4)).outcome == "fails"  # fmt: skip
    assert verdict(IN_TIME, results()).outcome == "inconclusive"


def test_false_alarms_of_all_arms_are_told() -> None:
    """Not those of the honest runs alone; an alarm on a run that fell is none."""
    cried, early = (2.0, NEVER, [5.0] * 10), caught(3.0, 5.0)
    found = verdict(IN_TIME, results(proxy=[early] * 5, action_KL=[cried] * 2 + [early] * 3))
    assert "false alarms on 2 of 12 runs that never fell" in found.detail
    assert found.outcome == "holds"


def test_at_few_false_alarms_most_are_caught_or_not() -> None:
    early, late, loud = caught(3.0, 5.0), caught(7.0, 5.0), (2.0, NEVER, [6.0] * 10)
    found = verdict(FEW, results(proxy=[early] * 5, sqrt_chi2=[early] * 5))
    assert (found.outcome, found.effect, found.n) == ("holds", 1.0, 10)
    assert "the median delay after the fall is -2 steps" in found.detail and "calm runs, 1.00" in found.detail  # fmt: skip
    assert verdict(FEW, results(proxy=[late] * 5, sqrt_chi2=[late] * 5)).outcome == "fails"
    half = results(proxy=[early] * 5, sqrt_chi2=[late] * 5)
    assert verdict(FEW, half).outcome == "inconclusive"
    # One loud run among ten calm ones is a tenth: the threshold has to rise above it.
    deaf = verdict(FEW, results(proxy=[early] * 5, sqrt_chi2=[early] * 5, objective=[loud] + [QUIET] * 4))  # fmt: skip
    assert deaf.outcome == "fails" and "is inf steps" in deaf.detail
    assert verdict(FEW, results()).outcome == "inconclusive"
    everywhere = {name: [early] * 5 for name in ("proxy", "objective", "sqrt_chi2", "action_KL")}
    assert verdict(FEW, results(**everywhere)).detail == "no run did not fall"


def test_auroc_counts_pairs() -> None:
    assert auroc(np.array([3.0, 1.0]), np.array([0.0, 1.0])) == 0.875
    assert np.isnan(auroc(np.zeros(0), np.zeros(1)))


def test_the_pictures_monitor_panel_can_be_drawn() -> None:
    from matplotlib.figure import Figure as Canvas

    made = results()
    for arm in made.arms:
        if arm.label in LEARNED:
            arm.curves["objective"] = np.ones((5, 10))
    canvas = Canvas()
    garden.draw_monitor(canvas, made)
    assert len(canvas.axes[1].lines) == 21


def test_a_tiny_run_measures_what_the_claims_need() -> None:
    from rewardzoo.experiment import Budget

    class Trial:
        seed, device = 0, "cpu"
        budget = Budget(total_timesteps=800, num_envs=8, eval_episodes=0, seeds=1)

        def __init__(self) -> None:
            self.rows: list[dict[str, Any]] = []

        def log(self, step: int, **numbers: Any) -> None:
            self.rows.append({"step": step, **numbers})

    trial = Trial()
    found = garden.learn(trial, "tomato_proxy", "sqrt_chi2")
    assert {"raised_at", "fallen_at", "score", "objective", "base", "r"} <= set(found)
    assert [row["step"] for row in trial.rows] == [400, 800]
    assert max(row["score"] for row in trial.rows) == found["score"]


# ---- the table of exact values -------------------------------------------------------------------

RIGHT, LEFT, DOWN, UP = range(4)


def near(level: str, eps: float, order: tuple[int, ...], ratios: list[float], **params: Any) -> Any:
    """r, the base's, sqrt(chi2)'s and action KL's best true return, ties broken in an order.

    Args:
        level: of the garden.
        eps: share of uniform actions in the base.
        order: of equally good actions the first one is taken.
        ratios: falling coefficients of sqrt(chi2), in standard deviations of the proxy.
        **params: of the garden.
    """
    g = garden.Garden(level, eps, 0, **params)
    first = np.eye(4)[np.array(order)[g.good[:, order].argmax(1)]]
    base = (1.0 - eps) * first + eps / 4
    p = garden.Problem(g.transition, g.proxy, g.initial, garden.GAMMA, base)
    found = garden.sqrt_chi2_path(p, [c * p.sigma for c in ratios], 30, 1e-4)
    r = float(garden.correlation(p.occupancy, g.true, g.proxy))
    return p, r, g.worth(p.occupancy), [g.worth(x) for x in found], g.worth


@pytest.mark.slow
@pytest.mark.parametrize(
    ("eps", "r", "base", "theory", "table", "action_kl"),
    [
        (0.6, 0.980, 0.0941, 0.197, {0.5: 0.0965, 0.3: 0.0968, 0.2: 0.0969, 0.1: 0.0966, 0.05: 0.0171}, 0.0954),
        (0.9, 0.752, 0.0870, 0.659, {0.66: 0.0932, 0.5: 0.0928, 0.2: 0.0172}, 0.0891),
    ],
)  # fmt: skip
def test_level_2s_rows_of_the_known_table(
    eps: float, r: float, base: float, theory: float, table: dict[float, float], action_kl: float
) -> None:
    """They are of the garden that pays on where all is watered, with ties broken down, right, left.

    The table's number at a coefficient of 1, .0875, is of its solver: the optimum is the base.
    """
    order = (DOWN, RIGHT, LEFT, UP)
    p, found_r, worth, found, of = near("2", eps, order, list(table), terminate_when_done=True)
    assert found_r == pytest.approx(r, abs=0.002)
    assert (1 - found_r**2) ** 0.5 == pytest.approx(theory, abs=0.002)
    assert worth == pytest.approx(base, abs=3e-4)
    np.testing.assert_allclose(found, list(table.values()), atol=3e-4)
    best = max(of(garden.action_kl_optimum(p, c)) for c in np.geomspace(30.0, 0.3, 24))
    assert best == pytest.approx(action_kl, abs=3e-4)
    assert of(garden.sqrt_chi2_path(p, [p.sigma])[0]) == worth


@pytest.mark.slow
@pytest.mark.parametrize(
    ("eps", "base", "ratio", "best"), [(0.6, 0.0818, 0.1, 0.0973), (0.9, 0.0647, 0.72, 0.0824)]
)
def test_level_4s_rows_lie_between_what_two_orders_of_ties_give(
    eps: float, base: float, ratio: float, best: float
) -> None:
    """No fixed order gives them to .0003: the base's ties move it by .014 with eps .6."""
    low, high = (near("4", eps, o, [ratio]) for o in ((RIGHT, UP, DOWN, LEFT), (LEFT, UP, DOWN, RIGHT)))  # fmt: skip
    assert low[2] < base < high[2]
    assert low[3][0] - 3e-4 < best < high[3][0] + 3e-4
    if eps == 0.6:  # from any base that good the optimum is nearly reached
        assert max(abs(low[3][0] - best), abs(high[3][0] - best)) < 3e-4
