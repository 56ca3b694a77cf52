"""Steps of eight NetHack games: worker processes against Gymnasium's, and where the time goes.

All play the same games with the same random actions, observations ``glyphs``, ``blstats`` and
``message``, resets included, on as many processes as this machine has cores (except that
``AsyncVectorEnv`` has one for each game).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

import rewardzoo  # noqa: F401  (registers the environments)
from rewardzoo.engines import own_buffers
from rewardzoo.envs.nethack.env import make_game
from rewardzoo.envs.nethack.game import Game

from .timing import REPEATS, Row, cores, interleave, missing, one_thread, ratio

ID = "rewardzoo/NetHackScore-v0"
GAMES, STEPS = 8, 600


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: 2.5 x SyncVectorEnv, 5 x AsyncVectorEnv, .8 x a lean loop a core."""
    try:
        import nle  # noqa: F401
    except ModuleNotFoundError:
        return [missing("NetHack steps", 'pip install "rewardzoo[nethack]"')]
    with one_thread():
        say(f"{GAMES} games, {cores()} cores")
        return [*_against_gymnasium(), *_shares()]


def _against_gymnasium() -> list[Row]:
    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(ID)

    same = AutoresetMode.SAME_STEP
    ours = gymnasium.make_vec(ID, num_envs=GAMES)
    sync = gymnasium.vector.SyncVectorEnv([make] * GAMES, autoreset_mode=same)
    async_ = gymnasium.vector.AsyncVectorEnv([make] * GAMES, autoreset_mode=same)
    contenders = {
        "rewardzoo": batch(ours, tensors=True),
        "SyncVectorEnv": batch(sync),
        "AsyncVectorEnv": batch(async_),
        f"lean loop over {GAMES}": lean_loop(GAMES),
        "lean loop over 1": lean_loop(1),
    }
    try:
        readings = interleave(contenders)
    finally:
        for envs in (ours, sync, async_):
            envs.close()
    name = f"NetHack steps/s, {GAMES} games, workers vs"
    rows = [
        ratio(f"{name} {peer}", readings, "steps/s", "rewardzoo", peer, bar=bar)
        for peer, bar in (("SyncVectorEnv", 2.5), ("AsyncVectorEnv", 5.0))
    ]
    used = min(cores(), GAMES)
    readings["rewardzoo, a core"] = [x / used for x in readings["rewardzoo"]]
    for count, bar in ((GAMES, 0.8), (1, None)):
        peer = f"lean loop over {count}"
        rows.append(
            ratio(
                f"NetHack steps/s, workers a core ({used}) vs one process, {peer}",
                readings,
                "steps/s",
                "rewardzoo, a core",
                peer,
                bar=bar,
                note="one game stays in the processor's caches, several drive one another out",
            )
        )
    return rows


def batch(envs: Any, tensors: bool = False) -> Callable[[], float]:
    """A reading: game steps a second of a vector environment."""
    table = np.random.default_rng(0).integers(0, 23, (STEPS, GAMES))
    actions = list(torch.from_numpy(table)) if tensors else list(table)
    envs.reset(seed=0)

    def read() -> float:
        start = time.perf_counter()
        for action in actions:
            envs.step(action)
        return STEPS * GAMES / (time.perf_counter() - start)

    return read


def lean_loop(count: int) -> Callable[[], float]:
    """A reading: steps a second of so many games in one process, without Gymnasium around them."""
    games = [make_game(task="score") for _ in range(count)]
    for i, game in enumerate(games):
        own_buffers(game)
        game.reset(i)
    actions = np.random.default_rng(0).integers(0, 23, (STEPS * 4 // count, count)).tolist()

    def read() -> float:
        start = time.perf_counter()
        for row in actions:
            for game, action in zip(games, row, strict=True):
                if game.step(action)[1]:
                    game.reset(None)
        return len(actions) * count / (time.perf_counter() - start)

    return read


def _shares() -> list[Row]:
    """Where the wall time of a step of the batch goes, from inside the processes."""
    envs: Any = gymnasium.make_vec(ID, num_envs=GAMES, game=f"{__name__}:TimedGame")
    envs.reset(seed=0)
    table = torch.from_numpy(np.random.default_rng(0).integers(0, 23, (STEPS, GAMES)))
    rows = [list(worker.job.rows) for worker in envs.workers]
    marks: dict[str, int] = {}
    _mark(envs.workers[0], "send", marks, before=True)
    _mark(envs.workers[-1], "wait", marks, before=False)
    spent: dict[str, list[float]] = {
        "engine": [], "Python around it": [], "tensors": [], "handshake": [],
    }  # fmt: skip
    even = []
    for _ in range(REPEATS):
        sums, mean, most = np.zeros(4), 0.0, 0.0
        for action in table:
            start = time.perf_counter_ns()
            info = envs.step(action)[4]
            total = time.perf_counter_ns() - start
            stepping = marks["wait"] - marks["send"]
            engine, busy = info["engine_ns"].numpy(), info["step_ns"].numpy()
            mean, most = mean + busy.sum() / len(rows), most + max(busy[r].sum() for r in rows)
            slowest = max(rows, key=lambda r: busy[r].sum())
            inside, work = engine[slowest].sum(), busy[slowest].sum()
            sums += inside, work - inside, total - stepping, stepping - work
        for name, value in zip(spent, sums / STEPS / 1e9, strict=True):
            spent[name].append(float(value))
        even.append(float(mean / most))
    envs.close()
    whole = [sum(v) for v in zip(*spent.values(), strict=True)]
    name = f"NetHack, a step of {GAMES} games:"
    return [
        Row(
            f"{name} the engine's share of the time",
            spent,
            "s",
            [e / w for e, w in zip(spent["engine"], whole, strict=True)],
            note="engine and Python: of the slower process; handshake: waking up, waiting, and the "
            "tensors that the caller makes meanwhile",
        ),
        Row(
            f"{name} work of a process, on average, in that of the slower one",
            {},
            "",
            even,
            note="games take now longer, now shorter, and all wait for the last: with no other "
            "cost at all, this is what processes that step together can reach a core",
        ),
    ]


def _mark(worker: Any, name: str, marks: dict[str, int], before: bool) -> None:
    """Note the time at which a method of a worker is called, or returns."""
    method = getattr(worker, name)

    def marked(*arguments: Any) -> Any:
        start = time.perf_counter_ns()
        out = method(*arguments)
        marks[name] = start if before else time.perf_counter_ns()
        return out

    setattr(worker, name, marked)


class TimedGame(Game):
    """Tells how long each step took, and how much of it inside NetHack."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.info_fields.update(step_ns=int, engine_ns=int)

    def attach(self, observation: Any, info: Any) -> None:
        """See ``Engine``."""
        super().attach(observation, info)
        self._inside, press = 0, self._press

        def timed(key: int) -> None:
            start = time.perf_counter_ns()
            press(key)
            self._inside += time.perf_counter_ns() - start

        self._press = timed

    def begin(self, rng: np.random.Generator) -> None:
        """See ``Game``; nearly all of it is the engine's."""
        start = time.perf_counter_ns()
        super().begin(rng)
        for name in ("step_ns", "engine_ns"):
            self.info[name][0] += time.perf_counter_ns() - start

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """See ``Engine``."""
        self._inside, start = 0, time.perf_counter_ns()
        outcome = super().step(action)
        self.info["engine_ns"][0] = self._inside
        self.info["step_ns"][0] = time.perf_counter_ns() - start
        return outcome
