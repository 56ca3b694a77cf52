"""PPO with a value head of its own for one term of the reward."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from rewardzoo.agents.common.advantages import gae
from rewardzoo.agents.ppo import PPO
from rewardzoo.rewards import RewardFunction, VectorRewardWrapper, env_reward
from rewardzoo.transition import Transition


class Lean(RewardFunction):
    """Pays for leaning to the right."""

    def __call__(self, t: Transition) -> Tensor:
        return t.next_obs[:, 2]


def agent(seed: int = 0, **hyperparameters: Any) -> PPO:
    envs = VectorRewardWrapper(
        gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=4), env_reward + 0.5 * Lean()
    )
    return PPO(envs, seed, **{"num_steps": 16, "num_minibatches": 2, **hyperparameters})


@pytest.mark.parametrize("recurrent", [None, "gru"])
def test_each_kind_of_reward_has_its_values_and_its_discount(recurrent: str | None) -> None:
    ppo = agent(intrinsic="lean", gamma=0.9, intrinsic_gamma=0.5, recurrent=recurrent)
    ppo.learn(64)
    rollout, _ = ppo.collect()
    batch = ppo.prepare(rollout)
    shape = rollout.reward.shape
    assert rollout.term is not None and batch.value.shape == (64, 2)
    torch.testing.assert_close(rollout.term, 0.5 * rollout.next_obs[..., 2])
    kinds = (rollout.reward - rollout.term, 0.9), (rollout.term, 0.5)
    values = batch.value.reshape(*shape, 2)
    total = torch.zeros(shape)
    for i, (reward, gamma) in enumerate(kinds):
        value = values[..., i]
        # The last step's successor is in no batch: its advantages are taken from the targets.
        targets = batch.returns.reshape(*shape, 2)[..., i]
        successor = torch.cat([value[1:], value[-1:]])
        known = rollout.done.logical_not()[:-1]
        one_step = reward + gamma * successor - value
        later = (gamma * ppo.hp.gae_lambda) * (targets - value)[1:]
        torch.testing.assert_close(
            (targets - value)[:-1][known], (one_step[:-1] + later)[known], rtol=1e-4, atol=1e-5
        )
        total += targets - value
    torch.testing.assert_close(batch.advantage, total.flatten(), rtol=1e-5, atol=1e-5)


def test_with_equal_discounts_and_values_the_advantages_are_those_of_one_head() -> None:
    """GAE is linear in rewards and values."""
    ppo = agent(intrinsic="lean")
    rollout, _ = ppo.collect()
    assert rollout.term is not None
    both = torch.rand(2, *rollout.reward.shape)
    ends = (rollout.terminated, rollout.done)
    advantage, _ = ppo._advantages(rollout, both.movedim(0, -1).reshape(-1, 2), both.movedim(0, -1))
    one = gae(rollout.reward, both.sum(0), both.sum(0), *ends, 0.99, 0.95)
    torch.testing.assert_close(advantage, one.flatten(), rtol=1e-4, atol=1e-5)


def test_the_loss_counts_both_heads_and_both_learn() -> None:
    ppo = agent(intrinsic="lean", vf_coef=1.0)
    before = [p.clone() for p in ppo.network.value_head.parameters()]
    metrics: list[dict[str, float]] = []
    ppo.learn(64 * 60, callback=lambda agent, seen: metrics.append(seen))
    after = list(ppo.network.value_head.parameters())
    assert (after[-1] != before[-1]).all(), "a head's bias did not move"
    losses = [m["train/value_loss"] for m in metrics]
    assert losses[-1] < losses[0]


def test_compiled_updates_are_the_same() -> None:
    plain, compiled = (agent(intrinsic="lean", compile=c) for c in (False, True))
    for each in (plain, compiled):
        each.learn(3 * 64)
    torch.testing.assert_close(
        compiled.parameters.detach(), plain.parameters.detach(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("recurrent", [None, "lstm"])
def test_goes_on_from_a_checkpoint(tmp_path: Any, recurrent: str | None) -> None:
    whole = agent(intrinsic="lean", recurrent=recurrent)
    whole.learn(64)
    whole.save(tmp_path / "a.pt")
    rest = PPO.load(tmp_path / "a.pt", env=agent().envs)
    assert rest.hp.intrinsic == "lean"
    for each in (whole, rest):
        each.learn(64, reset_num_timesteps=False)
    assert torch.equal(whole.parameters, rest.parameters)


def test_a_term_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"intrinsic='leen'.*it has objective, lean"):
        agent(intrinsic="leen").learn(64)
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=4)
    for compiled in (False, True):
        with pytest.raises(ValueError, match="no sum of reward functions"):
            PPO(envs, intrinsic="lean", compile=compiled).learn(512)
