"""Names of NetHack's commands: ``N``, ``FAR_N``, ``PICKUP``, …, and named sets of them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache

_COMPASS = ("N", "E", "S", "W", "NE", "SE", "SW", "NW")
TASK = (
    "MORE", *_COMPASS, *(f"FAR_{d}" for d in _COMPASS), "UP", "DOWN", "WAIT",
    "KICK", "EAT", "SEARCH",
)  # fmt: skip
SETS = {
    "task": TASK,
    "extended": (*TASK, "CAST", "QUAFF", "PRAY", "PICKUP", "PAY"),
    "compass": _COMPASS,
    "keyroom": (*_COMPASS, "PICKUP", "APPLY"),
    "calm": ("N", "E", "S", "W", "PICKUP", "APPLY"),
}
"""``useful`` and ``all`` are NLE's own lists of 86 and 121 keys."""


@cache
def _table() -> dict[str, int]:
    """Every name and its key."""
    from nle import nethack

    out: dict[str, int] = {}
    kinds = (
        ("", nethack.CompassDirection), ("FAR_", nethack.CompassDirectionLonger),
        ("", nethack.MiscDirection), ("", nethack.MiscAction), ("", nethack.Command),
        ("TEXT_", nethack.TextCharacters),
    )  # fmt: skip
    for prefix, kind in kinds:
        for name, member in kind.__members__.items():
            out.setdefault(prefix + name, int(member))
    return out


def names_of(keys: Sequence[object]) -> tuple[str, ...]:
    """The names of members of NLE's enumerations."""
    from nle import nethack

    prefixes = {nethack.CompassDirectionLonger: "FAR_", nethack.TextCharacters: "TEXT_"}
    return tuple(prefixes.get(type(k), "") + k.name for k in keys)  # type: ignore[attr-defined,call-overload]


def action_keys(actions: str | Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and keys of an action set, given by its name or as names of commands.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(actions, str):
        if actions in ("useful", "all"):
            from nle import nethack

            actions = names_of(nethack.USEFUL_ACTIONS if actions == "useful" else nethack.ACTIONS)
        elif actions in SETS:
            actions = SETS[actions]
        else:
            known = ", ".join([*SETS, "useful", "all"])
            raise ValueError(f"actions={actions!r}: expected names of commands, or one of {known}")
    table = _table()
    for name in actions:
        if name not in table:
            near = difflib.get_close_matches(str(name), table, 1, 0.3)
            raise ValueError(f"actions: {name!r} is unknown: did you mean {near[:1]}?")
    if not actions:
        raise ValueError("actions: expected at least one")
    return tuple(actions), tuple(table[name] for name in actions)
