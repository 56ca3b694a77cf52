"""The bridge to Stable-Baselines3, both ways.

``SB3VecEnv`` shows any of our vector environments to Stable-Baselines3's algorithms;
``SB3Agent`` (registered as ``sb3_ppo``, ``sb3_a2c`` and ``sb3_dqn``) shows those algorithms to our
experiments and command line.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.autoreset import StepTracker
from rewardzoo.registration import register_agent
from rewardzoo.transition import to_numpy

from .common.checkpoint import CheckpointError
from .common.hyperparameters import hyper

try:
    from stable_baselines3.common.vec_env import VecEnv as _VecEnv
except ImportError:  # the bridge is an extra; using it says so
    _VecEnv = object  # type: ignore[assignment,misc]


def _sb3() -> Any:
    try:
        import stable_baselines3
    except ImportError as error:
        raise ImportError('Stable-Baselines3 is missing: pip install "rewardzoo[sb3]"') from error
    return stable_baselines3


class SB3VecEnv(_VecEnv):
    """A Stable-Baselines3 ``VecEnv`` over any Gymnasium vector environment with autoreset.

    Rewards are what the vector environment pays (wrap it in ``VectorRewardWrapper`` first).
    ``info["terminal_observation"]`` and ``info["TimeLimit.truncated"]`` are set where an episode
    ends, and ``info["episode"]`` has ``r``, ``l`` and ``objective``.

    Args:
        envs: a vector environment in same-step mode.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        _sb3()
        if envs.metadata["autoreset_mode"] is not gymnasium.vector.AutoresetMode.SAME_STEP:
            raise ValueError(
                f"envs: autoreset mode {envs.metadata['autoreset_mode'].value}, expected SameStep, "
                "which Stable-Baselines3 assumes; make them with autoreset_mode='SAME_STEP'"
            )
        self.envs = envs
        self._tracker = StepTracker(envs, torch.device(getattr(envs, "device", "cpu")))
        self._sums = np.zeros((2, envs.num_envs))
        self._tensors = False
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(envs.num_envs)]
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """Begin new episodes; ``seed`` called before sets their seeds."""
        seed = self._seeds[0]
        obs, _ = self.envs.reset(seed=seed)
        self._reset_seeds()
        self._tensors = isinstance(
            next(iter(obs.values())) if isinstance(obs, dict) else obs, Tensor
        )
        self._tracker.reset(obs)
        self._sums[:] = 0.0
        return to_numpy(obs)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for ``step_wait``."""
        self._actions = torch.as_tensor(actions) if self._tensors else actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One step, in Stable-Baselines3's form."""
        out = self.envs.step(self._actions)
        step = self._tracker.step(self._actions, *out)
        reward, truncated, terminated = (
            to_numpy(x) for x in (step.reward, step.truncated, step.terminated)
        )
        done = terminated | truncated
        objective = to_numpy(self._tracker.objective(step))
        self._sums += np.stack([reward, objective])
        infos: list[dict[str, Any]] = [{"objective": float(x)} for x in objective]
        rows = np.flatnonzero(done)
        if len(rows):
            last, lengths = to_numpy(step.next_obs), to_numpy(self._tracker.steps)
            for i in rows:
                infos[i]["terminal_observation"] = (
                    {k: v[i] for k, v in last.items()} if isinstance(last, dict) else last[i]
                )
                infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
                paid, meant = self._sums[:, i]
                infos[i]["episode"] = {
                    "r": paid,
                    "objective": meant,
                    "l": int(lengths[i]),
                    "t": 0.0,
                }
            self._sums[:, rows] = 0.0
        return to_numpy(out[0]), reward, done, infos

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the vector environment, once for each row asked for."""
        value = getattr(self.envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the vector environment; rows share it."""
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list:
        """Call a method of the vector environment once; its result for each row asked for."""
        value = getattr(self.envs, method_name)(*args, **kwargs)
        return [value for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never by Stable-Baselines3's single-environment wrappers."""
        return [False for _ in self._get_indices(indices)]


@dataclass(frozen=True)
class SB3Hyperparameters:
    """Whatever the algorithm's constructor takes is passed on; the defaults are its own."""

    policy: str = hyper("MlpPolicy", "Stable-Baselines3's policy class")


class SB3Agent:
    """One of Stable-Baselines3's algorithms with the surface of this project's agents.

    Args:
        env: a vector environment in same-step mode.
        seed: of the algorithm and the environments.
        device: where it computes.
        policy: Stable-Baselines3's policy class.
        **hyperparameters: of the algorithm's constructor.
    """

    Hyperparameters = SB3Hyperparameters
    default_num_envs = 8
    algorithm = "PPO"

    def __init__(
        self,
        env: Any,
        seed: int = 0,
        device: str | None = None,
        policy: str = "MlpPolicy",
        **hyperparameters: Any,
    ) -> None:
        self.envs = env
        kind = getattr(_sb3(), self.algorithm)
        self.model = kind(
            policy, SB3VecEnv(env), seed=seed, device=device or "cpu", **hyperparameters
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
        """As Stable-Baselines3's."""
        return self.model.predict(observation, state, episode_start, deterministic)

    def evaluate(
        self, env: Any, num_episodes: int = 100, deterministic: bool = True, seed: int = 1_000_000
    ) -> dict[str, Tensor]:
        """Play equally many whole episodes in every environment; see ``PPO.evaluate``."""
        bridge = SB3VecEnv(env)
        bridge.seed(seed)
        obs = bridge.reset()
        quota = -(-num_episodes // env.num_envs)
        episodes: list[list[dict[str, float]]] = [[] for _ in range(env.num_envs)]
        while min(len(e) for e in episodes) < quota:
            action, _ = self.model.predict(obs, deterministic=deterministic)
            obs, _, done, infos = bridge.step(action)
            for i in np.flatnonzero(done):
                episodes[i].append(infos[i]["episode"])
        kept = [e for row in episodes for e in row[:quota]]
        names = {"return": "r", "objective": "objective", "length": "l"}
        return {k: torch.tensor([float(e[v]) for e in kept]) for k, v in names.items()}

    def save(self, path: str | Path) -> None:
        """Write Stable-Baselines3's own archive, atomically."""
        part = Path(f"{path}.part.zip")
        self.model.save(part)
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path, env: Any, device: str | None = None) -> SB3Agent:
        """Read a Stable-Baselines3 archive; training goes on with new episodes.

        Stable-Baselines3's archives hold pickles: load only files that you trust.
        """
        file = Path(path)
        if not file.is_file():
            raise CheckpointError(f"checkpoint {str(path)!r}: there is no such file")
        agent = cls.__new__(cls)
        agent.envs = env
        kind = getattr(_sb3(), cls.algorithm)
        with file.open("rb") as stream:
            agent.model = kind.load(stream, env=SB3VecEnv(env), device=device or "cpu")
        return agent


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
