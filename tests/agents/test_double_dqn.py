"""DoubleDQN: its targets by hand, its target network, a solved maze, resuming, its buffer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo import VectorRewardWrapper
from rewardzoo.agents.common.replay_buffer import ReplayBuffer, Sample
from rewardzoo.agents.double_dqn import DoubleDQN, EpsilonGreedy, q_target
from rewardzoo.agents.tabular import mdp_of, value_iteration
from rewardzoo.checkpoint import CheckpointError
from rewardzoo.random import Rng
from rewardzoo.rewards.potential import Potential

MAZE = "rewardzoo/GridWorld-v0"
SMALL = {"learning_starts": 0, "batch_size": 32, "num_updates": 2, "buffer_size": 512}


def maze(num_envs: int = 8, **kwargs: Any) -> Any:
    return gymnasium.make_vec(MAZE, num_envs=num_envs, **kwargs)


def test_target_by_hand() -> None:
    """The online network chooses, the target network values; nothing follows a termination."""
    batch = Sample(
        torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), torch.tensor([1.0, 2.0, 3.0]),
        torch.zeros(3, 1), torch.tensor([False, True, False]),
    )  # fmt: skip
    online = torch.tensor([[5.0, 4.0], [9.0, 9.0], [0.0, 1.0]])
    target = torch.tensor([[10.0, 100.0], [7.0, 7.0], [20.0, -2.0]])
    assert q_target(batch, online, target, 0.5).tolist() == [6.0, 2.0, 2.0]
    assert q_target(batch, None, target, 0.5).tolist() == [51.0, 2.0, 13.0]


def test_target_network_is_another_network_that_follows() -> None:
    """The trap: a target that is the online network, so that Polyak averaging does nothing."""
    agent = DoubleDQN(maze(), tau=0.1, **SMALL)
    assert agent.target is not agent.network
    agent.learn(64)
    before = copy.deepcopy(agent.target.state_dict())
    agent.hp = type(agent.hp)(**{**vars(agent.hp), "num_updates": 1})
    agent.update()
    for name, slow in agent.target.state_dict().items():
        fast = agent.network.state_dict()[name]
        torch.testing.assert_close(slow, before[name].lerp(fast, 0.1))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(agent.target.parameters(), agent.network.parameters(), strict=True)
    )
    shared = DoubleDQN(maze(), target="shared", **SMALL).learn(64)
    assert shared.target is shared.network


def test_a_truncated_episode_bootstraps_and_a_terminated_one_does_not() -> None:
    """Paid 1 a step for ever, cut off every 5 steps: the value is 1 / (1 - gamma), not 5."""
    from rewardzoo.rewards.base import RewardFunction

    class One(RewardFunction):
        def __call__(self, t: Any) -> torch.Tensor:
            return torch.ones_like(t.reward)

    envs = gymnasium.make_vec("rewardzoo/Pendulum-v0", num_envs=8, max_episode_steps=5)
    assert isinstance(envs.single_action_space, gymnasium.spaces.Box)
    with pytest.raises(ValueError, match=r"action_space=Box.*expected Discrete"):
        DoubleDQN(envs)
    envs = gymnasium.make_vec("rewardzoo/MountainCar-v0", num_envs=8, max_episode_steps=5)
    agent = DoubleDQN(
        VectorRewardWrapper(envs, One()), gamma=0.5, tau=0.05, learning_rate=5e-3, **SMALL
    ).learn(8_000)
    obs, _ = envs.reset(seed=0)
    values = agent.outputs(obs)
    torch.testing.assert_close(values, torch.full_like(values, 2.0), atol=0.1, rtol=0)


def test_maze_is_solved() -> None:
    gamma = 0.95
    agent = DoubleDQN(
        maze(32), gamma=gamma, hidden=(), learning_rate=0.05, epsilon_steps=6_000, batch_size=256,
        tau=0.05, learning_starts=500,
    ).learn(20_000)  # fmt: skip
    mdp = mdp_of(MAZE)
    value = value_iteration(mdp, gamma)
    obs, _ = maze(1).reset(seed=0)
    assert float(agent.outputs(obs).max()) == pytest.approx(float(value[obs[0]]), abs=0.05)
    best = float(value_iteration(mdp, 1.0) @ mdp.initial)
    scores = agent.evaluate(maze(16), 16)
    assert float(scores["objective"].mean()) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
def test_resuming_continues_exactly(mode: str, tmp_path: Path) -> None:
    whole = DoubleDQN(maze(autoreset_mode=mode), seed=3, **SMALL).learn(640)
    part = DoubleDQN(maze(autoreset_mode=mode), seed=3, **SMALL).learn(320)
    part.save(tmp_path / "agent.pt")
    resumed = DoubleDQN.load(tmp_path / "agent.pt", env=maze(autoreset_mode=mode))
    resumed.learn(320, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps == 640
    for name in ("network", "target"):
        for a, b in zip(
            getattr(whole, name).parameters(), getattr(resumed, name).parameters(), strict=True
        ):
            assert torch.equal(a, b)
    with pytest.raises(CheckpointError, match="it was saved for"):
        DoubleDQN.load(tmp_path / "agent.pt", env=gymnasium.make_vec("rewardzoo/CartPole-v0", 2))


def test_dead_steps_are_not_stored() -> None:
    """Under NEXT_STEP the step that only resets a row is no transition."""
    agent = DoubleDQN(maze(4, autoreset_mode="NEXT_STEP", max_episode_steps=3), **SMALL)
    agent.collect()  # steps 1 to 3 live, step 4 dead
    assert len(agent.buffer) == 12
    same = DoubleDQN(maze(4, max_episode_steps=3), **SMALL)
    same.collect()
    assert len(same.buffer) == 16


def test_masked_actions_are_never_taken() -> None:
    envs = gymnasium.make_vec("rewardzoo/SepsisICU-v0", num_envs=64, action_mask=True)
    agent = DoubleDQN(envs, **{**SMALL, "buffer_size": 4096})
    agent.learn(1_000)
    stored = agent.buffer.at(torch.arange(len(agent.buffer)))
    allowed = stored.obs["action_mask"].gather(1, stored.action.unsqueeze(1))
    assert bool((allowed == 1).all()) and len(stored.action.unique()) > 10
    for deterministic in (True, False):
        obs = {k: v[:32] for k, v in stored.obs.items()}
        action, _ = agent.predict(obs, deterministic=deterministic)
        assert bool(obs["action_mask"].gather(1, torch.tensor(action).unsqueeze(1)).all())


def test_exploration_is_as_frequent_as_epsilon() -> None:
    """With 100,000 rows each share within five standard errors."""
    greedy = EpsilonGreedy(4)
    rows = torch.arange(100_000)
    noise = greedy.noise(Rng(rows, rows * 0, 0, 1), 1)[0]
    q = torch.tensor([0.0, 3.0, 1.0, 2.0]).expand(len(rows), 4)
    share = np.bincount(greedy.sample(q, noise, 0.2), minlength=4) / len(rows)
    np.testing.assert_allclose(share, [0.05, 0.85, 0.05, 0.05], atol=5 * 0.5 / 316)
    assert bool((greedy.sample(q, noise, 0.0) == 1).all())


def test_epsilon_falls_linearly() -> None:
    agent = DoubleDQN(maze(), epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=128, **SMALL)
    seen = []
    agent.learn(192, callback=lambda a, m: seen.append(m["train/epsilon"]))
    assert seen == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_reward_function_with_another_discount_is_refused() -> None:
    envs = VectorRewardWrapper(maze(), Potential(lambda obs: obs.float(), gamma=0.9))
    with pytest.raises(ValueError, match="gamma=0.9"):
        DoubleDQN(envs, gamma=0.5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"target": "none"}, "target='none'"),
        ({"loss": "l1"}, "loss='l1'"),
        ({"buffer_size": 8}, "buffer_size=8: expected at least 32"),
        ({"tau": 2.0}, "tau=2.0"),
    ],
)
def test_bad_hyperparameters_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DoubleDQN(maze(), **kwargs)


# ---- the buffer ------------------------------------------------------------------------------


def numbered(first: int, count: int) -> Sample:
    x = torch.arange(first, first + count)
    return Sample({"a": x, "b": x.float()}, x, x.float(), {"a": x, "b": x.float()}, x % 2 == 0)


@pytest.mark.parametrize("capacity", [5, 7, 12])
def test_buffer_keeps_the_last(capacity: int) -> None:
    buffer = ReplayBuffer(capacity, torch.device("cpu"))
    first = 0
    for count in (3, 1, 5, 4, 2, 5):
        buffer.add(numbered(first, count))
        first += count
        kept = buffer.at(torch.arange(len(buffer)))
        assert sorted(kept.action.tolist()) == list(range(max(0, first - capacity), first))
        assert torch.equal(kept.obs["a"], kept.action)  # the fields of a row stay together
        assert torch.equal(kept.terminated, kept.action % 2 == 0)


def test_buffer_samples_uniformly_and_only_what_is_there() -> None:
    buffer = ReplayBuffer(10, torch.device("cpu"))
    buffer.add(numbered(0, 4))
    one = torch.zeros(1, dtype=torch.long)
    drawn = buffer.sample(40_000, Rng(one, one, 0, 2)).action
    share = np.bincount(drawn, minlength=4) / 40_000
    np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.1875 / 40_000))


def test_buffer_errors_are_named() -> None:
    buffer = ReplayBuffer(3, torch.device("cpu"))
    with pytest.raises(ValueError, match="it is empty"):
        buffer.at(torch.arange(1))
    with pytest.raises(ValueError, match="capacity=3: expected at least 4"):
        buffer.add(numbered(0, 4))
    with pytest.raises(ValueError, match="capacity=0"):
        ReplayBuffer(0, torch.device("cpu"))
