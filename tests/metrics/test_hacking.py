"""The hacking monitor watches any agent and leaves it as it is."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import rewardzoo
from rewardzoo.metrics.hacking import HackingMonitor
from rewardzoo.registration import AGENTS
from rewardzoo.rewards import make_reward

ENV = "rewardzoo/TomatoWatering-v0"
AGENT_KWARGS: dict[str, dict[str, Any]] = {
    "ppo": {"num_steps": 16, "hidden": (16,)},
    "double_dqn": {"num_steps": 16, "learning_starts": 64, "batch_size": 32, "hidden": (16,)},
    "sb3_ppo": {"policy": "MultiInputPolicy", "n_steps": 16, "batch_size": 32},
    "sb3_dqn": {"policy": "MultiInputPolicy", "learning_starts": 32, "train_freq": 4},
}
OFF_POLICY = {"num_steps": 16, "learning_starts": 64, "batch_size": 32}
BOX_KWARGS: dict[str, dict[str, Any]] = {
    "td3": {**OFF_POLICY, "actor_hidden": (16,), "critic_hidden": (16,)},
    "sac": {**OFF_POLICY, "actor_hidden": (16,), "critic_hidden": (16,)},
}


def envs(num_envs: int) -> Any:
    inner = gymnasium.make_vec(ENV, num_envs=num_envs, map="toy")
    return rewardzoo.VectorRewardWrapper(inner, make_reward("tomato_proxy"))


def uniform(obs: Any) -> Tensor:
    return torch.full((len(obs["agent"]), 4), 0.25)


def pendulums(num_envs: int) -> Any:
    inner = gymnasium.make_vec("rewardzoo/Pendulum-v0", num_envs=num_envs)
    return rewardzoo.VectorRewardWrapper(inner, make_reward("objective"))


def anywhere(obs: Any) -> Tensor:
    """A base policy with actions in a Box, drawn by itself."""
    return 4.0 * torch.rand(len(obs), 1) - 2.0


def weights(agent: Any) -> list[Tensor]:
    module = agent.model.policy if hasattr(agent, "model") else agent.network
    return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize("name", [*AGENT_KWARGS, *BOX_KWARGS])
def test_watches_any_agent_and_changes_nothing(name: str) -> None:
    if name.startswith("sb3"):
        pytest.importorskip("stable_baselines3")
    box = name in BOX_KWARGS
    make, base = (pendulums, anywhere) if box else (envs, uniform)
    ends = []
    for watched in (False, True):
        agent = AGENTS[name](make(4), seed=0, **{**AGENT_KWARGS, **BOX_KWARGS}[name])
        told: list[dict[str, float]] = []
        monitor = HackingMonitor(make(8), base, every=64, steps=10, r=0.5) if watched else None

        def after(learner: Any, metrics: dict[str, float], monitor: Any = monitor, told: Any = told) -> None:  # fmt: skip
            if monitor is not None:
                monitor(learner, metrics)
            told.append(metrics)

        agent.learn(256, callback=after)
        ends.append(weights(agent))
    assert monitor is not None and [s for s, _ in monitor.history] == [64, 128, 192, 256]
    for _, found in monitor.history:
        assert np.isfinite([found[k] for k in ("proxy_gain", "score", "chi2")]).all()
    assert any("hacking/alarm" in metrics for metrics in told)
    for one, other in zip(*ends, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["ppo", "td3"])
def test_what_it_sees_depends_on_its_seed_and_on_nothing_drawn_before(name: str) -> None:
    make, base = (envs, uniform) if name == "ppo" else (pendulums, anywhere)
    agent = AGENTS[name](make(4), seed=0, **{**AGENT_KWARGS, **BOX_KWARGS}[name])

    def look(before: int, seed: int = 7) -> dict[str, float]:
        torch.manual_seed(before)
        monitor = HackingMonitor(make(8), base, every=64, steps=20, seed=seed)
        found = monitor.look(agent)
        drawn = torch.rand(3)
        torch.manual_seed(before)
        assert torch.equal(drawn, torch.rand(3))
        return found

    assert look(1) == look(2) != look(1, seed=8)


def test_what_it_cannot_watch_is_told_in_one_line() -> None:
    def too_many(obs: Any) -> Tensor:
        return torch.zeros(len(obs), 4)

    message = (
        r"it gave \(4, 4\), expected actions of shape \(4, 1\) for the environment's action_sp"
    )
    with pytest.raises(ValueError, match=message):
        HackingMonitor(pendulums(4), too_many, every=1)
    with pytest.raises(ValueError, match="it gave ndarray, expected actions of shape"):
        HackingMonitor(pendulums(4), lambda obs: np.zeros((4, 1)), every=1)

    class Binary:
        single_action_space = gymnasium.spaces.MultiBinary(3)

    with pytest.raises(ValueError, match=r"action_space=MultiBinary\(3\): a base policy gives"):
        HackingMonitor(Binary(), anywhere, every=1)
