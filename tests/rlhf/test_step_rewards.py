"""Rewards of steps: paid where they end, summed, clipped and as differences."""

from __future__ import annotations

import pytest
import torch

from rewardzoo.rlhf.algorithms import ALGORITHMS, Algorithm
from rewardzoo.rlhf.policy_gradient import clip_steps, delta_steps
from rewardzoo.rlhf.sequences import pack
from rewardzoo.rlhf.step_rewards import StepReward

from .small import EOS, biased, count, model, online, same, spoken


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
