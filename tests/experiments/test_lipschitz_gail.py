"""lipschitz_gail: its claims come out each way, its pictures are drawn, a run is one of the frame's."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.figure
import numpy as np
import pytest

from rewardzoo.experiments import lipschitz_gail as experiment
from rewardzoo.experiments.lipschitz_gail import ARMS, METHOD, STEPS, WITHOUT, label
from rewardzoo.results import ArmResult, Results

SEEDS = 5


def results(method=0.98, without=0.2, violation=(0.02, 3.0), spread=0.01, bounded=1.0, finite=0.5):
    """Made-up results: shares of the expert's return and violations of the two extreme arms."""
    noise = spread * np.linspace(-1.0, 1.0, SEEDS)
    arms = []
    for task in STEPS:
        for arm in ARMS:
            share = {METHOD: method, WITHOUT: without}.get(arm, (method + without) / 2)
            over = violation[0] if arm == METHOD else violation[1]
            final = {
                "objective": share + noise,
                "violation": over * (1.0 - noise),
                "expert": np.full(SEEDS, 9000.0),
                "bounded": np.full(SEEDS, bounded),
                "bound_is_finite": np.full(SEEDS, finite),
                "growth": np.full(SEEDS, 4.0),
            }
            step = np.tile(np.arange(1, 4) * 100.0, (SEEDS, 1))
            curves = {"step": step, "objective": share * step}
            arms.append(ArmResult(label(task, arm), "", "", "", list(range(SEEDS)), curves, final))
    return Results("lipschitz_gail", "", "", arms, "smoke", "", {})


def outcomes(made, part=""):
    claims = [claim for claim in experiment.EXPERIMENT.claims if part in claim.sentence]
    return {claim.check(made).outcome for claim in claims}


def test_what_the_paper_says_holds():
    assert outcomes(results()) == {"holds"}


@pytest.mark.parametrize(
    ("part", "fails", "open_"),
    [
        ("like the expert", {"method": 0.5}, {"method": 0.9, "spread": 0.3}),
        ("better than without", {"without": 1.2}, {"without": 0.98}),
        ("fails without", {"without": 0.9}, {"without": 0.5, "spread": 0.3}),
        ("Steeper", {"without": 1.9}, None),
        ("slope is held", {"violation": (0.5, 3.0)}, None),
        ("slope is bounded", {"bounded": 0.9}, {"finite": 0.0}),
    ],
)
def test_every_claim_can_fail_or_stay_open(part, fails, open_):
    assert outcomes(results(**fails), part) == {"fails"}
    if open_ is not None:
        assert outcomes(results(**open_), part) == {"inconclusive"}


def test_a_correlation_that_could_be_either_way_stays_open():
    made = results()
    rng = np.random.default_rng(0)
    for arm in made.arms:
        arm.final["objective"][:] = rng.random(SEEDS)
    assert outcomes(made, "Steeper") == {"inconclusive"}


def test_pictures_are_drawn():
    for figure in experiment.EXPERIMENT.figures:
        drawn = matplotlib.figure.Figure()
        figure.draw(drawn, results())
        assert drawn.axes and drawn.axes[0].has_data()


def test_arms_differ_from_the_method_in_penalty_and_spectral_norm_alone():
    assert ARMS[METHOD] == {}
    assert {key for changed in ARMS.values() for key in changed} == {"penalty", "spectral_norm"}


@pytest.mark.slow
def test_a_run_resumes_and_reports(tmp_path):
    from rewardzoo.experiment import Budget

    task = list(STEPS)[-1]
    budget = Budget(total_timesteps=1_024, num_envs=16, eval_episodes=16, seeds=1)
    lines = []

    class Stop(Exception):
        pass

    def log(step, **numbers):
        lines.append(step)
        if len(lines) == 5:
            raise Stop

    trial = SimpleNamespace(seed=0, budget=budget, device="cpu", folder=tmp_path, log=log)
    with pytest.raises(Stop):
        experiment.imitate(trial, task, compile=False)
    final = experiment.imitate(trial, task, compile=False)
    assert lines == sorted(set(lines)) and len(lines) == experiment._POINTS
    assert 0.0 < final["objective"] < 1.1 and np.isfinite(final["violation"])
