"""Sepsis steps and whole debates of six features: the batch against the single environments.

On one thread and in processor time, which is the clock's where nothing else runs: the bars are
about two cores, and a busy machine must not decide them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import torch

import rewardzoo  # noqa: F401  (registers the environments)
from rewardzoo.random import Rng

from .timing import Row, interleave, missing, one_thread, ratio

BATCH, NUM_EVIDENCE = 8192, 6


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: 1,000,000 sepsis steps/s; 200,000 debates/s of six features, without networks."""
    with one_thread():
        return [*_steps(), *_debates()]


def _steps() -> list[Row]:
    envs = gymnasium.make_vec("rewardzoo/SepsisICU-v0", num_envs=BATCH)
    envs.reset(seed=0)
    actions = torch.arange(BATCH) % 25
    env = gymnasium.make("rewardzoo/SepsisICU-v0")
    env.reset(seed=0)

    def one() -> None:
        _, _, terminated, truncated, _ = env.step(7)
        if terminated or truncated:
            env.reset()

    readings = interleave(
        {"batch": _rate(lambda: envs.step(actions), BATCH), "single": _rate(one, 1)}
    )
    return _rows("sepsis steps/s", readings, "steps/s", 1e6)


def _debates() -> list[Row]:
    from rewardzoo.envs.sepsis_debate.game import DebateGame
    from rewardzoo.envs.sepsis_debate.patients import Patients

    game = DebateGame(Patients(), num_evidence=NUM_EVIDENCE)
    rows, zero = torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.int64)
    # Moves are given from outside: whole random orders, drawn beforehand.
    orders = Rng(rows, zero, 1).permutation(44)[:, :NUM_EVIDENCE].contiguous().unbind(1)
    episode = 0

    @torch.no_grad()
    def many() -> None:
        nonlocal episode
        state = game.deal(Rng(rows, zero + episode, 0))
        for item in orders:
            game.observe(state)
            state = game.play(state, item)
        game.utilities(state)
        episode += 1

    contenders: dict[str, Callable[[], float]] = {"batch": _rate(many, BATCH)}
    try:
        from rewardzoo.envs.sepsis_debate import sepsis_debate_v0
    except ModuleNotFoundError:
        readings = interleave(contenders)
        name = f"debates/s of {NUM_EVIDENCE} features, batch of {BATCH}"
        return [
            Row(name, readings, "debates/s", readings["batch"], bar=2e5, times=False),
            missing("debates/s, batch vs PettingZoo", "needs pip install pettingzoo"),
        ]
    env = sepsis_debate_v0.env()
    moves = [int(x[0]) for x in orders]

    def one() -> None:
        env.reset()
        for item in moves:
            env.last()
            env.step(item)

    env.reset(seed=0)
    contenders["single"] = _rate(one, 1)
    return _rows("debates/s of six features", interleave(contenders), "debates/s", 2e5)


def _rows(name: str, readings: Any, unit: str, bar: float) -> list[Row]:
    return [
        Row(f"{name}, batch of {BATCH}", {"batch": readings["batch"]}, unit, readings["batch"],
            bar=bar, times=False, note="processor time of one core"),
        ratio(f"{name}, batch vs single environment", readings, unit, "batch", "single"),
    ]  # fmt: skip


def _rate(call: Callable[[], Any], count: int, budget: float = 0.3) -> Callable[[], float]:
    """A reading: ``count`` over the processor seconds of a call; warms up first."""
    for _ in range(3):
        call()
    start = time.process_time()
    call()
    repeats = max(1, round(budget / max(time.process_time() - start, 1e-6)))

    def read() -> float:
        start = time.process_time()
        for _ in range(repeats):
            call()
        return repeats * count / (time.process_time() - start)

    return read
