"""What a new online algorithm is made of, what a rollout is paid and what holds it."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from rewardzoo.rlhf.algorithms import ALGORITHMS, Algorithm, clip_completions, leave_one_out
from rewardzoo.rlhf.online import OnlineConfig

from .small import EOS, biased, count, model, online, same


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
    metrics = trainer.train(1)
    found = metrics["train/loss"]
    rollout = seen[0][0]
    assert torch.equal(rollout.total, rollout.outcome)
    ratio = (rollout.logp - rollout.ref).masked_fill(~rollout.batch.completion_mask, 0.0)
    each = ratio**2 / 2 if name == "k2" else torch.exp(-ratio) - 1 + ratio
    assert found == pytest.approx(0.3 * float(each.sum(1).mean()), rel=1e-4)
    # The log says which of the three it was.
    assert metrics[f"train/kl_{name}"] == pytest.approx(float(each.sum(1).mean()), rel=1e-4)
    assert metrics["rollout/kl_k1"] == pytest.approx(float(ratio.sum(1).mean()), rel=1e-4)
    assert {x for x in metrics if "kl" in x} == {f"train/kl_{name}", "rollout/kl_k1"}
    assert not same(trainer.policy, model())


def test_the_penalty_on_chi2_is_the_root_of_its_mean_over_sequences():
    constant = lambda batch: torch.ones(len(batch.ids))  # noqa: E731
    trainer, seen = recorded_online(model(1), constant, chi2=0.5)
    metrics = trainer.train(1)
    found = metrics["train/loss"]
    rollout = seen[0][0]
    mask = rollout.batch.completion_mask
    ratio = (rollout.logp - rollout.ref).masked_fill(~mask, 0.0).sum(1)
    mean = (torch.exp(ratio) + torch.exp(-ratio) - 2).mean()
    assert found == pytest.approx(0.5 * float(mean.sqrt()), rel=1e-3)
    assert metrics["train/chi2"] == pytest.approx(float(mean), rel=1e-3)
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
