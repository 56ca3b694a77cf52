"""Claims of the experiments can hold, fail and be undecided; their jobs run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rewardzoo.experiment import Budget
from rewardzoo.experiments import (
    rlhf_constrained,
    rlhf_daa_scaling,
    rlhf_ensembles_sweep,
    rlhf_overoptimisation,
    rlhf_overoptimisation_ensembles,
    rlhf_policy_filtration,
    rlhf_reward_model_treatments,
    rlhf_simpo_vpo_rpo,
)
from rewardzoo.experiments.common.rlhf import align, every_seed, exceeds, laboratory
from rewardzoo.jobs import Job, run_job
from rewardzoo.rlhf.evaluation import auroc
from rewardzoo.rlhf.offline import OfflineTrainer
from rewardzoo.rlhf.sequences import pack

from .made_up import NOISE, TinyTrial, results

MODULES = (
    rlhf_constrained,
    rlhf_daa_scaling,
    rlhf_ensembles_sweep,
    rlhf_overoptimisation,
    rlhf_overoptimisation_ensembles,
    rlhf_policy_filtration,
    rlhf_reward_model_treatments,
    rlhf_simpo_vpo_rpo,
)


@pytest.mark.parametrize(
    ("shift", "outcome"), [(1.0, "holds"), (-1.0, "fails"), (0.0, "inconclusive")]
)
def test_a_comparison_can_come_out_each_way(shift, outcome):
    made_up = results({"a": {"end": NOISE + shift}, "b": {"end": np.zeros(8)}})
    assert exceeds("a beats b", "a", "b", "end")(made_up).outcome == outcome


@pytest.mark.parametrize(
    ("positive", "outcome"), [(8, "holds"), (6, "inconclusive"), (4, "fails"), (0, "fails")]
)
def test_a_statement_about_every_seed_can_come_out_each_way(positive, outcome):
    x = np.where(np.arange(8) < positive, 1.0, -1.0)
    check = every_seed("x > 0", "a", "x", lambda final: final["x"])
    assert check(results({"a": {"x": x}})).outcome == outcome


@pytest.mark.parametrize(("sign", "outcome"), [(1, "holds"), (-1, "fails")])
def test_r2_predicts_gold_or_does_not(sign, outcome):
    labels = list(rlhf_policy_filtration.KEEP)
    finals = {
        label: {"r2": np.full(8, float(i)), "end": np.full(8, sign * float(i))}
        for i, label in enumerate(labels)
    }
    check = rlhf_policy_filtration.order_of_r2_is_the_order_of_gold
    assert check(results(finals)).outcome == outcome


class Killed(Exception):
    """What a kill is in a test."""


def test_a_run_killed_between_its_files_ends_with_the_same_numbers(tmp_path, monkeypatch):
    def run(name):
        trial = TinyTrial(tmp_path / name / "arm" / "seed-0")
        lab = laboratory(trial, sft_steps=1, n_pairs=32)
        return align(trial, lab, "dpo", beta=0.1)

    whole = run("whole")
    save, calls = OfflineTrainer.save, []

    def killed(trainer, path):
        calls.append(path)
        if len(calls) == 3:
            raise Killed
        save(trainer, path)

    monkeypatch.setattr(OfflineTrainer, "save", killed)
    with pytest.raises(Killed):
        run("cut")
    monkeypatch.undo()
    assert run("cut") == whole
    curves = [tmp_path / name / "arm/seed-0/curve.json" for name in ("whole", "cut")]
    assert curves[0].read_text() == curves[1].read_text()


def test_every_experiment_names_arms_that_exist():
    for module in MODULES:
        experiment = module.EXPERIMENT
        assert {"smoke", "quick", "full"} <= set(experiment.budgets)
        assert not set(experiment.seeds) & set(experiment.tuning_seeds)


def test_noise_in_the_middle_is_fixed_for_a_response_and_large_only_there():
    g = torch.Generator().manual_seed(0)
    n = 4000
    ids = torch.randint(2, 32, (n, 8), generator=g)
    batch = pack(ids[:, :4].tolist(), ids[:, 4:].tolist())
    truth = torch.linspace(-3, 3, n)
    proxy = rlhf_policy_filtration.UnreliableInTheMiddle(lambda b: truth[: len(b.ids)], 0)
    noise = proxy(batch) - truth
    assert torch.equal(proxy(batch) - truth, noise)
    middle = truth.abs() < 0.3
    assert noise[middle].std() == pytest.approx(2.0, rel=0.15)
    assert noise[truth.abs() > 2.5].abs().max() < 0.1
    assert abs(noise[middle].mean()) < 5 * 2 / int(middle.sum()) ** 0.5
    assert auroc(noise[middle], torch.rand(int(middle.sum()), generator=g) < 0.5) < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.split(".")[-1])
def test_every_kind_of_arm_runs_and_logs(tmp_path, module):
    experiment = module.EXPERIMENT
    for i in {0, len(experiment.grid) - 1}:
        folder = tmp_path / experiment.name / f"arm-{i}" / "seed-0"
        run_job(Job(experiment.name, i, 0, Budget(4, 0, 64, 1), folder))
        final = json.loads((folder / "result.json").read_text())["final"]
        assert np.isfinite(list(final.values())).all()
        assert (folder / "metrics.jsonl").read_text().count("\n") >= 1
