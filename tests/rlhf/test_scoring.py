"""Members of an ensemble read together: the same numbers as each alone, whatever the batch."""

from __future__ import annotations

import pytest
import torch

from rewardzoo.rlhf.attention import softmax
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.ensembles import Ensemble
from rewardzoo.rlhf.reward_models import RewardModel
from rewardzoo.rlhf.sequences import Sequences

PROMPT, NEW, VOCABULARY = 4, 9, 12


def batch(n, padded, seed=0):
    """Completions of every length, their padding full of tokens that must not matter."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (n, PROMPT + NEW), generator=g)
    lengths = torch.randint(1, NEW + 1, (n, 1), generator=g)
    prompts = torch.randint(1, PROMPT + 1, (n, 1), generator=g)
    mask = torch.arange(PROMPT) >= PROMPT - prompts if padded else None
    return Sequences(ids, torch.arange(NEW) < lengths, mask)


def members(layers, attributes=1, spread=0.3, dtype=torch.float32):
    """Three models, every weight of which is its own, normalisers too."""
    found = []
    for seed in range(3):
        config = DecoderConfig(VOCABULARY, PROMPT + NEW, width=16, layers=layers)
        model = RewardModel(Decoder(config, seed), seed, attributes)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for p in model.parameters():
                p.data += spread * torch.randn_like(p)
        model.mean.fill_(0.5 + seed)
        model.std.fill_(1.5 + seed)
        found.append(model.to(dtype))
    return found


@pytest.mark.parametrize("rows", [5, 100])  # fewer than the vocabulary's tokens, and more
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("layers", "attributes"), [(1, 1), (2, 2), (3, 1)])
def test_scores_are_those_of_each_member_alone(rows, padded, layers, attributes, monkeypatch):
    # Two or three rows at a time, so that rows are sorted, cut and put back.
    monkeypatch.setattr("rewardzoo.rlhf.scoring.AT_ONCE", 2000)
    found, data = members(layers, attributes), batch(rows, padded)
    with torch.no_grad():
        each = torch.stack([model(data) for model in found])
    scores = Ensemble(found, "mean").scores(data)
    torch.testing.assert_close(scores, each, atol=1e-5, rtol=0)
    assert each.std(1).min() > 0.05  # rows differ, so that an exchange would be seen


def test_attention_so_sharp_that_exponentials_overflow_is_read_as_well():
    found, data = members(2, spread=4.0, dtype=torch.float64), batch(40, False)
    with torch.no_grad():
        each = torch.stack([model(data) for model in found])
    scores = Ensemble(found, "mean").scores(data)
    assert torch.isfinite(each).all()
    torch.testing.assert_close(scores, each, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e3, 1e5])
@pytest.mark.parametrize("dim", [1, 2])
def test_softmax_is_torchs_at_every_size_of_scores(size, dim):
    g = torch.Generator().manual_seed(0)
    scores = size * torch.randn(50, 7, 7, generator=g)
    scores[:10] -= 200.0  # rows whose exponentials all vanish
    visible = torch.maximum((torch.rand(50, 7, 7, generator=g) < 0.6).float(), torch.eye(7))
    expected = torch.softmax(scores.masked_fill(visible == 0, -torch.inf), dim)
    found = softmax(scores, visible, dim)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    found = softmax(scores[10:], visible[10:], dim)
    torch.testing.assert_close(found, expected[10:], atol=1e-6, rtol=1e-5)


def test_a_batch_longer_than_the_members_read_is_refused():
    ids = torch.zeros(2, PROMPT + NEW + 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="14 tokens, the model reads max_length=13"):
        Ensemble(members(1)).scores(Sequences(ids, torch.ones(2, 3, dtype=torch.bool)))
