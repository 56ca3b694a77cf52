"""Experiments on ensembles of reward models: claims come out each way, arms are what they say."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from rewardzoo.experiments import rlhf_ensembles_sweep, rlhf_overoptimisation_ensembles
from rewardzoo.experiments.common.rlhf import laboratory

from .made_up import NOISE, results


@pytest.mark.parametrize(
    ("shift", "outcome"), [(1.0, "holds"), (-1.0, "fails"), (0.0, "inconclusive")]
)
def test_pretraining_apart_can_come_out_each_way(shift, outcome):
    final = {"gain, pretrained apart": NOISE + shift, "gain, tuned apart": np.zeros(8)}
    made_up = results({setting: final for setting in rlhf_ensembles_sweep.SETTINGS})
    check = rlhf_ensembles_sweep.pretraining_apart_beats_tuning_apart
    assert check(made_up).outcome == outcome
    gain = rlhf_ensembles_sweep.gains("x", rlhf_ensembles_sweep.BASE, "gain, pretrained apart")
    assert gain(made_up).outcome == outcome


def overoptimised(rise):
    final = {"fall": np.full(8, 1.0), "proxy_rise": np.full(8, rise)}
    return results({rlhf_overoptimisation_ensembles.SINGLE: final})


def test_overoptimisation_needs_a_rising_proxy():
    check = rlhf_overoptimisation_ensembles.EXPERIMENT.claims[0].check
    assert check(overoptimised(0.5)).outcome == "holds"
    assert check(overoptimised(-0.5)).outcome == "fails"


def test_every_cell_of_the_factorial_is_beside_one_reward_model_in_its_place():
    module = rlhf_overoptimisation_ensembles
    arms = {arm.label: arm.config["given"] for arm in module.EXPERIMENT.grid}
    assert len(module.ENSEMBLES) == 24 and len(arms) == 24 + 4 + 1
    for cell in module.ENSEMBLES:
        of = {key: value for key, value in arms[cell.label].items() if key in ("kl", "noise")}
        assert arms[cell.beside] == {"args": (), **of}


# What jobs of earlier versions have in their config.json, in this order.
EARLIER = {
    "single": {},
    "single, KL .05": {"kl": 0.05},
    "worst case": {"objective": "wco"},
    "worst case, KL .05": {"objective": "wco", "kl": 0.05},
    "variance": {"objective": "uwo"},
    "variance, KL .05": {"objective": "uwo", "kl": 0.05},
    "pretrained apart": {"objective": "wco", "pretrained": True},
    "pretrained apart, KL .05": {"objective": "wco", "pretrained": True, "kl": 0.05},
    "single, clean labels": {"noise": 0.0},
    "worst case, clean labels": {"objective": "wco", "noise": 0.0},
}


def test_arms_keep_the_settings_of_jobs_that_are_finished():
    arms = {a.label: a.config["given"] for a in rlhf_overoptimisation_ensembles.EXPERIMENT.grid}
    for label, given in EARLIER.items():
        assert json.dumps(arms[label]) == json.dumps({"args": (), **given})


@pytest.mark.parametrize(
    ("shift", "outcome"), [(1.0, "holds"), (-1.0, "fails"), (0.0, "inconclusive")]
)
def test_claims_over_the_factorial_can_come_out_each_way(shift, outcome):
    module = rlhf_overoptimisation_ensembles
    finals = {cell.label: {"end": np.zeros(8), "fall": np.ones(8)} for cell in module.SINGLES}
    for cell in module.ENSEMBLES:
        better = cell.pretrained + (cell.objective != "mean") + (cell.noise > 0) + 3
        finals[cell.label] = {"end": NOISE + shift * better, "fall": 1 - NOISE - shift}
    made_up = results(finals)
    of = {claim.sentence: claim.check for claim in module.EXPERIMENT.claims}
    names = [name for name in of if name.endswith("it ends with more gold than one reward model.")]
    assert len(names) == 24
    names += [
        "Ensembles help without a KL penalty",
        "Ensembles help with a KL penalty",
        "Ensembles fall less",
    ]
    assert {of[name](made_up).outcome for name in names} == {outcome}
    factors = [
        "Pretraining apart helps more",
        "Caution helps more than the mean",
        "So does the variance",
        "Noise makes ensembles help more",
    ]
    # Factors have no noise but that of the cells, which here is the same in all of them.
    effects = {of[name](made_up).effect for name in factors}
    np.testing.assert_allclose(list(effects), shift, atol=1e-12)


@pytest.mark.parametrize(
    ("shift", "outcome"), [(1.0, "holds"), (-1.0, "fails"), (0.0, "inconclusive")]
)
def test_where_ensembles_begin_to_help_in_rl_can_come_out_each_way(shift, outcome):
    module = rlhf_ensembles_sweep
    finals = {}
    for setting in module.IN_RL:
        for name in module.PROXIES:
            gain = 0 * NOISE if name == "one" or setting == module.BASE else NOISE + shift
            finals[module.in_rl(setting, name)] = {"end": gain, "fall": -gain}
    made_up = results(finals)
    claims = [c for c in module.EXPERIMENT.claims if c.sentence.startswith("In RL")]
    assert len(claims) == 2 * 4 + 3 + 1
    found = [c.check(made_up).outcome for c in claims if module.BASE + ":" not in c.sentence]
    assert set(found) == {outcome}


@pytest.mark.parametrize(("setting", "policy", "proxy"), [("LARGE", 32, 64), ("NOISY", 32, 32)])
def test_larger_proxies_pay_a_policy_that_stays_small(trial, monkeypatch, setting, policy, proxy):
    module = rlhf_ensembles_sweep
    seen = []

    def optimise(trial, lab, reward, **config):
        seen.append((trial.budget.total_timesteps, lab.policy.width, reward))
        return {}

    monkeypatch.setattr(module, "optimise", optimise)
    monkeypatch.setattr(module, "laboratory", functools.partial(laboratory, sft_steps=1))
    monkeypatch.setattr(module, "proxy_of", lambda lab, *arguments: lab.policy.width)
    module.reinforce(trial, getattr(module, setting), "single")
    assert seen == [(4, policy, proxy)] and trial.budget.total_timesteps == 8
