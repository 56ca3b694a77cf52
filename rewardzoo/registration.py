"""The registries: environments, reward functions, agents and experiments, all found by name.

A file added to ``rewardzoo/rewards``, ``rewardzoo/agents``, ``rewardzoo/experiments`` or a folder
added to ``rewardzoo/envs`` is found by itself; nothing else needs to be edited. Files outside the
package are read with ``load_plugin``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import gymnasium

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that no registry entry has."""


class Registry(Generic[T]):
    """Names to objects, filled by decorators in the modules of one package.

    Args:
        kind: what it holds, in the singular, for messages.
        package: dotted name; its modules are imported when the registry is first read.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._read = False

    def register(self, name: str) -> Callable[[Any], Any]:
        """A decorator that enters an object under ``name``; a second one raises.

        A class learns its name: ``cls.registered_name``.
        """

        def enter(entry: Any) -> Any:
            known = self._entries.get(name)
            if known is not None and _source(known) != _source(entry):
                raise ValueError(
                    f"{self.kind} {name!r} is registered twice: by {_source(known)} "
                    f"and by {_source(entry)}; choose another name"
                )
            self._entries[name] = entry
            if isinstance(entry, type):
                entry.registered_name = name  # type: ignore[attr-defined]
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        self._discover()
        if name not in self._entries:
            raise UnknownNameError(unknown(self.kind, name, self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def _discover(self) -> None:
        if not self._read:
            self._read = True
            import_modules(self.package)


REWARDS: Registry[Any] = Registry("reward function", "rewardzoo.rewards")
AGENTS: Registry[Any] = Registry("agent", "rewardzoo.agents")
EXPERIMENTS: Registry[Any] = Registry("experiment", "rewardzoo.experiments")
register_reward = REWARDS.register
register_agent = AGENTS.register


def register_env(
    id: str, dynamics: str, max_episode_steps: int | None = None, **kwargs: Any
) -> None:
    """Register a functional environment under both of Gymnasium's entry points.

    Args:
        id: for instance ``rewardzoo/GridWorld-v0``.
        dynamics: ``"module:Class"`` of the FuncEnv; imported when an environment is made.
        max_episode_steps: truncation limit.
        **kwargs: default parameters.

    Raises:
        ValueError: if the id is taken by something else.
    """
    _enter(
        id,
        max_episode_steps,
        "rewardzoo.functional_single:FunctionalEnv",
        "rewardzoo.functional_vector:FunctionalVectorEnv",
        {"dynamics": dynamics, **kwargs},
    )


def register_simulator(
    id: str,
    entry_point: str,
    vector_entry_point: str | None = None,
    max_episode_steps: int | None = None,
    **kwargs: Any,
) -> None:
    """Register an environment that has an engine of its own.

    Args:
        id: for instance ``rewardzoo/NetHackScore-v0``.
        entry_point: ``"module:Class"`` of the ``gymnasium.Env``; its docstring is the card, so the
            module must import without the engine.
        vector_entry_point: of the ``gymnasium.vector.VectorEnv``; None leaves ``make_vec`` to
            Gymnasium's own.
        max_episode_steps: truncation limit.
        **kwargs: default arguments of both.

    Raises:
        ValueError: if the id is taken by something else.
    """
    _enter(id, max_episode_steps, entry_point, vector_entry_point, kwargs)


def _enter(
    id: str,
    max_episode_steps: int | None,
    entry_point: str,
    vector_entry_point: str | None,
    kwargs: dict[str, Any],
) -> None:
    known = gymnasium.registry.get(id)
    if known is not None:
        if (known.entry_point, known.max_episode_steps, known.kwargs) == (
            entry_point,
            max_episode_steps,
            kwargs,
        ):
            return
        raise ValueError(
            f"environment {id!r} is registered twice: for "
            f"{known.kwargs.get('dynamics', known.entry_point)} "
            f"and for {kwargs.get('dynamics', entry_point)}; choose another id"
        )
    gymnasium.register(
        id,
        entry_point=entry_point,
        vector_entry_point=vector_entry_point,
        max_episode_steps=max_episode_steps,
        kwargs=kwargs,
    )


def env_ids() -> list[str]:
    """The ids of this project's environments."""
    return sorted(i for i in gymnasium.registry if i.startswith("rewardzoo/"))


def functional_ids() -> list[str]:
    """The ids of those whose dynamics are a FuncEnv."""
    return [i for i in env_ids() if "dynamics" in gymnasium.registry[i].kwargs]


def documented_class(id: str) -> Any:
    """The class whose docstring is the card of ``id``; imports its module, no simulator."""
    spec = gymnasium.spec(id)
    module, _, name = str(spec.kwargs.get("dynamics", spec.entry_point)).partition(":")
    return getattr(importlib.import_module(module), name)


def description_of(id: str) -> str:
    """One line on an environment: the first of its class, or what the class says of this id.

    A class with many ids has ``describe``, a function of the arguments of an id's registration.
    """
    kind = documented_class(id)
    if hasattr(kind, "describe"):
        line: str = kind.describe(**gymnasium.spec(id).kwargs)
        return line
    return str(kind.__doc__ or "").strip().partition("\n")[0]


def check_env_id(id: str) -> None:
    """Raise UnknownNameError unless Gymnasium knows ``id``; suggests the nearest."""
    name = id.split(":")[-1]
    if name not in gymnasium.registry:
        raise UnknownNameError(unknown("environment", id, gymnasium.registry))


def unknown(kind: str, name: str, known: Any) -> str:
    """The message for an unknown name, with the nearest known one."""
    return f"{kind} {name!r} is unknown: {nearest(name, known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of such a message: the nearest known name, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1, 0.4)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def import_modules(package: str) -> None:
    """Import every module of a package, each a file or a folder, without descending."""
    root = importlib.import_module(package)
    for module in pkgutil.iter_modules(root.__path__):
        importlib.import_module(f"{package}.{module.name}")


def load_plugin(path: str | Path) -> None:
    """Run a Python file, so that the decorators in it register what it defines.

    Raises:
        ValueError: if there is no such file, or what it raises, with its line.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"plugin {str(path)!r}: there is no such file")
    name = f"rewardzoo_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"plugin {str(path)!r}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
        where = f", line {lines[-1]}" if lines else ""  # a syntax error says it by itself
        raise ValueError(f"plugin {str(path)!r}{where}: {type(error).__name__}: {error}") from error


def _source(entry: Any) -> str:
    return f"{getattr(entry, '__module__', '?')}.{getattr(entry, '__qualname__', entry)}"
