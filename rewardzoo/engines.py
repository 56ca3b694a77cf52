"""Engine: a single simulator, as worker processes want it, and any Gymnasium environment as one.

A simulator (NetHack, MuJoCo) holds its state inside itself and steps one world at a time. An
engine writes what it observes straight into arrays that it is given, so that in a worker process
(``workers.py``) they can be shared memory and nothing is copied.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Buffers = Any  # an array, or a dict of them, of the shape and dtype of the observation space
# One writable number for each name in ``info_fields``: a memoryview, which is several times faster
# to write into than an array.
Slots = Mapping[str, Any]


class Engine(Protocol):
    """One world. Nobody else writes into the buffers between two calls."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    info_fields: Mapping[str, type]
    """Numbers for ``info``: name to ``int`` or ``float``."""
    render_modes: tuple[str, ...]

    def attach(self, observation: Buffers, info: Slots) -> None:
        """Write into these from now on; called once, before the first reset."""

    def reset(self, seed: int | None) -> None:
        """Start an episode; a seed starts the sequence of episodes anew. Fills the buffers."""

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """Objective, terminated, truncated of one step. Fills the buffers."""

    def render(self, mode: str) -> Any:
        """A frame (H, W, 3) uint8, or text."""

    def close(self) -> None:
        """Give back what the engine holds."""


class Crew(Protocol):
    """The engines of one process, stepped together.

    Engines that can step at the same time name their crew in an attribute ``crew``: a function of
    the engines, all attached, and the number of threads that help the caller.
    """

    def began(self, j: int) -> None:
        """Engine ``j`` was reset."""

    def start(self, actions: Sequence[Any]) -> None:
        """Begin a step of the engines whose action is not None."""

    def outcomes(
        self, meanwhile: Callable[[], None]
    ) -> Iterator[tuple[int, tuple[float, bool, bool]]]:
        """Each engine that has stepped and what its ``step`` returns, whoever is ready first.

        The engine may be reset before the next one is asked for. ``meanwhile`` is called when the
        caller has nothing to do but wait.
        """

    def close(self) -> None:
        """End the threads; the engines come after."""


class InTurn:
    """Engines that step one after the other: see ``Crew``."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = engines
        self._actions: Sequence[Any] = ()

    def began(self, j: int) -> None:
        """See ``Crew``."""

    def start(self, actions: Sequence[Any]) -> None:
        """See ``Crew``."""
        self._actions = actions

    def outcomes(
        self, meanwhile: Callable[[], None]
    ) -> Iterator[tuple[int, tuple[float, bool, bool]]]:
        """See ``Crew``."""
        for j, action in enumerate(self._actions):
            if action is not None:
                yield j, self.engines[j].step(action)

    def close(self) -> None:
        """See ``Crew``."""


def crew_of(engines: Sequence[Engine], helpers: int) -> Crew:
    """The engines as a crew, with so many threads beside the caller's."""
    return cast("Any", engines[0]).crew(engines, helpers) if helpers else InTurn(engines)


def load(engine: str | Callable[..., Engine]) -> Callable[..., Engine]:
    """The maker of engines from ``"module:name"``."""
    if not isinstance(engine, str):
        return engine
    module, _, name = engine.partition(":")
    return cast("Callable[..., Engine]", getattr(importlib.import_module(module), name))


class GymnasiumEngine:
    """Any Gymnasium environment as an engine; its observations are copied.

    Args:
        env: an id, or a function that makes the environment.
        info_fields: entries of its ``info`` to keep, name to ``int`` or ``float``; absent ones
            are 0.
        **kwargs: of ``gymnasium.make``.
    """

    def __init__(
        self,
        env: str | Callable[[], gymnasium.Env[Any, Any]],
        info_fields: Mapping[str, type] | None = None,
        **kwargs: Any,
    ) -> None:
        self.env = gymnasium.make(env, **kwargs) if isinstance(env, str) else env(**kwargs)
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space
        self.info_fields = dict(info_fields or {})
        self.render_modes = tuple(self.env.metadata.get("render_modes", ()))

    def attach(self, observation: Buffers, info: Slots) -> None:
        """See ``Engine``."""
        self._observation, self._info = observation, info

    def reset(self, seed: int | None) -> None:
        """See ``Engine``."""
        self._keep(*self.env.reset(seed=seed))

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """See ``Engine``."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._keep(obs, info)
        return float(info.get("objective", reward)), bool(terminated), bool(truncated)

    def render(self, mode: str) -> Any:
        """See ``Engine``; the mode is the one that the environment was made with."""
        return self.env.render()

    def close(self) -> None:
        """See ``Engine``."""
        self.env.close()  # type: ignore[no-untyped-call]

    def _keep(self, obs: Any, info: dict[str, Any]) -> None:
        write(self._observation, obs)
        for name, kind in self.info_fields.items():
            self._info[name][0] = kind(info.get(name, 0))


def view(array: Any) -> Any:
    """A memoryview of an array, for reading and writing single numbers fast."""
    return memoryview(array)


def write(buffers: Buffers, obs: Any) -> None:
    """Copy an observation into its buffers."""
    if isinstance(buffers, dict):
        for key, buffer in buffers.items():
            write(buffer, obs[key])
    else:
        buffers[...] = obs


def leaves(space: spaces.Space[Any], name: str = "") -> dict[str, tuple[tuple[int, ...], Any]]:
    """Dotted name to shape and dtype of every array in an observation of ``space``.

    Raises:
        ValueError: for a space that has no arrays of fixed shape.
    """
    if isinstance(space, spaces.Dict):
        found = {}
        for key, inner in space.spaces.items():
            found.update(leaves(inner, f"{name}.{key}" if name else key))
        return found
    if space.shape is None or space.dtype is None or isinstance(space, spaces.Tuple):
        raise ValueError(f"observation_space={space}: expected arrays of fixed shape, or a Dict")
    return {name: (space.shape, space.dtype)}


def tree(space: spaces.Space[Any], arrays: Mapping[str, Any], name: str = "") -> Any:
    """What was taken apart by ``leaves``, put together: an array, or a dict of them."""
    if isinstance(space, spaces.Dict):
        return {
            key: tree(inner, arrays, f"{name}.{key}" if name else key)
            for key, inner in space.spaces.items()
        }
    return arrays[name]


def own_buffers(engine: Engine) -> tuple[Buffers, dict[str, NDArray[Any]]]:
    """Attach arrays of its own to an engine that stands alone: its observation and its info."""
    arrays = {k: np.zeros(*spec) for k, spec in leaves(engine.observation_space).items()}
    info = {k: np.zeros(1, np.int64 if v is int else np.float32) for k, v in
            engine.info_fields.items()}  # fmt: skip
    observation = tree(engine.observation_space, arrays)
    engine.attach(observation, {k: view(v) for k, v in info.items()})
    return observation, info
