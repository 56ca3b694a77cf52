"""What a new iterative method is made of: a selection and a fit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rewardzoo.rlhf.decoder import LanguageModel
from rewardzoo.rlhf.fitting import Cloning, Contrast, Optimism, joined
from rewardzoo.rlhf.iterative import IterativeTrainer, SuperHF
from rewardzoo.rlhf.selecting import Duels, against_other, best, win_rates
from rewardzoo.rlhf.sequences import pack, sequence_logps

from .small import EOS, biased, count, iterative, model, prompts, same, spoken


def test_best_of_n_cloning_is_superhf_without_its_penalty():
    a, b = model(), model()
    one = iterative(a, best, Cloning(a, learning_rate=1e-2))
    other = SuperHF(
        b, None, count, prompts, n=4, batch_size=8, new_tokens=8, learning_rate=1e-2, kl=0.0
    )
    assert one.train(10) == other.train(10) and same(a, b)
    assert count(spoken(a)).mean() > count(spoken(model())).mean() + 1


def test_win_rates_are_against_the_own_samples_and_duels_are_in_their_order():
    scores = torch.tensor([0.0, 1.0, 3.0, 5.0, 5.0, 5.0])
    rate = win_rates(scores, 3)
    logistic = torch.sigmoid
    expected = (logistic(torch.tensor(1.0)) + 0.5 + logistic(torch.tensor(-2.0))) / 3
    assert float(rate[1]) == pytest.approx(float(expected))
    batch = pack([[2]] * 6, [[i] for i in range(2, 8)])
    found = Duels()(batch, scores, 3)
    got = torch.stack([found.chosen.completions[:, 0], found.rejected.completions[:, 0]], 1)
    assert got.tolist() == [[3, 2], [4, 2], [4, 3], [5, 6], [5, 7], [6, 7]]
    torch.testing.assert_close(found.strength[2], rate[2] - rate[1])
    assert not found.strength[3:].any()
    assert len(Duels(margin=2.0)(batch, scores, 3)) == 2
    assert Duels(margin=9.0)(batch, scores, 3) is None


def test_the_reference_of_dno_is_the_last_iterate_and_that_of_online_dpo_stays():
    policy, first = model(), {}
    for name, ref in (("dno", None), ("dpo", model())):
        fit = Contrast(policy, ref, name, learning_rate=1e-2, batch_size=1_000)
        trainer = iterative(policy, Duels(margin=0.5), fit)
        first[name] = [trainer.train(1)["train/loss"] for _ in range(3)]
    # One pass in one batch: its loss is that before the step.
    assert first["dno"] == [pytest.approx(math.log(2), abs=1e-6)] * 3
    assert all(abs(loss - math.log(2)) > 1e-3 for loss in first["dpo"])
    assert count(spoken(policy)).mean() > count(spoken(model())).mean() + 0.3


def test_a_round_in_which_nothing_is_kept_moves_nothing():
    policy = model()
    fit = Contrast(policy, loss="dno")
    metrics = iterative(policy, Duels(margin=1e9), fit).train(2)
    assert same(policy, model()) and set(metrics) == {"rollout/reward", "rollout/length"}
    with pytest.raises(ValueError, match="nan in row 0"):
        iterative(policy, best, fit, lambda b: torch.full((len(b.ids),), torch.nan)).train(1)


@pytest.mark.parametrize("method", ["cloning", "dno", "vpo"])
def test_an_iterative_trainer_loaded_goes_on_bit_for_bit(tmp_path, method):
    def trainer():
        policy, ref = model(), model()
        if method == "cloning":
            return iterative(policy, best, Cloning(policy, ref, kl=0.1))
        if method == "dno":
            return iterative(policy, Duels(), Contrast(policy, loss="dno"))
        fit = Optimism(policy, ref, batch_size=16)
        return iterative(policy, against_other, fit, other=ref, n_other=4)

    whole, part, rest = trainer(), trainer(), trainer()
    numbers = whole.train(4)
    part.train(2)
    part.save(tmp_path / "x.pt")
    rest.load(tmp_path / "x.pt")
    assert rest.train(2) == numbers and same(rest.policy, whole.policy)


def test_the_others_samples_stand_behind_the_own_ones_of_each_prompt():
    policy, other = biased(model(), 5, 100.0), biased(model(), 6, 100.0)
    seen = []

    def select(batch, scores, n):
        seen.append((batch, n))

    iterative(policy, select, None, n=2, other=other, n_other=1).train(1)
    batch, n = seen[0]
    assert n == 3 and torch.equal(batch.prompts[0], batch.prompts[2])
    assert batch.completions[:, 0].view(-1, 3).tolist() == [[5, 5, 6]] * 8
    with pytest.raises(ValueError, match="n_other=0"):
        iterative(policy, select, None, other=other)


def test_joined_batches_keep_what_was_padding():
    a, b = pack([[2, 3], [4]], [[5, EOS], [6]]), pack([[7, 8, 9]], [[3, 3, EOS]])
    together = joined(a, b)
    for batch, rows in ((a, [0, 1]), (b, [2])):
        with torch.no_grad():
            alone = sequence_logps(model(), batch)
            torch.testing.assert_close(
                sequence_logps(model(), together)[rows], alone, atol=1e-5, rtol=0
            )


class Bandits(LanguageModel):
    """A bandit a prompt, whose 64 responses of one token have log-odds linear in features."""

    def __init__(self, logits, features):
        super().__init__()
        self.logits, self.features = logits, features
        self.theta = nn.Parameter(torch.zeros(len(features), features.shape[2]))
        self.vocab_size = self.width = 64
        self.eos = 999

    def table(self):
        return self.logits + (self.features * self.theta.unsqueeze(1)).sum(2)

    def hidden(self, ids, mask=None):
        return self.table()[ids[:, :1]].expand(-1, ids.shape[1], -1)

    def head(self, hidden):
        return hidden

    def start(self, ids, mask, new_tokens, copies=1):
        return self.hidden(ids)[:, 0].repeat_interleave(copies, 0), None


def regret(alpha, seeds=20, rounds=4):
    """Of VPO after rounds of pairs of policy and reference, on bandits with a gap, (seeds,).

    The reference hardly ever gives half of the responses, and the first feature, which is worth
    most, is 0 in the others.
    """
    g = torch.Generator().manual_seed(0)
    features = torch.randn(seeds, 64, 3, generator=g)
    features[:, :32, 0] = 0
    worth = torch.randn(seeds, 1, 3, generator=g)
    worth[:, :, 0] = 2
    gold = (features * worth).sum(2)
    logits = torch.zeros(seeds, 64)
    logits[:, 32:] = -8
    policy, ref = Bandits(logits, features), Bandits(logits, features)
    fit = Optimism(
        policy, ref, beta=1.0, alpha=alpha, epochs=100, learning_rate=0.05, batch_size=10_000
    )
    trainer = IterativeTrainer(
        policy,
        lambda batch: gold[batch.prompts[:, 0], batch.completions[:, 0]],
        lambda n, generator: torch.arange(seeds).unsqueeze(1),
        against_other,
        fit,
        n=8,
        new_tokens=1,
        other=ref,
        n_other=8,
    )
    trainer.train(rounds)
    with torch.no_grad():
        return gold.amax(1) - (policy.table().softmax(1) * gold).sum(1)


def test_online_vpo_finds_what_the_reference_does_not_cover_and_online_dpo_does_not():
    d = regret(0.01) - regret(0.0)
    assert d.mean() + 2 * d.std() / len(d) ** 0.5 < 0
