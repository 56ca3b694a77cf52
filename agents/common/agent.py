"""Agent: what every agent that learns from steps of an environment is, around its iteration.

An algorithm's file says how it plays and learns (``iterate``); the loop around that, checkpoints,
predictions and the metrics of episodes are written here, once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rewardzoo.functional import check_device
from rewardzoo.random import Rng, first_row
from rewardzoo.registration import check_env_id
from rewardzoo.rewards.wrappers import VectorRewardWrapper
from rewardzoo.transition import Obs, to_numpy, to_torch

from . import trees
from .collector import Act, EpisodeSums, Rollout
from .evaluation import evaluate
from .hyperparameters import build
from .logger import Logger

if TYPE_CHECKING:
    from typing_extensions import Self

Env = gymnasium.vector.VectorEnv[Any, Any, Any] | gymnasium.Env[Any, Any] | str
Callback = Callable[[Any, dict[str, float]], bool | None]
AGENT_STREAM = 1  # environments draw from stream 0


class Agent:
    """The surface that users of Stable-Baselines3 know, over an iteration that a subclass writes.

    A subclass sets ``Hyperparameters`` (with ``num_steps``, ``gamma``, ``learning_rate`` and
    ``anneal_lr``), builds ``network``, ``distribution``, ``optimizer`` and ``collector`` in its
    constructor, and writes ``iterate`` and ``act``. It is registered: checkpoints bear its name.

    Args:
        env: a Gymnasium vector environment, a single one, or an id.
        seed: of parameters, actions and environments; row ``i`` of these has the seed
            ``first_row(seed) + i``, so that runs of neighbouring seeds share none.
        device: where it computes; default: the environments' device.
        hyperparameters: by name.

    Raises:
        ValueError: for a bad hyperparameter, or a reward function with another discount.
    """

    Hyperparameters: type[Any]
    registered_name: str
    default_num_envs = 64
    parts: tuple[str, ...] = ("network", "optimizer")
    """What a checkpoint holds besides counters: attributes with a ``state_dict``."""

    network: Any
    distribution: Any
    optimizer: torch.optim.Optimizer
    collector: Any

    def __init__(
        self,
        env: Env,
        seed: int,
        device: torch.device | str | None,
        hyperparameters: dict[str, Any],
    ) -> None:
        self.hp: Any = build(self.Hyperparameters, hyperparameters)
        self.envs = _vector(env, device, self.default_num_envs)
        self.device = check_device(device or getattr(self.envs, "device", "cpu"))
        self.seed = seed
        self.num_steps: int = self.hp.num_steps
        for wrapper in _reward_wrappers(self.envs):
            wrapper.reward_function.match_gamma(self.hp.gamma)
        self.num_timesteps = 0
        self.iteration = 0
        self._started = False
        self._seeds = torch.arange(self.envs.num_envs, device=self.device) + first_row(seed)

    # ---- what an algorithm writes ------------------------------------------------------------

    def iterate(self) -> dict[str, float]:
        """Play ``num_steps`` steps of every environment and learn; returns metrics (``read``)."""
        raise NotImplementedError

    def act(
        self, obs: Obs, memory: Tensor, began: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Actions for the environment and the new memory; without noise, the preferred ones."""
        raise NotImplementedError

    # ---- what it writes it with --------------------------------------------------------------

    @property
    def gamma(self) -> float:
        """The discount."""
        return float(self.hp.gamma)

    def play(self, act: Act) -> tuple[Rollout, EpisodeSums]:
        """``num_steps`` steps of every environment, with the noise of this iteration."""
        if not self._started:
            self.collector.reset(first_row(self.seed))
            self._started = True
        rng = Rng(self._seeds, torch.full_like(self._seeds, self.iteration), 0, AGENT_STREAM)
        with torch.no_grad():
            noise = self.distribution.noise(rng, self.num_steps)
            return self.collector.collect(self.num_steps, act, noise)

    def read(self, learned: dict[str, Tensor], sums: EpisodeSums) -> dict[str, float]:
        """All numbers of an iteration, read from the device at once.

        Args:
            learned: scalars by name.
            sums: of the episodes that ended.
        """
        numbers = torch.stack([*learned.values(), *(x.to(torch.float32) for x in sums)]).tolist()
        metrics = {f"train/{k}": v for k, v in zip(learned, numbers, strict=False)}
        metrics["train/learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        count, *totals = numbers[len(learned) :]
        for name, total in zip(("return", "objective", "length"), totals, strict=True):
            metrics[f"rollout/ep_{name}"] = total / count if count else math.nan
        metrics["rollout/episodes"] = count
        return metrics

    # ---- the surface -------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> Self:
        """Train for at least ``total_timesteps`` environment steps.

        Args:
            total_timesteps: summed over environments; rounded up to whole iterations.
            callback: called after every iteration with the agent and its metrics, to which it may
                add; False stops. ``rewardzoo.callbacks.Evaluation`` is one.
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
                metrics = self.iterate()
                for env in _reward_wrappers(self.envs):
                    learned = env.reward_function.update()
                    metrics.update({f"reward/{k}": float(v) for k, v in learned.items()})
                    env.raise_if_unpayable()
                self.iteration += 1
                self.num_timesteps += self.num_steps * self.envs.num_envs
                metrics["time/total_timesteps"] = float(self.num_timesteps)
                now = time.perf_counter()
                metrics["time/sps"] = (self.num_timesteps - first - start) / (now - clock)
                start, clock = self.num_timesteps - first, now
                # The callback first: what it adds to the metrics is logged with them.
                stop = callback is not None and callback(self, metrics) is False
                logger.log(metrics, self.num_timesteps, self.num_timesteps - first)
                if stop:
                    break
        return self

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
            deterministic: take the preferred action.

        Returns:
            The actions, and the memory to pass to the next call (None without one).
        """
        obs = trees.mapped(to_torch(observation, self.device), _narrowed)
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
            noise = self.distribution.noise(Rng(draw + rows, 0 * rows, 0, AGENT_STREAM), 1)[0]
        action, memory = self.act(obs, memory, began, noise)
        out = to_numpy(action[0] if single else action)
        return out, (to_numpy(memory) if self.network.memory_size else None)

    def evaluate(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        num_episodes: int = 100,
        deterministic: bool = True,
        seed: int = 1_000_000,
    ) -> dict[str, Tensor]:
        """Play ``num_episodes`` fresh episodes; see ``agents.common.evaluation.evaluate``."""
        return evaluate(self, env, num_episodes, deterministic, seed)

    def save(self, path: str | Path) -> None:
        """Write everything that training depends on, atomically."""
        state: dict[str, Any] = {
            "hyperparameters": asdict(self.hp),
            "spaces": self._spaces(),
            "seed": self.seed,
            "num_timesteps": self.num_timesteps,
            "iteration": self.iteration,
            **{name: getattr(self, name).state_dict() for name in self.parts},
        }
        if self._started:
            state["collector"] = self.collector.state_dict()
        save_checkpoint(path, self.registered_name, state)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: Env,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Self:
        """Continue exactly where ``save`` was called.

        With the same number of environments, and environments that can save their state (this
        project's functional ones), training goes on as if it had never stopped; otherwise it goes
        on with new episodes.

        Args:
            path: of the checkpoint.
            env: as for the constructor.
            device: as for the constructor.
            **options: arguments of the constructor that are no hyperparameters.

        Raises:
            CheckpointError: if the file is no whole checkpoint of this algorithm, or of another
                environment.
        """
        target = check_device(device or getattr(env, "device", "cpu"))
        content = load_checkpoint(path, cls.registered_name, target)
        given = {**options, **content["hyperparameters"]}
        agent = cls(env, seed=content["seed"], device=target, **given)  # type: ignore[call-arg]
        if content["spaces"] != agent._spaces():
            raise CheckpointError(
                f"checkpoint {str(path)!r}: it was saved for {content['spaces']}, and this "
                f"environment has {agent._spaces()}"
            )
        for name in cls.parts:
            getattr(agent, name).load_state_dict(content[name])
        agent.num_timesteps, agent.iteration = content["num_timesteps"], content["iteration"]
        collector = content.get("collector")
        if collector is not None and collector["memory"].shape[0] == agent.envs.num_envs:
            agent.collector.reset(first_row(agent.seed))
            agent.collector.load_state_dict(collector)
            agent._started = True
        return agent

    def _spaces(self) -> str:
        return f"{self.envs.single_observation_space} and {self.envs.single_action_space}"


def _vector(env: Any, device: Any, num_envs: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    if isinstance(env, str):
        check_env_id(env)
        return gymnasium.make_vec(env, num_envs=num_envs, device=device or "cpu")
    if isinstance(env, gymnasium.Env):
        mode = gymnasium.vector.AutoresetMode.SAME_STEP
        return gymnasium.vector.SyncVectorEnv([lambda: env], autoreset_mode=mode)
    if not isinstance(env, gymnasium.vector.VectorEnv):
        raise TypeError(f"env: expected a Gymnasium environment or an id, got {type(env).__name__}")
    return env


def _reward_wrappers(env: Any) -> list[VectorRewardWrapper]:
    found = []
    while isinstance(env, gymnasium.vector.VectorWrapper):
        if isinstance(env, VectorRewardWrapper):
            found.append(env)
        env = env.env
    return found


def _narrowed(x: Tensor) -> Tensor:
    """Plain numbers, which NumPy takes for float64, as networks read them."""
    return x.to(torch.float32) if x.dtype == torch.float64 else x


def _space_ndim(space: gymnasium.spaces.Space[Any]) -> int:
    inner = space
    while isinstance(inner, gymnasium.spaces.Dict):
        inner = next(iter(inner.spaces.values()))
    return len(inner.shape or ())
