"""ORPO: exact ratios on a finite space, no penalty at the base, plain PPO without a coefficient."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import rewardzoo  # noqa: F401
from rewardzoo.agents.orpo import ORPO, imitate, play_base
from rewardzoo.agents.ppo import PPO
from rewardzoo.jobs import make_envs
from rewardzoo.metrics.hacking import HackingMonitor
from rewardzoo.rewards.base import Spaces
from rewardzoo.rewards.occupancy import OccupancyPenalty

ENV = "rewardzoo/TomatoWatering-v0"
PLACES = Spaces(spaces.Discrete(3), spaces.Discrete(2))


def envs(num_envs: int = 8, reward: str = "tomato_proxy", level: str = "toy") -> Any:
    return make_envs(ENV, reward, num_envs, map=level)


def uniform(obs: Any) -> Tensor:
    return torch.full((len(obs["agent"]), 4), 0.25)


def leaning(obs: Any) -> Tensor:
    return torch.tensor([0.4, 0.2, 0.2, 0.2]).expand(len(obs["agent"]), 4)


def draw(probs: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """States and actions from a table (3, 2)."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.multinomial(probs.flatten(), count, replacement=True, generator=generator)
    return index // 2, index % 2


def test_discriminator_learns_exact_ratios_and_penalties_are_the_divergences() -> None:
    base = torch.tensor([[0.3, 0.1], [0.2, 0.1], [0.2, 0.1]])
    ours = torch.tensor([[0.1, 0.3], [0.1, 0.1], [0.1, 0.3]])
    penalty = OccupancyPenalty(
        *draw(base, 20_000, 0), "sqrt_chi2", learning_rate=2e-3, num_epochs=4
    )
    penalty.bind(1, torch.device("cpu"), PLACES)
    metrics = {}
    for round in range(4):
        metrics = penalty.fit(*draw(ours, 20_000, round + 1))
    states, actions = torch.arange(6) // 2, torch.arange(6) % 2
    with torch.no_grad():
        d = penalty.log_ratio(states, actions)
        cost = penalty.penalty(states, actions)
    want = (ours / base).log().flatten()
    assert (d - want).abs().max() < 0.2
    chi2 = float((ours**2 / base).sum() - 1)
    assert float(metrics["chi2"]) == pytest.approx(chi2, rel=0.3)
    assert float(metrics["kl"]) == pytest.approx(float((ours.flatten() * want).sum()), abs=0.1)
    assert float(metrics["base_ratio"]) == pytest.approx(1.0, abs=0.1)
    # The gradient of sqrt(chi2) along the occupancy, up to a constant: mu / base / sqrt(chi2).
    slope = (ours / base - 1.0).flatten() / chi2**0.5
    assert (cost - slope).abs().max() < 0.5


def test_no_penalty_at_the_base_itself() -> None:
    base = torch.tensor([[0.3, 0.1], [0.2, 0.1], [0.2, 0.1]])
    penalty = OccupancyPenalty(*draw(base, 20_000, 0), "kl")
    penalty.bind(1, torch.device("cpu"), PLACES)
    penalty.fit(*draw(base, 20_000, 1))
    with torch.no_grad():
        cost = penalty.penalty(*draw(base, 1000, 2))
    assert cost.abs().max() < 0.15


def test_bad_base_data_is_told() -> None:
    few = torch.zeros(99, dtype=torch.int64)
    with pytest.raises(ValueError, match="base_action: 99 rows, expected 100 or more"):
        OccupancyPenalty(few, few)
    many = torch.zeros(100, dtype=torch.int64)
    with pytest.raises(ValueError, match="divergence='js': expected one of"):
        OccupancyPenalty(many, many, "js")
    with pytest.raises(ValueError, match="divergence='tv'"):
        ORPO(envs(), uniform, "tv")


def test_as_a_reward_function_it_learns_at_the_agents_boundary() -> None:
    base = play_base(envs(), uniform, 50, 0, torch.device("cpu"))
    obs = {k: v.flatten(0, 1) for k, v in base.obs.items()}
    fn = OccupancyPenalty(obs, base.action.flatten(), centre=True)
    wrapped = rewardzoo.VectorRewardWrapper(gymnasium.make_vec(ENV, num_envs=8, map="toy"), fn)
    PPO(wrapped, num_steps=16).learn(256)
    assert fn.version == 2
    assert wrapped.transition is not None
    assert float(fn(wrapped.transition).mean().detach()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("divergence", ["sqrt_chi2", "action_kl"])
def test_without_a_coefficient_it_is_plain_ppo_bit_for_bit(divergence: str) -> None:
    plain = PPO(envs(), num_steps=16, seed=3).learn(512)
    other = ORPO(envs(), leaning, divergence, 0.0, base_steps=20, num_steps=16, seed=3)
    other.learn(512)
    assert torch.equal(plain.parameters, other.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("divergence", ["kl", "action_kl"])
def test_a_large_coefficient_brings_the_base_back(divergence: str) -> None:
    """From a uniform start to a base that leans: policies lean too, in the mean over seeds."""
    leans = []
    for seed in range(3):
        agent = ORPO(
            envs(16, "objective"), leaning, divergence, 5.0, base_steps=100, num_steps=50,
            learning_rate=5e-3, gamma=0.5, seed=seed,
        )  # fmt: skip
        agent.learn(24_000)
        rollout = play_base(envs(16), leaning, 20, 0, torch.device("cpu"))
        obs = {k: v.flatten(0, 1) for k, v in rollout.obs.items()}
        none = torch.zeros(len(obs["agent"]), 0)
        with torch.no_grad():
            probs = agent._outputs(obs, none, none[:, 0:0].any(1))[0].softmax(1)
        leans.append(float(probs[:, 0].mean()))
    assert sum(leans) / 3 > 0.31


def test_imitation_starts_at_the_base() -> None:
    agent = ORPO(envs(), leaning, None, seed=1)
    rollout = play_base(agent.envs, leaning, 100, 0, agent.device)
    assert imitate(agent, rollout, leaning) < 1e-3


def test_monitor_raises_on_the_hacker_and_not_on_the_gardener() -> None:
    """Scripted: one walks to the bucket and stays, one waters as the model's optimum does."""
    from rewardzoo.envs.tomato.dynamics import TomatoWatering
    from rewardzoo.metrics.planning import best_policy

    func = TomatoWatering(map="2")
    model = func.model
    true = model.expected(0.02 * model.wet.sum(1))
    proxy = model.expected((model.cell == func.bucket_cell).astype(float))

    class Scripted:
        num_timesteps = 0

        def __init__(self, worth: Any) -> None:
            self.policy = torch.from_numpy(best_policy(worth, model.transition(), 0.99)[1])

        def predict(self, obs: Any) -> tuple[Any, None]:
            tensors = {k: torch.as_tensor(v) for k, v in obs.items()}
            return self.policy[model.index(tensors)].numpy(), None

    good = torch.from_numpy(best_policy(true, model.transition(), 0.99)[1])
    table = 0.9 * torch.full((len(good), 4), 0.25) + 0.1 * torch.eye(4)[good]

    def base(obs: Any) -> Tensor:
        return table[model.index(obs)]

    monitor = HackingMonitor(envs(16, level="2"), base, every=100, r=0.7)
    hacker, gardener = monitor.look(Scripted(proxy)), monitor.look(Scripted(true))
    assert hacker["alarm"] == 1.0 and hacker["score"] > 1.0 and hacker["proxy_gain"] > 1.0
    assert gardener["alarm"] == 0.0 and gardener["score"] < 0.1
    assert gardener["proxy_gain"] > 0.2 and gardener["correlation"] > 0.99
    assert "objective_bound" in gardener and hacker["chi2"] > 1.0
    metrics: dict[str, float] = {}
    agent = Scripted(proxy)
    for step in (50, 100, 150, 200):
        agent.num_timesteps = step
        monitor(agent, metrics)
    assert [s for s, _ in monitor.history] == [100, 200] and monitor.raised_at == 100
    assert metrics["hacking/alarm"] == 1.0
    with pytest.raises(ValueError, match="every=0"):
        HackingMonitor(envs(), uniform, every=0)
    with pytest.raises(ValueError, match="threshold=0"):
        HackingMonitor(envs(), uniform, every=1, threshold=0.0)
