"""Ensembles: fast only where that is right, standardised unless asked not to, trained in one call."""

from __future__ import annotations

import copy

import pytest
import torch

from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.ensembles import OBJECTIVES, Ensemble, train_ensemble
from rewardzoo.rlhf.pairs import PairBatch
from rewardzoo.rlhf.process_rewards import TokenRewardModel
from rewardzoo.rlhf.reward_models import RewardModel, train_reward_model
from rewardzoo.rlhf.sequences import Sequences

SIZE = DecoderConfig(10, 7, width=16, layers=2, heads=2)


class Offset(Decoder):
    """A backbone that reads something else than the decoder that it is made of."""

    def hidden(self, ids, mask=None):
        return super().hidden(ids, mask) + 1

    def hidden_at(self, ids, last, mask=None):
        return super().hidden_at(ids, last, mask) - 1


def batch(n=30, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 10, (n, 7), generator=g)
    return Sequences(ids, torch.arange(4) < torch.randint(1, 5, (n, 1), generator=g))


def members(kind=RewardModel, backbone=Decoder):
    found = [kind(backbone(SIZE, seed), seed) for seed in range(3)]
    for seed, model in enumerate(found):
        model.value.weight.data *= 10
        model.mean.fill_(0.2 + seed)
        model.std.fill_(1.0 + seed)
    return found


@pytest.mark.parametrize(
    ("kind", "backbone"),
    [(RewardModel, Decoder), (TokenRewardModel, Decoder), (RewardModel, Offset)],
)
def test_an_ensemble_scores_as_its_members_do_whatever_they_read(kind, backbone):
    found, data = members(kind, backbone), batch()
    with torch.no_grad():
        each = torch.stack([model(data) for model in found])
        ensemble = Ensemble(found, "mean")
        torch.testing.assert_close(ensemble.scores(data), each, atol=1e-5, rtol=0)
        torch.testing.assert_close(ensemble.mapped(data), each, atol=1e-5, rtol=0)
    assert each.std(1).min() > 0.05


def test_a_member_whose_scores_have_no_common_unit_is_refused():
    found = members()
    found[1] = RewardModel(Decoder(SIZE, 1), 1)
    with pytest.raises(ValueError, match="normaliser of member 1 is not fitted.*standardise=False"):
        Ensemble(found)
    found[1].fit_normaliser(batch())
    Ensemble(found)


def test_a_normaliser_that_is_loaded_is_fitted():
    fitted, loaded = members()[1], RewardModel(Decoder(SIZE, 1), 1)
    assert fitted.standardised and not loaded.standardised
    loaded.load_state_dict(fitted.state_dict())
    assert loaded.standardised


def test_raw_scores_are_combined_where_that_is_asked_for():
    found, data = members(), batch()
    with torch.no_grad():
        raw = torch.stack([model.raw(data) for model in found])
        ensemble = Ensemble(found, "wco", standardise=False)
        torch.testing.assert_close(ensemble.scores(data), raw, atol=1e-5, rtol=0)
        torch.testing.assert_close(ensemble(data), raw.amin(0), atol=1e-5, rtol=0)
    assert found[1].std == 2  # the members keep theirs


@pytest.mark.parametrize("coef", [0.0, 0.7])
def test_objectives_by_their_definitions(coef):
    """Of weights 0 the mean itself is left, not a default."""
    found, data = members(), batch()
    with torch.no_grad():
        each = torch.stack([model(data) for model in found])
        mean, deviations = each.mean(0), each - each.mean(0)
        variance = (deviations**2).sum(0) / 2  # of three members, without bias
        expected = {
            "mean": mean,
            "median": each.sort(0).values[1],
            "wco": each.amin(0),
            "uwo": mean - coef * variance,
            "mean_std": mean - coef * variance.sqrt(),
        }
        for objective, value in expected.items():
            score = Ensemble(found, objective, coef)(data)
            torch.testing.assert_close(score, value, atol=1e-5, rtol=1e-5)
    assert set(expected) == set(OBJECTIVES)
    for wrong, match in ((("best",), "objective='best'"), ((), "members: 1 of them")):
        with pytest.raises(ValueError, match=match):
            Ensemble(found if wrong else found[:1], *wrong)


def test_members_trained_in_one_call_differ_in_seed_and_in_turn_in_backbone():
    chosen, rejected = batch(64, 1), batch(64, 2)
    data = PairBatch(chosen, rejected, torch.ones(64), torch.ones(64))
    backbones, base = [Decoder(SIZE, seed).eval() for seed in range(2)], batch(50, 3)
    before = copy.deepcopy(backbones[0].state_dict())
    ensemble = train_ensemble(data, backbones, base, 3, "median", epochs=1, batch_size=32)
    found = []
    for seed, backbone in enumerate((backbones[0], backbones[1], backbones[0])):
        found.append(train_reward_model(data, backbone, seed=seed, epochs=1, batch_size=32))
        found[-1].fit_normaliser(base)
    with torch.no_grad():
        each = torch.stack([model(base) for model in found])
        torch.testing.assert_close(ensemble.scores(base), each, atol=1e-4, rtol=0)
    assert not torch.allclose(each[0], each[2], atol=0.1)
    torch.testing.assert_close(each.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    assert ensemble.objective == "median"
    for name, value in backbones[0].state_dict().items():
        assert torch.equal(before[name], value), name
