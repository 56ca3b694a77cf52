"""Treatments of reward models: claims come out each way, data are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardzoo.experiments import rlhf_reward_model_treatments
from rewardzoo.experiments.common.rlhf import laboratory
from rewardzoo.rlhf.evaluation import contrast_consistency

from .made_up import NOISE, results


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
