"""Process rewards: identities of implicit rewards on an enumerable model, PRIME's advantages."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from rewardzoo.rlhf.decoder import Decoder, DecoderConfig, LanguageModel
from rewardzoo.rlhf.evaluation import auroc
from rewardzoo.rlhf.offline import OfflineTrainer
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.policy_gradient import rloo
from rewardzoo.rlhf.process_rewards import (
    AGGREGATES,
    PAIR_LOSSES,
    ImplicitReward,
    Prime,
    TokenRewardModel,
    aggregate,
    fit_outcomes,
    fit_pairs,
    kto_loss,
    nca,
    outcome_loss,
    outcome_pairs,
    pairwise_accuracy,
    prime_advantage,
    step_rewards,
    vote,
)
from rewardzoo.rlhf.sequences import Sequences, pack
from rewardzoo.rlhf.tasks import EOS, Arithmetic

from .enumerable import EOS as END
from .enumerable import PREFIXES, SEQUENCES, V, logps, table

TASK = Arithmetic(n=3, wrong_cells=0.4, wrong_prob=0.5)


class Table(LanguageModel):
    """The enumerable policy: a prompt of one token, then one of 40 sequences."""

    vocab_size, width, eos = V, V, END

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def hidden(self, ids, mask=None):
        rows = []
        for row in ids[:, 1:].tolist():
            prefixes = [tuple(row[:i]) for i in range(len(row) + 1)]
            rows.append([PREFIXES.index(p) if p in PREFIXES else 0 for p in prefixes])
        return self.logits[torch.tensor(rows)]

    def head(self, hidden):
        return hidden


def everything():
    return pack([[1]] * 40, [list(s) for s in SEQUENCES])


def tilted(ref, r, beta):
    """Logits of the policy that is ref times exp(r / beta), normalised."""
    p = (logps(ref) + r / beta).softmax(0)
    mass = [sum(p[i] for i, s in enumerate(SEQUENCES) if s[: len(q)] == q) for q in prefixes()]
    at = dict(zip(prefixes(), mass, strict=True))
    return torch.stack([torch.stack([at[(*q, v)].log() for v in range(V)]) for q in PREFIXES])


def prefixes():
    return sorted({s[:i] for s in SEQUENCES for i in range(len(s) + 1)})


def test_a_model_equal_to_the_reference_rewards_nothing():
    reward = ImplicitReward(Table(table(0)), Table(table(0)))
    assert not reward.token_rewards(everything()).any() and not reward(everything()).any()


def test_implicit_rewards_of_an_exponential_tilt_are_soft_values():
    ref, beta = table(1), 0.7
    r = torch.randn(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reward = ImplicitReward(Table(tilted(ref, r, beta)), Table(ref), beta)
    batch = everything()
    log_z = torch.logsumexp(logps(ref) + r / beta, 0)
    torch.testing.assert_close(reward(batch), r - beta * log_z)
    reached = reward.token_rewards(batch).detach().cumsum(1)
    for i, s in enumerate(SEQUENCES):
        for t in range(len(s)):
            like = torch.tensor([q[: t + 1] == s[: t + 1] for q in SEQUENCES])
            p = logps(ref)[like].softmax(0)
            value = beta * ((p * (r[like] / beta).exp()).sum().log() - log_z)
            torch.testing.assert_close(reached[i, t], value)


def test_the_scale_of_implicit_rewards_moves_votes_and_no_rank():
    batch = everything()
    one, other = (ImplicitReward(Table(table(0)), Table(table(1)), beta) for beta in (0.05, 2.0))
    torch.testing.assert_close(other(batch), 40 * one(batch))
    assert torch.equal(one(batch).argsort(), other(batch).argsort())
    order = one(batch).argsort()
    three = batch.rows(order[[-1, 0, 1]])  # the best against two bad ones
    said = torch.tensor([7, 4, 4])
    votes = [int(vote(said, 3, torch.sigmoid(reward(three)))) for reward in (one, other)]
    assert votes == [1, 0]


def test_rewards_of_steps_sum_to_the_completions():
    reward = ImplicitReward(Table(table(0)), Table(table(1)))
    batch = everything()
    tokens = reward.token_rewards(batch).detach()
    steps = step_rewards(tokens, torch.tensor([0, 1]))
    torch.testing.assert_close(steps.sum(1), reward(batch))
    torch.testing.assert_close(steps[:, 0], tokens[:, 0])
    assert steps.shape == (40, 3)


def test_every_row_may_have_steps_of_its_own():
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 7, generator=g, dtype=torch.float64)
    own = [[1, 4, 6], [3], [], [0, 1]]
    mask = torch.arange(3) < torch.tensor([[len(x)] for x in own])
    ends = torch.full((4, 3), 6)  # what stands where there is no step must not matter
    for row, x in enumerate(own):
        ends[row, : len(x)] = torch.tensor(x, dtype=torch.int64)
    found = step_rewards(tokens, ends, mask)
    torch.testing.assert_close(found.sum(1), tokens.sum(1))
    for row, x in enumerate(own):
        alone = step_rewards(tokens[row : row + 1], torch.tensor(x, dtype=torch.int64))[0]
        torch.testing.assert_close(found[row, : len(x)], alone[:-1])
        assert not found[row, len(x) : 3].any()
        torch.testing.assert_close(found[row, 3], alone[-1])
    shared = torch.tensor([1, 4, 6])
    same = step_rewards(tokens, shared.expand(4, -1))
    assert torch.equal(same, step_rewards(tokens, shared))


def test_steps_that_a_row_does_not_have_change_no_score():
    scores = torch.tensor([[1.0, -2.0, 4.0], [0.5, 0.0, -9.0], [3.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
    for how in AGGREGATES:
        each = [aggregate(s[m].unsqueeze(0), how) for s, m in zip(scores, mask, strict=True)]
        torch.testing.assert_close(aggregate(scores, how, mask), torch.cat(each))
    mask[1] = False
    with pytest.raises(ValueError, match="mask, row 1: no step"):
        aggregate(scores, "min", mask)


def test_answers_are_voted_for_with_what_their_completions_are_worth():
    answers = torch.tensor([1, 2, 2, 3, 5, 5, 4, 4])
    assert vote(answers, 4).tolist() == [1, 4]  # of a tie, the first
    weight = torch.tensor([0.9, 0.3, 0.4, 0.1, 0.5, 0.5, 0.6, 0.6])
    assert vote(answers, 4, weight).tolist() == [0, 6]
    # What another prompt's completions say is another answer.
    assert vote(torch.tensor([1, 2, 1, 1]), 2, torch.tensor([0.1, 0.2, 0.3, 0.3])).tolist() == [
        1,
        2,
    ]
    with pytest.raises(ValueError, match="weight, row 3: -1.0"):
        vote(answers, 4, torch.tensor([0.0, 1, 1, -1, 1, 1, 1, 1]))


def test_a_longer_prompt_or_padding_changes_no_reward():
    size = DecoderConfig(16, 24, 16, 1, eos=EOS)
    reward = ImplicitReward(Decoder(size, seed=1).eval(), Decoder(size, seed=0).eval())
    together = reward(pack([[2, 3, 4], [5]], [[3, EOS], [4, 5, 6, EOS]]))
    alone = [reward(pack([x], [y])) for x, y in (([2, 3, 4], [3, EOS]), ([5], [4, 5, 6, EOS]))]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_scores_of_steps_are_put_together_as_named():
    scores = torch.tensor([[1.0, -2.0, 4.0]])
    found = [float(aggregate(scores, how)) for how in AGGREGATES]
    assert found == [-2.0, 3.0, 1.0, 4.0, -8.0]
    assert float(aggregate(scores)) == -2.0  # no better than its worst step, unless asked
    with pytest.raises(ValueError, match="how='max'"):
        aggregate(scores, "max")


def test_the_loss_of_outcomes_does_not_saturate_and_its_gradient_is_the_error():
    log_odds = torch.tensor([200.0, -200.0, 0.0], requires_grad=True)
    outcome_loss(log_odds, torch.tensor([False, True, True])).backward()
    torch.testing.assert_close(log_odds.grad, torch.tensor([1.0, -1.0, -0.5]) / 3)


def batch_of(k=4, prompts=6, t=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, t + 1, (prompts * k, 1), generator=g)
    mask = torch.arange(t) < lengths
    tokens = torch.randn(prompts * k, t, generator=g, dtype=torch.float64) * mask
    outcome = (torch.rand(prompts * k, generator=g) < 0.5).double()
    return tokens, outcome, mask


def test_without_process_rewards_prime_is_leave_one_out():
    tokens, outcome, mask = batch_of()
    expected = rloo(outcome, 4).unsqueeze(1) * mask
    assert torch.equal(prime_advantage(tokens, outcome, mask, 4, weight=0.0), expected)
    zero = torch.zeros_like(tokens)
    assert torch.equal(prime_advantage(zero, outcome, mask, 4), expected)


def test_primes_process_advantage_of_every_token_by_its_definition():
    tokens, outcome, mask = batch_of(k=3)
    found = prime_advantage(tokens, 0 * outcome, mask, 3)
    scale = max(abs(float(row[t:].sum())) for row in tokens for t in range(5)) + 1e-6
    means = [float((row / scale).sum() / m.sum()) for row, m in zip(tokens, mask, strict=True)]
    for i in range(len(tokens)):
        first = i // 3 * 3
        others = [means[j] for j in range(first, first + 3) if j != i]
        to_go = 0.0
        for t in reversed(range(5)):
            if mask[i, t]:
                r = float(tokens[i, t]) / scale
                to_go += r - sum(others) / 2 + (r - means[i]) / 2
            assert float(found[i, t]) == pytest.approx(to_go if mask[i, t] else 0.0, abs=1e-9)


def test_primes_advantages_ignore_the_scale_of_process_rewards_and_rewards_shared_by_a_prompt():
    tokens, outcome, mask = batch_of()
    found = prime_advantage(tokens, outcome, mask, 4)
    torch.testing.assert_close(
        prime_advantage(100 * tokens, outcome, mask, 4), found, atol=1e-5, rtol=0
    )
    shared = torch.arange(6.0).repeat_interleave(4).double()
    torch.testing.assert_close(prime_advantage(tokens, outcome + shared, mask, 4), found)
    same = prime_advantage(mask.double(), 0 * outcome, mask, 4)
    torch.testing.assert_close(same, torch.zeros_like(same))


def models():
    size = DecoderConfig(TASK.vocab_size, TASK.max_length, 32, 1, eos=EOS)
    return Decoder(size, seed=0).eval()


@pytest.mark.parametrize("kind", ["implicit", "outcome"])
def test_rewards_learn_from_answers_alone_where_they_went_wrong(kind):
    base = models()
    generator = torch.Generator().manual_seed(0)
    train, test = TASK.corpus(512, generator), TASK.corpus(512, generator)
    reward = ImplicitReward(base, base, 1.0) if kind == "implicit" else TokenRewardModel(base)
    fit_outcomes(reward, train, TASK.verify(train), epochs=12, batch_size=64, learning_rate=3e-3)
    with torch.no_grad():
        assert auroc(reward.raw(test), TASK.verify(test)) > 0.65
        tokens = reward.token_rewards(test)
    torch.testing.assert_close(tokens.sum(1), reward.raw(test).detach())
    steps = step_rewards(tokens, TASK.ends)[:, :-1]
    assert auroc(steps.flatten(), TASK.verify_steps(test).local.flatten()) > 0.65


def test_completions_are_paired_within_their_prompt_and_used_once():
    batch = pack([[i // 4] for i in range(12)], [[i, EOS] for i in range(12)])
    right = torch.tensor([1, 0, 1, 1] + [0, 0, 0, 0] + [0, 1, 0, 1]).bool()
    data = outcome_pairs(batch, right, 4)
    assert data.chosen.completions[:, 0].tolist() == [0, 9, 11]
    assert data.rejected.completions[:, 0].tolist() == [1, 8, 10]
    assert torch.equal(data.chosen.prompts, data.rejected.prompts)
    with pytest.raises(ValueError, match="no prompt has a right and a wrong"):
        outcome_pairs(batch, torch.ones(12, dtype=torch.bool), 4)


def answers(prompts, seed):
    """Four completions a prompt, of which those that hold a 5 are right."""
    g = torch.Generator().manual_seed(seed)
    asked = torch.randint(2, 8, (prompts, 2), generator=g).repeat_interleave(4, 0)
    said = torch.randint(2, 8, (4 * prompts, 3), generator=g)
    batch = Sequences(torch.cat([asked, said], 1), torch.ones(4 * prompts, 3, dtype=torch.bool))
    return batch, (said == 5).any(1)


@pytest.mark.parametrize("loss", ["cross_entropy", "kto", "dpo", "nca"])
def test_phi_learns_what_is_right_by_every_loss(loss):
    base = Decoder(DecoderConfig(8, 5, 16, 1, heads=2), seed=0).eval()
    (train, right), (test, truth) = answers(128, 0), answers(128, 1)
    reward = ImplicitReward(base, base, 1.0)
    steps = {"epochs": 10, "batch_size": 32, "learning_rate": 1e-2}
    if loss in PAIR_LOSSES:
        fit_pairs(reward, outcome_pairs(train, right, 4), loss, **steps)
    else:
        fit_outcomes(reward, train, right, loss=loss, **steps)
    assert auroc(reward(test), truth) > 0.9


def test_on_pairs_phi_is_a_policy_that_dpo_trained():
    """One step of each, from the same weights on the same pairs: the same gradient."""
    base, phi = models(), Decoder(models().config, seed=1).eval()
    batch = TASK.corpus(16, torch.Generator().manual_seed(0))
    data = outcome_pairs(batch, torch.arange(16) % 2 == 0, 2)
    policy = copy.deepcopy(phi)
    offline = OfflineTrainer(policy, base, data, "dpo", batch_size=8, max_grad_norm=1e9, beta=0.3)
    reward = ImplicitReward(phi, base, 0.3)
    expected = offline.step(torch.arange(8))["train/loss"]
    rewards = reward.raw(data.both)
    loss = PAIR_LOSSES["dpo"](*rewards.chunk(2)).mean()
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    for p, q in zip(reward.model.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-4)


def test_noise_contrast_by_its_formula_and_where_its_gradient_is():
    rewards = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)
    up, down, low = (1 / (1 + math.exp(-x)) for x in (0.7, -0.7, 0.4))
    loss = nca(*rewards)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(up) - (math.log(down) + math.log(low)) / 2)
    # The chosen rise up to a reward of log 2 and no further, where DPO has no end.
    assert rewards.grad.tolist() == pytest.approx([-1 + 1.5 * up, 0.5 * (1 - low)])
    at_log_2 = torch.tensor(math.log(2), dtype=torch.float64, requires_grad=True)
    nca(at_log_2, torch.tensor(0.0)).backward()
    assert at_log_2.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_prospects_are_gains_over_a_baseline_that_is_never_below_nothing():
    rewards = torch.tensor([1.0, -2.0], requires_grad=True)
    baseline = torch.tensor(0.5, requires_grad=True)
    loss = kto_loss(rewards, torch.tensor([True, False]), baseline)
    expected = (torch.sigmoid(torch.tensor([-0.5, -2.5]))).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert baseline.grad is None and rewards.grad[0] < 0 < rewards.grad[1]
    below = kto_loss(rewards, torch.tensor([True, False]), torch.tensor(-3.0))
    torch.testing.assert_close(below, torch.sigmoid(torch.tensor([-1.0, -2.0])).mean())


def test_the_baseline_is_of_completions_under_each_others_prompts(monkeypatch):
    base = models()
    reward = ImplicitReward(Decoder(base.config, seed=1), base, 1.0)
    batch = pack([[2, 3], [4, 5, 6]], [[3, 7, EOS], [4, EOS]])
    exchanged = pack([[2, 3], [4, 5, 6]], [[4, EOS], [3, 7, EOS]])
    expected, seen = reward(exchanged).mean(), []

    def spy(rewards, right, baseline):
        seen.append(baseline)
        return kto_loss(rewards, right, baseline)

    monkeypatch.setattr("rewardzoo.rlhf.process_rewards.kto_loss", spy)
    fit_outcomes(reward, batch, torch.ones(2, dtype=torch.bool), 1, loss="kto")
    torch.testing.assert_close(seen[0], expected)
    assert abs(float(expected - reward(batch).mean())) > 1e-3


def test_losses_that_a_reward_has_not_are_refused():
    batch = TASK.corpus(8, torch.Generator().manual_seed(0))
    right = torch.arange(8) % 2 == 0
    with pytest.raises(ValueError, match="loss='bce'"):
        fit_outcomes(TokenRewardModel(models()), batch, right, loss="bce")
    with pytest.raises(ValueError, match="loss='kto': expected an ImplicitReward"):
        fit_outcomes(TokenRewardModel(models()), batch, right, loss="kto")
    with pytest.raises(ValueError, match="loss='ipo': expected one of dpo, nca"):
        fit_pairs(ImplicitReward(models(), models()), outcome_pairs(batch, right, 2), "ipo")


def trainer(learning_rate=1e-2, **config):
    base = models()
    reward = Prime(TASK.verify, ImplicitReward(base, base), learning_rate)
    hyperparameters = OnlineConfig(
        algorithm="prime", prompts=4, new_tokens=TASK.new_tokens, seed=5, **config
    )
    return OnlineTrainer(copy.deepcopy(base), base, reward, TASK.prompts, hyperparameters)


def test_pairs_are_of_right_and_wrong_completions_of_one_prompt_and_ties_count_half():
    score = torch.tensor([3.0, 1.0, 2.0, 9.0, 9.0, 9.0, 5.0, 5.0, 0.0])
    right = torch.tensor([1, 0, 0, 1, 1, 1, 1, 0, 0]).bool()
    assert float(pairwise_accuracy(score, right, 3)) == 3.5 / 4  # of all 9 in one group, less
    right[6], right[0] = False, False
    assert pairwise_accuracy(score, right, 3).isnan()


def test_a_batch_is_scored_before_the_process_reward_learns_from_it():
    one = trainer()
    before = copy.deepcopy(one.reward.implicit.model.state_dict())
    batch = TASK.corpus(8, torch.Generator().manual_seed(0))
    assert not one.reward.token_rewards(batch).any()
    assert float(one.reward.update()["process/loss"]) == pytest.approx(0.6931, abs=1e-3)
    assert one.reward.token_rewards(batch).any()
    after = one.reward.implicit.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_frozen_process_reward_learns_nothing():
    one = trainer(learning_rate=0.0)
    one.train(2)
    batch = TASK.corpus(8, torch.Generator().manual_seed(0))
    assert not one.reward.token_rewards(batch).any() and one.reward.update() == {}


def test_prime_goes_on_from_its_checkpoint_as_if_it_had_never_stopped(tmp_path):
    whole, first, second = trainer(), trainer(), trainer()
    whole.train(4)
    first.train(2)
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    second.train(2)
    for a, b in (
        (whole.policy, second.policy),
        (whole.reward.implicit.model, second.reward.implicit.model),
    ):
        for x, y in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(x, y)


def test_neither_policy_nor_process_reward_learns_from_prompts_outside_the_band_of_accuracy():
    """Every second prompt is right in all of its completions, the others in two of four."""

    def verify(batch):
        place = torch.arange(len(batch.ids)) if len(batch.ids) == 16 else kept
        return (place % 8 < 4) | (place % 2 == 0)

    kept = torch.tensor([4, 5, 6, 7, 12, 13, 14, 15])
    seen = []

    class Recording(Prime):
        def token_rewards(self, batch):
            seen.append(batch)
            return super().token_rewards(batch)

    one = trainer(accuracy=(0.2, 0.8))
    one.reward = Recording(verify, one.reward.implicit, 1e-2)
    asked = one.prompts(4, torch.Generator().manual_seed(5 * 1_000_003))
    metrics = one.train(1)
    assert metrics["rollout/kept"] == 0.5 and metrics["rollout/reward"] == 0.75
    assert metrics["process/pairwise_accuracy"] == 0.5  # all of them are ties
    assert metrics["process/accuracy"] == 0.5  # of phi, which is still silent, on what is kept
    assert torch.equal(seen[0].prompts, asked[[1, 3]].repeat_interleave(4, 0))


def test_a_rollout_without_a_prompt_inside_the_band_moves_nothing():
    one = trainer(accuracy=(0.2, 0.8))
    one.reward.verify = lambda batch: torch.ones(len(batch.ids), dtype=torch.bool)
    before = [p.clone() for m in (one.policy, one.reward.implicit.model) for p in m.parameters()]
    metrics = one.train(2)
    assert metrics["rollout/kept"] == 0 and metrics["rollout/reward"] == 1 and one.num_steps == 2
    after = [p for m in (one.policy, one.reward.implicit.model) for p in m.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_a_band_of_accuracy_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"accuracy=\(0.8, 0.2\)"):
        OnlineConfig(accuracy=(0.8, 0.2))


def test_bad_beta_is_refused():
    with pytest.raises(ValueError, match="beta=0"):
        ImplicitReward(models(), models(), 0)
