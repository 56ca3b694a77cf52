"""Double deep Q-learning (van Hasselt, Guez, Silver 2016), on the device from rollout to update.

One iteration: ``collect`` plays ``num_steps`` steps of every environment, each action random with
probability epsilon and greedy otherwise, into the replay buffer; ``update`` takes
``num_updates`` gradient steps on uniformly drawn batches.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rewardzoo.random import Rng
from rewardzoo.registration import register_agent
from rewardzoo.transition import MASK_KEY, Obs

from .common import trees
from .common.agent import Agent, Env
from .common.collector import Collector, EpisodeSums, Rollout
from .common.counterfactual import Counterfactuals
from .common.encoders import encoder
from .common.hyperparameters import hyper
from .common.layers import ACTIVATIONS, MLP
from .common.replay_buffer import ReplayBuffer, Sample

_REPLAY_STREAM = 2  # environments draw from stream 0, actions from 1


@dataclass(frozen=True)
class DoubleDQNHyperparameters:
    """Settings for many short environments side by side."""

    num_steps: int = hyper(4, "steps of every environment between two updates", low=1)
    num_updates: int = hyper(4, "gradient steps of an update", low=1)
    batch_size: int = hyper(1024, "transitions of a gradient step", low=1)
    buffer_size: int = hyper(100_000, "transitions kept", low=1)
    learning_starts: int = hyper(4096, "environment steps before the first update", low=0)
    learning_rate: float = hyper(1e-3, "step size of Adam", low=0.0)
    anneal_lr: bool = hyper(False, "let the step size fall linearly to 0 over learn()")
    gamma: float = hyper(0.99, "discount", low=0.0, high=1.0)
    epsilon_start: float = hyper(1.0, "share of random actions at first", low=0.0, high=1.0)
    epsilon_end: float = hyper(0.05, "share of random actions at last", low=0.0, high=1.0)
    epsilon_steps: int = hyper(500_000, "environment steps over which it falls linearly", low=1)
    target: str = hyper(
        "polyak",
        "'polyak' (a slowly following copy), or 'shared' (the online network itself, a slip of the "
        "reference implementation of knee active sensing)",
    )
    tau: float = hyper(0.005, "how far the target follows at each gradient step", low=0.0, high=1.0)
    double: bool = hyper(True, "the online network chooses the action that the target values")
    counterfactual: bool = hyper(
        False,
        "store every step as it would have been in each state of the reward machine that pays it "
        "(CRM)",
    )
    loss: str = hyper("huber", "'huber' or 'mse'")
    max_grad_norm: float = hyper(10.0, "gradients are scaled down to this norm", low=0.0)
    hidden: tuple[int, ...] = hyper((64, 64), "widths of the hidden layers")
    activation: str = hyper("relu", f"one of {', '.join(ACTIVATIONS)}")

    def __post_init__(self) -> None:
        """Check what bounds alone cannot."""
        for name, allowed in {
            "activation": tuple(ACTIVATIONS),
            "target": ("polyak", "shared"),
            "loss": ("huber", "mse"),
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {allowed}")


class QNetwork(nn.Module):
    """Action values of an observation.

    Args:
        space: the observation space of one environment.
        num_actions: A.
        hidden: widths of the hidden layers.
        activation: a key of ``ACTIVATIONS``.
    """

    memory_size = 0

    def __init__(
        self, space: spaces.Space[Any], num_actions: int, hidden: tuple[int, ...], activation: str
    ) -> None:
        super().__init__()
        self.encoder = encoder(space, hidden[0] if hidden else 64, activation)
        width = int(self.encoder.num_features)  # type: ignore[arg-type]
        self.head = MLP([width, *hidden, num_actions], activation, 1.0)

    def forward(self, obs: Obs) -> Tensor:
        """(N, A); forbidden actions get the lowest finite value."""
        q = self.head(self.encoder(obs))
        if isinstance(obs, dict) and MASK_KEY in obs:
            q = torch.where(obs[MASK_KEY].to(torch.bool), q, torch.finfo(q.dtype).min)
        return q


class EpsilonGreedy:
    """Noise for epsilon-greedy actions: whether to explore, and one number an action."""

    def __init__(self, num_actions: int) -> None:
        self.num_actions = num_actions

    def noise(self, rng: Rng, steps: int) -> Tensor:
        """(steps, N, 1 + A) uniform numbers."""
        return rng.uniform(steps, 1 + self.num_actions).transpose(0, 1)

    def sample(self, q: Tensor, noise: Tensor, epsilon: Tensor | float) -> Tensor:
        """The greedy action, or with probability ``epsilon`` any allowed one, (N,) int64."""
        allowed = q > torch.finfo(q.dtype).min
        anything = torch.where(allowed, noise[:, 1:], -1.0).argmax(1)
        return torch.where(noise[:, 0] < epsilon, anything, q.argmax(1))


def q_target(batch: Sample, online: Tensor | None, target: Tensor, gamma: float) -> Tensor:
    """``r + gamma * Q_target(s', argmax_a Q_online(s', a))``, r where the episode terminated.

    Args:
        batch: B transitions.
        online: (B, A) values of the successors by the online network; None takes the target's own
            maximum (Mnih et al. 2015).
        target: (B, A) values of the successors by the target network.
        gamma: discount.

    Returns:
        (B,).

    Paper: van Hasselt, Guez, Silver (2016), "Deep reinforcement learning with double Q-learning",
    eq. 4.
    """
    best = (target if online is None else online).argmax(1, keepdim=True)
    future = torch.where(batch.terminated, 0.0, target.gather(1, best).squeeze(1))
    return batch.reward + gamma * future


@register_agent("double_dqn")
class DoubleDQN(Agent):
    """Double Q-learning with a replay buffer, for discrete actions.

    Takes Box, picture, Discrete and Dict observations; an entry ``action_mask`` of a Dict
    observation forbids actions. With ``counterfactual=True``, on environments that pay a
    ``RewardMachine`` and show its state (``VectorAppendRewardState``), it learns from every step in
    all of the machine's states (Toro Icarte et al. 2022).

    Args:
        env: a Gymnasium vector environment, a single one, or an id.
        seed: of parameters, actions and environments.
        device: where it computes; default: the environments' device.
        **hyperparameters: see ``DoubleDQNHyperparameters``.

    Raises:
        ValueError: for a bad hyperparameter, or a reward function with another discount.

    Example:
        >>> import gymnasium, rewardzoo
        >>> envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=8)
        >>> agent = DoubleDQN(envs, learning_starts=32, batch_size=16).learn(64)
        >>> agent.num_timesteps
        64
    """

    Hyperparameters = DoubleDQNHyperparameters
    parts = ("network", "target", "optimizer", "buffer")

    def __init__(
        self,
        env: Env,
        seed: int = 0,
        device: torch.device | str | None = None,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(env, seed, device, hyperparameters)
        hp: DoubleDQNHyperparameters = self.hp
        space = self.envs.single_action_space
        if not isinstance(space, spaces.Discrete) or int(space.start) != 0:
            raise ValueError(f"action_space={space}: expected Discrete(n); PPO takes others")
        self.counterfactuals = Counterfactuals(self.envs) if hp.counterfactual else None
        rows = hp.num_steps * self.envs.num_envs
        if self.counterfactuals is not None:
            rows *= self.counterfactuals.count
        if rows > hp.buffer_size:
            raise ValueError(
                f"buffer_size={hp.buffer_size}: expected at least {rows}, the rows of one iteration"
            )
        self.distribution = EpsilonGreedy(int(space.n))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = QNetwork(
                self.envs.single_observation_space, int(space.n), hp.hidden, hp.activation
            )
        self.network.to(self.device)
        shared = hp.target == "shared"
        self.target = self.network if shared else copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=hp.learning_rate)
        self.buffer = ReplayBuffer(hp.buffer_size, self.device)
        self.collector = Collector(self.envs, self.device)

    @property
    def epsilon(self) -> float:
        """The share of random actions now."""
        hp = self.hp
        done = min(1.0, self.num_timesteps / hp.epsilon_steps)
        return hp.epsilon_start + done * (hp.epsilon_end - hp.epsilon_start)

    # ---- one iteration -----------------------------------------------------------------------

    def iterate(self) -> dict[str, float]:
        """Collect into the buffer, update."""
        epsilon = self.epsilon
        sums = self.collect()
        played = self.num_timesteps + self.num_steps * self.envs.num_envs
        parts = torch.full((2,), torch.nan, device=self.device)
        if played >= self.hp.learning_starts:
            parts = self.update()
        learned = dict(zip(("q_loss", "batch_reward"), parts, strict=True))
        return {**self.read(learned, sums), "train/epsilon": epsilon}

    def collect(self) -> EpisodeSums:
        """Play ``num_steps`` steps in every environment, into the buffer."""
        epsilon = self.epsilon
        imagined = self.counterfactuals
        before: list[Any] = []  # of each step, the one before it

        def act(
            obs: Obs, memory: Tensor, began: Tensor, noise: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            if imagined is not None:
                before.append(imagined.last_step)
            action = self.distribution.sample(self.network(obs), noise, epsilon)
            return action, action, memory

        rollout, sums = self.play(act)
        if imagined is None:
            self.buffer.add(_rows(rollout))
        else:
            self.buffer.add(imagined.rows([*before[1:], imagined.last_step]))
        return sums

    def loss(self, batch: Sample) -> Tensor:
        """The mean loss of the temporal-difference errors of a batch."""
        hp = self.hp
        with torch.no_grad():
            target = self.target(batch.next_obs)
            online = self.network(batch.next_obs) if hp.double else None
            y = q_target(batch, online, target, hp.gamma)
        q = self.network(batch.obs).gather(1, batch.action.unsqueeze(1)).squeeze(1)
        fn = nn.functional.smooth_l1_loss if hp.loss == "huber" else nn.functional.mse_loss
        return fn(q, y)

    def update(self) -> Tensor:
        """``num_updates`` gradient steps; returns (2,) mean loss and mean value."""
        hp = self.hp
        one = self._seeds[:1]
        rng = Rng(one, torch.full_like(one, self.iteration), 0, _REPLAY_STREAM)
        stats = []
        for _ in range(hp.num_updates):
            batch = self.buffer.sample(hp.batch_size, rng)
            loss = self.loss(batch)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), hp.max_grad_norm)
            self.optimizer.step()
            with torch.no_grad():
                if self.target is not self.network:
                    for slow, fast in zip(
                        self.target.parameters(), self.network.parameters(), strict=True
                    ):
                        slow.lerp_(fast, hp.tau)
                stats.append(torch.stack([loss.detach(), batch.reward.mean()]))
        return torch.stack(stats).mean(0)

    @torch.no_grad()
    def outputs(self, obs: Obs) -> Tensor:
        """Action values, (N, A)."""
        return self.network(obs)

    @torch.no_grad()
    def act(
        self, obs: Obs, memory: Tensor, began: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Actions and the (empty) memory; with noise, epsilon-greedy at the final epsilon."""
        q = self.network(obs)
        if noise is None:
            return q.argmax(1), memory
        return self.distribution.sample(q, noise, self.hp.epsilon_end), memory


def _rows(rollout: Rollout) -> Sample:
    """The transitions of a rollout; dead steps are left out."""
    rows = Sample(
        trees.flat(rollout.obs),
        trees.flat(rollout.action),
        trees.flat(rollout.reward),
        trees.flat(rollout.next_obs),
        trees.flat(rollout.terminated),
    )
    if rollout.valid is None:
        return rows
    alive = trees.flat(rollout.valid).nonzero().squeeze(1)
    return Sample(*(trees.rows(x, alive) for x in rows))
