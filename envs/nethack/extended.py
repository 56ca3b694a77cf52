"""The five further actions that Motif and ONI add to NLE's tasks, and their short cuts."""

from __future__ import annotations

import re
from typing import Any

from .game import Game

_FIRST = re.compile(rb"\[([a-zA-Z])")
_CONFIDENT = b"You feel more confident in your"
_SPACE, _YES, _PAY, _CAST, _ENHANCE = 32, ord("y"), ord("p"), ord("Z"), 0x80 | ord("e")


class ExtendedGame(Game):
    """Casting, quaffing, praying, picking up and paying.

    Asked what to eat or drink, the action ``NW`` (the letter y) takes the first thing offered and
    any other cancels. ``CAST`` takes the first spell. Debts are paid without further questions,
    and a skill is enhanced as soon as the game offers it.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.task.questions = (*self.task.questions, b"drink")

    def _default_actions(self) -> str:
        return "extended"

    def key(self, action: Any) -> int:
        """See ``Game``."""
        self._pressed = key = super().key(action)
        return self._reply(key) if self.internal[1] else key

    def judged(self) -> tuple[float, bool, bool]:
        """See ``Game``."""
        if self._pressed == _CAST and self.internal[3]:
            self._press(ord("a"))
        elif self._pressed == _PAY:
            for _ in range(8):  # an item each, at most so many a step
                if not self.internal[1]:
                    break
                self._press(_YES)
        return super().judged()

    def watched(self) -> tuple[float, bool, bool]:
        """See ``Game``."""
        outcome = super().watched()
        if not outcome[1] and _CONFIDENT in self.message.tobytes():
            self._enhance()
        return outcome

    def _reply(self, key: int) -> int:
        """The key to press while the game asks something."""
        message = self.message.tobytes()
        if b"eat?" not in message and b"drink?" not in message:
            return key
        first = _FIRST.search(message)
        return first[1][0] if first and key == _YES else _SPACE

    def _enhance(self) -> None:
        """Take the first skill offered; costs no time in the game, and the message stays."""
        message = self.message.copy()
        self._press(_ENHANCE)
        if self.internal[3]:
            self._press(ord("a"))
        self._answer()
        self.message[:] = message
