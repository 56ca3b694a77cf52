"""What all losses and trainers take for granted: masks, log-probabilities, references, one pass."""

from __future__ import annotations

import copy

import pytest
import torch

from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.fitting import Cloning
from rewardzoo.rlhf.offline import OfflineTrainer
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.pairs import PairBatch
from rewardzoo.rlhf.process_rewards import ImplicitReward
from rewardzoo.rlhf.reward_models import RewardModel, RewardTrainer
from rewardzoo.rlhf.sampling import sample
from rewardzoo.rlhf.selecting import best
from rewardzoo.rlhf.sequences import pack, sequence_logps, token_logps

EOS = 1


def model(seed=0):
    """Of weights so large that every token matters."""
    found = Decoder(DecoderConfig(12, 16, 16, 2, 2, EOS), seed).eval()
    with torch.no_grad():
        found.embed.weight.mul_(20)
    return found


def prompts(n, generator):
    return torch.randint(2, 12, (n, 3), generator=generator)


def pairs(n=8):
    generator = torch.Generator().manual_seed(0)
    asked = prompts(n, generator).repeat(2, 1)
    batch = sample(model(), asked, 8, generator)
    first, second = batch.rows(torch.arange(n)), batch.rows(torch.arange(n, 2 * n))
    return PairBatch(first, second, torch.ones(n), torch.ones(n))


# ------------------------------------------------------------------------------ masks and log-probs


def test_tokens_count_where_they_are_said_even_if_they_are_what_padding_is_made_of():
    said = [([0, 0, 3], [0, 5, 0]), ([4], [0]), ([EOS, 2], [6, EOS])]
    batch = pack(*zip(*said, strict=True))
    assert batch.lengths.tolist() == [3, 1, 2]
    assert batch.prompt_mask.sum(1).tolist() == [3, 1, 2]
    with torch.no_grad():
        together = sequence_logps(model(), batch)
        alone = [sequence_logps(model(), pack([x], [y])) for x, y in said]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_a_token_is_predicted_from_what_stands_before_it_and_a_completion_is_the_sum():
    x, y = [3, 4], [5, 6, 7, EOS]
    policy, batch = model(), pack([x, [2, 2]], [y, [8, EOS]])
    with torch.no_grad():
        found = token_logps(policy, batch)
        for t, token in enumerate(y):
            expected = policy(torch.tensor([x + y[:t]]))[0, -1].log_softmax(0)[token]
            torch.testing.assert_close(found[0, t], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(sequence_logps(policy, batch), found.sum(1))
    assert not found[1, 2:].any()  # behind its end


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_what_is_sampled_at_a_temperature_has_the_probabilities_of_divided_logits(temperature):
    policy, n = model(), 20_000
    asked = torch.tensor([[2, 3]]).repeat(n, 1)
    batch = sample(policy, asked, 1, torch.Generator().manual_seed(0), temperature=temperature)
    with torch.no_grad():
        p = (policy(asked[:1])[0, -1] / temperature).softmax(-1)
    share = torch.bincount(batch.completions[:, 0], minlength=12) / n
    assert ((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-6).all()
    with pytest.raises(ValueError, match="temperature=0"):
        sample(policy, asked, 1, temperature=0.0)


@pytest.mark.parametrize("behind", [0, EOS, 7])
def test_a_score_is_read_at_the_last_token_whether_that_ends_or_not(behind):
    """What fills the rest of the row is not looked at, be it another end."""
    rows = [([2, 3, 4], [5, 6]), ([7], [8, EOS]), ([9, 9], [5, 6, 7, 8])]
    batch = pack(*zip(*rows, strict=True))
    ids = batch.ids.clone()
    ids[:, 3:][~batch.completion_mask] = behind
    ids[:, :3][~batch.prompt_mask] = behind
    reward = RewardModel(model(), seed=3)
    with torch.no_grad():
        reward.value.weight.mul_(50)
        together = reward(batch._replace(ids=ids))
        for score, (x, y) in zip(together, rows, strict=True):
            last = reward.backbone.hidden(torch.tensor([x + y]))[0, -1]
            torch.testing.assert_close(score, reward.value(last)[0], atol=1e-5, rtol=1e-5)
    assert together.std() > 0.1


# ------------------------------------------------------------------------------------ one pass


def test_both_responses_of_a_pair_go_through_one_pass(monkeypatch):
    read = []

    def counted(name):
        plain = getattr(Decoder, name)

        def method(self, ids, *args):
            read.append((name, len(ids)))
            return plain(self, ids, *args)

        monkeypatch.setattr(Decoder, name, method)

    data = pairs()
    policy = OfflineTrainer(model(), model(), data, batch_size=4)
    reward = RewardTrainer(RewardModel(model()), data, batch_size=4)
    counted("hidden")
    counted("hidden_at")
    policy.train(1)
    reward.train(1)
    assert read == [("hidden", 8), ("hidden_at", 8)]


# ---------------------------------------------------------------------------------- references


@pytest.mark.parametrize("kind", ["dpo", "rloo", "ppo", "kl loss", "cloning", "implicit"])
def test_the_reference_learns_nothing_and_is_asked_for_no_gradient(kind):
    policy, ref = model(), model(1)
    before = copy.deepcopy(ref.state_dict())
    if kind == "dpo":
        OfflineTrainer(policy, ref, pairs(), batch_size=8).train(2)
    elif kind == "cloning":
        Cloning(policy, ref, kl=0.3)(pairs().chosen, 0)
    elif kind == "implicit":
        ImplicitReward(policy, ref).raw(pairs().chosen).sum().backward()
    else:
        settings = {"algorithm": "ppo" if kind == "ppo" else "rloo", "kl": 0.3}
        settings["kl_loss"] = "k3" if kind == "kl loss" else "reward"
        config = OnlineConfig(prompts=4, new_tokens=6, **settings)
        reward = lambda batch: batch.lengths.float()  # noqa: E731
        OnlineTrainer(policy, ref, reward, prompts, config).train(2)
    assert all(p.grad is None for p in ref.parameters())
    for name, value in ref.state_dict().items():
        assert torch.equal(before[name], value), name


def test_log_ratios_of_both_responses_are_reported_from_before_the_step():
    data, policy, ref = pairs(), model(), model(1)
    with torch.no_grad():
        chosen, rejected = (
            float((sequence_logps(policy, x) - sequence_logps(ref, x)).mean())
            for x in (data.chosen, data.rejected)
        )
    found = OfflineTrainer(policy, ref, data, batch_size=8).train(1)
    assert found["train/chosen_ratio"] == pytest.approx(chosen, rel=1e-4)
    assert found["train/rejected_ratio"] == pytest.approx(rejected, rel=1e-4)


def test_the_kl_that_is_reported_is_in_nats_a_sequence():
    policy, ref, seen = model(), model(1), []
    before = copy.deepcopy(policy)

    def reward(batch):
        seen.append(batch)
        return batch.lengths.float()

    config = OnlineConfig(prompts=4, new_tokens=6)
    found = OnlineTrainer(policy, ref, reward, prompts, config).train(1)
    with torch.no_grad():
        log_ratio = sequence_logps(before, seen[0]) - sequence_logps(ref, seen[0])
    assert found["rollout/kl_k1"] == pytest.approx(float(log_ratio.mean()), rel=1e-4)


# ------------------------------------------------------------------------------------- SuperHF


def test_the_best_of_each_prompt_is_kept():
    batch = pack([[2]] * 6, [[i] for i in range(2, 8)])
    scores = torch.tensor([0.0, 3.0, 1.0, -1.0, -5.0, -2.0])
    assert best(batch, scores, 3).completions[:, 0].tolist() == [3, 5]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_cloning_is_likelihood_and_a_kl_of_its_direction_a_token(direction):
    """Token by token from each model's own logits; more of the same rows change nothing."""
    policy, ref, batch = model(), model(1), pairs().chosen
    fit = Cloning(policy, ref, kl=0.35, kl_direction=direction)
    with torch.no_grad():
        nll, kl, n = 0.0, 0.0, 0
        for row in range(len(batch.ids)):
            ids = batch.ids[row : row + 1]
            p, q = (m(ids)[0].log_softmax(-1) for m in (policy, ref))
            a, b = (q, p) if direction == "forward" else (p, q)
            for t in range(int(batch.lengths[row])):
                at = batch.prompt_length - 1 + t
                nll -= float(p[at, ids[0, at + 1]])
                kl += float((a[at].exp() * (a[at] - b[at])).sum())
                n += 1
        assert float(fit.loss(batch)) == pytest.approx((nll + 0.35 * kl) / n, rel=1e-4)
        twice = batch.rows(torch.arange(len(batch.ids)).repeat(2))
        torch.testing.assert_close(fit.loss(twice), fit.loss(batch))
    for wrong in ({"kl": -1.0}, {"kl_direction": "back"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Cloning(policy, ref, **wrong)


# ------------------------------------------------------------------------------- what is refused


def test_a_reference_of_another_vocabulary_is_refused():
    other = Decoder(DecoderConfig(13, 16, 16, 1, 2, EOS)).eval()
    with pytest.raises(ValueError, match="ref: a vocabulary of 13, the policy's is 12"):
        OfflineTrainer(model(), other, pairs())
    with pytest.raises(ValueError, match="ref: a vocabulary of 13, the policy's is 12"):
        OnlineTrainer(model(), other, lambda batch: batch.lengths, prompts, OnlineConfig())


def test_a_completion_without_a_token_is_refused_by_its_row():
    with pytest.raises(ValueError, match="row 1, field 'completion': empty"):
        pack([[2], [3]], [[4], []])
    with pytest.raises(ValueError, match="row 0, field 'completion': nothing is left of it"):
        pack([[2, 3]], [[4, 5]], max_length=1)
