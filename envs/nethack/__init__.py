"""NetHack and MiniHack: the tasks of NLE, Motif, ONI and CALM."""

from __future__ import annotations

from typing import Any

from rewardzoo.registration import register_simulator

from .levels import LEVELS

_GAME = "rewardzoo.envs.nethack.game:Game"
_EXTENDED = "rewardzoo.envs.nethack.extended:ExtendedGame"
_LEVEL = "rewardzoo.envs.nethack.minihack:MiniHackGame"
_KEY_ROOM = "rewardzoo.envs.nethack.minihack:KeyRoomGame"


def _register(name: str, limit: int, game: str = _GAME, **kwargs: Any) -> None:
    register_simulator(
        f"rewardzoo/{name}-v0",
        "rewardzoo.envs.nethack.env:NetHackEnv",
        "rewardzoo.envs.nethack.env:NetHackVectorEnv",
        max_episode_steps=limit,
        game=game,
        **kwargs,
    )


_register("NetHack", 5000, task="free_score")
_register("NetHackChallenge", 1_000_000, task="challenge", penalty_step=0.0, character="@")
for _name, _task in (
    ("Score", "score"), ("Staircase", "staircase"), ("StaircasePet", "staircase_pet"),
    ("Oracle", "oracle"), ("Gold", "gold"), ("Eat", "eat"), ("Scout", "scout"),
):  # fmt: skip
    _register(f"NetHack{_name}", 5000, task=_task)
    _register(f"NetHack{_name}ExtendedActions", 5000, _EXTENDED, task=_task)
for _name, _rule in (
    ("StaircaseLvl2", {"task": "descent", "level": 2}),
    ("StaircaseLvl3", {"task": "descent", "level": 3}),
    ("StaircaseLvl4", {"task": "descent", "level": 4}),
    ("OracleSober", {"task": "oracle_sober"}),
):
    for _suffix, _continual in (("", False), ("Continual", True)):
        _register(f"NetHack{_name}{_suffix}", 5000, **_rule, continual=_continual)
        _register(
            f"NetHack{_name}{_suffix}ExtendedActions",
            5000,
            _EXTENDED,
            **_rule,
            continual=_continual,
        )
for _limit, _levels in LEVELS.items():
    for _level in _levels.split():
        _register(
            f"MiniHack{_level.replace('-', '')}",
            _limit,
            _KEY_ROOM if _level.startswith("KeyRoom") else _LEVEL,
            level=f"MiniHack-{_level}-v{int(_level.startswith('Sokoban'))}",
        )
