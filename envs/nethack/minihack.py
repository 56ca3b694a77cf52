"""MiniHack's levels (Samvelyan et al. 2021) on the lean loop of ``game.py``.

MiniHack's classes write a level's description and compile it; here that is all they do, once.
The game on it is played by ``Game``. Where a class judges by rules of its own (reward managers,
Sokoban), those rules are asked.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .game import Game
from .keys import names_of
from .tasks import RUNNING, SUCCESS, Staircase

_TRIES = 64  # of the unlocking macro; MiniHack's own has no end where the door stays shut


@cache
def minihack() -> Any:
    """The package, whether or not setuptools still has the ``pkg_resources`` that it imports."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pkg_resources.*")
        substitute = importlib.util.find_spec("pkg_resources") is None
        if substitute:
            module: Any = types.ModuleType("pkg_resources")
            module.resource_filename = _resource_filename
            sys.modules["pkg_resources"] = module
        try:
            import minihack
        finally:
            if substitute:
                del sys.modules["pkg_resources"]
    return minihack


def _resource_filename(package: str, name: str) -> str:
    from importlib import resources

    return str(resources.files(package) / name)


def _unsized(grid: str) -> str:
    """An id of a MiniGrid crossing that ignores MiniHack's width and height, which it refuses."""
    import gymnasium
    import minigrid  # noqa: F401  (registers the crossings)

    id = grid.replace("MiniGrid-", "MiniGrid-Unsized")
    if id not in gymnasium.registry:
        spec = gymnasium.registry[grid]
        gymnasium.register(id, entry_point=crossing, kwargs=dict(spec.kwargs))
    return id


def crossing(width: int, height: int, **arguments: Any) -> Any:
    """A MiniGrid crossing of its own size."""
    from minigrid.envs import CrossingEnv

    return CrossingEnv(**arguments)


class MiniHackGame(Game):
    """A MiniHack level as an engine.

    Args:
        level: MiniHack's id of the task, for instance ``MiniHack-KeyRoom-S5-v0``.
        actions: names of commands; default: the level's own.
        **arguments: see ``Game``.
    """

    def __init__(
        self, level: str, actions: str | Sequence[str] | None = None, **arguments: Any
    ) -> None:
        self.level = level
        import gymnasium

        minihack()
        spec = gymnasium.registry[level]
        module, _, name = str(spec.entry_point).partition(":")
        kind = getattr(importlib.import_module(module), name)
        own = dict(spec.kwargs)
        if "Crossing" in own.get("env_name", ""):
            own["env_name"] = _unsized(own["env_name"])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # of MiniGrid's ids
            self._inner = kind(**own, render_mode=None, fix_moon_phase=True)
        self._check_level()
        super().__init__(task="", actions=actions, **arguments)
        self._all_questions = self._inner._allow_all_yn_questions
        self._all_modes = self._inner._allow_all_modes

    def _make_task(self, task: str, rules: dict[str, Any]) -> Any:
        from minihack.envs.sokoban import Sokoban

        if rules:
            raise TypeError(f"{self.level} has no parameter {next(iter(rules))!r}")
        if self._inner.reward_manager is not None or isinstance(self._inner, Sokoban):
            return OwnRules(self._inner)
        return Goal(self._inner)

    def _default_actions(self) -> Any:
        return names_of(self._inner.actions)

    def _make_engine(self, keys: tuple[str, ...]) -> Any:
        return self._inner.nethack

    def attach(self, observation: Any, info: Any) -> None:
        """See ``Engine``."""
        super().attach(observation, info)
        order = self._inner._observation_keys
        if set(order) <= set(self.buffers):
            self._inner.last_observation = tuple(self.buffers[key] for key in order)
            self._inner.actions = self._keys

    def key(self, action: Any) -> int:
        """See ``Game``."""
        self.last_action = action
        return super().key(action)

    def _prepare_level(self, seed: int) -> None:
        grid = getattr(self._inner, "minigrid_env", None)
        if grid is not None:  # a new level each time, from another generator
            grid.reset(seed=seed % 2**32)
            self._compiled().unlink()
            self._inner.update(self._inner.get_env_desc())
            self._check_level()

    def _compiled(self) -> Path:
        return Path(self._inner.nethack._vardir, "lib", "mylevel.lev")

    def _check_level(self) -> None:
        """MiniHack ignores its compiler's failures and plays an ordinary level then."""
        if not self._compiled().is_file():
            raise RuntimeError(f"{self.level}: its level could not be compiled (see above)")

    def close(self) -> None:
        """See ``Engine``."""
        super().close()
        self._inner.close()


class KeyRoomGame(MiniHackGame):
    """A room with a locked door: applying the key beside the door opens it, in one step."""

    def __init__(self, level: str, **arguments: Any) -> None:
        super().__init__(level, **arguments)
        from nle import nethack

        self._apply = int(nethack.Command.APPLY)
        closed = nethack.GLYPH_CMAP_OFF + 15  # vertical; horizontal is the next one
        self._closed = closed, closed + 1
        self.task.needs = (*self.task.needs, "inv_strs", "inv_letters")

    def key(self, action: Any) -> int:
        """See ``Game``."""
        key = super().key(action)
        if key == self._apply:
            self._unlock()
        return key

    def _unlock(self) -> None:
        """Apply the key to a closed door beside the hero and walk into it until it opens."""
        key, door = self._key_letter(), self._door_direction()
        if key is None or door is None:
            return
        for pressed in (self._apply, key, door, ord("y")):
            self._press(pressed)
        self._answer()
        for _ in range(_TRIES):
            self._press(door)
            self._answer()
            if self._over() or self._door_direction() is None:
                return

    def _key_letter(self) -> int | None:
        for letter, line in zip(self.buffers["inv_letters"], self.buffers["inv_strs"], strict=True):
            if not letter:
                return None
            if b"key" in line.tobytes():
                return int(letter)
        return None

    def _door_direction(self) -> int | None:
        x, y = self.blstats[0], self.blstats[1]
        glyphs = self.buffers["glyphs"]
        for key, dx, dy in ((121, -1, -1), (107, 0, -1), (117, 1, -1), (104, -1, 0), (108, 1, 0),
                            (98, -1, 1), (106, 0, 1), (110, 1, 1)):  # fmt: skip
            u, v = x + dx, y + dy
            if 0 <= v < glyphs.shape[0] and 0 <= u < glyphs.shape[1]:
                if glyphs[v, u] in self._closed:
                    return key
        return None


class Goal(Staircase):
    """The level's reward for reaching the stairs down."""

    def __init__(self, inner: Any) -> None:
        self._win, self.on_death = float(inner.reward_win), float(inner.reward_lose)

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        return (self._win, SUCCESS) if game.internal[4] else (0.0, RUNNING)


class OwnRules(Staircase):
    """Whatever the level's own class judges; the clock's penalty is part of it where it has one."""

    def __init__(self, inner: Any) -> None:
        from minihack.envs.sokoban import Sokoban

        self._inner = inner
        self.needs = tuple(inner._observation_keys)
        self.penalised = not isinstance(inner, Sokoban)

    def start(self, game: Any) -> None:
        """See ``Task``."""
        if self._inner.reward_manager is not None:
            self._inner.reward_manager.reset()
        self._remember()

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        inner, observation = self._inner, self._inner.last_observation
        inner._previous_obs, inner._previous_action = self._last, game.last_action
        status = inner._is_episode_end(observation)
        if inner.reward_manager is None:
            reward = inner._reward_fn(self._last, game.last_action, observation, status)
        else:
            reward = inner.reward_manager.collect_reward()
        self._remember()
        return float(reward), int(status)

    def _remember(self) -> None:
        self._last = tuple(array.copy() for array in self._inner.last_observation)
