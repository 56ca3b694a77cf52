"""NetHack and MiniHack: the tasks of NLE, Motif, ONI and CALM."""

from __future__ import annotations

from typing import Any

from rewardzoo.registration import register_simulator

_GAME = "rewardzoo.envs.nethack.game:Game"
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
    _register(f"NetHack{_name}ExtendedActions", 5000, task=_task, extended=True)
for _name, _rule in (
    ("StaircaseLvl2", {"task": "descent", "level": 2}),
    ("StaircaseLvl3", {"task": "descent", "level": 3}),
    ("StaircaseLvl4", {"task": "descent", "level": 4}),
    ("OracleSober", {"task": "oracle_sober"}),
):
    for _continual in (False, True):
        for _extended in (False, True):
            _register(
                f"NetHack{_name}{'Continual' * _continual}{'ExtendedActions' * _extended}",
                5000,
                **_rule,
                continual=_continual,
                extended=_extended,
            )
for _name, _limit in (("Fixed-S5", 200), ("S5", 200), ("S15", 400), ("Dark-S5", 200),
                      ("Dark-S15", 400)):  # fmt: skip
    _register(
        f"MiniHackKeyRoom{_name.replace('-', '')}",
        _limit,
        _KEY_ROOM,
        level=f"MiniHack-KeyRoom-{_name}-v0",
    )
