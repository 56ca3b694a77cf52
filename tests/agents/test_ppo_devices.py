"""PPO on other devices: an iteration reads no value and mixes no devices, or tests see it."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

import rewardzoo
from rewardzoo.agents.ppo import PPO
from rewardzoo.rewards.base import RewardError, RewardFunction
from rewardzoo.transition import Transition

CARTPOLE = "rewardzoo/CartPole-v0"


def one_iteration(device: str, **settings: Any) -> None:
    agent = PPO(gymnasium.make_vec(CARTPOLE, num_envs=4, device=device), num_steps=4, **settings)
    rollout, _ = agent.collect()
    agent.update(agent.prepare(rollout))


class Leaky(RewardFunction):
    """A reward function that does one of the things which stall or break a device."""

    def __init__(self, leak: str) -> None:
        self.leak = leak

    def __call__(self, t: Transition) -> Tensor:
        if self.leak == "item":
            return t.reward * t.reward.sum().item()
        if self.leak == "mask":
            return t.reward + t.reward[t.reward > 0].sum()
        if self.leak == "constant":
            return t.reward + torch.ones(4)
        return t.reward


@pytest.mark.parametrize("settings", [{}, {"recurrent": "gru"}, {"normalize_observations": True}])
def test_an_iteration_runs_on_the_meta_device(settings: dict[str, Any]) -> None:
    """Reading a value, or adding a tensor of another device, raises there."""
    one_iteration("meta", **settings)


@pytest.mark.parametrize(
    ("leak", "message"),
    [
        ("none", ""),
        ("item", "item.. cannot be called on meta tensors"),
        ("mask", "nonzero"),
        ("constant", "device cpu is not on the expected device meta"),
    ],
)
def test_the_meta_device_catches_leaks(leak: str, message: str) -> None:
    envs = rewardzoo.VectorRewardWrapper(
        gymnasium.make_vec(CARTPOLE, num_envs=4, device="meta"), Leaky(leak)
    )
    agent = PPO(envs, num_steps=4)
    if leak == "none":
        agent.update(agent.prepare(agent.collect()[0]))
    else:
        with pytest.raises(RewardError, match=message):
            agent.collect()


@pytest.mark.parametrize("leak", ["none", "constant"])
def test_an_iteration_runs_on_fake_tensors_of_another_device(
    leak: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors also catch matrix products and indexing across devices."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Fake tensors hold no numbers, and moving one needs the real device's driver: build the
    # network where it belongs.
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *args, **kwargs: module)
    for name in ("orthogonal_", "uniform_", "kaiming_uniform_", "zeros_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
    with FakeTensorMode():
        envs = rewardzoo.VectorRewardWrapper(
            gymnasium.make_vec(CARTPOLE, num_envs=4, device="lazy:0"), Leaky(leak)
        )
        with torch.device("lazy:0"):
            agent = PPO(envs, num_steps=4)
        assert agent.parameters.device.type == "lazy"
        if leak == "none":
            agent.update(agent.prepare(agent.collect()[0]))
        else:
            with pytest.raises(RewardError, match="device"):
                agent.collect()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_iteration_on_cuda_never_synchronises() -> None:
    agent = PPO(gymnasium.make_vec(CARTPOLE, num_envs=64, device="cuda"), num_steps=16)
    agent.learn(64 * 16)  # allocations and lazy initialisation
    torch.cuda.set_sync_debug_mode("error")
    try:
        agent.update(agent.prepare(agent.collect()[0]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
