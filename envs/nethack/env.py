"""The two faces of NetHack for Gymnasium. Importing this module imports no simulator."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np

from rewardzoo.engines import load, own_buffers
from rewardzoo.simulator import SimulatorVectorEnv

from .descriptions import describe

GAME = "rewardzoo.envs.nethack.game:Game"


def make_game(game: str = GAME, **arguments: Any) -> Any:
    """The engine, or one line that says what is missing.

    Raises:
        ModuleNotFoundError: without the extra.
    """
    try:
        importlib.import_module("nle")
        return load(game)(**arguments)
    except ModuleNotFoundError as error:
        if error.name in ("nle", "minihack", "minigrid"):
            raise ModuleNotFoundError(
                f'{error.name} is missing: pip install "rewardzoo[nethack]"', name=error.name
            ) from error
        raise


class NetHackEnv(gymnasium.Env[Any, Any]):
    """NetHack and MiniHack: sparse rewards in a large, partly seen, stochastic world.

    Dynamics: the real game (NetHack 3.6.6). One step presses one key; ``--More--`` is clicked
    away, and questions are declined but for those about eating, attacking, directions and praying,
    which the next action answers. MiniHack's levels are small rooms built from descriptions. In
    the key rooms, applying the key beside the locked door unlocks and opens it in one step.

    Observation: a Dict of ``observation_keys``, by default ``glyphs`` (21, 79) int16, what is seen
    of the map; ``blstats`` (27,) int64, the hero's numbers (0 column, 1 row, 9 score, 10 hit
    points, 12 depth, 13 gold, 18 experience level, 20 turns, 23 dungeon, 24 level in it, 25
    conditions); ``message`` (256,) uint8. Any of NLE's others, and windows around the hero:
    ``glyphs_crop``, ``chars_crop``, ``colors_crop``, ``specials_crop`` (crop, crop). After death
    they are blank, as NetHack leaves them; after a success they show the true last state.

    Action: Discrete over named commands (``action_names``). NetHack's tasks: ``MORE``, 8 steps, 8
    long moves, ``UP``, ``DOWN``, ``WAIT``, ``KICK``, ``EAT``, ``SEARCH``; with
    ``ExtendedActions`` also ``CAST`` (the first spell), ``QUAFF``, ``PRAY``, ``PICKUP``, ``PAY``,
    and asked what to eat or drink, ``NW`` (the letter y) takes the first item. MiniHack's: the
    level's own; ``actions="calm"`` gives a key room the six of CALM.

    Objective: by task, the rise of the score (Score), of gold (Gold), of nutrition (Eat), of the
    known map (Scout), or 1 for standing on stairs down (Staircase, also with the pet beside:
    StaircasePet) or beside the Oracle; in each ``penalty_step`` for a step in which the game's
    clock stood still. StaircaseLvl2 to Lvl4, OracleSober: 50 for arriving by the stairs, or for
    standing beside the Oracle without hallucinating, and nothing else; ``Continual`` pays once and
    plays on. MiniHack: what the level pays, mostly 1 for the stairs down, and the penalty.

    Start state: a new game from seeds drawn from the environment's own generator, so that a seeded
    environment plays a reproducible sequence of games.

    End of episode: terminated by death or success; truncated after ``max_episode_steps``.

    Info: ``score``, ``depth``, ``gold``, ``experience_level``, ``turns`` of the hero while alive;
    ``end_status`` 0 running, 1 death, 2 success; in the sparse tasks also ``scout``, ``kills``.

    Arguments: ``observation_keys``, ``actions``, ``level_seed``, ``penalty_mode``,
    ``penalty_step``, ``penalty_time``, ``character``, ``crop``; those of the task.

    Paper: Küttler et al. (2020), "The NetHack Learning Environment"; Samvelyan et al. (2021),
    "MiniHack the Planet"; Klissarov et al. (2023), "Motif"; Zheng et al. (2024), "Online intrinsic
    rewards for decision making agents from large language model feedback".
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}
    describe = staticmethod(describe)
    """What an id asks, of the arguments with which it is registered."""

    def __init__(self, render_mode: str | None = None, **arguments: Any) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode={render_mode!r}: expected one of {self.metadata['render_modes']}"
            )
        self.render_mode = render_mode
        self.game = make_game(**arguments, drawn=render_mode is not None)
        self.observation_space = self.game.observation_space
        self.action_space = self.game.action_space
        self.action_names = self.game.action_names
        self._obs, self._info = own_buffers(self.game)
        self._begun = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next game; ``seed`` starts the sequence of games anew."""
        super().reset(seed=seed)
        self.game.begin(self.np_random)
        self._begun = True
        return self._copy(), self._numbers()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; ``info["objective"]`` repeats the reward, and survives reward wrappers."""
        if not self._begun:
            raise gymnasium.error.ResetNeeded("call env.reset() before env.step(action)")
        reward, terminated, truncated = self.game.step(action)
        reward = float(reward)
        info = {"objective": reward, **self._numbers()}
        return self._copy(), reward, terminated, truncated, info

    def render(self) -> Any:
        """The terminal, as a picture (H, W, 3) uint8 or as text, by ``render_mode``."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode: gym.make(id, render_mode=...)")
            return None
        if not self._begun:
            raise gymnasium.error.ResetNeeded("call env.reset() before env.render()")
        return self.game.render(self.render_mode)

    def close(self) -> None:
        """End the game."""
        self.game.close()

    def _copy(self) -> dict[str, np.ndarray]:
        """A copy: the engine writes into the same arrays at every step."""
        return {key: value.copy() for key, value in self._obs.items()}

    def _numbers(self) -> dict[str, Any]:
        return {key: value[0].item() for key, value in self._info.items()}


class NetHackVectorEnv(SimulatorVectorEnv):
    """Many games of NetHack in few processes; see ``NetHackEnv`` and ``SimulatorVectorEnv``.

    Two threads of a process step its games, where a C compiler was there at installation.

    Args:
        num_envs: N.
        **arguments: of both classes.
    """

    def __init__(self, num_envs: int, render_mode: str | None = None, **arguments: Any) -> None:
        super().__init__(
            num_envs,
            make_game,
            render_mode=render_mode,
            drawn=render_mode is not None,
            **arguments,
        )
        self.metadata["render_fps"] = 10
