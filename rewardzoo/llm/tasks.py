"""What a language model is asked about a message, and how its answer is read.

ONI (Zheng et al. 2024) asks for a helpful or unhelpful label or for the better of two messages;
the wording here is this project's own. Each task has three forms: a dialogue whose answer is one
label, a few-shot text that a small model continues with one label, and a request for a short
analysis that ends in a tagged verdict. An answer is data: it is searched, never evaluated.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from .client import Message

PAIR = "\x1f"
"""Stands between the two messages of a pair; no message of the game holds it."""

WANTED: dict[str, str] = {
    "score": "a high score: killing monsters, taking gold, gaining levels, finding ways",
    "combat": "fighting alone: killing monsters and growing stronger by it, not gold, not stairs",
    "gold": "gold alone: picking up gold pieces, not fights, not stairs",
    "stairs": "going down: reaching deeper levels of the dungeon, nothing else",
    "key": "getting hold of the key that unlocks the door",
    "unspecified": "playing the game well",
}
"""What the player wants, by goal."""

_SYSTEM = (
    "You judge the messages that the game NetHack shows to a player. You are honest and make "
    "nothing up. The player wants {wanted}."
)
_EXAMPLES: tuple[tuple[str, bool], ...] = (
    ("You kill the jackal!  Welcome to experience level 2.", True),
    ("This door is locked.", False),
    ("$ - 25 gold pieces.", True),
    ("You miss the newt.", False),
    ("You descend the stairs.", True),
    ("It's solid stone.", False),
)
_KEY_EXAMPLES: tuple[tuple[str, bool], ...] = (
    ("f - a key.", True),
    ("This door is locked.", False),
    ("g - a key named Opener.", True),
    ("You see here a key.", False),
)
_TAG = re.compile(r"VERDICT\W*(HELPFUL|NEUTRAL|FIRST|SECOND|NONE)\b", re.IGNORECASE)


class Question(Protocol):
    """What a judge needs to know of what it is asked."""

    @property
    def labels(self) -> tuple[str, str]:
        """The label of score 1, and that of score 0; they begin with different tokens."""

    @property
    def version(self) -> str:
        """Changes with every word of what is asked."""

    @property
    def empty(self) -> tuple[str, ...]:
        """Items without content, from which a model's leaning towards a label is seen."""

    def dialogue(self, message: str) -> list[Message]:
        """A conversation whose next word is a label."""

    def few_shot(self, message: str) -> str:
        """A text whose next word is a label; only its end depends on the message."""

    def analysis(self, message: str) -> list[Message]:
        """A request for a text that ``parse`` understands."""

    def parse(self, text: str) -> float | None:
        """The score in the text of an analysis; None where there is no verdict."""


@dataclass(frozen=True)
class Task:
    """What is asked about a message, or about a pair of messages.

    Args:
        goal: what the player wants: a key of ``WANTED``.
        pairs: whether two messages are compared.
    """

    goal: str = "score"
    pairs: bool = False

    def __post_init__(self) -> None:
        if self.goal not in WANTED:
            raise ValueError(f"goal={self.goal!r}: expected {', '.join(WANTED)}")

    @property
    def single(self) -> Task:
        """The same goal, about one message."""
        return replace(self, pairs=False)

    @property
    def labels(self) -> tuple[str, str]:
        """The positive label and the negative one: Yes and No, or First and Second."""
        return ("First", "Second") if self.pairs else ("Yes", "No")

    @property
    def empty(self) -> tuple[str, ...]:
        """Messages without content."""
        texts = ("", "N/A", "...")
        return tuple(text + PAIR + text for text in texts) if self.pairs else texts

    @property
    def version(self) -> str:
        """Changes with every word of what is asked."""
        texts = [self.few_shot("?" + PAIR), *(m["content"] for m in self.dialogue("?" + PAIR))]
        texts += [m["content"] for m in self.analysis("?" + PAIR)]
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
        return f"{self.goal}-{'pairs-' if self.pairs else ''}{digest}"

    def dialogue(self, message: str) -> list[Message]:
        """A conversation whose next word is a label."""
        chat = [self._system(" Answer with one word.")]
        for text, helpful in self._examples():
            chat.append({"role": "user", "content": self._question(text)})
            chat.append({"role": "assistant", "content": self.labels[0 if helpful else 1]})
        return [*chat, {"role": "user", "content": self._question(message)}]

    def few_shot(self, message: str) -> str:
        """A text whose next word is a label; only its end depends on the message."""
        texts = [*self._examples(), (message, None)]
        lines = [f"NetHack messages. The player wants {WANTED[self.goal]}.\n"]
        for text, helpful in texts:
            answer = "" if helpful is None else f" {self.labels[0 if helpful else 1]}\n"
            lines.append(f"{self._question(text)}\nAnswer:{answer}")
        return "\n".join(lines)

    def analysis(self, message: str) -> list[Message]:
        """A request for knowledge, a one-sentence analysis and a tagged verdict."""
        if self.pairs:
            a, b = message.split(PAIR, 1)
            request = (
                f"Message one: {a!r}\nMessage two: {b!r}\nSay in one sentence each what has "
                "happened in the game, and compare. End with one line: VERDICT: FIRST, VERDICT: "
                "SECOND or VERDICT: NONE, for the message that reports what helps more."
            )
        else:
            request = (
                f"Message: {message!r}\nSay in one sentence what has happened in the game. The "
                "question is whether it helps the player in the game, not whether it is good to "
                "know. End with one line: VERDICT: HELPFUL if it helps very much, VERDICT: NEUTRAL "
                "otherwise."
            )
        return [self._system(""), {"role": "user", "content": request}]

    def parse(self, text: str) -> float | None:
        """The score in the text of an analysis; None where there is no verdict.

        The last tagged verdict counts, whatever words stand in the analysis before it; without a
        tag, a verdict's word counts if it is the only one in the text.
        """
        words = ("FIRST", "SECOND", "NONE") if self.pairs else ("HELPFUL", "NEUTRAL")
        scores = (1.0, 0.0, 0.5) if self.pairs else (1.0, 0.0)
        by_word = dict(zip(words, scores, strict=True))
        tagged = [w.upper() for w in _TAG.findall(text) if w.upper() in by_word]
        if tagged:
            return by_word[tagged[-1]]
        # Code words in capitals only: "this is not helpful" is no verdict.
        found = {w for w in words if re.search(rf"\b{w}\b", text)}
        return by_word[found.pop()] if len(found) == 1 else None

    def _system(self, more: str) -> Message:
        return {"role": "system", "content": _SYSTEM.format(wanted=WANTED[self.goal]) + more}

    def _examples(self) -> tuple[tuple[str, bool], ...]:
        examples = _KEY_EXAMPLES if self.goal == "key" else _EXAMPLES
        if not self.pairs:
            return examples
        good = [text for text, helpful in examples if helpful]
        bad = [text for text, helpful in examples if not helpful]
        return ((good[0] + PAIR + bad[0], True), (bad[1] + PAIR + good[1], False))

    def _question(self, message: str) -> str:
        if self.pairs:
            a, b = message.split(PAIR, 1)
            return f"First message: {a}\nSecond message: {b}\nWhich helps the player more?"
        return f"Message: {message}\nDoes it report something that helps the player?"


def label_score(first: Mapping[str, float], labels: tuple[str, str]) -> float | None:
    """The probability of the first label against the second, from tokens' log-probabilities.

    Tokens are compared without blanks and case, and as beginnings of a label (``Y`` of ``Yes``).
    None where neither label is among them; one that is missing is as unlikely as the least likely
    token.
    """
    mass = [0.0, 0.0]
    for token, logp in first.items():
        word = token.strip().lower()
        for i, label in enumerate(labels):
            if word and label.lower().startswith(word):
                mass[i] += math.exp(min(logp, 0.0))
    if not any(mass):
        return None
    floor = math.exp(min(min(first.values()), 0.0))
    yes, no = (m or floor for m in mass)
    return yes / (yes + no) if yes + no > 0 else None
