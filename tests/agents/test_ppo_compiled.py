"""PPO as compiled programs: the same training."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch

import rewardzoo
from rewardzoo.agents.common.adam import adam
from rewardzoo.agents.ppo import PPO
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.rewards.base import env_reward

from .cues import Contextual

CARTPOLE = "rewardzoo/CartPole-v0"


def test_adam_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(50, generator=generator), torch.zeros(50), torch.zeros(50), torch.zeros(())]
    theirs = torch.nn.Parameter(ours[0].clone())
    optimizer = torch.optim.Adam([theirs], lr=0.01, eps=1e-5)
    for _ in range(20):
        theirs.grad = torch.randn(50, generator=generator)
        optimizer.step()
        ours = adam(ours[0], theirs.grad, *ours[1:], torch.tensor(0.01, dtype=torch.float64), 1e-5)
    torch.testing.assert_close(ours[0], theirs.data, rtol=0, atol=1e-6)


def test_compiled_training_is_the_same_training() -> None:
    """Rollout and update as programs: the same numbers up to rounding, early stop included."""
    settings: dict[str, Any] = {
        "num_steps": 8, "hidden": (8,), "learning_rate": 1e-2, "anneal_lr": True,
        "ent_coef": 0.01, "clip_range_vf": 0.2, "target_kl": 0.01,
    }  # fmt: skip
    seen: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    agents, rollouts = {}, []
    for compiled, metrics in seen.items():
        agent = PPO(gymnasium.make_vec(CARTPOLE, num_envs=4), seed=4, compile=compiled, **settings)
        played = [(agent.collect()[0]._asdict(), agent.collector.tracker.state_dict())
                  for _ in range(12)]  # fmt: skip
        rollouts.append(played)
        agent.learn(4 * 8 * 6, callback=lambda _, m, keep=metrics.append: keep(m))
        agents[compiled] = agent
    torch.testing.assert_close(*rollouts)
    assert any(tracker["over"].any() for _, tracker in rollouts[0])
    assert torch.allclose(agents[True].parameters, agents[False].parameters, atol=1e-5)
    steps = [int(a.optimizer.state[a.parameters]["step"]) for a in agents.values()]
    assert steps[0] == steps[1] < 6 * 16  # it did stop early
    for ours, theirs in zip(*seen.values(), strict=True):
        assert ours.pop("time/sps") and theirs.pop("time/sps")
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4, nan_ok=True)
    # Where the program left off the plain loop goes on: the same environments, the same state.
    carry = agents[False].envs.carry
    assert torch.equal(agents[True].envs.carry.time, carry.time)
    assert torch.equal(agents[True].collector.tracker.began, agents[False].collector.tracker.began)


def test_compiled_update_on_environments_that_stay_outside() -> None:
    """A wrapped environment is played as ever; masked policies of Dict observations compile."""
    parameters = []
    for compiled in (True, False):
        envs = FunctionalVectorEnv(4, lambda device: Contextual("mask", device))
        wrapped = rewardzoo.VectorRewardWrapper(envs, env_reward)
        agent = PPO(wrapped, num_steps=4, hidden=(8,), compile=compiled).learn(4 * 4 * 2)
        parameters.append(agent.parameters)
    assert torch.allclose(*parameters, atol=1e-5)


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(ValueError, match="recurrent='gru'"):
        PPO(gymnasium.make_vec(CARTPOLE, num_envs=4), compile=True, recurrent="gru")
    with pytest.raises(ValueError, match="num_minibatches=3: expected a divisor of 32"):
        PPO(gymnasium.make_vec(CARTPOLE, num_envs=4), compile=True, num_steps=8, num_minibatches=3)
