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
    rlhf_simpo_vpo_rpo,
)
from rewardzoo.experiments.common.rlhf import align, at_kl, every_seed, exceeds, laboratory
from rewardzoo.jobs import Job, run_job
from rewardzoo.results import ArmResult, Results
from rewardzoo.rlhf.constrained import ConstrainedReward
from rewardzoo.rlhf.evaluation import auroc
from rewardzoo.rlhf.offline import OfflineTrainer
from rewardzoo.rlhf.sequences import pack

MODULES = (
    rlhf_constrained,
    rlhf_daa_scaling,
    rlhf_ensembles_sweep,
    rlhf_overoptimisation,
    rlhf_overoptimisation_ensembles,
    rlhf_policy_filtration,
    rlhf_simpo_vpo_rpo,
)


def results(finals, curves=None):
    arms = [
        ArmResult(label, "", "", "", list(range(8)), (curves or {}).get(label, {}), final)
        for label, final in finals.items()
    ]
    return Results("x", "", "", arms, "", "")


@pytest.mark.parametrize(
    ("shift", "outcome"), [(1.0, "holds"), (-1.0, "fails"), (0.0, "inconclusive")]
)
def test_a_comparison_can_come_out_each_way(shift, outcome):
    noise = np.array([-0.4, 0.3, -0.2, 0.1, 0.4, -0.3, 0.2, -0.1])
    made_up = results({"a": {"end": noise + shift}, "b": {"end": np.zeros(8)}})
    assert exceeds("a beats b", "a", "b", "end")(made_up).outcome == outcome


@pytest.mark.parametrize(
    ("positive", "outcome"), [(8, "holds"), (6, "inconclusive"), (4, "fails"), (0, "fails")]
)
def test_a_statement_about_every_seed_can_come_out_each_way(positive, outcome):
    x = np.where(np.arange(8) < positive, 1.0, -1.0)
    check = every_seed("x > 0", "a", "x", lambda final: final["x"])
    assert check(results({"a": {"x": x}})).outcome == outcome


@pytest.mark.parametrize(
    ("shift", "outcome"), [(1.0, "holds"), (-1.0, "fails"), (0.0, "inconclusive")]
)
def test_pretraining_apart_can_come_out_each_way(shift, outcome):
    noise = np.array([-0.4, 0.3, -0.2, 0.1, 0.4, -0.3, 0.2, -0.1])
    final = {"gain, pretrained apart": noise + shift, "gain, tuned apart": np.zeros(8)}
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


@pytest.mark.parametrize(("sign", "outcome"), [(1, "holds"), (-1, "fails")])
def test_r2_predicts_gold_or_does_not(sign, outcome):
    labels = list(rlhf_policy_filtration.KEEP)
    finals = {
        label: {"r2": np.full(8, float(i)), "end": np.full(8, sign * float(i))}
        for i, label in enumerate(labels)
    }
    check = rlhf_policy_filtration.order_of_r2_is_the_order_of_gold
    assert check(results(finals)).outcome == outcome


def test_the_law_beats_a_line_where_gold_bends():
    d = np.linspace(0.1, 5, 20)
    curves = {}
    for bend, name in ((0.5, "bent"), (0.0, "straight")):
        gold = np.tile(d * (1 - bend * np.log(d)), (8, 1))
        each = {"kl": np.tile(d**2, (8, 1)), "gold": gold}
        curves[name] = {f"DPO, beta {beta:g}": each for beta in rlhf_daa_scaling.BETAS}
    check = rlhf_daa_scaling.law_fits_better_than_a_line
    found = {k: check(results({x: {} for x in v}, v)) for k, v in curves.items()}
    assert found["bent"].outcome == "holds" and found["bent"].effect > 0.1
    assert abs(found["straight"].effect) < 1e-9


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [((0, 2, 2, 1), "holds"), ((2, 1, 1, 0), "fails"), ((0, 1, 1, 2), "fails")],
)
def test_a_hump_over_beta_is_above_both_ends(ends, outcome):
    noise = np.array([-0.1, 0.2, 0.0, 0.1, -0.2, 0.1, 0.0, -0.1])
    finals = {
        f"DPO, beta {beta:g}": {"end": end + noise, "end_kl": np.ones(8)}
        for beta, end in zip(rlhf_daa_scaling.BETAS, ends, strict=True)
    }
    assert rlhf_daa_scaling.hump_over_beta(results(finals)).outcome == outcome


def chosen_falls_by(nats_a_kl):
    """A run that goes on to a KL of 6, or to one of 2, with chosen log-ratios falling evenly."""
    return {
        name: np.tile(np.linspace(0, end, 7), (8, 1))
        for name, end in (("kl", 6.0), ("chosen", -6.0 * nats_a_kl))
    }


@pytest.mark.parametrize(
    ("rate", "stays", "likelier"), [(0.1, "holds", "holds"), (2.0, "fails", "fails")]
)
def test_what_becomes_of_chosen_responses_at_equal_kl_can_come_out_each_way(rate, stays, likelier):
    module = rlhf_simpo_vpo_rpo
    near = {name: values[:, :3] for name, values in chosen_falls_by(rate).items()}
    curves = {module.DPO: chosen_falls_by(1.0), module.RPO: near}
    made_up = results({label: {} for label in curves}, curves)
    # The one ends at a KL of 2, so they are compared there.
    at = module.at_equal_kl(made_up, module.RPO, module.DPO, "chosen")
    np.testing.assert_allclose(at, [[-2 * rate] * 8, [-2.0] * 8])
    assert module.chosen_stay("x", module.RPO)(made_up).outcome == stays
    assert module.chosen_likelier("x", module.RPO)(made_up).outcome == likelier


def test_values_at_a_level_of_kl_are_interpolated():
    kl, gold = np.array([0.0, 2.0, 6.0]), np.array([0.0, 1.0, 3.0])
    assert at_kl(kl, gold, 4.0) == 2.0 and at_kl(kl, gold, 10.0) == 3.0


class Killed(Exception):
    """What a kill is in a test."""


class TinyTrial:
    """One seed of a job of eight updates."""

    def __init__(self, folder):
        self.seed, self.budget, self.folder = 0, Budget(8, 0, 16, 1), folder
        folder.mkdir(parents=True, exist_ok=True)

    def log(self, step, **numbers):
        pass


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


def test_multipliers_rise_below_the_threshold_and_turn_negative_above():
    batch = pack([[2]] * 4, [[3, 1]] * 4)
    low, high = (lambda b, x=x: torch.full((4,), x) for x in (0.0, 2.0))
    reward = ConstrainedReward([low, high], [1.0, 1.0], "equality", learning_rate=0.5)
    assert not reward(batch).any()
    metrics = reward.update()
    assert reward.multipliers[0] > 0 > reward.multipliers[1]
    assert metrics["constraint/mean 1"] == 2.0
    at_threshold = ConstrainedReward([high], [2.0], "inequality")
    at_threshold(batch)
    at_threshold.update()
    assert at_threshold.multipliers[0] == 0.5
    other = ConstrainedReward([low, high], [1.0, 1.0], "equality")
    other.load_state_dict(reward.state_dict())
    assert torch.equal(other.multipliers, reward.multipliers)
    with pytest.raises(ValueError, match="1 of them for 2"):
        ConstrainedReward([low, high], [1.0])


@pytest.mark.parametrize("threshold", [1.0, -0.5])
def test_a_multiplier_converges_to_the_dual_of_the_constrained_problem(threshold):
    """One state, ten responses, a KL penalty of 1: the best policy tilts by the multiplier."""
    r = torch.randn(10, generator=torch.Generator().manual_seed(0))
    r = (r - r.mean()) / r.std()

    def mean_at(multiplier):
        return torch.softmax(multiplier * r, 0) @ r

    low, high = -3.0, 3.0  # the mean rises with the multiplier
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_at(middle) < threshold else (low, middle)
    scale = 4.0  # of the component, so that multipliers within (-1, 1) are enough
    reward = ConstrainedReward(
        [lambda batch: scale * mean_at(scale * reward.multipliers).reshape(1)], [scale * threshold]
    )
    for _ in range(300):
        reward(None)
        reward.update()
    assert float(scale * reward.multipliers) == pytest.approx(low, abs=1e-3)
    assert float(mean_at(scale * reward.multipliers)) == pytest.approx(threshold, abs=1e-3)


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
