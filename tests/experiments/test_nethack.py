"""The experiments on NetHack: their claims can come out every way."""

from __future__ import annotations

import types

import numpy as np
import pytest

from rewardzoo.experiments import calm_eval, calm_keyroom, oni_keyroom, oni_messages, oni_nethack
from rewardzoo.experiments.common.successes import beats, does_not_help
from rewardzoo.results import ArmResult, Results

NOISE = np.array([-0.02, 0.01, 0.0, 0.02, -0.01])


def results(**arms):
    """Made-up results: ``label=(key, value)`` or a dict of values."""
    made = []
    for label, values in arms.items():
        final = values if isinstance(values, dict) else {"success": values}
        final = {k: np.clip(np.asarray(v) + NOISE, 0, 1) for k, v in final.items()}
        made.append(ArmResult(label, "", "", "", list(range(5)), {}, final))
    return Results("x", "", "", made, "", "", {})


@pytest.mark.parametrize(
    ("shaped", "sparse", "outcome"),
    [(0.95, 0.05, "holds"), (0.95, 0.7, "fails"), (0.6, 0.0, "fails")],
)
def test_shaping_needs_both_a_level_and_a_gain(shaped, sparse, outcome):
    made = results(**{calm_keyroom.ONCE: shaped, calm_keyroom.SPARSE: sparse})
    assert calm_keyroom.shaping_solves_it(made).outcome == outcome


def test_a_gain_in_some_seeds_only_is_inconclusive():
    made = results(
        **{calm_keyroom.ONCE: 0.95, calm_keyroom.SPARSE: np.array([0.0, 0.0, 0.0, 0.9, 0.9])}
    )
    assert calm_keyroom.shaping_solves_it(made).outcome == "inconclusive"


@pytest.mark.parametrize(("value", "outcome"), [(0.93, "holds"), (0.5, "fails")])
def test_the_potential_is_as_good_within_a_margin(value, outcome):
    made = results(**{calm_keyroom.ONCE: 0.95, calm_keyroom.POTENTIAL: value})
    assert calm_keyroom.potential_does_as_well(made).outcome == outcome


@pytest.mark.parametrize(
    ("mine", "outcome"), [(0.9, "holds"), (0.1, "fails"), (0.5, "inconclusive")]
)
def test_to_beat_is_to_have_disjoint_intervals(mine, outcome):
    made = results(a=mine if mine != 0.5 else np.array([0.1, 0.2, 0.5, 0.9, 0.9]), b=0.5)
    assert beats("a", "b", "a beats b")(made).outcome == outcome


@pytest.mark.parametrize(("mine", "outcome"), [(0.5, "holds"), (0.9, "fails")])
def test_a_control_must_not_lie_above(mine, outcome):
    assert does_not_help("a", "b", "no help")(results(a=mine, b=0.5)).outcome == outcome


@pytest.mark.parametrize(("value", "outcome"), [(0.95, "holds"), (0.6, "fails")])
def test_generalisation_is_judged_by_its_interval(value, outcome):
    made = results(**{oni_messages.CLASSIFIER: {"balanced": value}})
    assert oni_messages.generalises(oni_messages.CLASSIFIER)(made).outcome == outcome


@pytest.mark.parametrize(
    ("paid", "outcome"), [(3.0, "holds"), (1.2, "fails"), (1.5, "inconclusive")]
)
def test_exploring_for_messages_is_judged_against_chance(paid, outcome):
    arm = ArmResult(
        oni_nethack.FREE, "", "", "", list(range(5)), {},
        {"return": paid + NOISE, "chance": np.ones(5)},
    )  # fmt: skip
    made = Results("x", "", "", [arm], "", "", {})
    assert oni_nethack.explores(made).outcome == outcome


def test_play_by_chance_is_judged_and_paid():
    pytest.importorskip("nle")
    budget = types.SimpleNamespace(num_envs=32, total_timesteps=16_000)
    trial = types.SimpleNamespace(seed=0, budget=budget, device="cpu")
    envs = oni_nethack.worlds("NetHackScore", oni_nethack.FREE, trial)
    assert oni_nethack.paid_by_chance(envs, trial) > 0


def test_the_verdicts_of_the_evaluation_can_fail():
    good = {"f1": np.ones(5) - NOISE + 1, "balanced": 0.5}
    assert calm_eval.oracle_is_the_truth(results(**{calm_eval.ORACLE: good})).outcome == "holds"
    bad = results(**{calm_eval.ORACLE: {"f1": 0.9}})
    assert calm_eval.oracle_is_the_truth(bad).outcome == "fails"
    arm = {"f1": 0.7, "balanced": 0.6, "balanced_low": 0.5, "balanced_high": 0.7}
    made = results(**{calm_eval.YES: {"f1": 0.7}, calm_eval.CROP: arm})
    assert calm_eval.embedded_is_no_judge(calm_eval.CROP)(made).outcome == "holds"
    arm = {"f1": 0.97, "balanced": 0.97, "balanced_low": 0.95, "balanced_high": 0.97}
    made = results(**{calm_eval.YES: {"f1": 0.7}, calm_eval.CROP: arm})
    assert calm_eval.embedded_is_no_judge(calm_eval.CROP)(made).outcome == "fails"


def test_arms_differ_from_the_first_in_their_reward_alone():
    for experiment in (calm_keyroom.EXPERIMENT, oni_keyroom.EXPERIMENT):
        functions = {arm.run.func for arm in experiment.grid}
        assert len(functions) == 1 and not set(experiment.seeds) & set(experiment.tuning_seeds)
    names = {
        label: oni_keyroom.reward_of(label, 0).name
        for label in (oni_keyroom.EXTRINSIC, oni_keyroom.RANKING)
    }
    arms = (oni_nethack.EXTRINSIC, oni_nethack.FREE)
    assert [oni_nethack.reward_of(arm, 0).name for arm in arms] == [
        "objective",
        "clip(objective) + oni_retrieval",
    ]
    assert names == {
        oni_keyroom.EXTRINSIC: "objective",
        oni_keyroom.RANKING: "clip(objective) + oni_ranking",
    }
