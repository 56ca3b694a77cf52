"""Each claim of the debate experiments can come out either way; the exact sweep is exact."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import torch

from rewardzoo.agents.tabular import occupancy, policy_iteration
from rewardzoo.experiment import judge
from rewardzoo.experiments import debate_trap as trap
from rewardzoo.experiments import sepsis_debate as learned
from rewardzoo.experiments import sepsis_debate_tabular as tabular
from rewardzoo.results import ArmResult, Results

NOISE = np.array([-0.002, -0.001, 0.0, 0.001, 0.002])


def arm(label: str, **final: float) -> ArmResult:
    """Five seeds around each number; a spread for all but located numbers."""
    spread = {k: np.full(5, v) if k.startswith("kept l") else v + NOISE for k, v in final.items()}
    return ArmResult(label, "", "", "", list(range(5)), final=spread)


def results(*arms: ArmResult) -> Results:
    return Results("made up", "", "", list(arms), "quick", "")


def swept(
    label: str, survival: Any, justified: Any, kept: float = 0.02, **more: float
) -> ArmResult:
    lambdas = tabular.LAMBDAS
    final = {f"survival@{lam:g}": s for lam, s in zip(lambdas, survival, strict=True)}
    final |= {f"justified@{lam:g}": j for lam, j in zip(lambdas[1:], justified, strict=True)}
    final |= {"kept lambda": kept, "kept survival": 0.86, "kept justified": justified[0]}
    return arm(label, **final, **more)


FALLING = (0.868, 0.866, 0.86, 0.83, 0.80, 0.78, 0.77, 0.76)
RISING = (0.868, 0.866, 0.86, 0.83, 0.80, 0.78, 0.79, 0.80)
UP, DOWN = (0.6, 0.65, 0.7, 0.7, 0.75, 0.8, 0.85), (0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4)


@pytest.mark.parametrize(
    ("arms", "outcomes"),
    [
        (
            [
                swept(tabular.BALANCED, FALLING, UP, **{"length@1": 14.0, "length@0": 9.0}),
                arm(tabular.SIGN, **{"length@1": 12.0}),
                arm(tabular.FULL, **{"survival@0.25": 0.781}),
            ],
            ["holds", "holds", "holds", "holds", "holds", "holds"],
        ),
        (
            [
                swept(tabular.BALANCED, RISING, DOWN, 0.0, **{"length@1": 9.0, "length@0": 9.0}),
                arm(tabular.SIGN, **{"length@1": 12.0}),
                arm(tabular.FULL, **{"survival@0.25": 0.85}),
            ],
            ["fails", "fails", "fails", "fails", "fails", "fails"],
        ),
        (
            [
                swept(
                    tabular.BALANCED, FALLING, (0.5, *[0.5005] * 6),
                    **{"length@1": 12.0005, "length@0": 9.0},
                ),
                ArmResult(
                    tabular.SIGN, "", "", "", list(range(5)),
                    final={"length@1": 12.0 - 2 * NOISE},
                ),
                ArmResult(
                    tabular.FULL, "", "", "", list(range(5)),
                    final={"survival@0.25": 0.78 + 40 * NOISE},
                ),
            ],
            ["inconclusive", "holds", "holds", "inconclusive", "inconclusive", "inconclusive"],
        ),
    ],
)  # fmt: skip
def test_claims_of_the_tabular_study(arms: list[ArmResult], outcomes: list[str]) -> None:
    verdicts = judge(tabular.EXPERIMENT, results(*arms))
    assert [v.outcome for v in verdicts] == outcomes


def trapped(label: str, worst: float, confused: float, win: float) -> ArmResult:
    return arm(
        label, worst=worst, minimax=0.0625, confused=confused, **{
            "win alone": 1.0, "win confused": win,
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    ("isolated", "debating", "outcomes"),
    [
        ((-0.6, -0.6, 0.0), (0.06, 0.06, 0.75), ["holds", "holds", "holds", "holds"]),
        ((0.4, 0.4, 0.9), (-0.2, -0.2, 0.2), ["fails", "fails", "fails", "fails"]),
        ((0.0, 0.0, 0.5), (0.0125, 0.0, 0.5005), ["inconclusive"] * 4),
    ],
)
def test_claims_of_the_trap(isolated: Any, debating: Any, outcomes: list[str]) -> None:
    made_up = results(
        trapped(trap.ISOLATED, *isolated),
        *(
            ArmResult(
                a.label, "", "", "", a.seeds,
                final={**a.final, "win confused": a.final["win confused"][::-1]},
            )
            for a in (trapped(trap.SELFPLAY, *debating), trapped(trap.MAXMIN, *debating))
        ),
    )  # fmt: skip
    assert [v.outcome for v in judge(trap.EXPERIMENT, made_up)] == outcomes


def judged(full: float, six: float) -> ArmResult:
    final = {"full": full, "six": six, "popularity": 0.5, "ceiling": 0.82}
    plain = {f"{k}, plain": v for k, v in (*final.items(), ("ceiling", 0.93))}
    errors = {f"{k}{s} error": 0.006 for k in ("full", "six") for s in ("", ", plain")}
    spread = arm(learned.JUDGE, **final, **plain)
    fixed = {k: np.full(5, v) for k, v in errors.items()}
    fixed["six"] = spread.final["six"][::-1]
    return ArmResult(learned.JUDGE, "", "", "", spread.seeds, final={**spread.final, **fixed})


@pytest.mark.parametrize(
    ("full", "six", "gap", "outcomes"),
    [
        (0.75, 0.62, 0.2, ["holds", "holds", "holds", "holds"]),
        (0.55, 0.62, -0.2, ["fails", "holds", "fails", "fails"]),
        (0.95, 0.62, 0.0, ["holds", "fails", "inconclusive", "inconclusive"]),
        (0.5005, 0.5, 0.0, ["inconclusive", "holds", "inconclusive", "inconclusive"]),
    ],
)
def test_claims_of_the_learned_study(
    full: float, six: float, gap: float, outcomes: list[str]
) -> None:
    offline = {f"justified@{lam:g}": 0.6 for lam in learned.OFFLINE_LAMBDAS[1:]}
    confused = {"confused": 0.5 + NOISE[::-1], "alone": np.full(5, 0.8)}
    made_up = results(
        judged(full, six),
        arm(learned.ISOLATED, alone=0.8, confused=0.5),
        *(
            ArmResult(label, "", "", "", list(range(5)), final={
                **confused, "confused": confused["confused"] + gap,
            })
            for label in (learned.SELFPLAY, learned.MAXMIN)
        ),
        swept(learned.EXACT, FALLING, UP),
        arm(learned.OFFLINE, **offline),
    )  # fmt: skip
    verdicts = judge(learned.EXPERIMENT, made_up)
    assert [v.outcome for v in verdicts[:4]] == outcomes
    assert [v.outcome for v in verdicts[4:]] == ["holds"] * 5


def test_the_baseline_and_the_exact_optimum_at_lambda_0_are_one_policy() -> None:
    """And its survival is the discounted optimum's, .8682 undiscounted; it differs nowhere."""
    nothing = torch.zeros(716, 25)
    found = tabular.optimum(nothing, nothing, tabular.baseline(), 0.0)
    assert torch.equal(found.policy.argmax(1), tabular.baseline())
    assert found.survival == pytest.approx(0.8682, abs=5e-5)
    assert found.differs == 0.0 and np.isnan(found.justified)
    assert found.length == pytest.approx(9.13, abs=0.01)


def test_lambda_1_ignores_survival_and_wins_what_can_be_won() -> None:
    """A table that pays one action everywhere is followed everywhere."""
    wins = torch.zeros(716, 25)
    wins[:, 7] = 1.0
    found = tabular.optimum(wins, wins, tabular.baseline(), 1.0)
    assert bool((found.policy[:713].argmax(1) == 7).double().mean() > 0.9)
    mdp = tabular.model()
    _, worst = policy_iteration(mdp.with_reward(-mdp.reward), 0.99)
    same = tabular.measure(worst, wins, tabular.baseline())
    visits = occupancy(mdp, worst, 1.0)
    other = torch.arange(25) != tabular.baseline().unsqueeze(1)
    want = float((visits * other * wins).sum() / (visits * other).sum())
    assert same.justified == pytest.approx(want)


@pytest.mark.parametrize("edge", [0.03, 0.0, 1.0])
def test_the_point_that_keeps_the_gap_is_located(edge: float) -> None:
    def survival(lam: float) -> float:
        return 0.87 if lam <= edge else 0.80

    found = tabular.locate(survival, 0.25, steps=12)
    want = min(edge, 0.25)
    assert want - 0.25 / 2**12 <= found <= want


class _Stored(SimpleNamespace):
    def arrays(self, label: str) -> list[dict[str, np.ndarray]]:
        count = 5 if label == learned.OFFLINE else 8
        weight = learned.OFFLINE_LAMBDAS if count == 5 else tabular.LAMBDAS
        x = np.linspace(0.8, 0.7, count)
        doses = np.ones((count, 25))
        one = {"weight": np.array(weight), "survival": x, "justified": x, "doses": doses}
        return [one, one]

    def __getitem__(self, label: str) -> ArmResult:
        return next(a for a in self.arms if a.label == label)


@pytest.mark.parametrize("study", [tabular, learned, trap])
def test_figures_draw(study: Any) -> None:
    keys = ("alone", "confused", "worst", "minimax", "neutraliser", "full", "six", "popularity",
            "ceiling")  # fmt: skip
    arms = [arm(m.label, **dict.fromkeys(keys, 0.5)) for m in study.EXPERIMENT.grid]
    for figure in study.EXPERIMENT.figures:
        canvas = matplotlib.figure.Figure()
        figure.draw(canvas, _Stored(arms=arms))
        assert all(axes.has_data() for axes in canvas.axes) and canvas.axes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sepsis_debate_tabular", "sepsis_debate", "debate_trap"])
def test_runs_from_end_to_end(name: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [
        sys.executable, "-m", "rewardzoo", "run", name, "--budget", "smoke", "--seeds", "1",
        "--workers", "1", "--out", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / name / "smoke" / "report.html").read_text()
    assert page.count("<svg") >= 1
