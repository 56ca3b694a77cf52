"""What NetHack tasks reward: NLE's, and the sparse tasks of Motif and ONI.

Küttler et al. (2020), Klissarov et al. (2023), Zheng et al. (2024).

A rule sees living heroes only: once the game is over, the engine's numbers are all zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

SCORE, GOLD, DEPTH_IN_DUNGEON, DUNGEON, CONDITION, HUNGER = 9, 13, 24, 23, 25, 7
RUNNING, DEATH, SUCCESS = 0, 1, 2  # info["end_status"]
HALLUCINATING = 0x200
_QUESTIONS = (b"eat", b"attack", b"direction?", b"pray")
_DESCENT = b"You descend the stairs"
_KILL = re.compile(rb"You (?:kill|destroy) ")


class Task:
    """A rule; ``judge`` returns the reward of a step and whether and how the task ended."""

    needs: tuple[str, ...] = ()
    """Observations that it reads beyond glyphs, blstats and message."""
    penalised = True
    """Whether steps in which the clock stands still cost."""
    on_death = 0.0
    """Paid where the game ends."""
    questions: tuple[bytes, ...] = _QUESTIONS
    """Questions that the agent answers itself contain one of these."""
    info_fields: dict[str, type] = {}
    actions = "task"
    """The default set of actions."""
    unaided = False
    """Whether the agent clicks on and answers everything itself."""
    patience = 1 << 62
    """Steps in which the game's clock may stand still before the episode is cut off."""

    def options(self, default: Sequence[str]) -> Sequence[str]:
        """NetHack's options."""
        return default

    def start(self, game: Any) -> None:
        """A game has begun."""

    def before_more(self, game: Any) -> None:
        """``--More--`` is on the screen; pressing space will clear the message."""

    def judge(self, game: Any) -> tuple[float, int]:
        """After a step that the hero survived."""
        raise NotImplementedError


class Score(Task):
    """What the in-game score rose by."""

    def start(self, game: Any) -> None:
        """See ``Task``."""
        self._score = game.blstats[SCORE]

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        score = game.blstats[SCORE]
        gain = score - self._score
        self._score = score
        return gain, RUNNING


class FreeScore(Score):
    """The score without a penalty, with NLE's 86 useful keys."""

    penalised = False
    actions = "useful"


class Staircase(Task):
    """1 for standing on stairs down, which ends the episode."""

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        return (1.0, SUCCESS) if game.internal[4] else (0.0, RUNNING)


class StaircasePet(Staircase):
    """1 for standing on stairs down with the pet beside the hero."""

    def __init__(self) -> None:
        from nle import nethack

        self._pets = nethack.GLYPH_PET_OFF, nethack.GLYPH_PET_OFF + nethack.NUMMONS

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        if game.internal[4]:
            near = game.neighbours()
            low, high = self._pets
            if ((near >= low) & (near < high)).any():
                return 1.0, SUCCESS
        return 0.0, RUNNING


def _oracle_glyph() -> int:
    from nle import nethack

    for glyph in range(nethack.GLYPH_MON_OFF, nethack.GLYPH_PET_OFF):
        if nethack.permonst(nethack.glyph_to_mon(glyph)).mname == "Oracle":
            return glyph
    raise RuntimeError("this NetHack has no Oracle")


class Oracle(Staircase):
    """1 for standing beside the Oracle."""

    def __init__(self) -> None:
        self._glyph = _oracle_glyph()

    def beside(self, game: Any) -> bool:
        """Whether the Oracle's glyph is beside the hero (in a hallucination it may be anyone)."""
        return bool((game.neighbours() == self._glyph).any())

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        return (1.0, SUCCESS) if self.beside(game) else (0.0, RUNNING)


class Gold(Task):
    """What the purse grew by; only gold is picked up by walking over it."""

    def options(self, default: Sequence[str]) -> Sequence[str]:
        """See ``Task``."""
        return ["pickup_types:$" if o.startswith("pickup_types") else o for o in default]

    def start(self, game: Any) -> None:
        """See ``Task``."""
        self._gold = game.blstats[GOLD]

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        gold = game.blstats[GOLD]
        gain = gold - self._gold
        self._gold = gold
        return gain, RUNNING


class Eat(Task):
    """What the hero's nutrition rose by."""

    def start(self, game: Any) -> None:
        """See ``Task``."""
        self._nutrition = game.internal[HUNGER]

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        nutrition = game.internal[HUNGER]
        gain = max(0, nutrition - self._nutrition)
        self._nutrition = nutrition
        return gain, RUNNING


class Explored:
    """How many glyphs are known on each level that the hero has seen."""

    def __init__(self) -> None:
        from nle import nethack

        self._blank = nethack.GLYPH_CMAP_OFF
        self._known: dict[tuple[int, int], int] = {}

    def gain(self, game: Any) -> int:
        """Newly known glyphs of the hero's level since it was last looked at."""
        level = game.blstats[DUNGEON], game.blstats[DEPTH_IN_DUNGEON]
        glyphs = game.buffers["glyphs"]
        known = glyphs.size - int(np.count_nonzero(glyphs == self._blank))
        gain = known - self._known.get(level, 0)
        self._known[level] = known
        return gain


class Scout(Task):
    """What became known of the map, level by level."""

    def start(self, game: Any) -> None:
        """See ``Task``."""
        self._explored = Explored()

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        return self._explored.gain(game), RUNNING


class Challenge(Score):
    """The NetHack Challenge (Hambro et al. 2022): all keys, none pressed for the agent."""

    actions = "all"
    unaided = True
    patience = 10_000


class Sparse(Task):
    """A success that pays 50, nothing else, as in Motif and ONI.

    Args:
        continual: success pays once and the episode goes on until death.
    """

    penalised = False
    bonus = 50.0
    info_fields = {"scout": int, "kills": int}

    def __init__(self, continual: bool = False) -> None:
        self.continual = continual

    def start(self, game: Any) -> None:
        """See ``Task``."""
        self._paid = False
        self._explored, self._scout, self._kills = Explored(), 0, 0
        self._scout += self._explored.gain(game)
        game.info["scout"][0], game.info["kills"][0] = self._scout, 0

    def judge(self, game: Any) -> tuple[float, int]:
        """See ``Task``."""
        self._scout += self._explored.gain(game)
        self._kills += len(_KILL.findall(game.message.tobytes()))
        game.info["scout"][0], game.info["kills"][0] = self._scout, self._kills
        if self._paid or not self.succeeded(game):
            return 0.0, RUNNING
        self._paid = True
        return self.bonus, RUNNING if self.continual else SUCCESS

    def succeeded(self, game: Any) -> bool:
        """Whether the step brought the success."""
        raise NotImplementedError

    def before_more(self, game: Any) -> None:
        """See ``Task``."""
        self._kills += len(_KILL.findall(game.message.tobytes()))


class Descent(Sparse):
    """50 for taking the stairs down to ``level`` of the main dungeon.

    The game says "You descend the stairs" and waits for a key; that message stays the step's
    observation, though clicking on clears it.

    Args:
        level: the level to arrive on.
        continual: success pays once and the episode goes on until death.
    """

    def __init__(self, level: int = 2, continual: bool = False) -> None:
        super().__init__(continual)
        if not level >= 2:
            raise ValueError(f"level={level}: expected an integer >= 2")
        self.level = level

    def start(self, game: Any) -> None:
        """See ``Task``."""
        super().start(game)
        self._message: Any = None

    def before_more(self, game: Any) -> None:
        """See ``Task``."""
        super().before_more(game)
        if _DESCENT in game.message.tobytes():
            self._message = game.message.copy()

    def succeeded(self, game: Any) -> bool:
        """See ``Sparse``."""
        kept, self._message = self._message, None
        if kept is not None:
            game.message[:] = kept
        if _DESCENT not in game.message.tobytes():
            return False
        return bool(game.blstats[DEPTH_IN_DUNGEON] == self.level and game.blstats[DUNGEON] == 0)


class SparseOracle(Sparse):
    """50 for standing beside the Oracle."""

    def __init__(self, continual: bool = False) -> None:
        super().__init__(continual)
        self._glyph = _oracle_glyph()

    def succeeded(self, game: Any) -> bool:
        """See ``Sparse``."""
        return bool((game.neighbours() == self._glyph).any())


class OracleSober(SparseOracle):
    """50 for standing beside the Oracle without hallucinating, whatever else ails the hero."""

    def succeeded(self, game: Any) -> bool:
        """See ``Sparse``."""
        return not game.blstats[CONDITION] & HALLUCINATING and super().succeeded(game)


TASKS: dict[str, type[Task]] = {
    "free_score": FreeScore,
    "score": Score,
    "staircase": Staircase,
    "staircase_pet": StaircasePet,
    "oracle": Oracle,
    "gold": Gold,
    "eat": Eat,
    "scout": Scout,
    "challenge": Challenge,
    "descent": Descent,
    "sparse_oracle": SparseOracle,
    "oracle_sober": OracleSober,
}
