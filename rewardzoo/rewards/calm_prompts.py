"""CALM's prompts: what a language model is shown of a transition, in blocks with variants.

The blocks and their variants follow Pignatelli et al. (2024); the wording is this project's own.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..llm.client import Message
from .calm_transitions import ACTIONS, AnnotatedTransition, Seen

_SEPARATOR = "\x1f"  # between the subgoal and the transition in an item
ANY = "*"
"""The subgoal of an item that asks whether the transition achieves any."""

ROLES = {
    "generic": "You look at moments of a game of MiniHack and say what happened.",
    "keyroom": "You look at moments of a game of MiniHack, in the task KeyRoom, and say what "
    "happened.",
    "analyst": "You are a careful analyst of games. You say what the record shows, and where it "
    "does not show something you say that it does not.",
}
SYMBOLS = {
    "none": "",
    "legend": "On the map: '@' is the hero, '.' floor, '|' and '-' walls or an open door, '+' a "
    "closed door, '(' an item, '>' and '<' stairs.",
    "explained": "On the map: '@' is the hero, '.' floor, '|' and '-' walls or an open door, '+' a "
    "closed door, '(' an item, '>' and '<' stairs. The message is the game's line of text; the "
    "action is the key that the hero's player pressed.",
}
TASKS = {
    "explicit": "The task: pick up the key, unlock the door with it, and go to the stairs behind.",
    "reworded": "There is a locked door between the hero and the stairs; somewhere lies a key that "
    "opens it.",
    "win": "The task is to win the game.",
}
SUBGOALS_TEXT = {
    "preset": "The subgoals: {subgoals}.",
    "identify": "Find the subgoals of the task yourself, from what you know of NetHack.",
    "identify_minihack": "Find the subgoals of the task yourself, from what you know of NetHack "
    "and MiniHack.",
}
INSTRUCTIONS = {
    "appear": "Say which subgoals appear in the record.",
    "progress": "Say which actions make progress towards a subgoal.",
    "optimal": "Say which actions are the best towards a subgoal.",
    "achieved": "Say whether a subgoal is achieved at time 1.",
    "transition": "Say whether the action at time 0 led to a subgoal being achieved at time 1.",
}
REMARKS = {
    "none": "",
    "message": "Look at the messages.",
    "action": "Look at the action.",
    "message_after": "Look at the message after the action.",
}
OUTPUTS = {
    "times": "End with one dictionary of lists: for each subgoal the times at which it is "
    "achieved, for example {example_times}.",
    "generic": "End with one dictionary of your findings.",
    "boolean": "End with one dictionary of booleans: for each subgoal whether it is achieved, for "
    "example {example_boolean}.",
}
OBSERVATIONS = ("crop", "gamescreen", "none")
_BLOCKS = {
    "role": ROLES, "symbols": SYMBOLS, "task": TASKS, "subgoals": SUBGOALS_TEXT,
    "instruction": INSTRUCTIONS, "remark": REMARKS, "output": OUTPUTS,
}  # fmt: skip
_MAX_TEXT = 20_000  # of an answer that is looked through


@dataclass(frozen=True)
class Prompt:
    """A choice of a variant for every block.

    Args:
        role: who answers.
        symbols: legend of the map.
        task: what the player is to do.
        subgoals: given, or to be found.
        instruction: what to say.
        remark: what to look at.
        output: form of the answer.
        observation: the window around the hero, the whole screen, or messages and action alone.
        action: show the action.
        message: show the messages (not with the whole screen, where they are in the picture).
        spaced: a blank between the signs of the map, which tokenisers like.
        separated: a rule between the moments.

    Raises:
        ValueError: for an unknown variant.
    """

    role: str = "keyroom"
    symbols: str = "legend"
    task: str = "win"
    subgoals: str = "preset"
    instruction: str = "transition"
    remark: str = "none"
    output: str = "boolean"
    observation: str = "crop"
    action: bool = True
    message: bool = True
    spaced: bool = True
    separated: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            known: Any = _BLOCKS.get(field.name)
            known = OBSERVATIONS if field.name == "observation" else known
            if known is not None and value not in known:
                raise ValueError(f"{field.name}={value!r}: expected {', '.join(known)}")

    # ---- what is shown -----------------------------------------------------------------------

    def request(self, item: str) -> str:
        """The whole request about an item."""
        subgoal, t = unpack(item)
        names = [subgoal] if subgoal != ANY else []
        example = names[0] if names else "a subgoal"
        blocks = [
            ROLES[self.role],
            SYMBOLS[self.symbols],
            TASKS[self.task],
            SUBGOALS_TEXT[self.subgoals].format(subgoals=", ".join(names) or "of your choice"),
            INSTRUCTIONS[self.instruction],
            REMARKS[self.remark],
            OUTPUTS[self.output].format(
                example_times=json.dumps({example: [1]}),
                example_boolean="{" + json.dumps(example) + ": True}",
            ),
        ]
        return "\n".join([*(b for b in blocks if b), "", self.record(t), "", "Your answer:"])

    def record(self, t: AnnotatedTransition) -> str:
        """The transition as text."""
        moments = []
        for time, seen in enumerate((t.obs, t.next_obs)):
            lines = [f"Time: {time}"]
            screen = self.observation == "gamescreen"
            if time == 1 and self.action and not screen:
                lines.append(f"Last action: {ACTIONS[t.action]}")
            if self.message and not screen:
                lines.append(f"Current message: {seen.message}")
            lines += self._map(seen)
            if time == 0 and self.action:
                lines.append(f"Next action: {ACTIONS[t.action]}")
            moments.append("\n".join(lines))
        return ("\n----\n" if self.separated else "\n").join(moments)

    def _map(self, seen: Seen) -> list[str]:
        if self.observation == "none":
            return []
        rows = seen.chars_crop if self.observation == "crop" else seen.tty_chars
        if rows is None:
            raise ValueError(
                "observation='gamescreen': this transition was kept without its screen; collect "
                "with keep_screen=True"
            )
        rows = tuple(" ".join(row) for row in rows) if self.spaced else rows
        return ["Current observation:", *(row.rstrip() for row in rows)]

    # ---- a question for judges ---------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, str]:
        """Yes and no."""
        return ("Yes", "No")

    @property
    def version(self) -> str:
        """Changes with every word of what is asked."""
        texts = [self.request(_PROBE), self.few_shot(_PROBE), str(self.dialogue(_PROBE))]
        return f"calm-{hashlib.sha256('|'.join(texts).encode()).hexdigest()[:12]}"

    @property
    def empty(self) -> tuple[str, ...]:
        """A moment in which nothing is seen and nothing happens."""
        blank = Seen((" " * 9,) * 9, "", (" " * 80,) * 24)
        return tuple(
            pack(subgoal, AnnotatedTransition("", 0, blank, blank, {"": False}, "human"))
            for subgoal in ("pick up the key", "unlock the door")
        )

    def few_shot(self, message: str) -> str:
        """A text whose next word is Yes or No."""
        shown = Prompt(observation="none")
        parts = [TASKS["explicit"]]
        for subgoal, t, label in _EXAMPLES:
            parts.append(f"{shown.record(t)}\n{_question(subgoal)} {label}")
        subgoal, t = unpack(message)
        parts.append(f"{self.record(t)}\n{_question(subgoal)}")
        return "\n\n".join(parts)

    def dialogue(self, message: str) -> list[Message]:
        """A conversation whose next word is Yes or No."""
        subgoal, t = unpack(message)
        system = f"{ROLES[self.role]} {TASKS['explicit']} Answer with Yes or No."
        content = "\n".join(x for x in (SYMBOLS[self.symbols], self.record(t)) if x)
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": f"{content}\n{_question(subgoal)}"},
        ]

    def analysis(self, message: str) -> list[Message]:
        """The paper's request, answered by a text with a dictionary."""
        return [{"role": "user", "content": self.request(message)}]

    def parse(self, text: str) -> float | None:
        """1 if a dictionary in the text reports any subgoal, 0 if it reports none, else None."""
        found = read_findings(text)
        return None if found is None else float(any(found.values()))


def read_findings(text: str) -> dict[str, bool] | None:
    """The last dictionary in a text, as booleans by subgoal; None where there is none.

    Takes fenced and bare dictionaries, JSON and Python spelling, booleans, single times, lists of
    times (achieved where one of them is 1 or later), and inverted ones (times to subgoals). Reads,
    never evaluates.
    """
    for match in reversed(list(re.finditer(r"\{[^{}]*\}", text[-_MAX_TEXT:]))):
        found = _literal(match.group())
        if isinstance(found, dict):
            flags = _flags(found)
            if flags is not None:
                return flags
    return None


def read_list(text: str) -> list[str]:
    """The last list of short texts in a text; empty where there is none."""
    for match in reversed(list(re.finditer(r"\[[^\[\]]*\]", text[-_MAX_TEXT:]))):
        found = _literal(match.group())
        if isinstance(found, list) and found and all(isinstance(x, str) for x in found):
            names = [x.strip() for x in found]
            return [name for name in dict.fromkeys(names) if 0 < len(name) <= 80]
    return []


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _flags(found: Mapping[Any, Any]) -> dict[str, bool] | None:
    flags: dict[str, bool] = {}
    for key, value in found.items():
        if _is_time(key):  # inverted: {1: "pick up the key"}
            names = value if isinstance(value, list) else [value]
            if not all(isinstance(name, str) for name in names):
                return None
            flags.update({name: int(key) >= 1 for name in names if name})
        elif isinstance(key, str) and isinstance(value, bool):
            flags[key] = value
        elif isinstance(key, str) and value is None:
            flags[key] = False
        elif isinstance(key, str):
            times = value if isinstance(value, list) else [value]
            if not all(_is_time(time) for time in times):
                return None
            flags[key] = any(int(time) >= 1 for time in times)
        else:
            return None
    return flags


def _is_time(x: Any) -> bool:
    if isinstance(x, str):
        return x.strip().isdecimal() and len(x) < 10
    return isinstance(x, int) and not isinstance(x, bool)


def _question(subgoal: str) -> str:
    goal = "achieve a subgoal" if subgoal == ANY else f"{subgoal}"
    return f"Question: did the hero {goal} by this action?\nAnswer:"


# ---- items ---------------------------------------------------------------------------------------


def pack(subgoal: str, t: AnnotatedTransition) -> str:
    """A subgoal and what is seen of a transition as one text, which a cache can key on."""
    seen = [[list(s.chars_crop), s.message, s.tty_chars and list(s.tty_chars)] for s in
            (t.obs, t.next_obs)]  # fmt: skip
    return subgoal + _SEPARATOR + json.dumps([t.action, *seen])


def unpack(item: str) -> tuple[str, AnnotatedTransition]:
    """What ``pack`` packed; the labels are not in it."""
    subgoal, _, rest = item.partition(_SEPARATOR)
    action, *moments = json.loads(rest)
    obs, next_obs = (
        Seen(tuple(crop), message, tuple(screen) if screen else None)
        for crop, message, screen in moments
    )
    return subgoal, AnnotatedTransition("", action, obs, next_obs, {}, "human")


def _moment(message: str) -> Seen:
    return Seen((" " * 9,) * 9, message)


def _example(action: str, before: str, after: str) -> AnnotatedTransition:
    index = ACTIONS.index(action)
    return AnnotatedTransition("", index, _moment(before), _moment(after), {}, "human")


_EXAMPLES = (
    ("pick up the key", _example("PICKUP", "You see here a key.", "f - a key."), "Yes"),
    ("pick up the key", _example("N", "", "You see here a key."), "No"),
    ("unlock the door", _example("APPLY", "This door is locked.", "Never mind."), "Yes"),
    ("unlock the door", _example("W", "", "This door is locked."), "No"),
)
_SHOWN = Seen(("..",) * 9, "?", ("..",) * 24)
_PROBE = pack(ANY, AnnotatedTransition("", 4, _SHOWN, _SHOWN, {}, "human"))
