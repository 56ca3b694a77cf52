"""Demonstrations: episodes of somebody who knows how, read from and written to common formats.

The formats are those of ``rewardzoo.data.trajectories``. Some come with the package, under the
names of their tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .data.trajectories import Episode, make_episode, read_episodes


@dataclass(frozen=True)
class Demonstrations:
    """R steps of some episodes, as arrays.

    Args:
        obs: (R, ...) float32.
        action: (R, ...) float32.
        next_obs: (R, ...) float32, the true successors.
        terminated: (R,) bool.
        truncated: (R,) bool.
        episode: (R,) int64, to which episode a step belongs.
        returns: (E,) float32, of whole episodes.
        source: where they are from.
    """

    obs: NDArray[np.float32]
    action: NDArray[np.float32]
    next_obs: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    episode: NDArray[np.int64]
    returns: NDArray[np.float32]
    source: str

    def __len__(self) -> int:
        return len(self.action)

    @property
    def mean_return(self) -> float:
        """Of the episodes."""
        return float(self.returns.mean())

    def first(self, count: int) -> Demonstrations:
        """The first ``count`` episodes.

        Raises:
            ValueError: if there are fewer.
        """
        if not 1 <= count <= len(self.returns):
            raise ValueError(f"count={count}: {self.source} has {len(self.returns)} episodes")
        kept = self._rows(self.episode < count)
        return Demonstrations(**{**vars(kept), "returns": self.returns[:count]})

    def subsampled(self, every: int, seed: int = 0) -> Demonstrations:
        """Every so many steps of each episode, from an offset drawn for each.

        A step that terminated its episode is always kept: what follows it, the end, must be known.

        Raises:
            ValueError: if every episode is shorter than ``every``.
        """
        lengths = np.bincount(self.episode, minlength=len(self.returns))
        if not (every >= 1 and lengths.max() >= every):
            raise ValueError(
                f"every={every}: the longest of {self.source}'s episodes has {lengths.max()} steps"
            )
        offset = np.random.default_rng(seed).integers(every, size=len(lengths))
        starts = np.concatenate([[0], lengths.cumsum()[:-1]])
        time = np.arange(len(self)) - starts[self.episode]
        kept = (time - offset[self.episode]) % every == 0
        return self._rows(kept | self.terminated)

    def check(
        self, observation: spaces.Space[Any], action: spaces.Space[Any], rows: int = 1
    ) -> None:
        """``check_steps`` of these."""
        check_steps(self.source, self.obs, self.action, observation, action, rows)

    def _rows(self, kept: Any) -> Demonstrations:
        names = ("obs", "action", "next_obs", "terminated", "truncated", "episode")
        return Demonstrations(
            **{name: getattr(self, name)[kept] for name in names},
            returns=self.returns,
            source=self.source,
        )


def check_steps(
    source: str,
    obs: NDArray[Any],
    actions: NDArray[Any],
    observation: spaces.Space[Any],
    action: spaces.Space[Any],
    rows: int = 1,
) -> None:
    """Raise unless these are at least ``rows`` steps of an environment with these spaces.

    Args:
        source: where they are from, for the error.
        obs: (R, ...) what was seen.
        actions: (R, ...) what was done.
        observation: the environment's space of the former.
        action: of the latter.
        rows: how many are needed.

    Raises:
        ValueError: naming both sides.
    """
    for name, space, array in (("observation", observation, obs), ("action", action, actions)):
        if space.shape != array.shape[1:]:
            raise ValueError(
                f"{source}: {name}s are {array.shape[1:]}, and the environment's "
                f"{name}_space is {space}"
            )
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))[0])
            raise ValueError(f"{source}: the {name} of step {row} is {array[row]}, not finite")
    if isinstance(action, spaces.Box):
        # Float32 rounds the box's own bounds, and an expert's action may lie on them.
        slack = 1e-5 * np.maximum(1.0, np.abs(action.high - action.low))
        out = (actions < action.low - slack) | (actions > action.high + slack)
        if out.any():
            row = int(np.flatnonzero(out.reshape(len(out), -1).any(1))[0])
            raise ValueError(
                f"{source}: the action of step {row} is {actions[row]}, outside of "
                f"the environment's action_space {action}"
            )
    if len(obs) < rows:
        raise ValueError(f"{source}: {len(obs)} steps, expected at least {rows}, a batch")


def load_demonstrations(source: str | Path, time_limit: int | None = None) -> Demonstrations:
    """Demonstrations from a name, a file or a folder.

    Args:
        source: a shipped name (``rewardzoo.data.trajectories.shipped()``); a Minari id, or the
            folder of a Minari data set; an ``.npz`` file of ``imitation``'s trajectories; an
            ``.h5`` file, or a folder of them.
        time_limit: for files with a single flag ``done``: a done episode of so many steps was
            truncated, a shorter one terminated.

    Raises:
        ValueError: if there is nothing there, or something is wrong with it.
    """
    episodes = read_episodes(source, time_limit)
    return gathered(episodes, str(source))


def gathered(episodes: Sequence[Episode], source: str) -> Demonstrations:
    """Episodes as one block of steps.

    Raises:
        ValueError: for no steps at all, and for numbers that are not finite.
    """
    episodes = [episode for episode in episodes if len(episode)]
    if not episodes:
        raise ValueError(f"{source}: there is no step in it")
    for i, episode in enumerate(episodes):
        for name in ("obs", "action", "reward"):
            if not np.isfinite(getattr(episode, name)).all():
                raise ValueError(f"{source}: in episode {i} {name} is not finite")
    lengths = [len(episode) for episode in episodes]
    return Demonstrations(
        obs=np.concatenate([e.obs[:-1] for e in episodes]),
        action=np.concatenate([e.action for e in episodes]),
        next_obs=np.concatenate([e.obs[1:] for e in episodes]),
        terminated=np.concatenate([e.terminated for e in episodes]),
        truncated=np.concatenate([e.truncated for e in episodes]),
        episode=np.repeat(np.arange(len(episodes)), lengths),
        returns=np.array([e.reward.sum() for e in episodes], np.float32),
        source=source,
    )


def record_episodes(
    agent: Any, env: gymnasium.Env[Any, Any], episodes: int, seed: int = 0
) -> list[Episode]:
    """Whole episodes of an agent's preferred actions.

    Args:
        agent: anything with Stable-Baselines3's ``predict``.
        env: a single environment, with a time limit.
        episodes: how many.
        seed: of the first episode.
    """
    recorded = []
    for i in range(episodes):
        obs, _ = env.reset(seed=seed + i)
        memory, began, done = None, np.ones(1, np.bool_), False
        observations: list[Any] = [np.array(obs)]
        steps: list[tuple[Any, ...]] = []
        while not done:
            action, memory = agent.predict(obs, memory, began, deterministic=True)
            obs, reward, terminated, truncated, info = env.step(action)
            began = np.zeros(1, np.bool_)
            done = terminated or truncated
            observations.append(np.array(obs))
            paid = info.get("objective", reward)
            steps.append((np.array(action), paid, terminated, truncated))
        columns = (np.array(column) for column in zip(*steps, strict=True))
        recorded.append(make_episode("recording", np.array(observations), *columns))
    return recorded
