"""Submodular policy optimisation (Prajapat, Mutný, Zeilinger, Krause 2024).

Policy gradient for returns that are set functions of what was visited. One iteration: ``collect``
plays whole episodes; ``credits`` gives every action the gains that came after it (those before
are functions of the past: they add noise and nothing else); ``update`` takes one gradient step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.functional import check_device
from rewardzoo.random import Rng
from rewardzoo.registration import register_agent
from rewardzoo.transition import Obs, to_numpy, to_torch

from .common import trees
from .common.advantages import gae
from .common.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .common.collector import Collector, EpisodeSums, Rollout
from .common.distributions import distribution
from .common.evaluation import evaluate
from .common.hyperparameters import build, hyper
from .common.logger import Logger
from .common.networks import ACTIVATIONS, ActorCritic
from .ppo import _reward_functions, _reward_wrappers, _space_ndim, _vector

Callback = Callable[["SubPO", dict[str, float]], bool | None]
_AGENT_STREAM = 1  # environments draw from stream 0
CREDITS = ("togo", "prefix")
BASELINES = ("batch", "critic", "none")


@dataclass(frozen=True)
class SubPOHyperparameters:
    """The paper's settings for grids, but for the credit, which is the theorem's."""

    num_steps: int | None = hyper(
        None, "steps between two updates: whole episodes; None asks the environment for one's", 1
    )
    credit: str = hyper(
        "togo",
        "what an action is credited with: 'togo', the gains from it on (the policy gradient), or "
        "'prefix', those up to it (the reference implementation: a myopic gradient, and noisier)",
    )
    baseline: str = hyper(
        "batch",
        "what is taken off: 'batch', the mean of the other rows at the same step; 'critic', a "
        "learned value, with generalised advantages; 'none'",
    )
    learning_rate: float = hyper(1e-2, "step size of Adam", low=0.0)
    anneal_lr: bool = hyper(False, "let the step size fall linearly to 0 over learn()")
    gamma: float = hyper(1.0, "discount; below 1 the return is no set function", 0.0, 1.0)
    gae_lambda: float = hyper(0.95, "bias against variance of a critic's advantages", 0.0, 1.0)
    normalize_advantage: bool = hyper(True, "divide advantages by their standard deviation")
    ent_coef: float = hyper(0.0, "weight of the entropy bonus at first", low=0.0)
    ent_decay: bool = hyper(True, "divide that weight by the number of updates")
    vf_coef: float = hyper(0.5, "weight of the critic's loss", low=0.0)
    max_grad_norm: float | None = hyper(None, "gradients are scaled down to this norm; None: never")
    hidden: tuple[int, ...] = hyper((64, 32), "widths of the hidden layers")
    activation: str = hyper("tanh", f"one of {', '.join(ACTIVATIONS)}")
    recurrent: str | None = hyper(None, "None, 'gru' or 'lstm': a policy with memory")
    recurrent_size: int = hyper(128, "width of the recurrent core", low=1)
    normalize_observations: bool = hyper(False, "standardise Box observations")

    def __post_init__(self) -> None:
        """Check what bounds alone cannot."""
        for name, known in (
            ("credit", CREDITS),
            ("baseline", BASELINES),
            ("activation", ACTIVATIONS),
            ("recurrent", (None, "gru", "lstm")),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(str, known))}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm={self.max_grad_norm}: expected None or a number > 0")


def credits(reward: Tensor, done: Tensor, gamma: float, credit: str) -> Tensor:
    """What each action is credited with, (T, N), before a baseline.

    ``togo``: ``sum_{j >= h} gamma^(j - h) gain_j``, up to the end of the episode. ``prefix``:
    ``sum_{j <= h} gain_j`` from its beginning. The sums before ``h`` depend on the past alone, so
    their product with the score has mean 0: ``prefix`` has the mean of ``gain_h`` alone, the
    gradient at ``gamma=0``.

    Args:
        reward: (T, N) gains.
        done: (T, N) bool, the episode ended with the step.
        gamma: discount, of ``togo``.
        credit: "togo" or "prefix".

    Paper: Prajapat et al. (2024), theorem 2 (``togo``).
    """
    if credit == "togo":
        zero = torch.zeros_like(reward)
        return gae(reward, zero, zero, done, done, gamma, 1.0)
    total, out = torch.zeros_like(reward[0]), []
    for t in range(reward.shape[0]):
        total = total + reward[t]
        out.append(total)
        total = torch.where(done[t], 0.0, total)
    return torch.stack(out)


def leave_one_out(credit: Tensor) -> Tensor:
    """``credit`` (T, N) less the mean of the other rows at the same step: a baseline without bias.

    With one row there is no other, and nothing is taken off.
    """
    rows = credit.shape[1]
    if rows == 1:
        return credit
    return (credit - credit.mean(1, keepdim=True)) * (rows / (rows - 1))


def policy_gradient_loss(
    logp: Tensor, entropy: Tensor, advantage: Tensor, weight: Tensor | None, ent_coef: float
) -> tuple[Tensor, Tensor]:
    """``-mean(logp * advantage) - ent_coef * mean(entropy)``, and the mean entropy.

    Args:
        logp: (B,) of the actions taken.
        entropy: (B,) of the policy.
        advantage: (B,), constant.
        weight: (B,) float32, 0 on dead steps; None where all count.
        ent_coef: weight of the entropy bonus.
    """

    def mean(x: Tensor) -> Tensor:
        return x.mean() if weight is None else (x * weight).sum() / weight.sum()

    mean_entropy = mean(entropy)
    return -mean(logp * advantage) - ent_coef * mean_entropy, mean_entropy


@register_agent("subpo")
class SubPO:
    """Submodular policy optimisation: policy gradient with marginal gains.

    For environments whose reward is what a step adds to a set function, by themselves or with the
    reward function ``submodular``. What the policy sees is the environment's choice: place and
    time (SubPO-M), the whole history (SubPO-NM, or ``recurrent="gru"``), or the memory of the set
    function. On the reward ``modular_surrogate`` it is the paper's baseline MODPO.

    Args:
        env: a Gymnasium vector environment, a single one, or an id.
        seed: of parameters, actions and environments.
        device: where it computes; default: the environments' device.
        **hyperparameters: see ``SubPOHyperparameters``.

    Raises:
        ValueError: for a bad hyperparameter, a reward function with another discount, or an
            environment that does not say how long its episodes are.

    Example:
        >>> import gymnasium, rewardzoo
        >>> envs = gymnasium.make_vec("rewardzoo/SubmodularGraph-v0", num_envs=256, obs="index")
        >>> agent = SubPO(envs, hidden=(), learning_rate=0.2).learn(100_000)
        >>> float(agent.evaluate(envs, 256, deterministic=True)["return"].mean())
        10.0

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Hyperparameters = SubPOHyperparameters
    default_num_envs = 256

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any] | gymnasium.Env[Any, Any] | str,
        seed: int = 0,
        device: torch.device | str | None = None,
        **hyperparameters: Any,
    ) -> None:
        self.hp: SubPOHyperparameters = build(SubPOHyperparameters, hyperparameters)
        self.envs = _vector(env, device, self.default_num_envs)
        self.device = check_device(device or getattr(self.envs, "device", "cpu"))
        self.seed = seed
        self.num_steps = self.hp.num_steps or _episode_steps(self.envs)
        for fn in _reward_functions(self.envs):
            fn.match_gamma(self.hp.gamma)
        hp = self.hp
        self.distribution = distribution(self.envs.single_action_space, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ActorCritic(
                self.envs.single_observation_space,
                self.distribution.num_outputs,
                hp.hidden,
                hp.activation,
                hp.recurrent,
                hp.recurrent_size,
                self.distribution.learned_std,
                hp.normalize_observations,
            )
        self.network.to(self.device)
        self.parameters = self.network.flatten()
        self.optimizer = torch.optim.Adam([self.parameters], lr=hp.learning_rate)
        self.collector = Collector(self.envs, self.device, self.network.memory_size)
        self.num_timesteps = 0
        self.iteration = 0
        self._started = False
        self._seeds = torch.arange(self.envs.num_envs, device=self.device) + seed

    @property
    def gamma(self) -> float:
        """The discount."""
        return self.hp.gamma

    # ---- one iteration -----------------------------------------------------------------------

    def collect(self) -> tuple[Rollout, EpisodeSums]:
        """Play ``num_steps`` steps in every environment."""
        if not self._started:
            self.collector.reset(self.seed)
            self._started = True
        zero = torch.zeros_like(self._seeds)
        rng = Rng(self._seeds, zero + self.iteration, 0, _AGENT_STREAM)
        with torch.no_grad():
            noise = self.distribution.noise(rng, self.num_steps)
            return self.collector.collect(self.num_steps, self._sample, noise)

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """One gradient step; returns the parts of the loss."""
        hp = self.hp
        shape = rollout.reward.shape
        logp, entropy, features = self._evaluate(rollout)
        value_loss = torch.zeros((), device=self.device)
        if hp.baseline == "critic":
            value = self.network.value(features).reshape(shape)
            with torch.no_grad():
                # With the critic in ``prefix``, its own bootstrap has no place: it is to-go only.
                advantage = gae(
                    rollout.reward,
                    value,
                    self._next_value(rollout),
                    rollout.terminated,
                    rollout.done,
                    hp.gamma,
                    hp.gae_lambda,
                )
                target = advantage + value
            error = (target - value).square()
            value_loss = error.mean() if rollout.valid is None else error[rollout.valid].mean()
        else:
            advantage = credits(rollout.reward, rollout.done, hp.gamma, hp.credit)
            if hp.baseline == "batch":
                advantage = leave_one_out(advantage)
        if hp.normalize_advantage:
            advantage = advantage / (advantage.std() + 1e-8)
        weight = None if rollout.valid is None else rollout.valid.reshape(-1).to(torch.float32)
        ent_coef = hp.ent_coef / (self.iteration + 1 if hp.ent_decay else 1)
        policy_loss, mean_entropy = policy_gradient_loss(
            logp, entropy, advantage.reshape(-1), weight, ent_coef
        )
        self.parameters.grad.zero_()
        (policy_loss + hp.vf_coef * value_loss).backward()
        norm = torch.linalg.vector_norm(self.parameters.grad)
        if hp.max_grad_norm is not None:
            self.parameters.grad.mul_((hp.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        if self.network.moments is not None:
            self.network.moments.update(trees.flat(rollout.obs).to(torch.float32))
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": mean_entropy.detach(),
            "grad_norm": norm,
        }

    def _sample(
        self, obs: Obs, memory: Tensor, began: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The policy's action, the environment's and the new memory."""
        out, memory = self._outputs(obs, memory, began)
        action = self.distribution.sample(out, self.network.log_std, noise)
        return action, self.distribution.to_env(action), memory

    def _outputs(self, obs: Obs, memory: Tensor, began: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        if network.core is None:
            return network.actor(obs), memory
        memory = network.remember(network.encode(obs)[0], memory, began)
        return network.policy(memory[:, : network.width], obs), memory

    def _evaluate(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities and entropies (T * N,), and what the critic reads (T * N, F)."""
        network, obs = self.network, trees.flat(rollout.obs)
        if network.core is None:
            for_actor, features = network.encode(obs)
        else:
            for_actor = features = self._memories(rollout)[:, : network.width]
        logp, entropy = self.distribution.logp_entropy(
            network.policy(for_actor, obs), network.log_std, trees.flat(rollout.action)
        )
        return logp, entropy, features

    def _memories(self, rollout: Rollout) -> Tensor:
        """The memory after each of T * N steps, (T * N, M)."""
        memory, memories = rollout.memory, []
        for t, began in enumerate(rollout.began):
            features = self.network.encode(trees.rows(rollout.obs, t))[0]
            memory = self.network.remember(features, memory, began)
            memories.append(memory)
        return torch.cat(memories)

    def _next_value(self, rollout: Rollout) -> Tensor:
        """(T, N) values of the true successors."""
        network, next_obs = self.network, trees.flat(rollout.next_obs)
        if network.core is None:
            value = network.value(network.encode(next_obs)[1])
        else:
            memories = self._memories(rollout)
            none = torch.zeros_like(trees.flat(rollout.began))
            after = network.remember(network.encode(next_obs)[0], memories, none)
            value = network.value(after[:, : network.width])
        return value.reshape(rollout.reward.shape)

    # ---- the surface that users of Stable-Baselines3 know ------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> SubPO:
        """Train for at least ``total_timesteps`` environment steps.

        Args:
            total_timesteps: summed over environments; rounded up to whole iterations.
            callback: called after every iteration with the agent and its metrics; False stops.
            reset_num_timesteps: count from 0; False goes on counting, as after ``load``.
            progress_bar: show one.
            log_dir: write TensorBoard files there.

        Returns:
            The agent itself.
        """
        if not total_timesteps >= 0:
            raise ValueError(f"total_timesteps={total_timesteps}: expected an integer >= 0")
        hp = self.hp
        if reset_num_timesteps:
            self.num_timesteps = 0
        first, start, clock = self.num_timesteps, 0, time.perf_counter()
        target = first + total_timesteps
        with Logger(total_timesteps, log_dir, progress_bar) as logger:
            while self.num_timesteps < target:
                if hp.anneal_lr:
                    left = 1.0 - self.num_timesteps / target
                    self.optimizer.param_groups[0]["lr"] = hp.learning_rate * left
                rollout, sums = self.collect()
                parts = self.update(rollout)
                learned: dict[str, Any] = {}
                for fn in _reward_functions(self.envs):
                    learned.update({f"reward/{k}": float(v) for k, v in fn.update().items()})
                for env in _reward_wrappers(self.envs):
                    env.raise_if_unpayable()
                self.iteration += 1
                self.num_timesteps += self.num_steps * self.envs.num_envs
                metrics = self._metrics(parts, sums)
                now = time.perf_counter()
                metrics["time/sps"] = (self.num_timesteps - first - start) / (now - clock)
                start, clock = self.num_timesteps - first, now
                metrics.update(learned)
                stop = callback is not None and callback(self, metrics) is False
                logger.log(metrics, self.num_timesteps, self.num_timesteps - first)
                if stop:
                    break
        return self

    def _metrics(self, parts: dict[str, Tensor], sums: EpisodeSums) -> dict[str, float]:
        """All numbers of an iteration, read from the device at once."""
        numbers = torch.stack([*parts.values(), *(x.to(torch.float32) for x in sums)]).tolist()
        metrics = {f"train/{k}": v for k, v in zip(parts, numbers, strict=False)}
        metrics["train/learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        count, *totals = numbers[len(parts) :]
        for name, total in zip(("return", "objective", "length"), totals, strict=True):
            metrics[f"rollout/ep_{name}"] = total / count if count else math.nan
        metrics["rollout/episodes"] = count
        metrics["time/total_timesteps"] = float(self.num_timesteps)
        return metrics

    @torch.no_grad()
    def act(
        self, obs: Obs, memory: Tensor, began: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Actions for the environment and the new memory; without noise, the most likely ones."""
        if noise is not None:
            return self._sample(obs, memory, began, noise)[1:]
        out, memory = self._outputs(obs, memory, began)
        action = self.distribution.mode(out, self.network.log_std)
        return self.distribution.to_env(action), memory

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Actions for one observation or a batch of them, as NumPy arrays.

        Args:
            observation: of one environment, or with a leading batch axis.
            state: the memory returned by the last call, None at the start.
            episode_start: (N,) bool, rows that begin an episode.
            deterministic: take the most likely action.

        Returns:
            The actions, and the memory to pass to the next call (None without one).
        """
        obs = to_torch(observation, self.device)
        single = trees.first(obs).ndim == _space_ndim(self.envs.single_observation_space)
        if single:
            obs = trees.mapped(obs, lambda x: x.unsqueeze(0))
        count = trees.first(obs).shape[0]
        if state is None:
            memory = torch.zeros(count, self.network.memory_size, device=self.device)
        else:
            memory = to_torch(state, self.device)
        began = torch.zeros(count, dtype=torch.bool, device=self.device)
        if episode_start is not None:
            began = to_torch(np.atleast_1d(episode_start), self.device).to(torch.bool)
        noise = None
        if not deterministic:
            draw = torch.randint(2**31, (1,), device=self.device)
            rows = torch.arange(count, device=self.device)
            noise = self.distribution.noise(Rng(draw + rows, 0 * rows, 0, _AGENT_STREAM), 1)[0]
        action, memory = self.act(obs, memory, began, noise)
        out = to_numpy(action[0] if single else action)
        return out, (to_numpy(memory) if self.network.memory_size else None)

    def evaluate(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        num_episodes: int = 100,
        deterministic: bool = False,
        seed: int = 1_000_000,
    ) -> dict[str, Tensor]:
        """Play ``num_episodes`` fresh episodes; see ``agents.common.evaluation.evaluate``.

        Actions are drawn by default: what is optimised is the stochastic policy, and a Markov one
        may need its chances.
        """
        return evaluate(self, env, num_episodes, deterministic, seed)

    def save(self, path: str | Path) -> None:
        """Write everything that training depends on, atomically."""
        state: dict[str, Any] = {
            "algorithm": "subpo",
            "hyperparameters": asdict(self.hp),
            "spaces": self._spaces(),
            "seed": self.seed,
            "num_timesteps": self.num_timesteps,
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self._started:
            state["collector"] = self.collector.state_dict()
        save_checkpoint(path, state)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: gymnasium.vector.VectorEnv[Any, Any, Any] | gymnasium.Env[Any, Any] | str,
        device: torch.device | str | None = None,
    ) -> SubPO:
        """Continue exactly where ``save`` was called; see ``PPO.load``.

        Raises:
            CheckpointError: if the file is no whole checkpoint of SubPO, or of another environment.
        """
        target = check_device(device or getattr(env, "device", "cpu"))
        content = load_checkpoint(path, "subpo", target)
        agent = cls(env, content["seed"], target, **content["hyperparameters"])
        if content["spaces"] != agent._spaces():
            raise CheckpointError(
                f"checkpoint {str(path)!r}: it was saved for {content['spaces']}, and this "
                f"environment has {agent._spaces()}"
            )
        agent.network.load_state_dict(content["network"])
        agent.optimizer.load_state_dict(content["optimizer"])
        agent.num_timesteps, agent.iteration = content["num_timesteps"], content["iteration"]
        collector = content.get("collector")
        if collector is not None and collector["memory"].shape[0] == agent.envs.num_envs:
            agent.collector.reset(agent.seed)
            agent.collector.load_state_dict(collector)
            agent._started = True
        return agent

    def _spaces(self) -> str:
        return f"{self.envs.single_observation_space} and {self.envs.single_action_space}"


def _episode_steps(envs: Any) -> int:
    """How long the environment says that its episodes are."""
    inner = envs.unwrapped
    if isinstance(inner, gymnasium.vector.SyncVectorEnv):
        inner = inner.envs[0].unwrapped
    for owner in (inner, getattr(inner, "func", None)):
        steps = getattr(owner, "episode_steps", None)
        if isinstance(steps, int) and steps >= 1:
            return steps
    raise ValueError(
        "num_steps=None: this environment does not say how long its episodes are (episode_steps); "
        "give num_steps, a multiple of their length"
    )
