"""The experiment on process rewards: its measures, and claims that can come out each way."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rewardzoo.experiment import Budget
from rewardzoo.experiments import rlhf_process_rewards as module
from rewardzoo.experiments.rlhf_process_rewards import (
    EXPERIMENT,
    OUTCOME,
    PRIME,
    ExactSteps,
    Outcome,
    first_at,
    first_error_auc,
    reaches_half_sooner,
    start_is_fair,
)
from rewardzoo.jobs import Job, run_job
from rewardzoo.results import ArmResult, Results
from rewardzoo.rlhf.tasks import Arithmetic

NOISE = np.array([-0.03, 0.03, -0.02, 0.02, 0.01, -0.01])


def results(**finals):
    arms = [
        ArmResult(label, "", "", "", list(range(6)), {}, final)
        for label, final in ((OUTCOME, finals["outcome"]), (PRIME, finals.get("prime", {})))
    ]
    return Results("x", "", "", arms, "", "")


@pytest.mark.parametrize(
    ("factor", "outcome"), [(2.0, "holds"), (1.0, "fails"), (1.3, "inconclusive")]
)
def test_speed_can_come_out_each_way(factor, outcome):
    slow = 20 * factor * np.exp(NOISE)
    made_up = results(outcome={"to_half": slow}, prime={"to_half": np.full(6, 20.0)})
    assert reaches_half_sooner(made_up).outcome == outcome


@pytest.mark.parametrize(("unfair", "outcome"), [(0, "holds"), (2, "inconclusive"), (4, "fails")])
def test_a_start_that_is_not_fair_says_so(unfair, outcome):
    base = np.where(np.arange(6) < unfair, 0.1, 0.3)
    made_up = results(outcome={"base": base, "base_greedy": base})
    assert start_is_fair(made_up).outcome == outcome
    sharpened = results(outcome={"base": base, "base_greedy": base + 0.2})
    assert start_is_fair(sharpened).outcome == "fails"


def test_where_a_curve_reaches_a_level():
    step = np.array([0.0, 10.0, 20.0])
    assert first_at(step, np.array([0.2, 0.4, 0.6]), 0.5) == 15.0
    assert first_at(step, np.array([0.2, 0.3, 0.4]), 0.5) == 20.0
    assert first_at(step, np.array([0.6, 0.3, 0.4]), 0.5) == 0.0


def test_whether_the_start_is_fair_is_asked_of_the_base_policy_and_a_thousand_prompts(monkeypatch):
    base = ["a policy, which is copied to be trained"]
    world = SimpleNamespace(task=Arithmetic(n=3), base=base, generator=lambda stream: stream)
    asked = []

    def evaluate(task, policy, ref, prompts, generator, k):
        asked.append((policy is base, prompts, k))
        return {"pass1": 0.3, "greedy": 0.2}

    curves = {"pass1": np.array([0.1, 0.5]), "greedy": np.array([0.9, 0.9])}
    monkeypatch.setattr(module, "World", lambda trial: world)
    monkeypatch.setattr(module, "OnlineTrainer", lambda *arguments: None)
    monkeypatch.setattr(module, "curves_of", lambda *arguments: curves)
    monkeypatch.setattr(module, "evaluate", evaluate)
    trial = SimpleNamespace(seed=0, budget=Budget(40, 0, 32, 1))
    final = module.train(trial, OUTCOME)
    assert asked == [(True, 1024, 1)]
    assert (final["base"], final["base_greedy"], final["mean"]) == (0.3, 0.2, 0.5)


def test_errors_after_the_first_do_not_count():
    local = np.array([[True, False, True], [True, True, False]])
    prefix = np.array([[True, False, False], [True, True, False]])
    scores = np.array([[1.0, -1.0, -9.0], [1.0, 1.0, -1.0]])
    assert first_error_auc(scores, local, prefix) == 1.0
    assert first_error_auc(-scores, local, prefix) == 0.0


def test_exact_rewards_pay_right_prefixes_at_their_ends_and_outcomes_pay_answers():
    task = Arithmetic(n=4, wrong_cells=0.5, wrong_prob=0.7)
    batch = task.corpus(64, torch.Generator().manual_seed(0))
    steps, paid = task.verify_steps(batch), ExactSteps(task).token_rewards(batch)
    assert torch.equal(paid.sum(1), steps.prefix.sum(1).float())
    assert torch.equal(paid[:, steps.ends] > 0, steps.prefix)
    assert torch.equal(Outcome(task)(batch) > 0, task.verify(batch))
    short = batch._replace(ids=batch.ids[:, :14], completion_mask=batch.completion_mask[:, :6])
    assert ExactSteps(task).token_rewards(short).shape == (64, 6)


@pytest.mark.slow
def test_every_kind_of_arm_runs_and_logs(tmp_path):
    for i, arm in enumerate(EXPERIMENT.grid):
        folder = tmp_path / EXPERIMENT.name / arm.slug / "seed-0"
        run_job(Job(EXPERIMENT.name, i, 0, Budget(4, 0, 8, 1), folder))
        final = json.loads((folder / "result.json").read_text())["final"]
        assert np.isfinite(list(final.values())).all()
        assert (folder / "metrics.jsonl").read_text().count("\n") >= 1
