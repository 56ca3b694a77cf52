"""Offline dueling double DQN with prioritised replay, from logged episodes.

Wang et al. (2016), "Dueling network architectures for deep reinforcement learning"; van Hasselt et
al. (2016); Schaul et al. (2016); for sepsis Raghu et al. (2017) and Sukovic, Radanovic (2024).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rewardzoo.checkpoint import load_checkpoint, save_checkpoint

from .common.hyperparameters import build, hyper
from .common.logged import LoggedEpisodes

Callback = Callable[["DuelingDQN", dict[str, float]], bool | None]


@dataclass(frozen=True)
class DuelingDQNHyperparameters:
    """The settings of Sukovic and Radanovic (2024)."""

    learning_rate: float = hyper(1e-4, "step size of Adam", low=0.0)
    adam_eps: float = hyper(1.5e-4, "Adam's epsilon", low=0.0)
    batch_size: int = hyper(256, "transitions a gradient step", low=2)
    gamma: float = hyper(0.99, "discount", low=0.0, high=1.0)
    n_step: int = hyper(6, "rewards summed before the bootstrap, as they were logged", low=1)
    tau: float = hyper(1e-3, "share of the online network in the target a step", 0.0, 1.0)
    alpha: float = hyper(0.6, "how strongly priorities count", low=0.0, high=1.0)
    beta: float = hyper(0.9, "how far importance weights undo the priorities", low=0.0, high=1.0)
    q_limit: float = hyper(20.0, "targets are clipped to +- this", low=0.0)
    q_penalty: float = hyper(5.0, "what a value beyond the limit costs", low=0.0)
    hidden: tuple[int, ...] = hyper((128, 128), "widths of the hidden layers")
    stream: int = hyper(64, "width of the value's and the advantages' own layer", low=1)


class DuelingNetwork(nn.Module):
    """``Q = V + A - mean(A)`` over shared layers with batch normalisation.

    Args:
        num_features: F.
        num_actions: A.
        hidden: widths of the shared layers.
        stream: width of each stream's own layer.
    """

    def __init__(
        self, num_features: int, num_actions: int, hidden: tuple[int, ...], stream: int
    ) -> None:
        super().__init__()
        sizes = (num_features, *hidden)
        layers: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(a, b), nn.LeakyReLU(0.01), nn.BatchNorm1d(b)]
        self.shared = nn.Sequential(*layers)
        self.value, self.advantage = (
            nn.Sequential(nn.Linear(sizes[-1], stream), nn.LeakyReLU(0.01), nn.Linear(stream, n))
            for n in (1, num_actions)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) to (B, A)."""
        x = self.shared(x)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(1, keepdim=True)


class Steps(NamedTuple):
    """M logged steps, prepared for n-step targets."""

    states: Tensor  # (K, ...), every observation, successors included
    now: Tensor  # (M,) int64, the row of ``states`` acted on
    action: Tensor  # (M,) int64
    reward: Tensor  # (M,) float32, discounted sum of the next n rewards
    then: Tensor  # (M,) int64, the row of ``states`` to bootstrap from
    discount: Tensor  # (M,) float32, of the bootstrap; 0 where the episode has terminated


def n_step(episodes: LoggedEpisodes, n: int, gamma: float) -> Steps:
    """The n-step transitions of logged episodes; no sum runs beyond its episode."""
    count, longest = episodes.action.shape
    width = longest + 1
    length = episodes.length.unsqueeze(1)
    time = torch.arange(longest).expand(count, -1)
    reward = torch.where(episodes.valid, episodes.reward, 0.0)
    padded = functional.pad(reward, (0, n))
    total = sum(gamma**k * padded[:, k : k + longest] for k in range(n))
    end = torch.minimum(time + n, length)
    over = (end == length) & episodes.terminated.unsqueeze(1)
    discount = torch.where(over, 0.0, gamma ** (end - time).to(torch.float32))
    start = (torch.arange(count) * width).unsqueeze(1)
    keep = episodes.valid
    return Steps(
        episodes.obs.reshape(count * width, *episodes.obs.shape[2:]),
        (start + time)[keep],
        episodes.action[keep],
        total[keep],
        (start + end)[keep],
        discount[keep],
    )


def double_target(
    reward: Tensor, discount: Tensor, online: Tensor, target: Tensor, limit: float
) -> Tensor:
    """``reward + discount * target[argmax online]``, clipped to ``+- limit``, (B,).

    Args:
        reward: (B,).
        discount: (B,), 0 where the task is over.
        online: (B, A), the online network at the successor: it chooses.
        target: (B, A), the target network there: it values.
        limit: of the result.
    """
    best = online.argmax(1, keepdim=True)
    return (reward + discount * target.gather(1, best).squeeze(1)).clamp(-limit, limit)


def td_loss(q: Tensor, target: Tensor, weight: Tensor, limit: float, penalty: float) -> Tensor:
    """``mean(weight * (target - q)^2) + penalty * sum(max(|q| - limit, 0))`` of (B,) values."""
    error = target - q
    return (weight * error * error).mean() + penalty * (q.abs() - limit).clamp(min=0.0).sum()


class DuelingDQN:
    """Learns values from logged episodes alone; never acts while it learns.

    Args:
        episodes: what was logged; observations (N, T + 1, F), or (N, T + 1) numbers of states with
            ``table``.
        num_actions: A.
        table: (S, F), the features of each state, where states are numbered.
        seed: of parameters and batches.
        **hyperparameters: see ``DuelingDQNHyperparameters``.

    Example:
        >>> import torch
        >>> T = torch.tensor
        >>> episodes = LoggedEpisodes(
        ...     T([[0, 1]]), T([[1]]), T([[1.0]]), T([[True]]), T([True]))
        >>> agent = DuelingDQN(episodes, num_actions=2, table=torch.eye(2), batch_size=4)
        >>> agent.learn(3).num_updates
        3
    """

    Hyperparameters = DuelingDQNHyperparameters

    def __init__(
        self,
        episodes: LoggedEpisodes,
        num_actions: int,
        table: Tensor | None = None,
        seed: int = 0,
        **hyperparameters: Any,
    ) -> None:
        self.hp: DuelingDQNHyperparameters = build(DuelingDQNHyperparameters, hyperparameters)
        self.steps = n_step(episodes, self.hp.n_step, self.hp.gamma)
        if not len(self.steps.now):
            raise ValueError("episodes: no valid step to learn from")
        self.table = table
        self.num_actions, self.seed = num_actions, seed
        size = (self.steps.states if table is None else table).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.online = DuelingNetwork(size, num_actions, self.hp.hidden, self.hp.stream)
        # A copy: were it the same object, the bootstrap would chase its own tail.
        self.target = copy.deepcopy(self.online).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(
            self.online.parameters(), lr=self.hp.learning_rate, eps=self.hp.adam_eps
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.priority = torch.ones(len(self.steps.now), dtype=torch.float64)  # already ** alpha
        self.num_updates = 0

    def learn(self, num_updates: int, callback: Callback | None = None) -> DuelingDQN:
        """Make gradient steps.

        Args:
            num_updates: how many.
            callback: called a hundred times with the agent and its metrics; False stops.

        Returns:
            The agent itself.
        """
        every = max(1, num_updates // 100)
        for step in range(1, num_updates + 1):
            loss, mean = self._update()
            if callback is not None and step % every == 0:
                metrics = {"train/loss": float(loss), "train/mean_q": float(mean)}
                if callback(self, metrics) is False:
                    break
        return self

    def _update(self) -> tuple[Tensor, Tensor]:
        hp, steps = self.hp, self.steps
        rows, weight = self._sample()
        now = self._features(steps.states[steps.now[rows]])
        with torch.no_grad():
            then = self._features(steps.states[steps.then[rows]])
            self.online.eval()
            chosen = self.online(then)
            target = double_target(
                steps.reward[rows], steps.discount[rows], chosen, self.target(then), hp.q_limit
            )
        self.online.train()
        q = self.online(now).gather(1, steps.action[rows].unsqueeze(1)).squeeze(1)
        loss = td_loss(q, target, weight, hp.q_limit, hp.q_penalty)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._prioritise(rows, (target - q.detach()).abs())
        self._follow()
        self.num_updates += 1
        return loss.detach(), q.detach().mean()

    def _sample(self) -> tuple[Tensor, Tensor]:
        """Rows by priority, one from each of B equal strata, and their importance weights."""
        size = self.hp.batch_size
        cdf = self.priority.cumsum(0)
        u = (torch.arange(size) + torch.rand(size, generator=self.generator)) / size
        rows = torch.searchsorted(cdf, u.to(torch.float64) * cdf[-1]).clamp_(max=len(cdf) - 1)
        chance = self.priority[rows] / cdf[-1]
        weight = (chance * len(cdf)) ** -self.hp.beta
        return rows, (weight / weight.max()).to(torch.float32)

    def _prioritise(self, rows: Tensor, error: Tensor) -> None:
        self.priority[rows] = (error.to(torch.float64) + 1e-6) ** self.hp.alpha

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the target a little towards the online network, running statistics included."""
        pairs = zip(
            self.target.state_dict().values(), self.online.state_dict().values(), strict=True
        )
        for own, new in pairs:
            if own.is_floating_point():
                own.lerp_(new, self.hp.tau)
            else:
                own.copy_(new)

    def _features(self, states: Tensor) -> Tensor:
        return states if self.table is None else self.table[states]

    @torch.no_grad()
    def q_values(self, obs: Tensor) -> Tensor:
        """Values (N, A) of observations: features, or numbers of states."""
        return self.online.eval()(self._features(obs))

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """The greedy actions for one observation or a batch of them, as NumPy arrays."""
        obs = torch.as_tensor(np.asarray(observation))
        single = obs.ndim == (1 if self.table is None else 0)
        action = self.q_values(obs.unsqueeze(0) if single else obs).argmax(1).numpy()
        return (action[0] if single else action), state

    def save(self, path: str | Path) -> None:
        """Write everything that learning depends on, except the logged episodes."""
        save_checkpoint(
            path,
            "dueling_dqn",
            {
                "hyperparameters": asdict(self.hp),
                "num_actions": self.num_actions,
                "seed": self.seed,
                "num_updates": self.num_updates,
                "online": self.online.state_dict(),
                "target": self.target.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "priority": self.priority,
                "generator": self.generator.get_state(),
            },
        )

    @classmethod
    def load(
        cls, path: str | Path, episodes: LoggedEpisodes, table: Tensor | None = None
    ) -> DuelingDQN:
        """Continue exactly where ``save`` was called, on the same episodes.

        Raises:
            ValueError: if there are more or fewer steps than there were.
        """
        content = load_checkpoint(path, "dueling_dqn")
        agent = cls(
            episodes, content["num_actions"], table, content["seed"], **content["hyperparameters"]
        )
        if len(agent.priority) != len(content["priority"]):
            raise ValueError(
                f"episodes: {len(agent.priority)} steps, the checkpoint {str(path)!r} was made "
                f"with {len(content['priority'])}"
            )
        agent.online.load_state_dict(content["online"])
        agent.target.load_state_dict(content["target"])
        agent.optimizer.load_state_dict(content["optimizer"])
        agent.priority = content["priority"]
        agent.generator.set_state(content["generator"])
        agent.num_updates = content["num_updates"]
        return agent
