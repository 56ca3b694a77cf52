"""Steps of eight NetHack games: this project's batch against Gymnasium's, and where time goes.

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

from .timing import REPEATS, Row, cores, interleave, missing, one_thread, ratio

ID = "rewardzoo/NetHackScore-v0"
GAMES, STEPS = 8, 600


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: 2.5 x SyncVectorEnv, 5 x AsyncVectorEnv, .8 x a lean loop a core.

    Gymnasium's batches return copies, and ours does beside them. The loop does not; beside it ours
    reuses its memory too (``copy=False``), and a row tells what copies cost.
    """
    try:
        import nle  # noqa: F401
    except ModuleNotFoundError:
        return [missing("NetHack steps", 'pip install "rewardzoo[nethack]"')]
    with one_thread():
        say(f"{GAMES} games, {cores()} cores")
        return [*_against_gymnasium(), *_larger(), *_shares()]


def _against_gymnasium() -> list[Row]:
    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(ID)

    same = AutoresetMode.SAME_STEP
    ours = gymnasium.make_vec(ID, num_envs=GAMES)
    reusing = gymnasium.make_vec(ID, num_envs=GAMES, copy=False)
    sync = gymnasium.vector.SyncVectorEnv([make] * GAMES, autoreset_mode=same)
    async_ = gymnasium.vector.AsyncVectorEnv([make] * GAMES, autoreset_mode=same)
    contenders = {
        "rewardzoo": batch(ours, tensors=True),
        "rewardzoo, copy=False": batch(reusing, tensors=True),
        "SyncVectorEnv": batch(sync),
        "AsyncVectorEnv": batch(async_),
        f"lean loop over {GAMES}": lean_loop(GAMES),
        "lean loop over 1": lean_loop(1),
    }
    try:
        readings = interleave(contenders)
    finally:
        for envs in (ours, reusing, sync, async_):
            envs.close()
    name = f"NetHack steps/s, {GAMES} games, one batch vs"
    rows = [
        ratio(f"{name} {peer}", readings, "steps/s", "rewardzoo", peer, bar=bar)
        for peer, bar in (("SyncVectorEnv", 2.5), ("AsyncVectorEnv", 5.0))
    ]
    used = min(cores(), GAMES)
    for mine in ("rewardzoo", "rewardzoo, copy=False"):
        readings[f"{mine}, a core"] = [x / used for x in readings[mine]]
    # The loop writes every step into the same arrays, and so may the batch that is its equal.
    for words, mine, count, bar in (
        (", copy=False", "rewardzoo, copy=False, a core", GAMES, 0.8),
        ("", "rewardzoo, a core", GAMES, None),
        ("", "rewardzoo, a core", 1, None),
    ):
        peer = f"lean loop over {count}"
        rows.append(
            ratio(
                f"NetHack steps/s, one batch{words} a core ({used}) vs one process, {peer}",
                readings,
                "steps/s",
                mine,
                peer,
                bar=bar,
                note="one game stays in the processor's caches, several drive one another out",
            )
        )
    return rows


def _larger() -> list[Row]:
    """The same of more games, which share what a step costs once."""
    rows = []
    for games in (2 * GAMES, 4 * GAMES):
        envs = gymnasium.make_vec(ID, num_envs=games)
        ours, peer, used = batch(envs, tensors=True), lean_loop(games), min(cores(), games)
        contenders = {"rewardzoo, a core": lambda f=ours, n=used: f() / n, "lean loop": peer}
        readings = interleave(contenders)
        envs.close()
        name = (
            f"NetHack steps/s, {games} games, one batch a core ({used}) vs one process, lean loop"
        )
        rows.append(ratio(name, readings, "steps/s", *contenders))
    return rows


def batch(envs: Any, tensors: bool = False) -> Callable[[], float]:
    """A reading: game steps a second of a vector environment."""
    steps, games = STEPS * GAMES // envs.num_envs, envs.num_envs
    table = np.random.default_rng(0).integers(0, 23, (steps, games))
    actions = list(torch.from_numpy(table)) if tensors else list(table)
    envs.reset(seed=0)

    def read() -> float:
        start = time.perf_counter()
        for action in actions:
            envs.step(action)
        return steps * games / (time.perf_counter() - start)

    return read


def lean_loop(count: int) -> Callable[[], float]:
    """A reading: steps a second of so many games in one process, without Gymnasium around them."""
    games = [make_game(task="score") for _ in range(count)]
    for i, game in enumerate(games):
        own_buffers(game)
        game.reset(i)
    steps = STEPS * GAMES // max(count, GAMES)
    actions = np.random.default_rng(0).integers(0, 23, (steps, max(count, GAMES)))
    rows = actions[:, :count].tolist()

    def read() -> float:
        start = time.perf_counter()
        for row in rows:
            for game, action in zip(games, row, strict=True):
                if game.step(action)[1]:
                    game.reset(None)
        return len(rows) * count / (time.perf_counter() - start)

    return read


def _shares() -> list[Row]:
    """Where the time of the cores goes in a step of the batch."""
    envs: Any = gymnasium.make_vec(ID, num_envs=GAMES)
    read = batch(envs, tensors=True)
    crew = envs.workers[-1].rows.crew
    if not hasattr(crew, "spent") or len(envs.workers) > 1:
        envs.close()
        return [missing("NetHack, the engine's share", "a C compiler at installation, two cores")]
    spent: dict[str, list[float]] = {"engine": [], "Python and tensors": [], "waiting": []}
    for _ in range(REPEATS):
        before, wall = np.array(crew.spent()), STEPS * GAMES / read()
        helped, played, waited = np.array(crew.spent()) - before
        parts = helped + played, wall - played - waited, waited + wall - helped
        for name, value in zip(spent, parts, strict=True):
            spent[name].append(float(value) / STEPS)
    envs.close()
    return [
        Row(
            f"NetHack, a step of {GAMES} games: the engine's share of two cores' time",
            spent,
            "s",
            [e / (e + p + w) for e, p, w in zip(*spent.values(), strict=True)],
            note="while one core makes the step's tensors, most of what is Python's, the other one "
            "has played its games and waits",
        )
    ]
