"""What each of NetHack's and MiniHack's ids asks of the hero, in a line read off its arguments.

Of NetHack's tasks it is what their rules' docstrings say; MiniHack's levels (Samvelyan et al.
2021) are named after a family and its variants, as in ``Room-Dark-5x5``.
"""

from __future__ import annotations

import re
from typing import Any

from .tasks import TASKS

FAMILIES = {
    "ClosedDoor": "open the door of the closet with the stairs down",
    "Corridor": "find the stairs down through rooms and winding corridors",
    "CorridorBattle": "fight giant rats one at a time in a corridor, then reach the stairs down",
    "Eat": "find an apple and eat it",
    "ExploreMaze": "explore a maze, where apples that are eaten and the stairs down pay",
    "Freeze": "set off magic cold",
    "Freeze-Lava": "cross lava to the stairs down by freezing it",
    "Freeze-Random": "set off magic cold with what is drawn at random",
    "HideNSeek": "reach the stairs down out of a monster's sight, among trees and clouds",
    "KeyRoom": "pick up a key and unlock the closet with the stairs down",
    "Labyrinth": "walk a winding labyrinth to the stairs down",
    "LavaCross": "cross a river of lava to the stairs down",
    "LavaCrossing": "reach the stairs down through gaps in streams of lava",
    "Levitate": "rise into the air",
    "Levitate-Random": "rise into the air by what is drawn at random",
    "LockedDoor": "kick a locked door open to reach the stairs down",
    "MazeWalk": "find the stairs down in a maze",
    "Memento": "remember a monster from the start, which tells where to turn at the end",
    "MultiRoom": "cross a row of rooms to the stairs down",
    "Pray": "pray at an altar",
    "PutOn": "put on an amulet",
    "Quest": "get past lava by magic and past monsters to the stairs down",
    "Read": "find a scroll and read it",
    "River": "push boulders into a river and cross it to the stairs down",
    "Room": "find the stairs down in a room",
    "Room-Random": "find the stairs down in a room, from and to random places",
    "SimpleCrossing": "reach the stairs down through gaps in walls",
    "Sink": "drink from a sink",
    "Sokoban": "push a boulder into every pit, then reach the stairs down",
    "Wear": "find a robe and wear it",
    "Wield": "find a dagger and wield it",
    "WoD": "get past a minotaur to the stairs down, with a wand of death",
    "WoD-Easy": "kill a minotaur with a wand of death",
    "Zap": "find a wand and zap it",
}
VARIANTS = {
    "Big": "big",
    "Boots": "by boots",
    "Dark": "in the dark",
    "Distr": "beside a monster and another thing",
    "Easy": "easy",
    "Extreme": "with locked doors, lava and monsters",
    "Fixed": "always in the same place",
    "Full": "with all commands",
    "Hard": "hard",
    "Horn": "by a horn",
    "Inv": "which the hero carries",
    "Lava": "with lava",
    "LavaMonsters": "with lava and monsters",
    "Levitate": "by levitation",
    "Locked": "with locked doors",
    "Mapped": "with a map",
    "Medium": "of medium difficulty",
    "Monster": "with monsters",
    "MonsterLava": "with monsters and lava",
    "Narrow": "narrow",
    "OpenDoor": "with open doors",
    "Pickup": "which lies about",
    "Potion": "by a potion",
    "Pro": "in a labyrinth",
    "Restricted": "with few commands",
    "Ring": "by a ring",
    "Short": "on a short way",
    "Small": "small",
    "Trap": "with traps",
    "Ultimate": "in the dark, with monsters and traps",
    "Wand": "by a wand",
}
_NUMBERS = (
    (r"(\d+x\d+)", r"\1"),
    (r"S(\d+)", r"\1x\1"),
    (r"S(\d+)N(\d+)", r"\1x\1, \2 to cross"),
    (r"[NR](\d+)", r"\1 rooms"),
    (r"F(\d+)", r"\1 ways to turn"),
    (r"([1-4][ab])", r"level \1"),
)


def describe(
    task: str = "",
    level: str | int = 0,
    continual: bool = False,
    game: str = "",
    **others: Any,
) -> str:
    """One line on the environment that is registered with these arguments.

    Example:
        >>> describe(level="MiniHack-Room-Dark-5x5-v0")
        'MiniHack: find the stairs down in a room; in the dark, 5x5'
        >>> describe(task="descent", level=3)
        'NetHack: 50 for taking the stairs down to level 3 of the main dungeon'
    """
    if not task:
        return f"MiniHack: {_of_level(str(level))}"
    rule = (TASKS[task].__doc__ or "").partition("\n")[0].removesuffix(".")
    first, rest = rule[0].lower(), rule[1:].replace("``level``", f"level {level}")
    extended = "; with more commands" if game.endswith(":ExtendedGame") else ""
    return f"NetHack: {first}{rest}{'; paid once, and played on' if continual else ''}{extended}"


def _of_level(name: str) -> str:
    """What a level asks, of MiniHack's name, as ``MiniHack-Room-Dark-5x5-v0``.

    Raises:
        KeyError: for a family or a variant that is not described above.
    """
    middle = "-".join(name.split("-")[1:-1])
    family = next(f for f in sorted(FAMILIES, key=len, reverse=True) if middle.startswith(f))
    variants = [_variant(part) for part in middle[len(family) :].split("-") if part]
    return "; ".join([FAMILIES[family], *([", ".join(variants)] if variants else [])])


def _variant(part: str) -> str:
    for pattern, text in _NUMBERS:
        if found := re.fullmatch(pattern, part):
            return found.expand(text)
    return VARIANTS[part]
