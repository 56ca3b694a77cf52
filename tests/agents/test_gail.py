"""GAIL: an imitator learns, its monitors are what they say, and it resumes exactly."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rewardzoo  # noqa: F401
from rewardzoo.agents.gail import GAIL
from rewardzoo.agents.ppo import PPO
from rewardzoo.functional import FuncEnv
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.rewards import Novelty
from rewardzoo.rewards.adversarial import AdversarialReward
from rewardzoo.rewards.wrappers import VectorRewardWrapper


class Follow(FuncEnv):
    """A target somewhere in [-1, 1]^2: the expert's action is minus half of it; eight steps."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, device="cpu"):
        super().__init__(device)

    def initial(self, rng, params=None):
        return rng.uniform(2, low=-1.0, high=1.0)

    def transition(self, state, action, rng, params=None):
        return rng.uniform(2, low=-1.0, high=1.0)

    def observation(self, state, rng, params=None):
        return state

    def reward(self, state, action, next_state, rng, params=None):
        return -(action + 0.5 * state).abs().mean(1)

    def terminal(self, state, rng, params=None):
        return torch.zeros(len(state), dtype=torch.bool, device=state.device)


def demonstrations(rows=256, seed=0):
    rng = torch.Generator().manual_seed(seed)
    obs, next_obs = 2.0 * torch.rand(2, rows, 2, generator=rng) - 1.0
    no = torch.zeros(rows, dtype=torch.bool)
    return SimpleNamespace(
        obs=obs, action=-0.5 * obs, next_obs=next_obs, terminated=no, truncated=no
    )


def worlds(num_envs=8, **reward):
    envs = FunctionalVectorEnv(num_envs, Follow, max_episode_steps=8)
    reward = {"hidden": (16, 16), "learning_rate": 2e-3, "updates_per_step": 0.5, **reward}
    return VectorRewardWrapper(envs, AdversarialReward(demonstrations(), **reward))


SETTINGS = {
    "num_steps": 4,
    "updates_per_step": 0.5,
    "learning_starts": 128,
    "learning_rate": 3e-3,
    "actor_hidden": (16, 16),
    "critic_hidden": (16, 16),
    "n_step": 2,
    "gamma": 0.5,
    "monitor_every": 256,
    "anneal_lr": False,
}


def worth(agent):
    envs = FunctionalVectorEnv(8, Follow, max_episode_steps=8)
    return float(agent.evaluate(envs, 32)["objective"].mean()) / 8.0


def test_it_imitates_what_it_was_shown_without_ever_seeing_a_reward():
    agent = GAIL(worlds(), seed=0, **SETTINGS)
    assert worth(agent) < -0.2
    agent.learn(2048)
    assert worth(agent) > -0.1


def test_its_monitors_are_finite_and_say_what_bounds_what():
    seen = {}
    GAIL(worlds(), seed=0, **SETTINGS).learn(512, callback=lambda agent, m: seen.update(m))
    gamma, a, b = 0.5, seen["gail/lipschitz_dynamics"], seen["gail/lipschitz_policy"]
    assert seen["gail/growth"] == pytest.approx(gamma * a * math.sqrt(1.0 + b * b))
    assert 0.0 < seen["gail/lipschitz_reward"] < 10.0
    assert 0.0 < seen["gail/lipschitz_q"]
    for name in ("grad_norm_replay", "grad_norm_expert", "penalty", "violation", "accuracy_agent",
                 "accuracy_expert", "reward_replay", "reward_expert", "clamped"):  # fmt: skip
        assert math.isfinite(seen[f"reward/{name}"])


def test_the_critics_slope_is_measured_in_standard_units():
    """A critic that is linear in the observation has that slope times the deviation."""
    agent = GAIL(worlds(), seed=0, **{**SETTINGS, "layer_norm": False, "clip_observations": None})
    agent.learn(256)
    slope = torch.tensor([3.0, -4.0, 1.0, 2.0])

    class Linear(torch.nn.Module):
        def forward(self, obs, action, count=None):
            return (torch.cat([obs, action], 1) @ slope).unsqueeze(0)

    agent.network.critic = Linear()
    _, scale = agent.adversarial.standard()
    wanted = torch.cat([slope[:2] / scale, slope[2:]]).norm()
    assert agent.monitor()["gail/lipschitz_q"] == pytest.approx(wanted.item(), rel=1e-4)


def test_it_resumes_exactly(tmp_path):
    whole = GAIL(worlds(), seed=0, **SETTINGS).learn(512)
    half = GAIL(worlds(), seed=0, **SETTINGS).learn(256)
    half.save(tmp_path / "half.pt")
    resumed = GAIL.load(tmp_path / "half.pt", env=worlds())
    resumed.learn(256, reset_num_timesteps=False)
    obs = torch.linspace(-1.0, 1.0, 20).reshape(10, 2)
    assert torch.equal(resumed.preferred(resumed.seen(obs)), whole.preferred(whole.seen(obs)))
    assert whole.monitor() == resumed.monitor()


@pytest.mark.slow
def test_plain_gail_is_ppo_on_the_same_reward():
    envs = worlds(16, updates_per_step=0.2, memory=1024)
    agent = PPO(envs, seed=0, num_steps=8, learning_rate=3e-3, gamma=0.5, num_epochs=8)
    before = worth(agent)
    agent.learn(16 * 8 * 30)
    assert worth(agent) > before + 0.1


def test_environments_that_pay_no_adversarial_reward_are_refused():
    envs = FunctionalVectorEnv(8, Follow, max_episode_steps=8)
    with pytest.raises(ValueError, match="pays by 0 adversarial rewards"):
        GAIL(envs, **SETTINGS)
    with pytest.raises(ValueError, match="pays by 0 adversarial rewards"):
        GAIL(VectorRewardWrapper(envs, Novelty()), **SETTINGS)


def test_absorbing_states_are_the_rewards_alone():
    with pytest.raises(ValueError, match="absorbing=True: expected False"):
        GAIL(worlds(), **{**SETTINGS, "absorbing": True})
