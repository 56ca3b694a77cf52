"""Reward models from pairs and ratings: trainers, starts, ties, treatments of doubtful labels."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid

from rewardzoo.rlhf import denoising
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.denoising import preference_strength, treat
from rewardzoo.rlhf.ensembles import Ensemble
from rewardzoo.rlhf.laboratory import Laboratory, LaboratoryConfig
from rewardzoo.rlhf.pairs import PairBatch, RatingBatch
from rewardzoo.rlhf.ratings import HELPSTEER, Rated, encode_ratings, load_ratings
from rewardzoo.rlhf.records import DataError
from rewardzoo.rlhf.reward_models import RewardModel, RewardTrainer, margins, train_reward_model
from rewardzoo.rlhf.sequences import Sequences

GOOD, VOCABULARY = 5, 12


@pytest.fixture(scope="module")
def backbone():
    return Decoder(DecoderConfig(VOCABULARY, 8, width=16, layers=1, heads=2), seed=0).eval()


def responses(n, seed=0):
    """Prompts of two tokens, responses of four; what is good about them is how often 5 appears."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (n, 6), generator=g)
    return Sequences(ids, torch.ones(n, 4, dtype=torch.bool))


def quality(batch):
    return (batch.completions == GOOD).sum(1).float()


def pairs(n, seed=0):
    a, b = responses(n, seed), responses(n, seed + 1)
    first = (quality(a) >= quality(b)).unsqueeze(1)
    chosen = a._replace(ids=torch.where(first, a.ids, b.ids))
    rejected = a._replace(ids=torch.where(first, b.ids, a.ids))
    gap = (quality(a) - quality(b)).abs()
    kept = gap > 0
    return PairBatch(chosen.rows(kept), rejected.rows(kept), gap[kept], torch.ones(int(kept.sum())))


def ratings(n, seed=0):
    batch = responses(n, seed)
    first = (batch.completions[:, 0] == GOOD).float()
    return RatingBatch(batch, torch.stack([quality(batch), first], 1), torch.ones(n))


def test_what_is_minimised_is_the_loss_the_squares_of_scores_and_their_centring(backbone):
    data = replace(pairs(60), weight=torch.rand(len(pairs(60))))
    trainer = RewardTrainer(RewardModel(backbone), data, "margin", score_l2=0.3, centre=0.2)
    with torch.no_grad():
        trainer.model.value.weight.mul_(50)
        w, x = trainer.model.raw(data.both).chunk(2)
    expected = (-logsigmoid(w - x - data.strength) * data.weight).mean()
    expected = expected + 0.3 * (w**2 + x**2).mean() + 0.2 * ((w + x) ** 2).mean()
    assert trainer.train(1)["train/loss"] == pytest.approx(float(expected), rel=1e-4)
    rated = ratings(60)
    one = RewardTrainer(RewardModel(backbone, attributes=2), rated, "regression", score_l2=0.3)
    with torch.no_grad():
        one.model.value.weight.mul_(50)
        y = one.model.attributes(rated.responses)
    expected = ((y - rated.ratings) ** 2).mean() + 0.3 * (y**2).mean()
    assert one.train(1)["train/loss"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("loss", ["bt", "margin", "scaled_bt"])
def test_every_pair_loss_learns_the_order(backbone, loss):
    model = train_reward_model(pairs(400), backbone, loss, epochs=8, learning_rate=1e-2)
    assert (margins(model, pairs(300, 7)) > 0).float().mean() > 0.85


def test_ratings_of_several_attributes_are_regressed_and_their_mean_is_the_score(backbone):
    model = train_reward_model(
        ratings(600), backbone, "regression", epochs=30, learning_rate=5e-3, score_l2=0.0
    )
    held = ratings(300, 9)
    with torch.no_grad():
        found, score = model.attributes(held.responses), model.raw(held.responses)
    error = (found - held.ratings).pow(2).mean(0)
    assert (error < 0.5 * held.ratings.var(0)).all()
    torch.testing.assert_close(score, found.mean(1))


def test_outcome_labels_give_probabilities(backbone):
    labels = (quality(responses(600)) > 0).float().unsqueeze(1)
    batch = replace(ratings(600), ratings=labels)
    model = train_reward_model(batch, backbone, "cross_entropy", epochs=20, learning_rate=5e-3)
    held = responses(300, 9)
    with torch.no_grad():
        p = torch.sigmoid(model.raw(held))
    truth = quality(held) > 0
    assert ((p > 0.5) == truth).float().mean() > 0.85


def test_a_regression_is_a_start_for_scaled_bradley_terry(backbone):
    """Wang et al. (2025): the head goes on too, so that the first score is the regression's."""
    first = train_reward_model(ratings(400), backbone, "regression", epochs=10, learning_rate=5e-3)
    data = pairs(64)
    same = train_reward_model(data, first, "scaled_bt", epochs=0)
    torch.testing.assert_close(margins(same, data), margins(first, data))
    further = train_reward_model(data, first, "scaled_bt", epochs=5, learning_rate=5e-3)
    assert margins(further, data).mean() > margins(first, data).mean()
    torch.testing.assert_close(
        margins(further.extrapolate(first, 0.0), data), margins(further, data)
    )
    beyond = further.extrapolate(first, 1.0)
    for a, b, c in zip(beyond.parameters(), further.parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(a - b, b - c)


def test_ties_are_left_out_with_a_count_or_are_even_chances(backbone):
    data = pairs(100)
    tied = torch.arange(len(data)) % 4 == 0
    data = replace(data, strength=data.strength.masked_fill(tied, 0.0))
    drop = RewardTrainer(RewardModel(backbone), data, ties="drop")
    assert drop.dropped == int(tied.sum())
    assert torch.equal(drop.data.chosen.ids, data.chosen.ids[~tied])

    def first_loss(**kwargs):
        trainer = RewardTrainer(RewardModel(backbone), data, score_l2=0.0, **kwargs)
        return trainer.train(1)["train/loss"], trainer.model

    with torch.no_grad():
        d = margins(RewardModel(backbone), data)
    one, other = -logsigmoid(d), -logsigmoid(-d)
    loss, model = first_loss(ties="half")
    assert loss == pytest.approx(float(torch.where(tied, (one + other) / 2, one).mean()), abs=1e-6)
    plain, taken_at_its_word = first_loss()
    assert plain == pytest.approx(float(one.mean()), abs=1e-6)
    assert not torch.equal(model.value.weight, taken_at_its_word.value.weight)


def test_even_chances_pull_scores_of_ties_together(backbone):
    """A target of one half is met where both responses score the same."""
    data = pairs(200)
    tied = replace(data, strength=torch.zeros(len(data)))
    start = train_reward_model(data, backbone, epochs=8, learning_rate=1e-2)
    after = train_reward_model(tied, start, epochs=8, learning_rate=1e-2, ties="half")
    assert margins(after, data).abs().mean() < 0.5 * margins(start, data).abs().mean()


def test_ties_that_cannot_be_told_or_leave_nothing_are_refused(backbone):
    data, model = pairs(20), RewardModel(backbone)
    with pytest.raises(ValueError, match="ties='keep': expected drop or half"):
        RewardTrainer(model, data, ties="keep")
    with pytest.raises(ValueError, match="ties='half': loss='soft_bt'"):
        RewardTrainer(model, data, "soft_bt", ties="half")
    with pytest.raises(ValueError, match="ties='drop': loss='regression'"):
        RewardTrainer(model, ratings(20), "regression", ties="drop")
    with pytest.raises(ValueError, match="all .* pairs have strength 0"):
        RewardTrainer(model, replace(data, strength=torch.zeros(len(data))), ties="drop")


def test_a_trainer_that_is_loaded_goes_on_bit_for_bit(backbone, tmp_path):
    def trainer():
        return RewardTrainer(RewardModel(backbone), pairs(100), batch_size=16)

    whole, part, rest = trainer(), trainer(), trainer()
    numbers = whole.train(8)
    part.train(3)
    part.save(tmp_path / "x.pt")
    rest.load(tmp_path / "x.pt")
    assert rest.train(5) == numbers
    for p, q in zip(rest.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_members_of_several_attributes_combine(backbone):
    members = [RewardModel(backbone, seed, attributes=2) for seed in range(3)]
    batch = responses(20)
    with torch.no_grad():
        each = torch.stack([m(batch) for m in members])
        found = Ensemble(members, "mean", standardise=False).scores(batch)
        torch.testing.assert_close(found, each)


# ---------------------------------------------------------------------------- doubtful labels


def test_no_model_scores_a_pair_that_it_was_trained_on(monkeypatch):
    """Five folds of two models each, whose margins are their seeds."""
    data, scored = pairs(60), []

    def train(seen, backbone, seed, **kwargs):
        return {tuple(row) for row in seen.chosen.ids.tolist()}, seed

    def difference(model, held):
        rows, seed = model
        assert not rows & {tuple(row) for row in held.chosen.ids.tolist()}
        assert len(rows) + len(held) == len(data)
        scored.append(len(held))
        return torch.full((len(held),), float(seed))

    monkeypatch.setattr(denoising, "train_reward_model", train)
    monkeypatch.setattr(denoising, "margins", difference)
    mean, std = preference_strength(data, None, models=10, folds=5)
    assert sum(scored) == 2 * len(data) and len(scored) == 10
    assert set(mean.tolist()) == {0.5, 2.5, 4.5, 6.5, 8.5}
    torch.testing.assert_close(std, torch.full_like(std, 0.5**0.5))
    with pytest.raises(ValueError, match="folds=1"):
        preference_strength(data, None, folds=1)


def test_models_agree_with_a_coins_labels_that_they_have_seen_and_with_half_of_the_others():
    """Labels of a coin: what a model says of its own pairs is not how good they are."""
    backbone = Decoder(DecoderConfig(VOCABULARY, 8, width=32, layers=1), seed=0).eval()
    batch = PairBatch(responses(96), responses(96, 1), torch.ones(96), torch.ones(96))
    how = {"epochs": 40, "learning_rate": 1e-2, "score_l2": 0.0, "batch_size": 32}
    own = margins(train_reward_model(batch, backbone, **how), batch)
    mean, _ = preference_strength(batch, backbone, models=2, folds=2, **how)
    assert (own > 0).float().mean() > 0.95
    assert abs(float((mean > 0).float().mean()) - 0.5) < 5 * 0.5 / 96**0.5


def exchanged(data, rows):
    return replace(
        data,
        chosen=data.chosen._replace(
            ids=torch.where(rows[:, None], data.rejected.ids, data.chosen.ids)
        ),
        rejected=data.rejected._replace(
            ids=torch.where(rows[:, None], data.chosen.ids, data.rejected.ids)
        ),
    )


def test_known_flips_are_undone(backbone):
    """With the true strength the weakest labels are the flipped ones, and flipping undoes them."""
    clean = pairs(400)
    flipped = torch.rand(len(clean), generator=torch.Generator().manual_seed(3)) < 0.2
    noisy = exchanged(clean, flipped)
    strength = torch.where(flipped, -clean.strength, clean.strength)
    share = float(flipped.float().mean())
    treated, loss = treat(noisy, strength, "flip", share)
    assert loss == "soft_bt" and torch.equal(treated.strength == 0, flipped)
    dropped, _ = treat(noisy, strength, "drop", share)
    assert torch.equal(dropped.chosen.ids, clean.chosen.ids[~flipped])


def test_flipping_leaves_alone_what_the_models_do_not_contradict():
    data = pairs(50)
    treated, _ = treat(data, torch.linspace(-1, 9, len(data)), "flip", 0.5)
    assert torch.equal(treated.strength == 0, torch.linspace(-1, 9, len(data)) < 0)


def test_the_most_ambiguous_are_smoothed_and_margins_are_never_negative():
    data = pairs(50)
    strength = torch.linspace(-2, 5, len(data))
    smoothed, loss = treat(data, strength, "smooth", 0.2, smoothing=0.1)
    changed = smoothed.strength < 1
    assert loss == "soft_bt" and int(changed.sum()) == round(0.2 * len(data))
    assert strength[changed].abs().max() <= strength[~changed].abs().min()
    with_margin, loss = treat(data, strength, "margin")
    assert loss == "margin" and torch.equal(with_margin.strength, strength.clamp(min=0))
    with pytest.raises(ValueError, match="how='mend'"):
        treat(data, strength, "mend")
    with pytest.raises(ValueError, match="share=1"):
        treat(data, strength, "flip", 1.0)


# --------------------------------------------------------------------------------- laboratory


def test_a_bradley_terry_human_prefers_by_the_sigmoid_of_the_difference_of_gold():
    small = {"width": 16, "layers": 1, "sft_steps": 1}
    lab = Laboratory(3, LaboratoryConfig(label="bt", **small))
    n = 4000
    for noise in (0.0, 0.25):
        data, flipped = lab.pairs(n, noise)
        gap = lab.gold(data.chosen) - lab.gold(data.rejected)
        told = data.strength > 1e-4  # two responses may be the same
        assert torch.equal((gap < 0)[told], flipped[told])
        torch.testing.assert_close(gap.abs(), data.strength, atol=1e-5, rtol=0)
        right = torch.sigmoid(gap.abs())
        right = right + noise * (1 - 2 * right)
        # Agreement with gold's order, of the easier and of the harder half of the pairs.
        easy = gap.abs() > gap.abs().median()
        for half in (easy, ~easy):
            error = 5 * 0.5 / int(half.sum()) ** 0.5
            assert abs(float((~flipped)[half].float().mean() - right[half].mean())) < error
        assert right[easy].mean() > right[~easy].mean() + (0.1 if noise else 0.2)
    order, _ = Laboratory(3, LaboratoryConfig(**small)).pairs(100, 0.0)
    assert (lab.gold(order.chosen) >= lab.gold(order.rejected)).all()
    with pytest.raises(ValueError, match="label='coin'"):
        LaboratoryConfig(label="coin")


# -------------------------------------------------------------------------------------- files


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_ratings_and_labels_are_read_and_bad_ones_named(tmp_path):
    row = {"prompt": "q", "response": "a", **{name: i for i, name in enumerate(HELPSTEER)}}
    found = load_ratings(write(tmp_path / "a.jsonl", [row]))
    assert found == [Rated("q", "a", (0.0, 1.0, 2.0, 3.0, 4.0))]
    some = load_ratings(tmp_path / "a.jsonl", ["verbosity"])
    assert some[0].ratings == (4.0,)
    label = {"prompt": [2, 3], "completion": [4], "label": True}
    batch = encode_ratings(load_ratings(write(tmp_path / "b.jsonl", [label])), eos=1)
    assert batch.responses.completions.tolist() == [[4, 1]] and batch.ratings.tolist() == [[1.0]]
    for bad, match in (
        ({**label, "label": None}, "field 'label': missing"),
        ({**label, "completion": []}, "field 'completion': .*empty"),
        ({**row, "helpfulness": float("nan")}, "field 'helpfulness': nan"),
    ):
        with pytest.raises(DataError, match=match):
            load_ratings(write(tmp_path / "c.jsonl", [bad]))
    with pytest.raises(DataError, match="token 4: expected 0 to"):
        load_ratings(tmp_path / "b.jsonl", vocab_size=4)
