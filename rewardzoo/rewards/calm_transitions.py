"""Annotated transitions of MiniHack's key rooms: file format, loader, and a collector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..transition import Transition
from .calm_detectors import DOOR, KEY, KeyRoomOracle
from .captions import decode, encode

ACTIONS = ("N", "E", "S", "W", "PICKUP", "APPLY")
"""CALM's action set; ``action`` is an index into it."""

SUBGOALS = (KEY, DOOR)
_SHAPES = {"chars_crop": (9, 9), "tty_chars": (24, 80)}
_SOURCES = ("oracle", "human")


class TransitionError(ValueError):
    """A file of transitions that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Seen:
    """What is seen at one moment.

    Args:
        chars_crop: nine lines of nine signs, the hero in the middle.
        message: the game's.
        tty_chars: the whole screen, 24 lines of 80 signs; None where it was not kept.
    """

    chars_crop: tuple[str, ...]
    message: str
    tty_chars: tuple[str, ...] | None = None


@dataclass(frozen=True)
class AnnotatedTransition:
    """One step and which subgoals it achieved.

    Args:
        id: a name.
        action: index into ``ACTIONS``.
        obs: before.
        next_obs: after.
        subgoals: truth by name.
        source: ``oracle`` or ``human``.
    """

    id: str
    action: int
    obs: Seen
    next_obs: Seen
    subgoals: Mapping[str, bool]
    source: str

    @property
    def positive(self) -> bool:
        """Whether any subgoal was achieved."""
        return any(self.subgoals.values())

    @property
    def kind(self) -> str:
        """The subgoal achieved, or ``none``."""
        return next((name for name, is_so in self.subgoals.items() if is_so), "none")


def write_transitions(path: str | Path, transitions: Sequence[AnnotatedTransition]) -> None:
    """One JSON object a line."""
    lines = []
    for t in transitions:
        row = {**vars(t), "obs": _drop_none(t.obs), "next_obs": _drop_none(t.next_obs)}
        lines.append(json.dumps(row) + "\n")
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_transitions(path: str | Path) -> list[AnnotatedTransition]:
    """What ``write_transitions`` wrote.

    Raises:
        TransitionError: for missing keys, wrong shapes, unknown actions, labels that are not bool.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TransitionError(f"{path}: {error}") from None
    return _parse(text, str(path))


def shipped_transitions() -> list[AnnotatedTransition]:
    """The annotated transitions that come with the project; see ``keyroom_transitions.md``."""
    name = "keyroom_transitions.jsonl"
    return _parse(resources.files(__package__).joinpath(name).read_text("utf-8"), name)


def as_batch(transitions: Sequence[AnnotatedTransition]) -> Transition:
    """The transitions as a batch, for detectors."""
    n = len(transitions)
    no = torch.zeros(n, dtype=torch.bool)
    return Transition(
        obs=_tensors([t.obs for t in transitions]),
        action=torch.tensor([t.action for t in transitions]),
        next_obs=_tensors([t.next_obs for t in transitions]),
        reward=torch.zeros(n),
        terminated=no,
        truncated=no,
        valid=~no,
        episode_step=torch.zeros(n, dtype=torch.int64),
    )


def collect_transitions(
    count: int,
    seed: int = 0,
    env: str = "rewardzoo/MiniHackKeyRoomS5-v0",
    balance: bool = True,
    keep_screen: bool = True,
    max_steps: int = 200_000,
) -> list[AnnotatedTransition]:
    """Transitions of random play, labelled by the oracle.

    Args:
        count: how many.
        seed: of the games and the actions.
        env: id of a key room.
        balance: a third each of key, door and neither; else as they come, which is some per cent.
        keep_screen: with ``tty_chars``.
        max_steps: play no longer.

    Raises:
        RuntimeError: if too few were found in ``max_steps``.
    """
    import gymnasium

    keys = ("chars_crop", "message", "tty_chars")
    game = gymnasium.make(env, observation_keys=keys, actions="calm")
    oracle, rng = KeyRoomOracle(), np.random.default_rng(seed)
    wanted = _shares(count) if balance else {"": count}
    found: list[AnnotatedTransition] = []
    obs, _ = game.reset(seed=seed)
    for step in range(max_steps):
        action = int(rng.integers(len(ACTIONS)))
        next_obs, _, terminated, truncated, _ = game.step(action)
        before, after = _seen(obs, keep_screen), _seen(next_obs, keep_screen)
        t = AnnotatedTransition(f"{seed}-{step}", action, before, after, {}, "oracle")
        flags = [False, False]
        if action in (oracle.pickup, oracle.apply):  # no other action achieves anything
            flags = (oracle.detect(as_batch([t]))[0] > 0).tolist()
        labels = dict(zip(SUBGOALS, flags, strict=True))
        t = AnnotatedTransition(t.id, action, before, after, labels, "oracle")
        kind = t.kind if balance else ""
        # Of what achieves nothing one in ten: neighbours in time are alike.
        common = balance and not t.positive and rng.random() > 0.1
        if wanted[kind] > 0 and not common:
            wanted[kind] -= 1
            found.append(t)
        if len(found) == count:
            game.close()  # type: ignore[no-untyped-call]
            return found
        obs = game.reset()[0] if terminated or truncated else next_obs
    raise RuntimeError(f"count={count}: found {len(found)} in {max_steps} steps of random play")


def _shares(count: int) -> dict[str, int]:
    third, rest = divmod(count, 3)
    return {KEY: third + (rest > 0), DOOR: third + (rest > 1), "none": third}


def _seen(obs: Any, keep_screen: bool) -> Seen:
    crop, screen = (lines_of(obs[key]) for key in ("chars_crop", "tty_chars"))
    message = decode(torch.from_numpy(np.array(obs["message"]))[None])[0]
    return Seen(crop, message, screen if keep_screen else None)


def lines_of(chars: Any) -> tuple[str, ...]:
    """The lines of a window or screen (H, W) uint8, an array or a CPU tensor."""
    return tuple(bytes(row).decode("latin-1").replace("\0", " ") for row in np.asarray(chars))


def _tensors(seen: Sequence[Seen]) -> dict[str, Tensor]:
    crops = [[list(line.encode("latin-1")) for line in s.chars_crop] for s in seen]
    return {
        "chars_crop": torch.tensor(crops, dtype=torch.uint8),
        "message": encode([s.message for s in seen], 256),
    }


def _drop_none(seen: Seen) -> dict[str, Any]:
    return {k: v for k, v in vars(seen).items() if v is not None}


# ---- reading -------------------------------------------------------------------------------------


def _parse(text: str, source: str) -> list[AnnotatedTransition]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            where = f"{source}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise TransitionError(f"{where}: not JSON") from None
            found.append(_row(where, row))
    if not found:
        raise TransitionError(f"{source}: it holds no transitions")
    return found


def _row(where: str, row: Any) -> AnnotatedTransition:
    needed = {"id", "action", "obs", "next_obs", "subgoals", "source"}
    if not isinstance(row, dict) or not needed <= row.keys():
        missing = sorted(needed - row.keys()) if isinstance(row, dict) else sorted(needed)
        raise TransitionError(f"{where}: {missing} missing")
    action, subgoals = row["action"], row["subgoals"]
    if isinstance(action, str) and action in ACTIONS:
        action = ACTIONS.index(action)
    if type(action) is not int or not 0 <= action < len(ACTIONS):
        raise TransitionError(f"{where}: action={row['action']!r}: expected {', '.join(ACTIONS)}")
    labels = subgoals.items() if isinstance(subgoals, dict) else [("", None)]
    if not labels or any(type(value) is not bool for _, value in labels):
        raise TransitionError(f"{where}: subgoals={subgoals!r}: expected {{name: true or false}}")
    if row["source"] not in _SOURCES:
        raise TransitionError(f"{where}: source={row['source']!r}: expected oracle or human")
    obs, next_obs = (_read_seen(f"{where}, {key}", row[key]) for key in ("obs", "next_obs"))
    return AnnotatedTransition(str(row["id"]), action, obs, next_obs, subgoals, row["source"])


def _read_seen(where: str, seen: Any) -> Seen:
    if not isinstance(seen, dict) or not {"chars_crop", "message"} <= seen.keys():
        raise TransitionError(f"{where}: expected chars_crop and message")
    if not isinstance(seen["message"], str):
        raise TransitionError(f"{where}: message={seen['message']!r}: expected a text")
    pictures: dict[str, tuple[str, ...] | None] = {}
    for key, (height, width) in _SHAPES.items():
        lines: Any = seen.get(key)
        if lines is None and key == "tty_chars":
            pictures[key] = None
            continue
        good = isinstance(lines, list) and len(lines) == height
        if not good or any(not isinstance(x, str) or len(x) != width for x in lines):
            raise TransitionError(f"{where}: {key}: expected {height} texts of {width} signs")
        pictures[key] = tuple(lines)
    crop = pictures["chars_crop"]
    assert crop is not None
    return Seen(crop, seen["message"], pictures["tty_chars"])
