"""Claims of the experiments can hold, fail and be undecided; their jobs run."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Canvas

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
from rewardzoo.experiments.common.rlhf import (
    align,
    at_kl,
    draw_fit,
    draw_kl,
    every_seed,
    exceeds,
    laboratory,
)
from rewardzoo.jobs import Job, run_job
from rewardzoo.results import ArmResult, Results
from rewardzoo.rlhf.constrained import ConstrainedReward
from rewardzoo.rlhf.evaluation import auroc, contrast_consistency
from rewardzoo.rlhf.losses import Scores, dpo
from rewardzoo.rlhf.offline import OfflineTrainer
from rewardzoo.rlhf.sequences import pack

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
NOISE = np.array([-0.4, 0.3, -0.2, 0.1, 0.4, -0.3, 0.2, -0.1])


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


def curves_of_dpo(gold, seed=0, noise=0.0):
    """Eight made-up runs at each beta: gold over d, whose range grows as beta falls."""
    rng = np.random.default_rng(seed)
    curves = {}
    for beta in rlhf_daa_scaling.BETAS:
        d = np.linspace(0, 4 * (0.01 / beta) ** 0.25, 21)
        seen = gold(d + 1e-9) + noise * rng.normal(size=(8, len(d)))
        curves[f"DPO, beta {beta:g}"] = {"kl": np.tile(d**2, (8, 1)), "gold": seen}
    return results({label: {} for label in curves}, curves)


def test_the_law_predicts_better_than_a_line_only_where_gold_bends():
    check = rlhf_daa_scaling.law_fits_better_than_a_line
    bent = check(curves_of_dpo(lambda d: d * (1 - 0.5 * np.log(d)), noise=0.1))
    assert bent.outcome == "holds" and bent.effect > 0.1
    for intercept in (0.0, 0.2):
        found = [
            check(curves_of_dpo(lambda d, a=intercept: a + 0.4 * d, seed, noise=0.1)).outcome
            for seed in range(20)
        ]
        # Of 20 intervals of a difference that is not above 0, 3 above it are a chance of .02.
        assert found.count("holds") <= 2 and "fails" in found


def test_the_held_out_error_is_of_curves_that_were_not_fitted():
    d = np.linspace(1, 3, 5)
    curves = [(d, 2 * d), (d, 2 * d), (d, 2 * d + 1)]
    found = rlhf_daa_scaling.held_out_error(rlhf_daa_scaling.line, curves)
    # Left out, the third is 1 off all along; beside it, either of the others is off by a half.
    variance = np.concatenate([gold for _, gold in curves]).var()
    assert found == pytest.approx((1 + 2 * 0.25) / 3 / variance)


def test_length_that_explains_a_preference_is_not_learned_from_it():
    def gradient(longer):
        policy = torch.zeros(1, requires_grad=True)
        zero = torch.zeros(1)
        lengths = torch.tensor([5.0 + longer]), torch.tensor([5.0])
        s = Scores(policy, zero, zero, zero, *lengths, zero)
        loss = rlhf_daa_scaling.length_regularised(s, beta=0.1, nats=0.5).sum()
        return loss.item(), torch.autograd.grad(loss, policy)[0].item()

    s = Scores(*(torch.tensor([x]) for x in (-3.0, -5.0, -4.0, -4.0, 6.0, 6.0, 0.0)))
    torch.testing.assert_close(rlhf_daa_scaling.length_regularised(s, beta=0.1), dpo(s, 0.1))
    assert gradient(0) == pytest.approx((np.log(2), -0.05))
    assert gradient(8)[1] > gradient(0)[1] > gradient(-8)[1]


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ((0, 1, 2, 2, 2, 1, 0), "holds"),
        ((2, 1, 1, 1, 1, 1, 0), "fails"),
        ((0, 1, 1, 1, 1, 1, 2), "fails"),
    ],
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


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """Its laboratories are taught once for all tests."""
    return TinyTrial(tmp_path_factory.mktemp("x") / "arm" / "seed-0")


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


def constrained(**finals):
    module = rlhf_constrained
    usual = {"end": np.ones(8), "peak": np.ones(8), "missed": np.zeros(8), "short": np.zeros(8)}
    labels = (module.FIXED, module.INEQUALITY, module.EQUALITY)
    return results({label: {**usual, **finals} for label in labels})


def claim_of(module, name):
    return next(claim.check for claim in module.EXPERIMENT.claims if claim.sentence == name)


def test_constraints_whose_mean_is_met_can_both_be_violated():
    curves = {"kl": np.arange(9.0), "component 0": np.full(9, 1.5), "component 1": np.full(9, 0.5)}
    found = rlhf_constrained.violations(curves, [1.0, 1.0])
    assert found == {"missed": 0.5, "short": 0.5}
    made_up = constrained(**{name: np.full(8, x) for name, x in found.items()})
    for name in ("Constraints are met", "Inequality constraints are met"):
        assert claim_of(rlhf_constrained, name)(made_up).outcome == "fails"
        assert claim_of(rlhf_constrained, name)(constrained()).outcome == "holds"
    # Only the last third counts, at its worst, and an inequality is not violated from above.
    curves["component 1"] = np.array([9.0] * 6 + [1.0, 1.3, 1.0])
    curves["component 0"] = np.ones(9)
    found = rlhf_constrained.violations(curves, [1.0, 1.0])
    assert found["missed"] == pytest.approx(0.3) and found["short"] == 0.0


@pytest.mark.parametrize(
    ("shift", "outcome"),
    [(1.0, "holds"), (-1.0, "holds"), (0.0, "fails"), (0.1, "inconclusive")],
)
def test_thresholds_move_to_either_side_or_do_not(shift, outcome):
    module = rlhf_constrained
    ends = {module.CORRELATIONS[0]: 0.1 * NOISE + shift, module.CORRELATIONS[-1]: np.zeros(8)}
    finals = {f"pilot, correlation {x:g}": {"threshold": end} for x, end in ends.items()}
    assert module.thresholds_move(results(finals)).outcome == outcome


def test_reward_models_correlate_as_they_are_told_and_each_holds_as_much_gold(trial):
    lab = laboratory(trial)
    gold = lab.gold(lab.base)
    for correlation in rlhf_constrained.CORRELATIONS:
        scores = [f(lab.base) for f in rlhf_constrained.correlated(lab, correlation)]
        both = torch.corrcoef(torch.stack([*scores, gold]))
        assert float(both[0, 1]) == pytest.approx(correlation, abs=1e-4)
        assert both[:2, 2].tolist() == pytest.approx([5**-0.5] * 2, abs=1e-4)


def test_contrasting_responses_differ_where_each_repeats_its_instruction(trial):
    lab = laboratory(trial)
    grid = rlhf_reward_model_treatments.contrasts(lab, 50, stream=1)
    ids = grid.ids.view(50, 2, 2, -1)
    p = grid.prompt_length
    assert ((ids[:, 0] != ids[:, 1])[..., :p].sum(-1) == 1).all()
    assert torch.equal(ids[:, 0, :, p:], ids[:, 1, :, p:])
    differ = ids[:, 0, 0] != ids[:, 0, 1]
    assert (differ.sum(1) == 1).all()
    own = ids[:, 0, 0][differ], ids[:, 1, 1][differ]
    assert torch.equal(own[0], ids[:, 0, 0, p - 2]) and torch.equal(own[1], ids[:, 1, 0, p - 2])
    # Gold prefers the right instruction for a response unless another token repeats it too.
    gold = lab.gold(grid).view(50, 2, 2).numpy()
    assert contrast_consistency(gold)["instruction"] > 0.7


def test_ratings_are_steps_that_follow_gold_and_ties_prefer_nothing(trial, monkeypatch):
    module = rlhf_reward_model_treatments
    trained = []

    def train(data, start, loss):
        trained.append((data, loss))

    monkeypatch.setattr(module, "train_reward_model", train)
    monkeypatch.setattr(module, "judged", lambda *arguments: {})
    module.rated(trial, module.SCALED)
    module.rated(trial, module.REGRESSION)
    (pairs, scaled), (ratings, regression) = trained
    assert (scaled, regression) == ("scaled_bt", "regression")
    assert set(pairs.strength.tolist()) <= {1.0, 2.0, 3.0} and len(pairs) < 4_000
    lab = laboratory(trial, **module.WORLD)
    apart = lab.gold(pairs.chosen) - lab.gold(pairs.rejected)
    assert float(apart[pairs.strength == 3].mean()) > float(apart[pairs.strength == 1].mean()) > 0
    assert set(ratings.ratings.unique().tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
    found = torch.corrcoef(torch.stack([ratings.ratings[:, 0], lab.gold(ratings.responses)]))
    assert float(found[0, 1]) > 0.7


def test_contrasting_pairs_are_labelled_as_the_others_are(trial, monkeypatch):
    module = rlhf_reward_model_treatments
    trained = []
    monkeypatch.setattr(module, "train_reward_model", lambda data, *rest: trained.append(data))
    monkeypatch.setattr(module, "judged", lambda *arguments: {})
    module.contrasted(trial)
    (data,) = trained
    assert len(data) == module.WORLD["n_pairs"]
    chosen, rejected = data.chosen, data.rejected
    new = slice(len(data) - round(module.SHARE * len(data)), None)
    assert torch.equal(chosen.prompts[new], rejected.prompts[new])
    assert ((chosen.ids != rejected.ids)[new].sum(1) == 1).all()
    lab = laboratory(trial, **module.WORLD)
    agreed = (lab.gold(chosen) >= lab.gold(rejected))[new].float().mean()
    assert float(agreed) == pytest.approx(0.75, abs=5 * (0.25 * 0.75 / 800) ** 0.5)


def treatments(shift):
    """Made-up numbers that speak for every claim, or against it."""
    module = rlhf_reward_model_treatments
    finals = {arm.label: {} for arm in module.EXPERIMENT.grid}
    numbers = 0.1 * NOISE
    for final in finals.values():
        final.update({"accuracy": 0.7 + 0.02 * numbers, "gold": 1.0 + 0.1 * numbers})
    plain = finals[module.PLAIN]
    plain.update({"flip AUC": 0.75 + numbers + shift, "ece": 0.1 + numbers + shift})
    plain.update({"log loss": 0.6 + numbers + shift, "log loss, rescaled": np.full(8, 0.6)})
    plain["consistent instructions"] = 0.6 + numbers - shift
    finals[module.FLIP]["ece"] = np.full(8, 0.1)
    finals[module.FLIP]["accuracy"] = plain["accuracy"] + 0.02 + numbers + shift
    for label in (module.FLIP, module.SMOOTH, module.MARGIN):
        finals[label]["gold"] = plain["gold"] - 0.05 + numbers + shift
    finals[module.WEAKEST]["accuracy"] = 0.5 + numbers - shift
    contrasted = finals[module.CONTRASTED]
    contrasted["consistent instructions"] = plain["consistent instructions"] + numbers + shift
    contrasted["accuracy"] = plain["accuracy"] - 0.02 + numbers + shift
    base = finals[module.BT]["accuracy"]
    finals[module.SHIFTED]["accuracy"] = base + numbers + shift
    finals[module.SCALED]["accuracy"] = finals[module.SHIFTED]["accuracy"] + numbers + shift
    finals[module.BOTH]["accuracy"] = finals[module.SCALED]["accuracy"] + numbers + shift
    many = 0.8 + numbers + shift
    finals[module.PREDICTORS] = {"one-to-many": many, "one-to-one": many - numbers - shift}
    return results(finals)


@pytest.mark.parametrize(
    ("shift", "outcome"), [(0.2, "holds"), (-0.2, "fails"), (0.0, "inconclusive")]
)
def test_claims_on_treatments_can_come_out_each_way(shift, outcome):
    made_up = treatments(shift)
    module = rlhf_reward_model_treatments
    found = {c.sentence: c.check(made_up).outcome for c in module.EXPERIMENT.claims}
    same = found.pop("Regression does as well")
    assert set(found.values()) == {outcome} and same == "holds"
    apart = treatments(shift)
    apart[module.REGRESSION].final["accuracy"] += 0.1
    assert module.regression_does_as_well(apart).outcome == "fails"


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


def along(alpha, beta, points):
    """KL and gold of one run that obeys the law."""
    d = np.linspace(0.5, 3.0, points)
    return d**2, d * (alpha - beta * np.log(d))


def test_the_fit_is_drawn_with_intervals_over_runs():
    """The laws of two runs: their mean's lies between, and resampled runs reach either."""
    kl, gold = (np.stack(x) for x in zip(along(1.0, 0.5, 9), along(2.0, 0.3, 9), strict=True))
    axes = Canvas().subplots()
    draw_fit(axes, kl, gold, ls="--")
    (line,) = axes.lines
    assert line.get_label().startswith("alpha 1.50 [1.00, 2.00], beta 0.40 [0.30, 0.50], R2 1.00")
    d, fitted = line.get_data()
    np.testing.assert_allclose(fitted, d * (1.5 - 0.4 * np.log(d)))
    assert (d.min(), d.max()) == (0.5, 3.0)


def test_gold_and_proxy_are_drawn_over_kl_with_a_fit():
    kl, gold = along(1.0, 0.5, 9)
    curves = {"kl": kl, "gold": gold, "proxy": 2.0 * gold}
    made = results({"a": {}, "still": {}}, {"a": {k: np.tile(x, (8, 1)) for k, x in curves.items()},
                   "still": {k: np.zeros((8, 9)) for k in curves}})  # fmt: skip
    canvas = Canvas()
    draw_kl(("a", "still"), canvas, made)
    labels = [line.get_label() for line in canvas.axes[0].lines]
    assert [x for x in labels if not x.startswith("_")] == [
        "a: gold",
        "alpha 1.00 [1.00, 1.00], beta 0.50 [0.50, 0.50], R2 1.00",
        "still: gold",
    ]
