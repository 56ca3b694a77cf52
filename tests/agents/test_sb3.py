"""The Stable-Baselines3 bridge: equal rewards and endings, right terminal observations, learning."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3
from torch import Tensor

import rewardzoo
from rewardzoo.agents.sb3 import SB3VecEnv
from rewardzoo.checkpoint import CheckpointError
from rewardzoo.registration import AGENTS
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.transition import Transition
from rewardzoo.video import record_episode
from rewardzoo.zoo.policies import load_agent


class Twice(RewardFunction):
    def __call__(self, t: Transition) -> Tensor:
        return 2 * t.reward


def wrapped(num_envs: int = 4, **kwargs: Any) -> Any:
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=num_envs, **kwargs)
    return rewardzoo.VectorRewardWrapper(envs, Twice())


def test_rows_equal_single_environments_with_terminal_observations() -> None:
    bridge = SB3VecEnv(wrapped(max_episode_steps=12))
    bridge.seed(3)
    obs = bridge.reset()
    singles = [gymnasium.make("rewardzoo/CartPole-v0", max_episode_steps=12) for _ in range(4)]
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=3 + i)[0], obs[i])
    rng = np.random.default_rng(0)
    kinds = set()
    lengths = np.zeros(4, int)
    for _ in range(60):
        action = rng.integers(0, 2, 4)
        obs, reward, done, infos = bridge.step(action)
        for i, env in enumerate(singles):
            last, paid, terminated, truncated, _ = env.step(action[i])
            lengths[i] += 1
            assert reward[i] == 2 * paid and done[i] == (terminated or truncated)
            assert infos[i]["objective"] == paid
            if done[i]:
                np.testing.assert_array_equal(infos[i]["terminal_observation"], last)
                assert infos[i]["TimeLimit.truncated"] == (truncated and not terminated)
                assert infos[i]["episode"]["r"] == 2 * lengths[i]
                assert infos[i]["episode"]["objective"] == infos[i]["episode"]["l"] == lengths[i]
                kinds.add(infos[i]["TimeLimit.truncated"])
                lengths[i] = 0
                last, _ = env.reset()
            np.testing.assert_array_equal(obs[i], last)
    assert kinds == {True, False}


def test_other_autoreset_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected SameStep"):
        SB3VecEnv(wrapped(autoreset_mode="NEXT_STEP"))


def test_their_algorithm_learns_in_our_environment() -> None:
    model = stable_baselines3.PPO(
        "MlpPolicy", SB3VecEnv(wrapped(8)), n_steps=32, batch_size=256, n_epochs=20,
        learning_rate=1e-3, gamma=0.98, gae_lambda=0.8, seed=0, device="cpu",
    ).learn(20_000)  # fmt: skip
    mean, _ = stable_baselines3.common.evaluation.evaluate_policy(
        model, SB3VecEnv(wrapped(8)), n_eval_episodes=8, warn=False
    )
    assert mean > 2 * 100  # a random policy gets 2 x 22


@pytest.mark.parametrize("name", ["sb3_ppo", "sb3_a2c", "sb3_dqn"])
def test_registered_agents_have_our_surface(name: str, tmp_path: Any) -> None:
    kind = AGENTS[name]
    seen: list[dict[str, float]] = []
    settings = {"learning_starts": 32} if name == "sb3_dqn" else {"n_steps": 32}
    agent = kind(wrapped(), seed=1, **settings)
    agent.learn(512, callback=lambda agent, metrics: seen.append(metrics))
    assert agent.num_timesteps >= 512 and seen
    ended = [m for m in seen if np.isfinite(m["rollout/ep_return"])]
    assert ended[-1]["rollout/ep_return"] == 2 * ended[-1]["rollout/ep_objective"]
    scores = agent.evaluate(wrapped(), 8)
    assert (scores["return"] == 2 * scores["objective"]).all() and len(scores["length"]) == 8
    agent.save(tmp_path / "model.pt")
    again = kind.load(tmp_path / "model.pt", env=wrapped())
    assert again.num_timesteps == agent.num_timesteps
    obs = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(
        again.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0]
    )


@pytest.mark.parametrize("name", ["sb3_ppo", "sb3_dqn"])
def test_checkpoints_keep_optimisers_and_counters(name: str, tmp_path: Any) -> None:
    kind = AGENTS[name]
    settings = {"learning_starts": 32} if name == "sb3_dqn" else {"n_steps": 32}
    agent = kind(wrapped(), seed=1, gamma=0.9, **settings).learn(512)
    agent.save(tmp_path / "model.pt")
    again = kind.load(tmp_path / "model.pt", env=wrapped())
    assert again.gamma == 0.9
    ours, theirs = agent.model.get_parameters(), again.model.get_parameters()
    assert ours.keys() == theirs.keys() and "policy.optimizer" in ours
    for part in ours:
        assert str(ours[part]) == str(theirs[part])
    assert agent.model._n_updates == again.model._n_updates > 0
    if name == "sb3_dqn":
        assert agent.model.exploration_rate == again.model.exploration_rate < 1
    again.learn(128, reset_num_timesteps=False)
    assert again.num_timesteps >= agent.num_timesteps + 128


def test_what_is_no_plain_value_is_asked_for_again(tmp_path: Any) -> None:
    kind = AGENTS["sb3_ppo"]
    agent = kind(wrapped(), n_steps=32, learning_rate=lambda progress: 1e-3 * progress)
    agent.save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"learning_rate was no plain value.*learning_rate="):
        kind.load(tmp_path / "model.pt", env=wrapped())
    again = kind.load(tmp_path / "model.pt", env=wrapped(), learning_rate=lambda p: 1e-3 * p)
    assert again.model.n_steps == 32


def test_checkpoints_execute_nothing_and_fit(tmp_path: Any) -> None:
    kind = AGENTS["sb3_ppo"]
    agent = kind(wrapped(), n_steps=32)
    agent.model.save(tmp_path / "theirs.zip")  # pickles within
    with pytest.raises(CheckpointError):
        kind.load(tmp_path / "theirs.zip", env=wrapped())
    agent.save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="'sb3_ppo', expected 'sb3_a2c'"):
        AGENTS["sb3_a2c"].load(tmp_path / "model.pt", env=wrapped())
    other = gymnasium.make_vec("rewardzoo/MountainCar-v0", num_envs=4)
    with pytest.raises(CheckpointError, match="do not fit this environment"):
        kind.load(tmp_path / "model.pt", env=other)


def test_a_checkpoint_is_played_like_any_other(tmp_path: Any) -> None:
    agent = AGENTS["sb3_ppo"](wrapped(), n_steps=32).learn(128)
    agent.save(tmp_path / "model.pt")
    again = load_agent(tmp_path / "model.pt", "rewardzoo/CartPole-v0")
    obs = np.full((1, 4), 0.02, np.float32)
    assert again.predict(obs, deterministic=True)[0] == agent.predict(obs, deterministic=True)[0]
    assert len(record_episode("rewardzoo/CartPole-v0", again, 5, 0)) >= 5
