"""Game: one NetHack engine and the loop around it, without what slows NLE's own loop down.

The engine of the NetHack Learning Environment (Küttler et al. 2020) steps in 2 to 3 microseconds;
most of the 23 of a step of its Gymnasium class go into copying every observation to remember the
last one and into reading numbers out of arrays. Here the engine writes into the arrays that the
caller gives, the few numbers that matter are read through memoryviews, and what a reward needs of
the past is kept as plain integers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding

from rewardzoo.engines import Buffers, Slots

from .crew import Crew, GameCrew
from .folders import claim, sweep
from .keys import action_keys
from .tasks import DEATH, RUNNING, TASKS, Task

SCORE, DEPTH, GOLD, LEVEL_OF_HERO, TIME = 9, 12, 13, 18, 20
_PRIVILEGED = ("internal", "program_state", "misc")
_TERMINAL = ("tty_chars", "tty_colors", "tty_cursor")
_SPACE, _ESCAPE = 32, 27


def penalty(mode: str, step: float) -> Any:
    """The penalty after ``k`` consecutive steps in which the game's clock stood still.

    Raises:
        ValueError: for an unknown mode.
    """
    modes = {
        "constant": lambda k: step if k else 0.0,
        "linear": lambda k: k * step,
        "square": lambda k: k * k * step,
        "exp": lambda k: 2.0**k * step,
        "always": lambda k: step,
    }
    if mode not in modes:
        raise ValueError(f"penalty_mode={mode!r}: expected one of {', '.join(modes)}")
    return modes[mode]


class Game:
    """One game of NetHack after another, as an engine (``rewardzoo.engines.Engine``).

    Args:
        task: a name in ``tasks.TASKS``: what is rewarded and when the task is done.
        observation_keys: which observations; ``…_crop`` keys are windows around the hero.
        actions: names (``keys.py``), or one of its named sets.
        level_seed: fixes the levels' layout, whatever the seed of the game; in [0, 2**63).
        penalty_mode: ``constant``, ``linear``, ``square``, ``exp`` or ``always``.
        penalty_step: paid where the game's clock stood still.
        penalty_time: paid for each turn of the game's clock.
        character: role, race, alignment and gender; ``@`` draws them.
        crop: width of the windows, odd.
        drawn: whether ``render`` will be asked for.
        **rules: arguments of the task.
    """

    render_modes = ("rgb_array", "ansi")
    crew = GameCrew if Crew is not None else None

    def __init__(
        self,
        task: str = "score",
        observation_keys: Sequence[str] = ("glyphs", "blstats", "message"),
        actions: str | Sequence[str] | None = None,
        level_seed: int | None = None,
        penalty_mode: str = "constant",
        penalty_step: float = -0.01,
        penalty_time: float = 0.0,
        character: str = "mon-hum-neu-mal",
        crop: int = 9,
        drawn: bool = False,
        **rules: Any,
    ) -> None:
        if level_seed is not None and not 0 <= level_seed < 2**63:
            raise ValueError(f"level_seed={level_seed}: expected an integer in [0, 2**63)")
        if not (crop >= 1 and crop % 2):
            raise ValueError(f"crop={crop}: expected an odd number >= 1")
        self._penalty = penalty(penalty_mode, penalty_step)
        self._penalty_time = penalty_time
        self._level_seed, self._character = level_seed, character
        self._rng: np.random.Generator | None = None
        self.observation_keys = tuple(observation_keys)
        self.task: Any = self._make_task(task, rules)
        self._all_questions = self._all_modes = self.task.unaided
        names, self._keys = action_keys(self._default_actions() if actions is None else actions)
        self.action_names = tuple(names)
        self.action_space = spaces.Discrete(len(names))
        self.info_fields = {
            "score": int, "depth": int, "gold": int, "experience_level": int, "turns": int,
            "end_status": int, **self.task.info_fields,
        }  # fmt: skip
        self._crop = crop
        self._penalised, self._patience = self.task.penalised, self.task.patience
        self.observation_space = self._space()
        self._drawn = drawn
        self._engine: Any = None

    # ---- what MiniHack does otherwise --------------------------------------------------------

    def _make_task(self, task: str, rules: dict[str, Any]) -> Any:
        if task not in TASKS:
            raise ValueError(f"task={task!r}: expected one of {', '.join(TASKS)}")
        return TASKS[task](**rules)

    def _default_actions(self) -> Any:
        return self.task.actions

    def _make_engine(self, keys: tuple[str, ...]) -> Any:
        """A raw engine that fills ``keys``, not yet bound to arrays."""
        from nle import nethack

        return nethack.Nethack(
            observation_keys=keys,
            options=self.task.options(nethack.NETHACKOPTIONS),
            playername=f"Agent-{self._character}",
            ttyrec=None,
            # Moon phase, Friday 13th and night come from the seed, not from today's date.
            fix_moon_phase=True,
        )

    # ---- the engine's face -------------------------------------------------------------------

    def attach(self, observation: Buffers, info: Slots) -> None:
        """Make the engine, which writes into ``observation`` from now on."""
        from nle.nethack import OBSERVATION_DESC

        wanted = {"glyphs", "blstats", "message", "internal", "program_state", *self.task.needs}
        self._crops = []
        for key in self.observation_keys:
            wanted.add(key.removesuffix("_crop"))
        if self._drawn:
            wanted.update(_TERMINAL)
        keys = tuple(key for key in OBSERVATION_DESC if key in wanted)
        own = {k: np.zeros(**OBSERVATION_DESC[k]) for k in keys if k not in observation}
        self.buffers: dict[str, Any] = {k: observation.get(k, own.get(k)) for k in keys}
        for key, out in observation.items():
            if key.endswith("_crop"):
                self._crops.append((self.buffers[key.removesuffix("_crop")], out))
        self._own_question = re.compile(b"|".join(map(re.escape, self.task.questions))).search
        # A crew answers by itself, unless nothing is answered or somebody looks at it before.
        words = (b"",) if self._all_questions else self.task.questions
        looks = type(self.task).before_more is not Task.before_more
        looks = looks or type(self).judged is not Game.judged
        silent = self._all_modes or looks
        self.own_questions = None if silent else b"".join(word + b"\0" for word in words)
        sweep()
        self._nethack = engine = self._make_engine(keys)
        self._claim = claim(engine._vardir)
        engine._pynethack.set_buffers(**self.buffers)
        self._engine = engine._pynethack
        # Bound once: looking a name up costs as much as reading a number.
        self._press, self._over = self._engine.step, self._engine.done
        self.internal: Any = memoryview(self.buffers["internal"])
        self.program_state: Any = memoryview(self.buffers["program_state"])
        self.blstats: Any = memoryview(self.buffers["blstats"])
        self.message = self.buffers["message"]
        self.info = info
        self._slots = [
            (info[name], index)
            for name, index in (("score", SCORE), ("depth", DEPTH), ("gold", GOLD),
                                ("experience_level", LEVEL_OF_HERO), ("turns", TIME))
        ]  # fmt: skip
        self._end_status = info["end_status"]

    @property
    def engine_path(self) -> str:
        """Where the engine was loaded from: a copy of its own, with its own state."""
        return str(self._nethack.dlpath)

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Where three of NLE's arrays lie, the numbers to look at, and the slots for them."""
        blstats = self.buffers["blstats"]
        return (
            *(address(self.buffers[key]) for key in ("internal", "program_state", "message")),
            tuple(address(blstats[index:]) for _, index in self._slots),
            tuple(address(np.asarray(slot)) for slot, _ in self._slots),
        )

    def reset(self, seed: int | None) -> None:
        """Begin a game; ``seed`` starts the sequence of games anew."""
        if seed is not None or self._rng is None:
            self._rng, _ = seeding.np_random(seed)
        self.begin(self._rng)

    def begin(self, rng: np.random.Generator) -> None:
        """Begin a game with seeds drawn from ``rng``: the engine forgets its own at every reset."""
        core, disp, levels = (int(x) for x in rng.integers(0, 2**63, 3, dtype=np.int64))
        if self._level_seed is not None:
            levels = self._level_seed
        self._prepare_level(levels)
        self._engine.set_initial_seeds(core, disp, False, levels)
        self._engine.reset()
        for _ in range(1000):
            if self.program_state[3]:  # in the main loop: the first screens are past
                break
            self._press(_SPACE)
        else:
            raise RuntimeError("NetHack did not start within 1000 keys")
        self._frozen, self._time = 0, self.blstats[TIME]
        self._end_status[0] = RUNNING
        self._look()
        self._cut()
        self.task.start(self)

    def _prepare_level(self, seed: int) -> None:
        """Before a game begins; NetHack makes its own levels."""

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """Press the action's key, answer what must be answered, and judge."""
        self._press(self.key(action))
        return self.judged()

    def key(self, action: Any) -> int:
        """The key that ``step`` presses, after all that comes before it."""
        return self._keys[action]

    def judged(self) -> tuple[float, bool, bool]:
        """The outcome of the keys that were pressed."""
        internal = self.internal
        if internal[1] or internal[2] or internal[3] or self.program_state[0]:
            self._answer()
        if self._over():
            self._end_status[0] = DEATH
            self._forget_crops()
            return self.task.on_death, True, False
        self._look()
        return self.watched()

    def watched(self) -> tuple[float, bool, bool]:
        """The outcome where the hero lives, nothing is asked and the numbers were looked at."""
        time = self.blstats[TIME]
        elapsed = time - self._time
        self._time = time
        self._frozen = 0 if elapsed else self._frozen + 1
        if self._crops:
            self._cut()
        reward, status = self.task.judge(self)
        if self._penalised:
            reward += self._penalty(self._frozen) + elapsed * self._penalty_time
        if status == RUNNING:
            return reward, False, self._frozen >= self._patience
        self._end_status[0] = status
        return reward, True, False

    def render(self, mode: str) -> Any:
        """The terminal as a picture, or as text."""
        from .render import frame, text

        arrays = [self.buffers[key] for key in _TERMINAL]
        return frame(*arrays) if mode == "rgb_array" else text(arrays[0])

    def close(self) -> None:
        """Give the engine's files and memory back."""
        if self._engine is not None:
            self._nethack.close()
            self._claim.close()
            self._engine = None

    # ---- inside ------------------------------------------------------------------------------

    def _answer(self) -> None:
        """Click through ``--More--`` and decline the questions that the agent may not answer."""
        internal, press, over = self.internal, self._press, self._over
        if self._all_modes and not self.program_state[0]:
            return
        while not over():
            if internal[3]:
                self.task.before_more(self)
                press(_SPACE)
            elif internal[2]:  # asks for a line of text
                press(_ESCAPE)
            else:
                if internal[1] and not self._may_answer():
                    press(_ESCAPE)
                return

    def _may_answer(self) -> bool:
        if self._all_questions:
            return True
        return self._own_question(self.message) is not None

    def _look(self) -> None:
        """What the living hero's numbers are; after death they are all zero."""
        blstats = self.blstats
        for slot, index in self._slots:
            slot[0] = blstats[index]

    def _cut(self) -> None:
        """The windows around the hero."""
        x, y = self.blstats[0], self.blstats[1]
        for whole, out in self._crops:
            cut(whole, out, x, y, self._crop // 2)

    def _forget_crops(self) -> None:
        for _, out in self._crops:
            out[...] = 0

    def neighbours(self, glyphs: bool = True) -> Any:
        """What lies around the hero, at most 3 by 3, cut off at the map's border."""
        x, y = self.blstats[0], self.blstats[1]
        whole = self.buffers["glyphs" if glyphs else "chars"]
        return whole[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]

    def _space(self) -> spaces.Dict:
        from nle.env.base import NLE_SPACE_ITEMS

        known = dict(NLE_SPACE_ITEMS)
        windows = ("glyphs", "chars", "colors", "specials")
        found = {}
        for key in self.observation_keys:
            whole = key.removesuffix("_crop")
            if whole in _PRIVILEGED:
                raise ValueError(f"observation_keys: {key!r} is hidden from players")
            if whole not in known or (whole != key and whole not in windows):
                names = [k for k in known if k not in _PRIVILEGED]
                names += [f"{k}_crop" for k in windows]
                raise ValueError(f"observation_keys: {key!r}, expected some of {', '.join(names)}")
            space = known[whole]
            if whole != key:
                shape = (self._crop, self._crop)
                high = int(space.high.max())
                space = spaces.Box(0, high, shape, space.dtype)
            found[key] = space
        if not found:
            raise ValueError("observation_keys: expected at least one")
        return spaces.Dict(found)


def address(array: Any) -> int:
    """Where an array begins in memory."""
    return int(array.__array_interface__["data"][0])


def cut(whole: Any, out: Any, x: int, y: int, half: int) -> None:
    """The window of ``whole`` around column ``x`` and row ``y`` into ``out``, zeros outside."""
    height, width = whole.shape
    top, left = y - half, x - half
    first_y, first_x = max(top, 0), max(left, 0)
    last_y, last_x = min(y + half + 1, height), min(x + half + 1, width)
    if last_y - first_y < out.shape[0] or last_x - first_x < out.shape[1]:
        out[...] = 0
    out[first_y - top : last_y - top, first_x - left : last_x - left] = whole[
        first_y:last_y, first_x:last_x
    ]
