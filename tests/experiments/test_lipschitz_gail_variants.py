"""lipschitz_gail_variants: its claims come out each way; each arm changes one idea of the method."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import matplotlib.figure
import numpy as np
import pytest

from rewardzoo.agents.gail import GAILHyperparameters
from rewardzoo.agents.td3 import TD3Hyperparameters
from rewardzoo.experiments import lipschitz_gail, lipschitz_gail_variants
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


class Made(Exception):
    """A learner was about to be made with these settings."""


def test_distillation_differs_from_the_other_arms_in_the_reward_alone(monkeypatch, tmp_path):
    def learner(envs, seed, compile, **settings):
        raise Made(settings)

    monkeypatch.setattr(lipschitz_gail, "make_envs", lambda *args, **kwargs: None)
    monkeypatch.setattr(lipschitz_gail, "GAIL", learner)
    monkeypatch.setattr(lipschitz_gail_variants, "TD3", learner)
    budget = EXPERIMENT.budgets["quick"]
    trial = SimpleNamespace(seed=0, budget=budget, device="cpu", folder=tmp_path)
    made = {measure.label: measure for measure in EXPERIMENT.grid}
    settings = {}
    for label in (METHOD, DISTILLED):
        with pytest.raises(Made) as found:
            made[label].run(trial)
        (settings[label],) = found.value.args
    method = GAILHyperparameters(**settings[METHOD])
    distilled = TD3Hyperparameters(**settings[DISTILLED])
    for field in fields(TD3Hyperparameters):
        assert getattr(distilled, field.name) == getattr(method, field.name), field.name
