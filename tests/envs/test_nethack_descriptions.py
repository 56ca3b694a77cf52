"""Every id of NetHack and MiniHack says in its own line what it asks."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

from rewardzoo.envs.nethack.descriptions import describe
from rewardzoo.registration import description_of, documented_class, env_ids


def test_no_two_ids_say_the_same_and_every_line_is_short() -> None:
    ids = [id for id in env_ids() if "Hack" in id]
    lines = [description_of(id) for id in ids]
    assert len(ids) > 180 and len(set(lines)) == len(ids)
    assert all("\n" not in line and len(line) <= 140 for line in lines)
    assert all("``" not in line for line in lines)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("NetHackScore", "NetHack: what the in-game score rose by"),
        ("NetHackGold", "NetHack: what the purse grew by"),
        ("NetHackStaircaseLvl3", "NetHack: 50 for taking the stairs down to level 3 of"),
        ("MiniHackKeyRoomDarkS5", "MiniHack: pick up a key and unlock the closet"),
        ("MiniHackCorridorBattleDark", "MiniHack: fight giant rats"),
        ("MiniHackLavaCrossingS9N2", "MiniHack: reach the stairs down through gaps in streams"),
        ("MiniHackWoDEasyFull", "MiniHack: kill a minotaur"),
    ],
)
def test_a_line_says_what_is_asked(name: str, asked: str) -> None:
    assert description_of(f"rewardzoo/{name}-v0").startswith(asked)


def test_variants_are_told_apart() -> None:
    line = description_of("rewardzoo/MiniHackMultiRoomN4Locked-v0")
    assert line.endswith("; 4 rooms, with locked doors")
    line = description_of("rewardzoo/NetHackOracleSoberContinualExtendedActions-v0")
    assert line.endswith("; paid once, and played on; with more commands")


def test_a_variant_that_nobody_has_described_is_an_error() -> None:
    with pytest.raises(KeyError, match="Underwater"):
        describe(level="MiniHack-Room-Underwater-v0")


def test_a_class_of_one_id_is_described_by_its_first_line(cli: Any) -> None:
    first = documented_class("rewardzoo/GridWorld-v0").__doc__.strip().splitlines()[0]
    assert description_of("rewardzoo/GridWorld-v0") == first
    listed = dict(line.split("\t") for line in cli("list", "envs").out.splitlines())
    for id in ("rewardzoo/GridWorld-v0", "rewardzoo/NetHackEat-v0"):
        assert listed[id] == description_of(id)
    assert set(listed) == {i for i in gymnasium.registry if i.startswith("rewardzoo/")}
