"""The claims of knee_oa come out as the numbers say, either way; its figures draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest

from rewardzoo.experiments import knee_oa as k
from rewardzoo.registration import EXPERIMENTS
from rewardzoo.results import ArmResult, Results, Verdict

SEEDS = 5
ORDINARY = {k.DQN: 0.45, k.ON_POLICY: 0.46, k.ORACLE: 2.8, k.ALWAYS: -1.5, k.TUNED: 0.0,
            k.ONE_KNEE: 0.2, k.ONE_MARKER: 0.3, k.HUBER: 0.1, k.REFERENCE: 0.4}  # fmt: skip


def results(
    folder: Path,
    rpp: dict[str, float] | None = None,
    cost: dict[str, float] | None = None,
    ba: dict[str, float] | None = None,
    spread: float = 0.01,
) -> Results:
    """Made-up arms: reward per patient (-.1 unless said), cost and balanced accuracy."""
    rpp = {**ORDINARY, **(rpp or {})}
    cost = {k.ALWAYS: 2.0, **(cost or {})}
    noise = np.linspace(-1, 1, SEEDS) * spread
    generator = np.random.default_rng(0)
    arms = []
    for arm in EXPERIMENTS["knee_oa"].grid:
        mean = rpp.get(arm.label, -0.1)
        final, folders = {}, []
        for prices in k.PRICES:
            final[f"rpp_{prices}"] = mean + noise
            final[f"cost_{prices}"] = np.full(SEEDS, cost.get(arm.label, 0.4))
            final[f"ba_{prices}"] = (ba or {}).get(arm.label, 0.55) + noise
        for i in range(SEEDS):
            place = folder / arm.slug / str(i)
            place.mkdir(parents=True, exist_ok=True)
            returns = generator.normal(mean + noise[i], 0.1, 300)
            arrays: dict[str, Any] = {f"returns_{p}": returns for p in k.PRICES}
            arrays.update({f"frontier_{p}": generator.random((7, 2)) for p in k.PRICES})
            arrays.update(
                timeline_jsw=generator.random((4, 5, 2)),
                timeline_events=np.full((4, 6), 99),
                timeline_action=generator.integers(0, 2, (4, 4)),
                timeline_event=np.zeros((4, 4)),
                timeline_wish=generator.normal(size=(4, 4)),
                timeline_parts=generator.normal(size=(4, 4, len(k.GROUPS))),
                timeline_found=np.array([True, True, False, False]),
            )
            np.savez(place / "arrays.npz", **arrays)
            folders.append(f"{arm.slug}/{i}")
        arms.append(ArmResult(arm.label, "", "", "", list(range(SEEDS)), {}, final, folders))
    return Results("knee_oa", "", "", arms, "quick", "", root=folder)


def verdict(check: Any, *args: Any, **kwargs: Any) -> Verdict:
    return check(results(*args, **kwargs))


@pytest.mark.parametrize(
    ("rpp", "cost", "outcome"),
    [
        ({}, {}, "holds"),
        ({k.DQN: 0.0}, {}, "fails"),  # .1 above the best
        ({k.LEARNED["gru"]: 0.4}, {}, "fails"),
        ({}, {k.DQN: 0.6}, "fails"),  # 30 % of following everybody
        ({k.ORACLE: 9.0}, {}, "holds"),  # the oracle is no baseline
        ({k.TUNED: 0.44}, {}, "holds"),  # nor is the tuned one, here
    ],
    ids=str,
)
def test_beating_the_baselines(
    tmp_path: Path, rpp: dict[str, float], cost: dict[str, float], outcome: str
) -> None:
    assert verdict(k.beats_the_baselines(k.DQN), tmp_path, rpp, cost).outcome == outcome


def test_a_mixed_result_is_inconclusive(tmp_path: Path) -> None:
    """Above the margin in some seeds, below it in others."""
    found = results(tmp_path, {k.DQN: 0.15}, spread=0.0)
    found[k.DQN].final["rpp_strict"][0] = 0.0
    assert k.beats_the_baselines(k.DQN)(found).outcome == "inconclusive"


def test_the_tuned_predictor_counts_where_it_is_said_to(tmp_path: Path) -> None:
    assert verdict(k.beats_a_tuned_predictor, tmp_path).outcome == "holds"
    assert verdict(k.beats_a_tuned_predictor, tmp_path, {k.TUNED: 0.44}).outcome == "fails"


@pytest.mark.parametrize(
    ("check", "other"),
    [
        (k.two_knees_are_better_than_one, k.ONE_KNEE),
        (k.two_markers_are_better_than_one, k.ONE_MARKER),
        (k.squared_error_is_better, k.HUBER),
    ],
    ids=["knees", "markers", "loss"],
)
def test_comparisons_come_out_either_way(tmp_path: Path, check: Any, other: str) -> None:
    for value, outcome in ((0.3, "holds"), (0.6, "fails")):
        assert verdict(check, tmp_path, {other: value}).outcome == outcome
    found = results(tmp_path, {other: 0.45})
    found[other].final["rpp_strict"][:] = found[k.DQN].final["rpp_strict"][::-1]
    assert check(found).outcome == "inconclusive"


def test_earning_something(tmp_path: Path) -> None:
    for value, outcome in ((0.45, "holds"), (-0.2, "fails"), (0.0, "inconclusive")):
        assert verdict(k.earns_something, tmp_path, {k.DQN: value}).outcome == outcome


def test_telling_progression(tmp_path: Path) -> None:
    for value, outcome in ((0.65, "holds"), (0.5, "fails")):
        assert verdict(k.tells_progression_better, tmp_path, ba={k.DQN: value}).outcome == outcome


def test_calibration_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rewardzoo.envs.knee_oa.calibration import Anchor

    good, bad = Anchor("", 1.05, 1.0, 1.0, ""), Anchor("", 1.2, 1.0, 1.0, "")
    missed = Anchor("", 2.0, 1.0, 1.0, "", False, "why")
    for anchors, outcome in (([good, missed], "holds"), ([good, bad], "fails")):
        monkeypatch.setattr(k, "calibrate", lambda anchors=anchors: anchors)
        assert verdict(k.is_calibrated, tmp_path).outcome == outcome


@pytest.mark.parametrize("draw", [k.draw_frontier, k.draw_timelines])
def test_figures_draw(tmp_path: Path, draw: Any) -> None:
    figure = matplotlib.figure.Figure(figsize=(9, 5))
    draw(figure, results(tmp_path))
    assert len(figure.axes) >= 2 and all(axes.has_data() for axes in figure.axes)


def test_every_feature_has_a_group() -> None:
    from rewardzoo.envs.knee_oa.dynamics import KneeOA

    names = KneeOA(patients=50).feature_names
    groups = [k.GROUPS[k._group(name)] for name in names]
    assert groups.count("time since") == 2 and groups.count("joint space") == 2
    assert groups.count("grade") == 10 and groups.count("symptoms") == 3
