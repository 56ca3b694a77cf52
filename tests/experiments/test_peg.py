"""The verdicts of peg_makespan and peg_contact, from made-up results; their small parts by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardzoo.envs.peg_in_hole.closed_form import (
    ConfusionTimes,
    expected_makespan,
    reactive_makespan,
)
from rewardzoo.experiments import peg_contact, peg_makespan
from rewardzoo.results import ArmResult, Results


def results(
    root: Path,
    finals: dict[str, dict[str, list[float]]],
    arrays: dict[str, list[Any]] | None = None,
) -> Results:
    """Made-up results; arrays are written where a run would have left them."""
    arms = []
    for k, (label, final) in enumerate(finals.items()):
        count = len(next(iter(final.values())))
        folders = []
        for seed, values in enumerate((arrays or {}).get(label, [])):
            folders.append(f"{k}-{seed}")
            (root / folders[-1]).mkdir(exist_ok=True)
            np.savez(root / folders[-1] / "arrays.npz", **values)
        arms.append(
            ArmResult(
                label=label,
                env="",
                reward="",
                agent="",
                seeds=list(range(count)),
                final={key: np.array(v) for key, v in final.items()},
                folders=folders,
            )
        )
    return Results("peg", "", "", arms, "quick", "", root=root)


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        ([80.0, 84.0, 70.0], "holds"),
        ([80.0, 90.0, 70.0], "inconclusive"),
        ([90.0, 95.0, 101.0], "fails"),
        ([50.0, 50.0], "inconclusive"),
    ],
)
def test_learned_rule_must_save_on_every_split(
    tmp_path: Path, rule: list[float], outcome: str
) -> None:
    final = {"learned": rule, "reactive": [100.0] * len(rule)}
    verdict = peg_contact.saves_against("reactive", 0.15)(
        results(tmp_path, {peg_contact.HARD: final})
    )
    assert verdict.outcome == outcome and verdict.n == len(rule)
    assert verdict.low <= verdict.effect <= verdict.high


@pytest.mark.parametrize(
    ("factor", "outcome"), [(0.6, "holds"), (1.0, "inconclusive"), (1.7, "fails")]
)
def test_live_run_is_tested_by_permutation(tmp_path: Path, factor: float, outcome: str) -> None:
    g = np.random.default_rng(0)
    runs = [
        {
            "live_reactive": g.exponential(26.0, 110),
            "live_learned": factor * g.exponential(26.0, 110),
        }
        for _ in range(3)
    ]
    found = results(tmp_path, {peg_contact.HARD: {"reactive": [1.0] * 3}}, {peg_contact.HARD: runs})
    verdict = peg_contact.saves_live(found)
    assert verdict.outcome == outcome and verdict.n == 330
    assert verdict.low < verdict.effect < verdict.high
    assert (verdict.p_value < 0.05) == (outcome != "inconclusive")


def test_permutation_test_is_exact_under_the_null() -> None:
    """Of 200 tests of equal samples about 5 % reject: within five standard errors."""
    g = np.random.default_rng(1)
    p = [
        peg_contact.permutation_test(*g.exponential(1.0, (2, 30)), resamples=200, seed=k)[2]
        for k in range(200)
    ]
    assert abs(np.mean(np.array(p) < 0.05) - 0.05) < 5 * math.sqrt(0.05 * 0.95 / 200)


def adoption(shuffled: float, adopts: float, learned: float) -> dict[str, dict[str, list[float]]]:
    final = {
        "shuffled_adopts": [shuffled],
        "adopts": [adopts],
        "learned": [learned],
        "reactive": [10.0],
    }
    return {peg_contact.HARD: final, peg_contact.EASY: final}


def test_adoption_must_pay(tmp_path: Path) -> None:
    check = peg_contact.never_adopts_what_does_not_pay
    assert check(results(tmp_path, adoption(0, 1, 8.0))).outcome == "holds"
    assert check(results(tmp_path, adoption(0, 0, 12.0))).outcome == "holds"
    wrong = check(results(tmp_path, adoption(1, 0, 8.0)))
    assert wrong.outcome == "fails" and "shuffled labels adopted" in wrong.detail
    assert check(results(tmp_path, adoption(0, 1, 12.0))).outcome == "fails"


def test_closed_form_and_production_verdicts(tmp_path: Path) -> None:
    for replayed, outcome in ((10.2, "holds"), (10.4, "fails")):
        final = {"closed_form": [10.0], "replay": [replayed]}
        assert (
            peg_contact.closed_form_agrees(results(tmp_path, {peg_contact.HARD: final})).outcome
            == outcome
        )
    for adopts, outcome in (([1, 1], "holds"), ([1, 0], "inconclusive"), ([0, 0], "fails")):
        final = {
            "adopts": adopts,
            "learned": [8.0, 8.0],
            "reactive": [10.0, 10.0],
            "adopted_at": [200.0, 300.0],
        }
        verdict = peg_contact.production_adopts(results(tmp_path, {peg_contact.PRODUCTION: final}))
        assert verdict.outcome == outcome and verdict.effect == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("error", "attempts", "outcome"),
    [(0.004, 1e5, "holds"), (0.02, 1e2, "inconclusive"), (0.02, 1e9, "fails")],
)
def test_formula_verdict(tmp_path: Path, error: float, attempts: float, outcome: str) -> None:
    want = np.full(peg_makespan.SETTINGS, 50.0)
    won = np.full(peg_makespan.SETTINGS, attempts)
    run = {"want": want, "won": won, "spent": want * won * (1 + error), "spread": won * want**2}
    labels = [peg_makespan.form(f) for f in peg_makespan.FAMILIES]
    final = {"largest_error": [error], "successes": [attempts]}
    found = results(tmp_path, dict.fromkeys(labels, final), dict.fromkeys(labels, [run]))
    verdict = peg_makespan.formula_equals_simulation(found)
    assert verdict.outcome == outcome and verdict.effect == pytest.approx(error)


def test_papers_call_time_solves_the_formula() -> None:
    settings = peg_makespan.paper_settings()
    assert reactive_makespan(settings["p"], settings["mts"], settings["mtf"]) == pytest.approx(
        101.0, abs=0.1
    )
    assert expected_makespan(ConfusionTimes.from_rates(**settings)) == pytest.approx(81.0)
    assert (
        settings["p"] == pytest.approx(0.489, abs=1e-3) and 0 < settings["d_tn"] < settings["mtf"]
    )


@pytest.mark.parametrize(
    ("reactive", "preemptive", "se", "outcome"),
    [
        (101.2, 80.9, 0.002, "holds"),
        (104.0, 81.0, 0.02, "inconclusive"),
        (104.0, 81.0, 0.002, "fails"),
    ],
)
def test_paper_verdict(
    tmp_path: Path, reactive: float, preemptive: float, se: float, outcome: str
) -> None:
    final = {"reactive": reactive, "preemptive": preemptive, "se": se, "call_time": 44.4,
             "corrected_formula": 103.9, "published_formula": 89.5, "power_120": 0.4}  # fmt: skip
    found = results(tmp_path, {peg_makespan.PAPER: {k: [v] for k, v in final.items()}})
    assert peg_makespan.paper_is_reproduced(found).outcome == outcome


@pytest.mark.parametrize(
    ("right", "clear", "outcome"),
    [(0.97, 100, "holds"), (0.93, 100, "inconclusive"), (0.8, 300, "fails")],
)
def test_gate_verdict(tmp_path: Path, right: float, clear: float, outcome: str) -> None:
    final = {"right": [right], "clear": [clear], "wrong_adoptions": [0.0]}
    assert (
        peg_makespan.gate_is_right(results(tmp_path, {peg_makespan.GATE: final})).outcome == outcome
    )


@pytest.mark.parametrize(
    ("simulated", "timer", "outcome"),
    [(50.1, 90.0, "holds"), (60.0, 90.0, "fails"), (50.0, 49.0, "fails")],
)
def test_stopping_verdict(tmp_path: Path, simulated: float, timer: float, outcome: str) -> None:
    final = {"preemptive": simulated, "formula_preemptive": 50.0, "timer": timer, "reactive": 103.0,
             "se": 0.3}  # fmt: skip
    found = results(tmp_path, {peg_makespan.STOPPING: {k: [v] for k, v in final.items()}})
    assert peg_makespan.optimum_is_reached(found).outcome == outcome


@pytest.mark.parametrize(
    ("objective", "outcome"),
    [
        ([-67.0, -67.5, -66.8], "holds"),
        ([-103.8, -103.0, -104.0], "fails"),
        ([-67.0, -103.0, -67.0], "inconclusive"),
        ([-67.0], "inconclusive"),
    ],
)
def test_ppo_verdict(tmp_path: Path, objective: list[float], outcome: str) -> None:
    found = results(tmp_path, {peg_makespan.PAYS: {"objective": objective}})
    assert peg_makespan.ppo_learns(peg_makespan.PAYS)(found).outcome == outcome


def test_settings_of_ppo_lie_on_both_sides_of_break_even() -> None:
    e0, e1 = peg_makespan.makespans_by_formula(peg_makespan.PAYS)
    assert e1 < 0.9 * e0
    e0, e1 = peg_makespan.makespans_by_formula(peg_makespan.COSTS)
    assert e1 > 1.1 * e0


def test_random_settings_end_at_least_one_time_in_ten() -> None:
    settings = peg_makespan.random_settings(200, 0)
    assert ConfusionTimes.from_rates(**settings).success.min() >= 0.1 - 1e-6


def test_oracle_is_the_closed_forms_limit() -> None:
    from rewardzoo.agents.failure_predictor import windows_of

    lengths, success = [250] * 4 + [700] * 6, [True] * 4 + [False] * 6
    windows = windows_of([np.ones((n, 6)) for n in lengths], success)
    want = 5.0 + 6 / 4 * (0.5 + 1.0)
    assert peg_contact.oracle_makespan(windows, 1.0) == pytest.approx(want)
