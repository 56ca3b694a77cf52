"""TD3 and SAC: a gradient step equals Stable-Baselines3's, resuming is exact, rewards are renewed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import rewardzoo  # noqa: F401
from rewardzoo import VectorRewardWrapper
from rewardzoo.agents.common.continuous import BoxActions, uniform
from rewardzoo.agents.common.n_step import NStep
from rewardzoo.agents.common.off_policy import critic_loss, q_target
from rewardzoo.agents.sac import SAC, squashed
from rewardzoo.agents.td3 import TD3
from rewardzoo.random import Rng
from rewardzoo.rewards.base import RewardFunction, env_reward

PENDULUM = "rewardzoo/Pendulum-v0"
SMALL: dict[str, Any] = {
    "num_steps": 4, "learning_starts": 32, "batch_size": 16, "buffer_size": 512,
    "actor_hidden": (16, 16), "critic_hidden": (16, 16),
}  # fmt: skip
KINDS = [TD3, SAC]


def pendula(num_envs: int = 2, **kwargs: Any) -> Any:
    return gymnasium.make_vec(PENDULUM, num_envs=num_envs, **kwargs)


class One(RewardFunction):
    def __call__(self, t: Any) -> torch.Tensor:
        return torch.ones_like(t.reward)


class Growing(RewardFunction):
    """Pays the number of its updates."""

    def __call__(self, t: Any) -> torch.Tensor:
        return torch.full_like(t.reward, float(self.version))

    def update(self) -> dict[str, float]:
        self.version += 1
        return {}


# ---- pieces --------------------------------------------------------------------------------------


def test_target_by_hand() -> None:
    """TD3's minimum, BCQ's soft one; nothing follows a termination."""
    zero = torch.zeros(2, 1)
    batch = NStep(zero, zero, torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), zero)
    next_q = torch.tensor([[4.0, 9.0], [8.0, 9.0]])
    assert q_target(batch, next_q, 1.0).tolist() == [3.0, 2.0]
    assert q_target(batch, next_q, 0.75).tolist() == [1.0 + 0.5 * 5.0, 2.0]


def test_critic_loss_by_hand() -> None:
    q = torch.tensor([[0.0, 2.0], [3.0, 0.5]])
    target = torch.tensor([0.0, 0.0])
    assert float(critic_loss(q, target, "mse")) == pytest.approx((0 + 4) / 2 + (9 + 0.25) / 2)
    assert float(critic_loss(q, target, "huber")) == pytest.approx(1.5 / 2 + (2.5 + 0.125) / 2)


def test_actions_fill_their_box_and_never_leave_it() -> None:
    """Uniform in the box by a test of Kolmogorov and Smirnov at 1e-4 (2.23 / sqrt n)."""
    box = spaces.Box(np.float32([-2.0, 0.1]), np.float32([1.0, 0.7]))
    actions = BoxActions(box, torch.device("cpu"))
    rows = torch.arange(20_000)
    noise = actions.noise(Rng(rows, 0 * rows, 0, 1), 1)[0]
    found = actions.to_env(uniform(noise))
    assert box.contains(found.min(0).values.numpy()) and box.contains(found.max(0).values.numpy())
    assert box.contains(actions.to_env(torch.ones(1, 2))[0].numpy())
    share = (torch.arange(20_000) + 0.5) / 20_000
    for i in range(2):
        x = (found[:, i].sort().values - box.low[i]) / (box.high[i] - box.low[i])
        assert float((x - share).abs().max()) < 2.23 / 20_000**0.5
    torch.testing.assert_close(actions.to_env(actions.from_env(found)), found)


def test_density_of_squashed_actions() -> None:
    """Against change of variables by automatic differentiation, also where tanh is all but flat."""
    outputs = torch.tensor([[0.3, -4.0, -0.5, 0.2]], dtype=torch.float64)
    noise = torch.tensor([[0.7, -1.1]], dtype=torch.float64, requires_grad=True)
    action, logp = squashed(outputs, noise)
    (slope,) = torch.autograd.grad(action.sum(), noise)
    normal = -0.5 * (noise**2 + np.log(2 * np.pi))
    torch.testing.assert_close(logp, (normal - slope.log()).sum(-1), atol=1e-9, rtol=0)
    far = squashed(torch.tensor([[30.0, 0.0]]), torch.zeros(1, 1))[1]
    assert bool(torch.isfinite(far).all()) and float(far) == pytest.approx(
        60 - 1.3863 - 0.9189, 1e-4
    )


# ---- equality with Stable-Baselines3 -------------------------------------------------------------


def sb3(kind: type[Any], agent: Any, **kwargs: Any) -> Any:
    """Their agent with our parameters."""
    algorithm = pytest.importorskip("stable_baselines3")
    net = {"pi": list(agent.hp.actor_hidden), "qf": list(agent.hp.critic_hidden)}
    theirs = getattr(algorithm, kind.__name__)(
        "MlpPolicy", gymnasium.make("Pendulum-v1"), batch_size=16, buffer_size=64,
        learning_rate=agent.hp.learning_rate, policy_kwargs={"net_arch": net}, **kwargs,
    )  # fmt: skip

    def layers(module: Any) -> list[Any]:
        return [m for m in module.modules() if isinstance(m, torch.nn.Linear)]

    def give(stack: Any, i: int, linear: list[Any], part: slice = slice(None)) -> None:
        for layer, weight, bias in zip(linear, stack.weights, stack.biases, strict=True):
            last = part if weight is stack.weights[-1] else slice(None)
            layer.weight.data.copy_(weight[i, :, last].T)
            layer.bias.data.copy_(bias[i, 0, last])

    pairs = [(agent.network.critic, theirs.critic), (agent.target.critic, theirs.critic_target)]
    for ours, critic in pairs:
        for i, q in enumerate(critic.q_networks):
            give(ours.stack, i, layers(q))
    if kind is TD3:
        give(agent.network.actor.stack, 0, layers(theirs.actor))
        give(agent.target.actor.stack, 0, layers(theirs.actor_target))
    else:
        *inner, mean, log_std = layers(theirs.actor)
        give(agent.network.actor.stack, 0, [*inner, mean], slice(0, 1))
        give(agent.network.actor.stack, 0, [*inner, log_std], slice(1, 2))
    return theirs


def compare(agent: Any, theirs: Any, heads: list[Any]) -> None:
    """The parameters after the step, to 1e-5."""
    layers = [m for m in heads[0].modules() if isinstance(m, torch.nn.Linear)]
    for layer, weight, bias in zip(
        layers, agent.network.actor.stack.weights, agent.network.actor.stack.biases, strict=False
    ):
        if layer.weight.shape == weight[0].T.shape:
            torch.testing.assert_close(layer.weight, weight[0].T, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(layer.bias, bias[0, 0], atol=1e-5, rtol=1e-4)
    for ours, critic in (
        (agent.network.critic, theirs.critic), (agent.target.critic, theirs.critic_target)
    ):  # fmt: skip
        for i, q in enumerate(critic.q_networks):
            linear = [m for m in q.modules() if isinstance(m, torch.nn.Linear)]
            for layer, weight in zip(linear, ours.stack.weights, strict=True):
                torch.testing.assert_close(layer.weight, weight[i].T, atol=1e-5, rtol=1e-4)


def a_batch(seed: int = 0) -> tuple[NStep, torch.Tensor, Any]:
    """Ours, noise (2, B, 1), and theirs: 16 transitions, some of which terminated."""
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, 16, 3, generator=g)
    action = torch.rand(16, 1, generator=g) * 2 - 1
    reward, done = torch.randn(16, generator=g), torch.rand(16, generator=g) < 0.3
    noise = torch.randn(2, 16, 1, generator=g)
    ours = NStep(obs, action, reward, torch.where(done, 0.0, 0.99), next_obs)
    theirs = SimpleNamespace(
        observations=obs, actions=action, rewards=reward.unsqueeze(1), next_observations=next_obs,
        dones=done.float().unsqueeze(1), discounts=None,
    )  # fmt: skip
    return ours, noise, theirs


def their_step(theirs: Any, batch: Any) -> dict[str, float]:
    theirs._logger = pytest.importorskip("stable_baselines3.common.logger").configure(
        format_strings=[]
    )
    theirs.replay_buffer = SimpleNamespace(sample=lambda *args, **kwargs: batch)
    theirs.train(1, 16)
    return {k: float(v) for k, v in theirs.logger.name_to_value.items() if "train/" in k}


def test_a_td3_step_equals_stable_baselines3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Critics, their targets and the actor; target noise 3 makes both clippings bite."""
    agent = TD3(pendula(), policy_delay=1, target_noise=3.0, **SMALL)
    agent.flats[3].data.add_(0.05)  # targets that are not the networks
    theirs = sb3(TD3, agent, policy_delay=1, target_policy_noise=3.0)
    batch, noise, their_batch = a_batch()
    monkeypatch.setattr(
        torch.Tensor, "normal_", lambda x, mean=0.0, std=1.0: x.copy_(mean + std * noise[0])
    )
    logged = their_step(theirs, their_batch)
    loss, _ = agent._critic_step(batch, noise[0])
    (actor_loss,) = agent._actor_step(batch, noise[0])
    assert float(loss) == pytest.approx(logged["train/critic_loss"], abs=1e-5)
    assert float(actor_loss) == pytest.approx(logged["train/actor_loss"], abs=1e-5)
    compare(agent, theirs, [theirs.actor])


def test_a_sac_step_equals_stable_baselines3(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = SAC(pendula(), initial_temperature=0.3, **SMALL)
    agent.flats[3].data.add_(0.05)
    theirs = sb3(SAC, agent, ent_coef="auto_0.3")
    batch, noise, their_batch = a_batch()
    # They draw for the actor first, then for the target; ours are side by side, target first.
    draws = iter([noise[1], noise[0]])
    monkeypatch.setattr(
        torch.distributions.normal, "_standard_normal", lambda *args, **kwargs: next(draws)
    )
    logged = their_step(theirs, their_batch)
    both = torch.cat([noise[0], noise[1]], -1)
    loss, _ = agent._critic_step(batch, both)
    _, entropy, temperature = agent._actor_step(batch, both)
    # Theirs halves the critics' loss.
    assert float(loss) / 2 == pytest.approx(logged["train/critic_loss"], abs=1e-5)
    assert float(temperature) == pytest.approx(logged["train/ent_coef"], abs=1e-6)
    assert float(agent.network.actor.scale.detach()) == pytest.approx(
        float(theirs.log_ent_coef), abs=1e-5
    )
    compare(agent, theirs, [theirs.actor.latent_pi])


# ---- agents --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_episode_is_bootstrapped(kind: type[Any]) -> None:
    """Paid 1 a step for ever, cut off every 5 steps: the value is 1 / (1 - gamma), not less."""
    envs = VectorRewardWrapper(pendula(8, max_episode_steps=5), One())
    options = {} if kind is TD3 else {"initial_temperature": 1e-6}
    agent = kind(
        envs, gamma=0.5, tau=0.1, n_step=3, critic_learning_rate=1e-2, updates_per_step=0.25,
        **SMALL, **options,
    ).learn(2_400)  # fmt: skip
    batch, _ = agent.batches()
    one = NStep(*(x[0, 0] for x in batch))
    values = agent.network.critic(agent.network.see(one.obs), one.action)
    torch.testing.assert_close(values, torch.full_like(values, 2.0), atol=0.15, rtol=0)


def test_stored_steps_are_paid_by_the_reward_of_now() -> None:
    """Every step of an old window is paid the number of updates made since."""
    fn = Growing()
    agent = TD3(VectorRewardWrapper(pendula(), fn), n_step=3, gamma=1.0, **SMALL).learn(96)
    assert fn.version == 12
    batch, _ = agent.batches()
    assert set(batch.returns.unique().tolist()) <= {12.0, 24.0, 36.0}
    # Composed with the environment's own reward, that is what was paid at the time (never above
    # 0 on the pendulum), and the rest is of now.
    both = env_reward + 20.0 * Growing()
    agent = TD3(VectorRewardWrapper(pendula(), both), **SMALL).learn(96)
    batch, _ = agent.batches()
    paid = batch.returns - 240.0
    assert bool((paid < 0).all()) and bool((paid > -17.0).all())
    with pytest.raises(ValueError, match="paid by 2 reward functions.*env_reward \\+ fn"):
        TD3(VectorRewardWrapper(VectorRewardWrapper(pendula(), One()), Growing()), **SMALL)
    Growing.markov = False
    try:
        with pytest.raises(ValueError, match="growing depends on memory"):
            TD3(VectorRewardWrapper(pendula(), Growing()), **SMALL)
    finally:
        Growing.markov = True


def test_an_absorbing_state_is_worth_its_own_reward_for_ever() -> None:
    """A learned reward of 1 everywhere: with absorbing states dying costs nothing, without, all."""
    pytest.importorskip("mujoco")

    class Learned(One):
        def update(self) -> dict[str, float]:
            return {}

    values = {}
    for absorbing in (True, False):
        envs = gymnasium.make_vec("rewardzoo/InvertedPendulum-v0", num_envs=2)
        agent = TD3(
            VectorRewardWrapper(envs, Learned()), absorbing=absorbing, gamma=0.5, tau=0.1,
            critic_learning_rate=1e-2, **SMALL,
        ).learn(1_000)  # fmt: skip
        rows = agent.replay.transitions(torch.arange(len(agent.replay)))
        q = agent.network.critic(agent.network.see(rows.obs), rows.action).mean(0).detach()
        if absorbing:
            ended = (rows.next_obs[:, -1] == 1) & (rows.obs[:, -1] == 0)
            inside = rows.obs[:, -1] == 1
            assert int(inside.sum()) == int(ended.sum()) > 5
            assert float(q[inside].mean()) == pytest.approx(2.0, abs=0.1)
            action, _ = agent.predict(np.zeros(4, np.float32), deterministic=True)
            assert action.shape == (1,)
        else:
            ended = rows.terminated
        values[absorbing] = float(q[ended].mean())
    assert values[True] == pytest.approx(2.0, abs=0.15)
    assert values[False] < 1.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
def test_resuming_continues_exactly(kind: type[Any], mode: str, tmp_path: Path) -> None:
    options = {**SMALL, "n_step": 3, "clip_observations": 5.0, "anneal_lr": False}
    make = lambda: pendula(autoreset_mode=mode, max_episode_steps=9)  # noqa: E731
    whole = kind(make(), seed=3, **options).learn(160)
    part = kind(make(), seed=3, **options).learn(80)
    part.save(tmp_path / "agent.pt")
    resumed = kind.load(tmp_path / "agent.pt", env=make())
    resumed.learn(80, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps == 160
    for a, b in zip(whole.flats, resumed.flats, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.network.moments.mean, resumed.network.moments.mean)
    obs, _ = make().reset(seed=5)
    assert np.array_equal(whole.predict(obs, deterministic=True)[0],
                          resumed.predict(obs, deterministic=True)[0])  # fmt: skip


def test_resuming_on_a_simulator_continues_exactly(tmp_path: Path) -> None:
    """Worlds in the caller's process are saved with the agent, in the middle of an episode."""
    pytest.importorskip("mujoco")
    make = lambda: gymnasium.make_vec("rewardzoo/Hopper-v0", num_envs=2)  # noqa: E731
    whole = TD3(make(), **SMALL).learn(96)
    part = TD3(make(), **SMALL).learn(48)
    part.save(tmp_path / "agent.pt")
    resumed = TD3.load(tmp_path / "agent.pt", env=make()).learn(48, reset_num_timesteps=False)
    for a, b in zip(whole.flats, resumed.flats, strict=True):
        assert torch.equal(a, b)


def test_update_frequencies() -> None:
    """As many gradient steps as asked for, the actor's among them delayed; impossible ones raise."""
    agent = TD3(pendula(), updates_per_step=0.5, **SMALL)
    assert agent.turns == 2 and agent.delay == 2
    before = agent.flats[0].clone()
    agent.learn(32)
    assert torch.equal(before, agent.flats[0])  # not yet: learning_starts
    agent.learn(8, reset_num_timesteps=False)
    state = agent.optimizer.state[agent.flats[0]]["step"]
    assert int(state) == 2 and int(agent.critic_optimizer.state[agent.flats[1]]["step"]) == 4
    with pytest.raises(ValueError, match="updates_per_step=0.3.*multiple of 2"):
        TD3(pendula(), updates_per_step=0.3, **SMALL)
    with pytest.raises(ValueError, match="observation_space=Discrete"):
        TD3("rewardzoo/GridWorld-v0", **SMALL)
    with pytest.raises(ValueError, match="action_space=Discrete"):
        SAC("rewardzoo/CartPole-v0", **SMALL)
    with pytest.raises(ValueError, match="loss='l1': expected one of"):
        TD3(pendula(), loss="l1", **SMALL)


@pytest.mark.parametrize("kind", KINDS)
def test_an_iteration_runs_on_the_meta_device(kind: type[Any]) -> None:
    """Reading a value, or adding a tensor of another device, raises there."""
    agent = kind(pendula(device="meta"), n_step=3, clip_observations=5.0, **SMALL)
    agent.collect()
    agent.update(*agent.batches())


@pytest.mark.parametrize("kind", KINDS)
def test_an_iteration_runs_on_fake_tensors_of_another_device(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors also catch matrix products and indexing across devices."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Fake tensors hold no numbers, and moving one needs the real device's driver: build the
    # network where it belongs.
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *args, **kwargs: module)
    with FakeTensorMode():
        envs = pendula(device="lazy:0")
        with torch.device("lazy:0"):
            agent = kind(envs, n_step=3, clip_observations=5.0, **SMALL)
        assert agent.flats[0].device.type == "lazy"
        agent.collect()
        agent.update(*agent.batches())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_update_equals_the_plain_one(kind: type[Any]) -> None:
    """Up to rounding (float32, 20 steps of Adam)."""
    options = {**SMALL, "n_step": 3, "layer_norm": True, "max_grad_norm": 1.0, "soft_min": 0.75}
    plain = kind(pendula(), **options).learn(64)
    compiled = kind(pendula(), compile=True, **options).learn(64)
    for a, b in zip(plain.flats, compiled.flats, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_pendulum_swings_up(kind: type[Any]) -> None:
    """Random play returns about -1,200; holding it up all but the beginning about -150."""
    options = {"learning_rate": 1e-3, "learning_starts": 500, "batch_size": 128}
    agent = kind(pendula(), actor_hidden=(64, 64), critic_hidden=(64, 64), **options).learn(12_000)
    scores = agent.evaluate(pendula(10), 20)
    assert float(scores["objective"].mean()) > -300
