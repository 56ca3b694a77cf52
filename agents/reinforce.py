"""REINFORCE over whole episodes, on-policy or from old ones, many runs at once (Williams 1992).

The update direction is, with ``w_t = 1`` (no ``gamma^t``) and without importance weights,

    Delta = E[ sum_t (grad log pi(A_t | S_t)) (G_t - b) ] + ent_coef * grad (mean entropy),

the first part averaged over the padded horizon, the entropy over the steps that were played: it
keeps a policy random that ends its episodes at once. b is a running mean of returns, or 0. From old
episodes the direction is biased: BARFI's learned reward corrects that bias too (``barfi.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rewardzoo.random import Rng
from rewardzoo.registration import register_agent
from rewardzoo.rewards.features import Head, features
from rewardzoo.transition import Obs

from .common.agent import AGENT_STREAM, Agent, Env
from .common.collector import Collector, EpisodeSums, Rollout
from .common.distributions import distribution
from .common.episodes import EpisodeBuffer, Episodes, discounted_returns
from .common.hyperparameters import hyper

_BATCH_STREAM = 11
_SEEDS = 1 << 12  # of environments to a run and round


@dataclass(frozen=True)
class ReinforceHyperparameters:
    """Defaults: those of Gupta et al. (2023) for their maze."""

    num_steps: int = hyper(50, "steps between looks whether all episodes have ended", 1)
    gamma: float = hyper(0.99, "discount", 0.0, 1.0)
    learning_rate: float = hyper(5e-3, "of RMSprop", 0.0)
    anneal_lr: bool = hyper(False, "let it fall to 0")
    ent_coef: float = hyper(0.25, "of the mean entropy", 0.0)
    baseline: float = hyper(0.0, "what a mean of returns keeps an update; 0: none", 0.0, 1.0)
    features: str = hyper("fourier", "of observations: fourier, tiles or plain")
    order: int = hyper(3, "of Fourier features", 1)
    tilings: int = hyper(5, "of features by tiles", 1)
    tiles: int = hyper(4, "to an axis of a tiling", 1)
    hidden: int = hyper(0, "tanh units over the features; 0 for a linear policy", 0)
    std: float = hyper(0.1, "of continuous actions, as a share of half their range", 1e-6)
    off_policy: bool = hyper(False, "learn from old episodes, without correcting for their age")
    first: int = hyper(150, "episodes of a run before it learns from old ones", 0)
    buffer: int = hyper(1000, "episodes of a run that are kept", 1)
    batch: int = hyper(1, "old episodes to an update", 1)
    updates: int = hyper(15, "from old episodes after each round", 1)


class Policies(nn.Module):
    """The policies of R runs: one head each over shared features.

    Attributes:
        theta: (R, P) parameters.
        baseline: (R,) running mean of returns; NaN before the first.
    """

    memory_size = 0

    def __init__(self, agent: Reinforce, outputs: int, log_std: Tensor | None) -> None:
        super().__init__()
        hp = agent.hp
        space = agent.envs.single_observation_space
        self.features = features(space, hp.features, hp.order, hp.tilings, hp.tiles)
        self.head = Head(self.features.size, outputs, hp.hidden)
        start = torch.stack(
            [
                self.head.initial(torch.zeros(outputs), torch.Generator().manual_seed(seed))
                for seed in agent.seeds
            ]
        )
        self.theta = nn.Parameter(start)
        self.register_buffer("baseline", torch.full((len(start),), torch.nan))
        self.register_buffer("log_std", log_std, persistent=False)


@register_agent("reinforce")
class Reinforce(Agent):
    """REINFORCE on whole episodes, one update after each round of them.

    A round is one episode in every environment. Runs (seeds, arms) that share the agent's
    hyperparameters are learned as one batched program: the environments' rows are divided among
    them, in order, and nothing else is shared.

    Args:
        env: as for ``Agent``; its number of environments is that of runs times that of episodes to
            a round.
        seed: of a single run.
        device: as for ``Agent``.
        seeds: one a run; equal ones see equal random numbers. Default: one run, of ``seed``.
        **hyperparameters: by name.

    Example:
        >>> agent = Reinforce("rewardzoo/AlignmentMaze-v0", features="fourier", order=2)
        >>> _ = agent.learn(total_timesteps=300)
        >>> agent.predict([[0.1, 0.1]])[0].shape
        (1,)

    Paper: Williams (1992), "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning".
    """

    Hyperparameters: type[Any] = ReinforceHyperparameters
    default_num_envs = 3
    parts = ("network", "optimizer", "buffer")
    network: Policies

    def __init__(
        self,
        env: Env,
        seed: int = 0,
        device: torch.device | str | None = None,
        seeds: Sequence[int] | None = None,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(env, seed, device, hyperparameters)
        self.seeds = [seed] if seeds is None else [int(s) for s in seeds]
        self.episodes, rest = divmod(self.envs.num_envs, len(self.seeds))
        if rest or not 0 < self.episodes < _SEEDS:
            raise ValueError(
                f"seeds: {len(self.seeds)} runs cannot share {self.envs.num_envs} environments "
                "equally"
            )
        self.horizon = _horizon(self.envs)
        self.distribution: Any = distribution(self.envs.single_action_space, self.device)
        log_std = None
        if self.distribution.learned_std:  # here it is fixed
            half = (self.distribution.high - self.distribution.low).flatten() / 2
            log_std = (self.hp.std * half).log()
        self.network = Policies(self, self.distribution.num_outputs, log_std).to(self.device)
        self.optimizer = torch.optim.RMSprop(
            [self.network.theta], lr=self.hp.learning_rate, alpha=0.99, maximize=True
        )
        self.collector = Collector(self.envs, self.device)
        self.buffer = EpisodeBuffer(max(self.hp.buffer, self.episodes))
        self._runs = torch.tensor(self.seeds, device=self.device)
        row = torch.arange(self.episodes, device=self.device)
        self._seeds = (self._runs.unsqueeze(1) * _SEEDS + row).flatten()
        self.played: dict[str, Tensor] = {}
        """Of the last round: return, objective and length, (R, E) each."""

    # ---- playing -----------------------------------------------------------------------------

    def act(
        self, obs: Obs, memory: Tensor, began: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Actions for the environment; rows are divided among the runs."""
        return self._act(obs, memory, began, noise)[1:]

    @torch.no_grad()
    def _act(
        self, obs: Obs, memory: Tensor, began: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        net = self.network
        x = net.features(obs)
        out = net.head(net.theta, x.reshape(len(self.seeds), -1, x.shape[-1]))
        out = out.reshape(-1, out.shape[-1])
        if noise is None:
            action = self.distribution.mode(out, net.log_std)
        else:
            action = self.distribution.sample(out, net.log_std, noise)
        return action, self.distribution.to_env(action), memory

    def play_round(self) -> tuple[Episodes, int]:
        """One episode in every environment, and the length of the longest.

        Every round starts from seeds of its own, so that what a run sees does not depend on how
        long the episodes of others were.
        """
        seeds = (self._seeds + self.iteration * (_SEEDS << 20)).tolist()
        self.collector.reset(seeds)
        live = torch.ones(len(seeds), device=self.device)
        rollouts, lives, zero = [], [], torch.zeros_like(self._seeds)
        for chunk in range(-(-self.horizon // self.hp.num_steps)):
            rng = Rng(self._seeds, zero + self.iteration, chunk + 1, AGENT_STREAM)
            noise = self.distribution.noise(rng, self.hp.num_steps)
            rollout, _ = self.collector.collect(self.hp.num_steps, self._act, noise)
            going = torch.cat([live.unsqueeze(0), live * (~rollout.done[:-1]).cumprod(0)])
            rollouts.append(rollout)
            lives.append(going)
            live = going[-1] * ~rollout.done[-1]
            if not bool(live.any()):  # the one look at the device between chunks
                break
        self.num_steps = self.hp.num_steps * len(rollouts)
        live = torch.cat(lives)[: self.horizon]
        episodes = self._episodes(rollouts, live)
        lengths = live.sum(0)
        for name in ("reward", "objective"):
            total = torch.cat([getattr(r, name) for r in rollouts])[: self.horizon] * live
            key = "return" if name == "reward" else name
            self.played[key] = total.sum(0).reshape(len(self.seeds), -1)
        self.played["length"] = lengths.reshape(len(self.seeds), -1)
        return episodes, int(lengths.max())

    def rewards(self, rollouts: list[Rollout]) -> Tensor:
        """The kinds of reward to be kept, (T, N, K)."""
        return torch.cat([r.reward for r in rollouts]).unsqueeze(-1)

    def _episodes(self, rollouts: list[Rollout], live: Tensor) -> Episodes:
        """From (T, N, ...) to (R, E, horizon, ...)."""
        rewards = self.rewards(rollouts)[: self.horizon]
        fields = (
            torch.cat([r.obs for r in rollouts])[: self.horizon],
            torch.cat([r.action for r in rollouts])[: self.horizon],
            torch.where(live.unsqueeze(-1) > 0, rewards, 0.0),
            live,
        )
        missing = self.horizon - len(live)
        shaped = []
        for x in fields:
            x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])]).transpose(0, 1)
            shaped.append(x.reshape(len(self.seeds), -1, *x.shape[1:]))
        return Episodes(*shaped)

    # ---- learning ----------------------------------------------------------------------------

    def iterate(self) -> dict[str, float]:
        """Play a round, learn from it or from old episodes."""
        episodes, longest = self.play_round()
        self.remember(episodes, longest)
        learned = self.learn_from(episodes.first(longest))
        return self._metrics(learned)

    def remember(self, episodes: Episodes, longest: int) -> None:
        """Keep the round, where old episodes are learned from."""
        if self.hp.off_policy:
            self.buffer.add(episodes, longest)

    def learn_from(self, newest: Episodes) -> dict[str, Tensor]:
        """The updates after a round; returns metrics."""
        hp = self.hp
        if not hp.off_policy or self.rounds_of_old < 0:
            return {"direction": self.ascend(newest, self.returns(newest))}
        # At first also what the rounds before did not do.
        updates = hp.updates + (hp.first if self.rounds_of_old == 0 else 0)
        # Drawn and weighed at once: what is paid does not change between updates.
        old = self.buffer.draw(self._batch_rng(0), updates * hp.batch)
        weights = self.returns(old).split(hp.batch, 1)
        batches = zip(*(x.split(hp.batch, 1) for x in old), strict=True)
        for batch, weight in zip(batches, weights, strict=True):
            size = self.ascend(Episodes(*batch), weight)
        return {"direction": size}

    @property
    def rounds_of_old(self) -> int:
        """Rounds since old episodes are learned from; negative before the first."""
        return self.iteration - self.hp.first // self.episodes

    def _batch_rng(self, draw: int) -> Rng:
        return Rng(self._runs, torch.full_like(self._runs, self.iteration), draw, _BATCH_STREAM)

    def ascend(self, episodes: Episodes, weight: Tensor) -> Tensor:
        """One update, by actions' weights; returns the mean size of its direction."""
        theta = self.network.theta
        if keep := self.hp.baseline:
            self.network.baseline = followed(self.network.baseline, weight, episodes.live, keep)
            weight = weight - self.network.baseline[:, None, None]
        (direction,) = torch.autograd.grad(
            self.surrogate(theta, episodes, weight, self.hp.ent_coef).sum(), theta
        )
        theta.grad = direction
        self.optimizer.step()
        return direction.norm(dim=-1).mean()

    def returns(self, episodes: Episodes) -> Tensor:
        """What the log-probability of each action is weighted by, (R, E, T)."""
        return discounted_returns(episodes.rewards[..., 0], self.hp.gamma)

    def surrogate(
        self, theta: Tensor, episodes: Episodes, weight: Tensor, ent_coef: float
    ) -> Tensor:
        """(R,): its gradient in theta is the update direction; see the module for its averages."""
        net = self.network
        runs, count, steps = episodes.live.shape
        x = net.features(episodes.obs.reshape(runs, count * steps, *episodes.obs.shape[3:]))
        out = net.head(theta, x)
        action = episodes.action.reshape(runs, count * steps, *episodes.action.shape[3:])
        logp, entropy = self.distribution.logp_entropy(out, net.log_std, action)
        live = episodes.live.reshape(runs, -1)
        actions = (logp * weight.reshape(runs, -1) * live).sum(-1) / (count * self.horizon)
        return actions + ent_coef * (entropy * live).sum(-1) / live.sum(-1).clamp(min=1.0)

    def _metrics(self, learned: dict[str, Tensor]) -> dict[str, float]:
        played = self.played
        count = torch.tensor(float(self.envs.num_envs), device=self.device)
        names = ("return", "objective", "length")
        sums = EpisodeSums(count, *(played[name].sum() for name in names))
        return self.read(learned, sums)


def followed(mean: Tensor, values: Tensor, live: Tensor, keep: float) -> Tensor:
    """A running mean (R,), NaN at first, moved towards that of ``values`` (R, E, T) where live."""
    newest = (values * live).sum((1, 2)) / live.sum((1, 2)).clamp(min=1.0)
    return torch.where(mean.isnan(), newest, keep * mean + (1.0 - keep) * newest)


def _horizon(envs: Any) -> int:
    """The greatest length of an episode."""
    limit = getattr(envs.unwrapped, "max_episode_steps", None)
    spec = getattr(envs.unwrapped, "spec", None) or getattr(envs, "spec", None)
    limit = limit or getattr(spec, "max_episode_steps", None)
    if limit is None and hasattr(envs.unwrapped, "envs"):
        limit = getattr(envs.unwrapped.envs[0].spec, "max_episode_steps", None)
    if limit is None:
        raise ValueError(
            "env: its episodes have no greatest length, and whole episodes are learned from; "
            "give max_episode_steps"
        )
    return int(limit)
