"""MiniHack's levels by their step limits, as MiniHack names them."""

from __future__ import annotations

LEVELS: dict[int, str] = {
    40: """
        MultiRoom-N2 MultiRoom-N2-Locked MultiRoom-N2-Lava MultiRoom-N2-Monster
        MultiRoom-N2-Extreme MultiRoom-N2-LavaMonsters
    """,
    50: """
        WoD-Easy-Full WoD-Easy-Restricted
    """,
    100: """
        Room-5x5 Room-Random-5x5 Room-Dark-5x5 Room-Monster-5x5 Room-Trap-5x5 Room-Ultimate-5x5
        LavaCrossingS9N1 LavaCrossingS9N2 LavaCrossingS9N3 LavaCrossingS11N5 LavaCrossingS19N13
        LavaCrossingS19N17
        SimpleCrossingS9N1 SimpleCrossingS9N2 SimpleCrossingS9N3 SimpleCrossingS11N5
    """,
    120: """
        MultiRoom-N4 MultiRoom-N4-Locked MultiRoom-N4-Lava MultiRoom-N4-Monster
        MultiRoom-N4-Extreme MultiRoom-N4-LavaMonsters
    """,
    150: """
        WoD-Medium-Full WoD-Medium-Restricted
    """,
    200: """
        KeyRoom-Fixed-S5 KeyRoom-S5 KeyRoom-Dark-S5
        MazeWalk-9x9 MazeWalk-Mapped-9x9
        HideNSeek-Mapped HideNSeek HideNSeek-Lava
    """,
    240: """
        MultiRoom-N6 MultiRoom-N6-OpenDoor MultiRoom-N6-Locked MultiRoom-N6-Lava
        MultiRoom-N6-Lava-OpenDoor MultiRoom-N6-Monster MultiRoom-N6-Extreme
        MultiRoom-N6-LavaMonsters
    """,
    250: """
        Eat Pray Sink Wield Wear PutOn Zap Read Eat-Fixed Pray-Fixed Sink-Fixed Wield-Fixed
        Wear-Fixed PutOn-Fixed Zap-Fixed Read-Fixed Eat-Distr Pray-Distr Sink-Distr Wield-Distr
        Wear-Distr PutOn-Distr Zap-Distr Read-Distr ClosedDoor LockedDoor LockedDoor-Fixed
        Levitate-Boots-Full Levitate-Boots-Restricted Levitate-Ring-Full
        Levitate-Ring-Restricted Levitate-Potion-Full Levitate-Potion-Restricted
        Levitate-Boots-Fixed Levitate-Ring-Fixed Levitate-Potion-Fixed
        Freeze-Wand-Full Freeze-Wand-Restricted Freeze-Horn-Full Freeze-Horn-Restricted
        Freeze-Random-Full Freeze-Random-Restricted Freeze-Lava-Full Freeze-Lava-Restricted
        LavaCross-Full LavaCross-Restricted
    """,
    300: """
        Room-15x15 Room-Random-15x15 Room-Dark-15x15 Room-Monster-15x15 Room-Trap-15x15
        Room-Ultimate-15x15
    """,
    350: """
        CorridorBattle CorridorBattle-Dark
        River River-Monster River-Lava River-MonsterLava River-Narrow
    """,
    360: """
        MultiRoom-N10 MultiRoom-N10-OpenDoor MultiRoom-N10-Lava MultiRoom-N10-Lava-OpenDoor
    """,
    400: """
        KeyRoom-S15 KeyRoom-Dark-S15
        HideNSeek-Big
        Labyrinth-Small
        WoD-Hard-Full WoD-Hard-Restricted
        Levitate-Random-Full
        LavaCross-Levitate-Potion-Pickup-Full LavaCross-Levitate-Potion-Pickup-Restricted
        LavaCross-Levitate-Potion-Inv-Full LavaCross-Levitate-Potion-Inv-Restricted
        LavaCross-Levitate-Ring-Pickup-Full LavaCross-Levitate-Ring-Pickup-Restricted
        LavaCross-Levitate-Ring-Inv-Full LavaCross-Levitate-Ring-Inv-Restricted
        LavaCross-Levitate-Full LavaCross-Levitate-Restricted
    """,
    500: """
        ExploreMaze-Easy ExploreMaze-Hard ExploreMaze-Easy-Mapped ExploreMaze-Hard-Mapped
        Quest-Easy
    """,
    1000: """
        Corridor-R2 Corridor-R3 Corridor-R5
        MazeWalk-15x15 MazeWalk-Mapped-15x15 MazeWalk-45x19 MazeWalk-Mapped-45x19
        Labyrinth-Big
        WoD-Pro-Full WoD-Pro-Restricted
        Quest-Medium Quest-Hard
    """,
    2000: """
        Sokoban4a Sokoban4b Sokoban3a Sokoban3b Sokoban2a Sokoban2b Sokoban1a Sokoban1b
    """,
    5000: """
        Memento-Short-F2 Memento-F2 Memento-F4
    """,
}
"""Sokoban's are version 1 of MiniHack's, the others version 0."""
