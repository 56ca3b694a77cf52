"""Callbacks for ``learn``: evaluate, keep the best policy, film it, save, compare rewards."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import gymnasium

from .checkpoint import remove_previous, save_keeping_previous
from .video import play, write_gif


class Evaluation:
    """Every ``every`` steps, play fresh episodes with the policy's most likely actions.

    A resumed agent is evaluated after its first iteration.

    Adds ``eval/return`` (what ``envs`` pays), ``eval/objective`` and ``eval/length`` (means over
    the episodes) to the iteration's metrics, so that they are logged with them. Training is not
    touched: ``envs`` is a vector environment of its own, and every evaluation plays the same seeds.

    Args:
        envs: vector environment to evaluate in.
        every: environment steps between two evaluations, at least 1.
        num_episodes: of each evaluation.
        to_beat: mean objective below which nothing is kept, as of an earlier ``best``.
        best: file for the policy with the highest mean objective so far; None keeps none.
        film: a single environment that renders ``rgb_array``; None films nothing.
        folder: where the GIFs go, ``step-<num_timesteps>.gif``.

    Raises:
        ValueError: for ``every`` or ``num_episodes`` below 1, a film of another render mode or
            without a folder.

    Example:
        >>> import gymnasium, rewardzoo
        >>> from rewardzoo.agents.ppo import PPO
        >>> make = lambda: gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=4)
        >>> evaluation = Evaluation(make(), every=64, num_episodes=4)
        >>> _ = PPO(make(), num_steps=8).learn(128, callback=evaluation)
        >>> [step for step, _ in evaluation.history]
        [64, 128]
    """

    def __init__(
        self,
        envs: gymnasium.vector.VectorEnv[Any, Any, Any],
        every: int,
        num_episodes: int = 20,
        to_beat: float = -math.inf,
        best: str | Path | None = None,
        film: gymnasium.Env[Any, Any] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        for name, value in (("every", every), ("num_episodes", num_episodes)):
            if not value >= 1:
                raise ValueError(f"{name}={value}: expected an integer >= 1")
        if film is not None and film.render_mode != "rgb_array":
            raise ValueError(
                f"film: its render_mode is {film.render_mode!r}; make it with "
                "render_mode='rgb_array'"
            )
        if film is not None and folder is None:
            raise ValueError("folder=None: say where the films go")
        self.envs, self.every, self.num_episodes = envs, every, num_episodes
        self.best, self.film = best, film
        self.folder = None if folder is None else Path(folder)
        self.history: list[tuple[int, dict[str, float]]] = []
        self._highest = to_beat
        self._last = 0

    def __call__(self, agent: Any, metrics: dict[str, float]) -> None:
        """After an iteration."""
        step = agent.num_timesteps
        due = step // self.every > self._last // self.every
        self._last = step
        if not due:
            return
        scores = agent.evaluate(self.envs, self.num_episodes)
        means = {f"eval/{k}": float(v.mean()) for k, v in scores.items()}
        metrics.update(means)
        self.history.append((step, means))
        if self.best is not None and means["eval/objective"] > self._highest:
            self._highest = means["eval/objective"]
            agent.save(self.best)
        if self.film is not None and self.folder is not None:
            frames = play(self.film, agent, max_steps=1000)
            write_gif(
                frames, self.folder / f"step-{step}.gif", self.film.metadata.get("render_fps", 30)
            )


class Saving:
    """After the first iteration that ends ``seconds`` or more since the last time, save the agent.

    Args:
        path: of the checkpoint, which is replaced whole or not at all; the one that was there is
            kept beside it, as ``NAME.previous.pt``.
        seconds: between two checkpoints, >= 0.
        resumed: the checkpoints at ``path`` are this training's, so they may be gone back to;
            otherwise the first save replaces them.

    Raises:
        ValueError: for a negative number of seconds.

    Example:
        >>> import tempfile, gymnasium, rewardzoo
        >>> from rewardzoo.agents.ppo import PPO
        >>> envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/checkpoint.pt"
        ...     _ = PPO(envs, num_steps=8).learn(64, callback=Saving(path, seconds=0.0))
        ...     PPO.load(path, envs).num_timesteps
        64
    """

    def __init__(self, path: str | Path, seconds: float = 60.0, resumed: bool = False) -> None:
        if not seconds >= 0.0:
            raise ValueError(f"seconds={seconds}: expected a number >= 0")
        self.path, self.seconds = Path(path), seconds
        self._ours = resumed
        self._last = time.monotonic()

    def __call__(self, agent: Any, metrics: dict[str, float]) -> None:
        """After an iteration."""
        if time.monotonic() - self._last >= self.seconds:
            self.save(agent)

    def save(self, agent: Any) -> None:
        """Now."""
        if self._ours:
            save_keeping_previous(agent.save, self.path)
        else:
            agent.save(self.path)
            remove_previous(self.path)
            self._ours = True
        self._last = time.monotonic()


class RewardDistance:
    """Every ``every`` steps, how far the reward that is paid is from the objective.

    Whatever the agent: of its environments the reward function is asked as it stands, a learned one
    as it is by then. Adds ``distance/starc`` to the iteration's metrics, the STARC distance in
    [0, 2]: 0 where both order all policies alike, 2 where one is the other's opposite. Where states
    can be counted it is exact, and ``distance/regret`` is what optimising the reward can cost of
    the objective, in [0, 1]; elsewhere it is sampled, the same states each time, with
    ``distance/low`` and ``distance/high``, the ends of its 95 % interval. Training is not touched,
    and no reward function sees the objective by it.

    Args:
        every: environment steps between two looks, at least 1.
        canonical: the canonical reward, "val" or "none"; exactly also "minimal".
        num_samples: states and actions of a sampled distance.
        rollouts: of each of its estimates.
        seed: of what is sampled.

    Raises:
        ValueError: for ``every`` below 1; and at the first look, for environments without
            functional dynamics or without exactly one reward wrapper, and for a reward function
            with memory.

    Example:
        >>> import gymnasium, rewardzoo
        >>> from rewardzoo.agents.ppo import PPO
        >>> from rewardzoo.rewards import Novelty, VectorRewardWrapper
        >>> envs = gymnasium.make_vec("rewardzoo/GridWorld-v0", num_envs=4)
        >>> distance = RewardDistance(every=64)
        >>> _ = PPO(VectorRewardWrapper(envs, Novelty()), num_steps=8).learn(128, callback=distance)
        >>> [step for step, _ in distance.history]
        [64, 128]

    Paper: Skalse et al. (2024), "STARC: a general framework for quantifying differences between
    reward functions".
    """

    def __init__(
        self,
        every: int,
        canonical: str = "val",
        num_samples: int = 512,
        rollouts: int = 4,
        seed: int = 0,
    ) -> None:
        if not every >= 1:
            raise ValueError(f"every={every}: expected an integer >= 1")
        self.every, self.canonical = every, canonical
        self.num_samples, self.rollouts, self.seed = num_samples, rollouts, seed
        self.history: list[tuple[int, dict[str, float]]] = []
        self._last = 0

    def __call__(self, agent: Any, metrics: dict[str, float]) -> None:
        """After an iteration."""
        step = agent.num_timesteps
        due = step // self.every > self._last // self.every
        self._last = step
        if due:
            found = {f"distance/{k}": v for k, v in self.look(agent).items()}
            metrics.update(found)
            self.history.append((step, found))

    def look(self, agent: Any) -> dict[str, float]:
        """Now; see the class for the numbers."""
        from .metrics.live import distance_to_objective

        return distance_to_objective(
            agent.envs, agent.gamma, self.canonical, self.num_samples, self.rollouts, self.seed
        )
