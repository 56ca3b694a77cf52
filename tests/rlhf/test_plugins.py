"""What a new method is made of: losses, advantages, selections, fits and rewards, as functions."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch import nn

from rewardzoo.rlhf import losses
from rewardzoo.rlhf.algorithms import ALGORITHMS, Algorithm, clip_completions, leave_one_out
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig, LanguageModel
from rewardzoo.rlhf.fitting import Cloning, Contrast, Optimism, joined
from rewardzoo.rlhf.iterative import IterativeTrainer, SuperHF
from rewardzoo.rlhf.offline import OfflineTrainer
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.pairs import PairBatch
from rewardzoo.rlhf.policy_gradient import clip_steps, delta_steps
from rewardzoo.rlhf.reward_callables import CallableReward, load_callable
from rewardzoo.rlhf.selecting import Duels, against_other, best, win_rates
from rewardzoo.rlhf.sequences import pack, sequence_logps
from rewardzoo.rlhf.step_rewards import StepReward

EOS = 1


def model(seed=0):
    return Decoder(DecoderConfig(12, 16, 16, 1, 2, EOS), seed).eval()


def prompts(n, generator):
    return torch.randint(2, 12, (n, 3), generator=generator)


def count(batch):
    """How often token 5 appears."""
    return ((batch.completions == 5) & batch.completion_mask).sum(1).float()


def biased(policy, token, log_odds):
    """It says one token with these log-odds over each of the others, whatever it has read."""
    with torch.no_grad():
        policy.norm.weight.zero_()
        policy.norm.bias.copy_(torch.eye(policy.width)[0])
        policy.embed.weight[:, 0] = 0.0
        policy.embed.weight[token, 0] = log_odds
    return policy


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def spoken(policy, n=64):
    from rewardzoo.rlhf.sampling import sample

    generator = torch.Generator().manual_seed(99)
    return sample(policy, prompts(n, generator), 8, generator)


# --------------------------------------------------------------------------------------- offline


def pairs():
    batch = spoken(model())
    return PairBatch(
        batch.rows(torch.arange(32)),
        batch.rows(torch.arange(32, 64)),
        torch.ones(32),
        torch.ones(32),
    )


def test_a_loss_is_a_name_or_a_function():
    def my_dpo(s, beta):
        return -torch.nn.functional.logsigmoid(beta * s.delta)

    trained = []
    for loss in ("dpo", my_dpo):
        policy = model()
        OfflineTrainer(policy, policy, pairs(), loss, batch_size=16, beta=0.3).train(4)
        trained.append(policy)
    assert same(*trained) and not same(trained[0], model())
    with pytest.raises(ValueError, match="loss='other': expected one of dpo"):
        OfflineTrainer(model(), model(), pairs(), "other")


# ---------------------------------------------------------------------------------------- online


def online(reward=count, ref=None, **config):
    given = {"prompts": 8, "new_tokens": 8, "learning_rate": 3e-3, **config}
    return OnlineTrainer(model(), ref or model(), reward, prompts, OnlineConfig(**given))


def above_the_batch(rollout, config):
    """REINFORCE with the batch's mean as baseline."""
    return (rollout.total - rollout.total.mean()).unsqueeze(1) * rollout.batch.completion_mask


def test_an_algorithm_is_two_functions_with_or_without_a_name(monkeypatch):
    named, mine = online(), online(algorithm=Algorithm(leave_one_out, clip_completions))
    assert named.train(3) == mine.train(3) and same(named.policy, mine.policy)
    new = Algorithm(above_the_batch, clip_completions)
    other = online(algorithm=new)
    other.train(3)
    assert not same(other.policy, named.policy)
    monkeypatch.setitem(ALGORITHMS, "mine", new)
    by_name = online(algorithm="mine")
    by_name.train(3)
    assert same(by_name.policy, other.policy)
    with pytest.raises(ValueError, match="algorithm='other': expected one of rloo"):
        OnlineConfig(algorithm="other")


def test_an_algorithm_that_asks_for_process_rewards_needs_a_reward_that_has_them():
    with pytest.raises(ValueError, match="no token_rewards"):
        online(algorithm="prime")


def test_the_joint_form_of_p3o_is_an_algorithm():
    """At the first pass it moves as the other does, later on it is clipped by the quotient."""
    moved = {}
    for name in ("p3o", "p3o_joint"):
        for epochs in (1, 4):
            trainer = online(algorithm=name, k=2, epochs=epochs, learning_rate=0.02)
            trainer.train(1)
            moved[name, epochs] = torch.cat([p.flatten() for p in trainer.policy.parameters()])
    torch.testing.assert_close(moved["p3o", 1], moved["p3o_joint", 1], atol=2e-4, rtol=0)
    assert (moved["p3o", 4] - moved["p3o_joint", 4]).abs().max() > 1e-3
    for wrong in ({"k": 4}, {"k": 2, "keep": "best"}, {"k": 2, "mask_truncated": True}):
        with pytest.raises(ValueError, match="p3o_joint"):
            OnlineConfig(algorithm="p3o_joint", **wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, values in {
            "k": (1, 2.5, True),
            "prompts": (0, 1.0),
            "new_tokens": (0,),
            "epochs": (0, 1.5),
            "seed": (0.5, "1"),
            "learning_rate": (0.0, -1.0, math.inf, math.nan),
            "clip": (0.0, -1.0, math.inf, math.nan),
            "value_clip": (0.0, math.nan),
            "kl": (-0.1, math.inf, math.nan),
            "chi2": (-0.1, math.inf),
            "missing_eos": (-1.0, math.nan),
            "process": (-1.0, math.inf),
            "max_grad_norm": (0.0, -1.0, math.nan),
            "gae_lambda": (-0.1, 1.1, math.nan),
        }.items()
        for value in values
    ],
)
def test_numbers_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}: expected"):
        OnlineConfig(**{name: value})


def test_filtration_ranks_by_the_reward_not_by_what_is_left_of_it_after_the_penalty_on_kl():
    """With an enormous penalty the best by reward and the best by the total differ."""
    learned = []

    def recorded(logp, rollout, advantage, config):
        learned.append(rollout)
        return clip_completions(logp, rollout, advantage, config)

    algorithm = Algorithm(leave_one_out, recorded)
    trainer = online(ref=model(1), algorithm=algorithm, keep="best", k=8, kl=100.0)
    scored = []
    trainer.reward = lambda batch: scored.append(count(batch)) or scored[-1]
    trainer.train(1)
    assert torch.equal(learned[0].outcome, scored[0].view(-1, 8).amax(1))
    assert (learned[0].total - learned[0].outcome).abs().min() > 1


def test_completions_that_were_cut_off_are_not_learned_from_but_count_in_the_comparison():
    learned, compared = [], []

    def compare(rollout, config):
        compared.append(rollout)
        return leave_one_out(rollout, config)

    def recorded(logp, rollout, advantage, config):
        learned.append((rollout, advantage))
        return clip_completions(logp, rollout, advantage, config)

    trainer = online(algorithm=Algorithm(compare, recorded), mask_truncated=True, new_tokens=6)
    metrics = trainer.train(1)
    all_of_them, (kept, advantage) = compared[0], learned[0]
    ended = (all_of_them.batch.completions == EOS).any(1)
    assert 0 < ended.sum() < len(ended) == 32
    assert torch.equal(kept.total, all_of_them.total[ended])
    assert torch.equal(advantage, leave_one_out(all_of_them, trainer.config)[ended])
    assert metrics["rollout/kept"] == pytest.approx(float(ended.float().mean()))


def test_where_no_completion_ended_nothing_moves():
    trainer = online(mask_truncated=True)
    before = copy.deepcopy(biased(trainer.policy, EOS, -100.0))
    metrics = trainer.train(1)
    assert metrics["rollout/kept"] == 0 and same(trainer.policy, before)


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_the_first_pass_is_read_once_where_every_completion_is_learned_from(algorithm):
    """An accuracy between 0 and 1 keeps them all too, but that is known after the pass only."""

    def share(batch):
        return count(batch).clamp(max=4) / 4

    once = online(share, algorithm=algorithm, kl=0.1)
    twice = online(share, algorithm=algorithm, kl=0.1, accuracy=(0.0, 1.0))
    reads = []
    for trainer in (once, twice):
        read, hidden = [], trainer.policy.hidden
        trainer.policy.hidden = lambda *args, read=read, hidden=hidden: (
            read.append(1) or hidden(*args)
        )
        trainer.train(2)
        del trainer.policy.hidden
        reads.append(len(read) / 2)
    epochs = once.algorithm.epochs
    assert reads == [epochs, epochs + 1]
    assert same(once.policy, twice.policy)


def test_ppo_makes_four_passes_unless_the_config_says_and_the_others_one():
    passes = {}
    for name, config in (("ppo", {}), ("ppo2", {"epochs": 2}), ("rloo", {})):
        trainer = online(algorithm=name[:4].rstrip("2"), **config)
        seen, update = [], trainer._update
        trainer._update = lambda *args, seen=seen, update=update: seen.append(1) or update(*args)
        trainer.train(1)
        passes[name] = len(seen)
    assert passes == {"ppo": 4, "ppo2": 2, "rloo": 1}


# ---------------------------------------------------------------------------------- step rewards


def steps_of(score, ends):
    """The same scores and columns for every row, all steps being there."""

    def steps(batch):
        b = len(batch.ids)
        mask = torch.ones(b, len(ends), dtype=torch.bool)
        return torch.tensor([score] * b), torch.tensor(ends), mask

    return steps


def test_steps_are_paid_where_they_end_and_the_outcome_at_the_end():
    batch = pack([[2], [2]], [[3, 3, 3, 3, EOS], [3, 3, EOS]])
    outcome = lambda batch: torch.tensor([1.0, 0.0])  # noqa: E731
    steps = steps_of([0.9, 0.2, 0.6], [1, 3, 4])
    plain = StepReward(outcome, steps, 0.5)(batch)
    expected = torch.tensor([[0, 0.45, 0, 0.1, 1.3], [0, 0.45, 0, 0, 0]])
    torch.testing.assert_close(plain, expected)  # the second row ends before its second step would
    both = StepReward(outcome, steps, 1.0, (clip_steps, delta_steps))(batch)
    # min(score - .5, 0) = 0, -.3, 0, and each of them minus the next.
    torch.testing.assert_close(
        both, torch.tensor([[0, 0.3, 0, -0.3, 1.0], [0, 0, 0, 0, 0]]), atol=1e-6, rtol=0
    )
    with pytest.raises(ValueError, match="weight=-1"):
        StepReward(outcome, steps, -1.0)


def test_rewards_of_tokens_are_learned_from_as_their_sum_or_when_they_were_paid():
    def of_tokens(batch):
        return ((batch.completions == 5) & batch.completion_mask).float()

    def garbage_after_the_end(batch):
        return of_tokens(batch).masked_fill(~batch.completion_mask, torch.nan)

    whole = [online(reward) for reward in (count, of_tokens, garbage_after_the_end)]
    metrics = [trainer.train(2) for trainer in whole]
    assert metrics[0] == metrics[1] == metrics[2]
    assert same(whole[0].policy, whole[1].policy) and same(whole[0].policy, whole[2].policy)
    paid = []
    ppo = ALGORITHMS["ppo"]

    def recorded(rollout, config):
        paid.append(rollout)
        return ppo.advantage(rollout, config)

    algorithm = Algorithm(recorded, ppo.loss, critic=True)
    for reward in (count, of_tokens):
        online(reward, algorithm=algorithm, missing_eos=0.25).train(1)
    first, second = paid
    ended = (first.batch.completions == EOS).any(1)
    for rollout in paid:
        torch.testing.assert_close(rollout.paid.sum(1), rollout.outcome)
        torch.testing.assert_close(rollout.outcome, count(rollout.batch) - 0.25 * ~ended)
    assert (first.paid != 0).sum(1).max() == 1 < (second.paid != 0).sum(1).max()
    with pytest.raises(ValueError, match=r"reward: shape \(3,\), expected \(32,\)"):
        online(lambda batch: torch.zeros(3)).train(1)


def test_the_sum_of_good_steps_makes_solutions_longer_and_their_deltas_do_not():
    """A step is a token 5, each as good as the other: its score is .9, as is that of having none."""

    def steps(batch):
        mask = (batch.completions == 5) & batch.completion_mask
        order = (~mask).long().argsort(dim=1, stable=True)  # steps first, in their order
        return 0.9 * mask.gather(1, order), order, mask.gather(1, order)

    grown = {"before": float(count(spoken(biased(model(), 5, 2.0), 256)).mean())}
    for name, shapes in (("sum", ()), ("clip", (clip_steps,)), ("delta", (delta_steps,))):
        reward = StepReward(lambda batch: 0.9 * (count(batch) == 0), steps, 1.0, shapes)
        trainer = online(reward, prompts=16, learning_rate=1e-2)
        biased(trainer.policy, 5, 2.0)
        trainer.train(15)
        grown[name] = float(count(spoken(trainer.policy, 256)).mean())
    assert grown["sum"] > 2 * grown["before"]
    assert max(grown["clip"], grown["delta"]) < 1.15 * grown["before"], grown


# ------------------------------------------------------------------------------------- iterative


def iterative(policy, select, fit, reward=count, **config):
    given = {"n": 4, "batch_size": 8, "new_tokens": 8, **config}
    return IterativeTrainer(policy, reward, prompts, select, fit, **given)


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


# ---------------------------------------------------------------------------- rewards of texts


def decode(ids):
    return "".join("abcdefghij"[i - 2] for i in ids)


def test_a_function_of_texts_is_a_reward_with_columns_and_without_padding():
    batch = pack([[2], [3, 4]], [[5, 6, EOS], [7]])
    seen = {}

    def reward(prompts, completions, completion_ids, answer, **columns):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids, answer=answer)
        return [float(a == c) for a, c in zip(answer, completions, strict=True)]

    columns = {(2,): {"answer": "de"}, (3, 4): {"answer": "x"}}
    paid = CallableReward(reward, decode, EOS, columns)(batch)
    assert paid.tolist() == [1.0, 0.0] and paid.dtype == torch.float32
    assert seen == {
        "prompts": ["a", "bc"],
        "completions": ["de", "f"],
        "ids": [[5, 6, EOS], [7]],  # the second one was cut off
        "answer": ["de", "x"],
    }
    with pytest.raises(ValueError, match="columns: none of the prompt 'a'"):
        CallableReward(reward, decode, EOS, {(3, 4): {"answer": "x"}})(batch)


@pytest.mark.parametrize("found", [[1.0], None, 3.0, ["x", "y"], [None, 1.0]])
def test_a_function_of_texts_that_does_not_pay_every_completion_is_named(found):
    def my_reward(**columns):
        return found

    with pytest.raises(ValueError, match="reward my_reward: returned .* a list of 2"):
        CallableReward(my_reward, decode, EOS)(pack([[2], [3]], [[5], [6]]))


def test_a_policy_learns_from_a_function_of_texts_as_from_one_of_tokens():
    def letters(completions, **columns):
        return [float(text.count("d")) for text in completions]

    one, other = online(CallableReward(letters, decode, EOS)), online()
    assert one.train(3) == other.train(3) and same(one.policy, other.policy)


def test_callables_are_found_by_module_and_name(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def length(completions, **c):\n    return [1.0]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    assert load_callable("my_rewards:length")(["a"]) == [1.0]
    for wrong, said in (
        ("my_rewards", "expected module:function"),
        ("my_rewards:other", "no function 'other'"),
        ("no_such_module:f", "No module named 'no_such_module'"),
    ):
        with pytest.raises(ValueError, match=said):
            load_callable(wrong)


def test_losses_of_a_partial_function_keep_their_own_settings():
    policy, other = model(), model()
    fixed = functools.partial(losses.dpo, beta=0.3)
    OfflineTrainer(policy, policy, pairs(), fixed, batch_size=16).train(2)
    OfflineTrainer(other, other, pairs(), "dpo", batch_size=16, beta=0.3).train(2)
    assert same(policy, other)


# ------------------------------------------------------------- what a rollout is paid and held by


def recorded_online(ref, reward=count, advantage=leave_one_out, **config):
    """A trainer, and what its loss saw: (rollout, advantages) a pass."""
    seen = []

    def loss(logp, rollout, advantage, config):
        seen.append((rollout, advantage))
        return clip_completions(logp, rollout, advantage, config)

    return online(reward, ref, algorithm=Algorithm(advantage, loss), **config), seen


def test_the_kl_is_paid_token_by_token_and_the_score_at_the_last_one():
    trainer, seen = recorded_online(model(1), kl=0.3)
    trainer.train(1)
    rollout = seen[0][0]
    mask = rollout.batch.completion_mask
    log_ratio = (rollout.logp - rollout.ref).masked_fill(~mask, 0.0)
    assert log_ratio.abs().max() > 0.01
    score = count(rollout.batch)
    last = torch.arange(mask.shape[1]) == rollout.batch.lengths.unsqueeze(1) - 1
    torch.testing.assert_close(rollout.paid, score.unsqueeze(1) * last - 0.3 * log_ratio)
    torch.testing.assert_close(rollout.total, score - 0.3 * log_ratio.sum(1))
    torch.testing.assert_close(rollout.paid.sum(1), rollout.total)
    assert torch.equal(rollout.outcome, score)


@pytest.mark.parametrize("keep", ["best", "best_worst", "best_random"])
def test_what_filtration_keeps_has_the_advantages_over_all_completions(keep):
    compared = []

    def compare(rollout, config):
        compared.append(leave_one_out(rollout, config))
        return compared[-1]

    trainer, seen = recorded_online(model(1), advantage=compare, keep=keep, k=8)
    trainer.train(1)
    (_, advantage), whole = seen[0], compared[0]
    assert len(whole) == 64 and len(advantage) == (8 if keep == "best" else 16)
    rows = {tuple(row) for row in whole.tolist()}
    assert all(tuple(row) in rows for row in advantage.tolist())
    assert (advantage.view(8, -1, advantage.shape[1])[:, 0, 0] > 0).any()  # not of one alone


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_a_penalty_in_the_loss_is_its_estimate_a_sequence_and_no_part_of_the_reward(name):
    constant = lambda batch: torch.ones(len(batch.ids))  # noqa: E731
    trainer, seen = recorded_online(model(1), constant, kl=0.3, kl_loss=name)
    found = trainer.train(1)["train/loss"]
    rollout = seen[0][0]
    assert torch.equal(rollout.total, rollout.outcome)
    ratio = (rollout.logp - rollout.ref).masked_fill(~rollout.batch.completion_mask, 0.0)
    each = ratio**2 / 2 if name == "k2" else torch.exp(-ratio) - 1 + ratio
    assert found == pytest.approx(0.3 * float(each.sum(1).mean()), rel=1e-4)
    assert not same(trainer.policy, model())


def test_the_penalty_on_chi2_is_the_root_of_its_mean_over_sequences():
    constant = lambda batch: torch.ones(len(batch.ids))  # noqa: E731
    trainer, seen = recorded_online(model(1), constant, chi2=0.5)
    found = trainer.train(1)["train/loss"]
    rollout = seen[0][0]
    mask = rollout.batch.completion_mask
    ratio = (rollout.logp - rollout.ref).masked_fill(~mask, 0.0).sum(1)
    mean = (torch.exp(ratio) + torch.exp(-ratio) - 2).mean()
    assert found == pytest.approx(0.5 * float(mean.sqrt()), rel=1e-3)
    # Where policy and reference are the same the root has no slope that could not be followed.
    alone, _ = recorded_online(model(), constant, chi2=0.5)
    assert alone.train(1)["train/loss"] == pytest.approx(0.5 * 1e-2, rel=1e-3)
    assert same(alone.policy, model())


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "ppo", "p3o", "p3o_joint"])
def test_what_every_algorithm_is_paid_has_the_penalty_on_kl_in_it(algorithm):
    """All completions score the same: what is left to learn from is how far they are from ref."""
    constant = lambda batch: torch.ones(len(batch.ids))  # noqa: E731
    k = 2 if algorithm.startswith("p3o") else 4
    held = online(constant, model(1), algorithm=algorithm, k=k, kl=0.3)
    held.train(1)
    assert not same(held.policy, model())
    if algorithm != "ppo":  # whose critic does not know yet that nothing depends on the completion
        free = online(constant, model(1), algorithm=algorithm, k=k)
        free.train(1)
        assert same(free.policy, model())


def test_ppo_learns_from_advantages_of_any_scale_and_counts_its_critics_error_a_tenth():
    trainer, seen = recorded_online(model(1))
    trainer.train(1)
    rollout, ppo = seen[0][0], ALGORITHMS["ppo"]
    mask = rollout.batch.completion_mask
    advantage = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    near = (rollout.logp + 0.05 * advantage).masked_fill(~mask, 0.0)
    one, other = (
        ppo.loss(near, rollout, a, trainer.config) for a in (advantage, 10 * advantage + 3)
    )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    # At the first pass the whitened advantages sum to 0, and a new critic says 0 everywhere.
    whole = online(algorithm="ppo", epochs=1)
    paid = []
    whole.reward = lambda batch: paid.append(batch) or count(batch)
    found = whole.train(1)["train/loss"]
    to_go = count(paid[0]).unsqueeze(1) * paid[0].completion_mask
    error = (to_go**2).sum() / paid[0].completion_mask.sum()
    assert found == pytest.approx(0.1 * float(error), abs=1e-5)
