"""Recorded episodes in the formats of the field: read them all, write Minari's.

Minari data sets, by id or folder; trajectories in the npz layout of the ``imitation`` package; HDF5
files of one episode each in the layout of Blondé et al. (2022).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ..extras import require
from ..registration import nearest

_SHIPPED = Path(__file__).parent / "demonstrations"


@dataclass(frozen=True)
class Episode:
    """One episode of T steps.

    Args:
        obs: (T + 1, ...) float32, the last one included.
        action: (T, ...) float32.
        reward: (T,) float32; zeros where it is not known.
        terminated: (T,) bool.
        truncated: (T,) bool; both are False throughout where the recording just stops.
    """

    obs: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.action)


def shipped() -> tuple[str, ...]:
    """Names of the demonstrations that come with this package."""
    return tuple(sorted(p.name for p in _SHIPPED.glob("*") if (p / "metadata.json").is_file()))


def read_episodes(source: str | Path, time_limit: int | None = None) -> list[Episode]:
    """The episodes of any of the formats; see ``rewardzoo.demonstrations.load_demonstrations``."""
    path = Path(source)
    if str(source) in shipped():
        return _read_minari(_SHIPPED / str(source))
    if path.is_dir():
        folder = path / "data" if (path / "data").is_dir() else path
        if (folder / "metadata.json").is_file():
            return _read_minari(folder)
        files = sorted(p for p in path.iterdir() if p.suffix in (".h5", ".hdf5"))
        if not files:
            raise ValueError(f"demonstrations {str(source)!r}: no metadata.json and no .h5 in it")
        return [_read_h5(file, time_limit) for file in files]
    if path.is_file():
        if path.suffix == ".npz":
            return _read_npz(path, time_limit)
        if path.suffix in (".h5", ".hdf5"):
            return [_read_h5(path, time_limit)]
        raise ValueError(f"demonstrations {str(source)!r}: expected .npz, .h5 or a folder")
    return _read_minari_id(str(source))


def _read_minari(folder: Path) -> list[Episode]:
    """A Minari data set in HDF5; read without Minari, which need not be installed."""
    h5py = require("h5py", "mujoco")
    metadata = json.loads((folder / "metadata.json").read_text())
    if metadata.get("data_format", "hdf5") != "hdf5":
        minari = require("minari", "mujoco")
        return [
            _episode(str(folder), vars(e)) for e in minari.MinariDataset(folder).iterate_episodes()
        ]
    with h5py.File(folder / "main_data.hdf5", "r") as file:
        groups = sorted(file.values(), key=lambda group: int(group.attrs["id"]))
        return [_episode(str(folder), group) for group in groups]


def _read_minari_id(name: str) -> list[Episode]:
    if "/" not in name:
        raise ValueError(
            f"demonstrations {name!r}: there is no such file or folder, and none of that name is "
            f"shipped: {nearest(name, shipped())}"
        )
    minari = require("minari", "mujoco")
    try:
        dataset = minari.load_dataset(name)
    except Exception as error:
        raise ValueError(
            f"demonstrations {name!r}: no file, folder or Minari data set of that name "
            f"({error}); try: minari download {name}"
        ) from None
    return [_episode(name, vars(episode)) for episode in dataset.iterate_episodes()]


def _episode(source: str, group: Any) -> Episode:
    """An episode of Minari: arrays by name."""
    missing = [k for k in ("terminations", "truncations") if k not in group]
    if missing:
        raise ValueError(f"{source}: there is no {' and no '.join(missing)} in an episode")
    arrays = {}
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        value = group[name]
        if not hasattr(value, "shape"):
            raise ValueError(f"{source}: {name} of {type(value).__name__}, expected one array")
        arrays[name] = np.asarray(value)
    return make_episode(source, *arrays.values())


def _read_npz(path: Path, time_limit: int | None) -> list[Episode]:
    """``imitation``'s trajectories: steps of all episodes end to end, cut at ``indices``."""
    with np.load(path, allow_pickle=False) as file:
        names = [k for k in ("obs", "acts", "rews", "indices", "terminal") if k in file.files]
        data = {k: file[k] for k in names}
    missing = [k for k in ("obs", "acts", "indices", "terminal") if k not in data]
    if missing:
        raise ValueError(f"{str(path)!r}: there is no {missing[0]!r}; expected imitation's layout")
    cuts = data["indices"]
    rewards = data.get("rews", np.zeros(len(data["acts"]), np.float32))
    # Every episode has one observation more than actions.
    obs = np.split(data["obs"], cuts + np.arange(len(cuts)) + 1)
    columns = (obs, np.split(data["acts"], cuts), np.split(rewards, cuts), data["terminal"])
    episodes = []
    for observations, actions, reward, done in zip(*columns, strict=True):
        ends = _ends(str(path), len(actions), bool(done), time_limit)
        episodes.append(make_episode(str(path), observations, actions, reward, *ends))
    return episodes


def _read_h5(path: Path, time_limit: int | None) -> Episode:
    """One episode in the layout of the reference implementation of Blondé et al. (2022)."""
    h5py = require("h5py", "mujoco")
    with h5py.File(path, "r") as file:
        missing = [k for k in ("obs0", "acs", "obs1", "dones1") if k not in file]
        if missing:
            raise ValueError(f"{str(path)!r}: there is no {missing[0]!r} in it")
        before, actions, after, done = (file[k][()] for k in ("obs0", "acs", "obs1", "dones1"))
        whole = float(np.sum(file["ep_env_rets"][()])) if "ep_env_rets" in file else 0.0
    # The file knows an episode's return, not its rewards.
    rewards = np.full(len(actions), whole / max(len(actions), 1), np.float32)
    obs = np.concatenate([before, after[-1:]])
    ends = _ends(str(path), len(actions), bool(np.ravel(done)[-1]), time_limit)
    return make_episode(str(path), obs, actions, rewards, *ends)


def _ends(
    source: str, length: int, done: bool, time_limit: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Terminated and truncated from a single flag."""
    if time_limit is None:
        raise ValueError(
            f"{source}: its flag says only that an episode is done; give time_limit=, the number "
            "of steps after which episodes were cut off"
        )
    terminated, truncated = np.zeros((2, length), np.bool_)
    if done:
        (truncated if length >= time_limit else terminated)[-1:] = True
    return terminated, truncated


def make_episode(
    source: str, obs: Any, action: Any, reward: Any, terminated: Any, truncated: Any
) -> Episode:
    """An episode from arrays, checked to fit each other.

    Raises:
        ValueError: naming ``source``.
    """
    length = len(action)
    if len(obs) != length + 1:
        raise ValueError(
            f"{source}: an episode has {len(obs)} observations and {length} actions, "
            "expected one observation more"
        )
    for name, array in (("rewards", reward), ("terminations", terminated)):
        if len(array) != length:
            raise ValueError(
                f"{source}: an episode has {len(array)} {name} and {length} actions, "
                "expected as many"
            )
    return Episode(
        np.asarray(obs, np.float32),
        np.asarray(action, np.float32),
        np.asarray(reward, np.float32),
        np.asarray(terminated, np.bool_),
        np.asarray(truncated, np.bool_),
    )


def write_minari(
    folder: Path, episodes: Iterable[Episode], env: str, algorithm: str, description: str
) -> None:
    """Write a Minari data set, readable by Minari and by ``load_demonstrations``.

    Args:
        folder: to be made; it must not hold a data set yet.
        episodes: what was recorded.
        env: id of the environment.
        algorithm: who played.
        description: anything else worth knowing.

    Raises:
        ValueError: if there is a data set already.
    """
    minari = require("minari", "mujoco")
    buffer = require("minari.data_collector", "mujoco").EpisodeBuffer
    storages = require("minari.dataset.minari_storage", "mujoco").MinariStorage
    if (folder / "metadata.json").exists():
        raise ValueError(f"out={str(folder)!r}: there is a data set already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    spec = gymnasium.spec(env)
    made = gymnasium.make(env)
    storage = storages.new(folder, made.observation_space, made.action_space, spec)
    made.close()  # type: ignore[no-untyped-call]
    storage.update_episodes(
        buffer(
            observations=e.obs,
            actions=e.action,
            rewards=e.reward,
            terminations=e.terminated,
            truncations=e.truncated,
            infos=None,
        )
        for e in episodes
    )
    storage.update_metadata(
        {
            "dataset_id": f"rewardzoo/{folder.name.lower()}/expert-v0",
            "minari_version": minari.__version__,
            "algorithm_name": algorithm,
            "description": description,
        }
    )
