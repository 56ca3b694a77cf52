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


def envs(num_envs: int) -> Any:
    inner = gymnasium.make_vec(ENV, num_envs=num_envs, map="toy")
    return rewardzoo.VectorRewardWrapper(inner, make_reward("tomato_proxy"))


def uniform(obs: Any) -> Tensor:
    return torch.full((len(obs["agent"]), 4), 0.25)


def weights(agent: Any) -> list[Tensor]:
    module = agent.model.policy if hasattr(agent, "model") else agent.network
    return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize("name", list(AGENT_KWARGS))
def test_watches_any_agent_and_changes_nothing(name: str) -> None:
    if name.startswith("sb3"):
        pytest.importorskip("stable_baselines3")
    ends = []
    for watched in (False, True):
        agent = AGENTS[name](envs(4), seed=0, **AGENT_KWARGS[name])
        told: list[dict[str, float]] = []
        monitor = HackingMonitor(envs(8), uniform, every=64, steps=10, r=0.5) if watched else None

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


def test_what_it_sees_depends_on_its_seed_and_on_nothing_drawn_before() -> None:
    agent = AGENTS["ppo"](envs(4), seed=0, **AGENT_KWARGS["ppo"])

    def look(before: int, seed: int = 7) -> dict[str, float]:
        torch.manual_seed(before)
        monitor = HackingMonitor(envs(8), uniform, every=64, steps=20, seed=seed)
        found = monitor.look(agent)
        drawn = torch.rand(3)
        torch.manual_seed(before)
        assert torch.equal(drawn, torch.rand(3))
        return found

    assert look(1) == look(2) != look(1, seed=8)
