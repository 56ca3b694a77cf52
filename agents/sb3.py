"""The bridge to Stable-Baselines3, both ways.

``SB3VecEnv`` shows any of our vector environments to Stable-Baselines3's algorithms;
``SB3Agent`` (registered as ``sb3_ppo``, ``sb3_a2c`` and ``sb3_dqn``) shows those algorithms to our
experiments and command line.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rewardzoo.extras import require
from rewardzoo.random import first_row
from rewardzoo.registration import register_agent

from .common.hyperparameters import hyper

_PREDICTIONS = 0  # seed of the random numbers of predictions


def __getattr__(name: str) -> Any:
    if name == "SB3VecEnv":  # imports Stable-Baselines3, which listing agents need not
        _sb3()
        from .common.sb3_vec_env import SB3VecEnv

        return SB3VecEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _bridge(envs: Any) -> Any:
    return __getattr__("SB3VecEnv")(envs)


def _sb3() -> Any:
    return require("stable_baselines3", "sb3")


@dataclass(frozen=True)
class SB3Hyperparameters:
    """Whatever the algorithm's constructor takes is passed on; the defaults are its own."""

    policy: str = hyper("MlpPolicy", "Stable-Baselines3's policy class")


class SB3Agent:
    """One of Stable-Baselines3's algorithms with the surface of this project's agents.

    Args:
        env: a vector environment in same-step mode.
        seed: of the algorithm and the environments, below 4,096: row ``i`` of these has the seed
            ``first_row(seed) + i``.
        device: where it computes.
        policy: Stable-Baselines3's policy class.
        **hyperparameters: of the algorithm's constructor.
    """

    Hyperparameters = SB3Hyperparameters
    default_num_envs = 8
    algorithm = "PPO"
    _numbers: tuple[Any, ...] | None = None

    def __init__(
        self,
        env: Any,
        seed: int = 0,
        device: str | None = None,
        policy: str = "MlpPolicy",
        **hyperparameters: Any,
    ) -> None:
        self.envs = env
        self._given = {"seed": seed, "policy": policy, **hyperparameters}
        kind = getattr(_sb3(), self.algorithm)
        self.model = kind(
            policy, _bridge(env), seed=first_row(seed), device=device or "cpu", **hyperparameters
        )

    @property
    def num_timesteps(self) -> int:
        """Environment steps so far."""
        return int(self.model.num_timesteps)

    @property
    def gamma(self) -> float:
        """The discount."""
        return float(self.model.gamma)

    def learn(
        self,
        total_timesteps: int,
        callback: Callable[[Any, dict[str, float]], bool | None] | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> SB3Agent:
        """Train; ``callback`` is called after every rollout, as this project's agents do."""
        if log_dir is not None:
            self.model.tensorboard_log = str(log_dir)
        if total_timesteps > 0:
            self.model.learn(
                total_timesteps,
                callback=_rollout_callback(self, callback),
                reset_num_timesteps=reset_num_timesteps,
                progress_bar=progress_bar,
            )
        return self

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None,
                deterministic: bool = False) -> Any:  # fmt: skip
        """As Stable-Baselines3's, with random numbers of its own: to watch changes no training."""
        with self._aside():
            return self.model.predict(observation, state, episode_start, deterministic)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Predictions draw from where the last one stopped, training from where it was."""
        space = self.model.action_space
        training = _random_state(space)
        if self._numbers is None:
            torch.manual_seed(_PREDICTIONS)
            np.random.seed(_PREDICTIONS)  # noqa: NPY002 (Stable-Baselines3 draws from it)
            space.seed(_PREDICTIONS)
        else:
            _set_random_state(space, self._numbers)
        try:
            yield
        finally:
            self._numbers = _random_state(space)
            _set_random_state(space, training)

    def evaluate(
        self, env: Any, num_episodes: int = 100, deterministic: bool = True, seed: int = 1_000_000
    ) -> dict[str, Tensor]:
        """Play equally many whole episodes in every environment; see ``PPO.evaluate``."""
        bridge = _bridge(env)
        bridge.seed(seed)
        obs = bridge.reset()
        quota = -(-num_episodes // env.num_envs)
        episodes: list[list[dict[str, float]]] = [[] for _ in range(env.num_envs)]
        while min(len(e) for e in episodes) < quota:
            action, _ = self.predict(obs, deterministic=deterministic)
            obs, _, done, infos = bridge.step(action)
            for i in np.flatnonzero(done):
                episodes[i].append(infos[i]["episode"])
        kept = [e for row in episodes for e in row[:quota]]
        names = {"return": "r", "objective": "objective", "length": "l"}
        return {k: torch.tensor([float(e[v]) for e in kept]) for k, v in names.items()}

    def save(self, path: str | Path) -> None:
        """Write networks, optimisers and counters, atomically.

        Not Stable-Baselines3's own archive, whose pickles execute code when they are read; what
        that leaves out, a replay buffer, this does too. Hyperparameters that are no plain values, a
        schedule or a class, are left out as well: give them to ``load`` again.
        """
        plain = {k: v for k, v in self._given.items() if _is_plain(v)}
        content = {
            "given": plain,
            "left_out": sorted(self._given.keys() - plain.keys()),
            "parameters": self.model.get_parameters(),
            "counters": {k: getattr(self.model, k) for k in _COUNTERS if hasattr(self.model, k)},
        }
        save_checkpoint(path, f"sb3_{self.algorithm.lower()}", content)

    @classmethod
    def load(
        cls, path: str | Path, env: Any, device: str | None = None, **hyperparameters: Any
    ) -> SB3Agent:
        """Read what ``save`` wrote; training goes on with new episodes.

        Args:
            path: of the file.
            env: a vector environment in same-step mode, with the spaces of the one trained on.
            device: where it computes.
            **hyperparameters: those that ``save`` left out; others change what was saved.

        Raises:
            CheckpointError: for a file that is missing, damaged or of another algorithm, for
                another environment's, or if a hyperparameter that was left out is not given.
        """
        content = load_checkpoint(path, f"sb3_{cls.algorithm.lower()}")
        for name in content["left_out"]:
            if name not in hyperparameters:
                raise CheckpointError(
                    f"checkpoint {str(path)!r}: {name} was no plain value, so it was not saved: "
                    f"give it again, load(path, env, {name}=...)"
                )
        agent = cls(env, device=device, **{**content["given"], **hyperparameters})
        try:
            agent.model.set_parameters(content["parameters"], device=device or "cpu")
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {str(path)!r}: its networks do not fit this environment "
                f"({str(error).splitlines()[-1].strip()})"
            ) from None
        for name, value in content["counters"].items():
            setattr(agent.model, name, value)
        return agent


_COUNTERS = (
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_episode_num",
    "_n_updates",
    "_n_calls",
    "_current_progress_remaining",
    "exploration_rate",
)
"""What training goes on from, besides networks and optimisers."""


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, float, str)


@register_agent("sb3_ppo")
class SB3PPO(SB3Agent):
    """Stable-Baselines3's PPO."""

    algorithm = "PPO"


@register_agent("sb3_a2c")
class SB3A2C(SB3Agent):
    """Stable-Baselines3's A2C."""

    algorithm = "A2C"


@register_agent("sb3_dqn")
class SB3DQN(SB3Agent):
    """Stable-Baselines3's DQN."""

    algorithm = "DQN"


def _random_state(space: Any) -> tuple[Any, ...]:
    """Of all that Stable-Baselines3 draws from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    generator = copy.deepcopy(space.np_random.bit_generator.state)
    return torch.get_rng_state(), np.random.get_state(), generator, cuda  # noqa: NPY002


def _set_random_state(space: Any, state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    space.np_random.bit_generator.state = state[2]
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])


def _rollout_callback(agent: SB3Agent, callback: Any) -> Any:
    from stable_baselines3.common.callbacks import BaseCallback

    class AfterRollout(BaseCallback):
        """Collects finished episodes and reports them once a rollout."""

        def __init__(self) -> None:
            super().__init__()
            self.episodes: list[dict[str, float]] = []
            self.since = (time.perf_counter(), agent.num_timesteps)
            self.going = True

        def _on_step(self) -> bool:
            self.episodes += [i["episode"] for i in self.locals["infos"] if "episode" in i]
            return self.going

        def _on_rollout_end(self) -> None:
            now, steps = time.perf_counter(), agent.num_timesteps
            names = {"return": "r", "objective": "objective", "length": "l"}
            metrics = {
                f"rollout/ep_{k}": float(np.mean([e[v] for e in self.episodes]))
                if self.episodes
                else math.nan
                for k, v in names.items()
            }
            metrics["time/sps"] = (steps - self.since[1]) / (now - self.since[0])
            metrics["time/total_timesteps"] = float(steps)
            self.episodes, self.since = [], (now, steps)
            if callback is not None and callback(agent, metrics) is False:
                self.going = False

    return AfterRollout()
