"""Predictors learn what can be predicted, see only the past, and balance the classes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rewardzoo.agents.knee_predictor import KINDS, Predictor

VISITS, FEATURES = 3, 5


def made_up(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """A progression where the first feature of the last observation exceeds 1 (some 16 %)."""
    obs = torch.randn(count, VISITS, FEATURES, generator=torch.Generator().manual_seed(0))
    return obs, obs[..., 0] > 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_predicted_is(kind: str) -> None:
    obs, progressed = made_up(1000)
    predictor = Predictor(kind, FEATURES, VISITS, size=8)
    predictor.fit(obs, progressed, epochs=25, batch_size=125, learning_rate=0.03)
    fresh = torch.randn(1000, VISITS, FEATURES, generator=torch.Generator().manual_seed(1))
    truth = fresh[..., 0] > 1.0
    policy = predictor.policy()
    for k in range(VISITS):
        action, score = policy(fresh[:, k], SimpleNamespace())
        hit = float((action == 1)[truth[:, k]].double().mean())
        quiet = float((action == 0)[~truth[:, k]].double().mean())
        assert hit > 0.9 and quiet > 0.85, (kind, k, hit, quiet)
        assert bool(((score >= 0) & (score <= 1)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_is_not_looked_at(kind: str) -> None:
    predictor = Predictor(kind, FEATURES, VISITS)
    obs, _ = made_up(8)
    other = obs.clone()
    other[:, 1:] += 1.0
    first = predictor.policy()(obs[:, 0], None)[1]
    assert torch.equal(first, predictor.policy()(other[:, 0], None)[1])
    assert torch.equal(predictor.logits(obs[:, :1]), predictor.logits(other[:, :1]))


def test_recurrent_predictions_use_the_record() -> None:
    predictor = Predictor("gru", FEATURES, VISITS)
    obs, _ = made_up(8)
    other = obs.clone()
    other[:, 0] += 1.0
    assert not torch.equal(predictor.logits(obs), predictor.logits(other))
    policy = predictor.policy()
    for k in range(VISITS):
        score = policy(obs[:, k], None)[1]
    torch.testing.assert_close(score, predictor.logits(obs).sigmoid())
    again = policy(obs[:, 0], None)[1]  # a new episode: the record starts afresh
    torch.testing.assert_close(again, predictor.logits(obs[:, :1]).sigmoid())


def test_classes_are_balanced_visit_by_visit() -> None:
    """With features that tell nothing, balanced weights leave the logit at 0 whatever the share."""
    count = 4000
    obs = torch.zeros(count, 2, FEATURES)
    progressed = torch.zeros(count, 2, dtype=torch.bool)
    progressed[:80, 0] = True  # 2 %
    progressed[:2400, 1] = True  # 60 %
    predictor = Predictor("logistic", FEATURES, 2).fit(obs, progressed, epochs=50)
    for k in range(2):
        assert float(predictor.logits(obs[:1, : k + 1]).detach()) == pytest.approx(0.0, abs=0.05)
    with pytest.raises(ValueError, match="only one class"):
        Predictor("logistic", FEATURES, 2).fit(obs, progressed & False)


def test_hinge_loss_by_hand() -> None:
    predictor = Predictor("svm", 1, 1)
    for p in predictor.network.parameters():
        p.data.zero_()
    obs = torch.zeros(4, 1, 1)
    progressed = torch.tensor([[True], [False], [False], [False]])
    weight = torch.tensor([[2.0], [1.0], [1.0], [1.0]])
    assert float(predictor.loss(obs, progressed, weight)) == pytest.approx(1.25)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="kind='forest'"):
        Predictor("forest", 3, 2)
