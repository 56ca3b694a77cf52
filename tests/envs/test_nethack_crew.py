"""Games that several threads step at once are the games that one thread steps in turn."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import rewardzoo  # noqa: F401
from rewardzoo.testing.recording import same

pytest.importorskip("nle")
pytest.importorskip("minihack")
from rewardzoo.envs.nethack import game  # noqa: E402
from rewardzoo.envs.nethack.crew import GameCrew  # noqa: E402
from rewardzoo.workers import InProcess, Worker  # noqa: E402

crew = pytest.importorskip("rewardzoo.envs.nethack._crew", reason="installed without a compiler")
SCORE, ROOM = "rewardzoo/NetHackScore-v0", "rewardzoo/MiniHackKeyRoomS5-v0"
THREADS = Path("/proc/self/task")
# Where a thread never comes back, C waits, and only the process's end ends that.
pytestmark = pytest.mark.timeout(120, method="thread")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewardzoo.simulator.cores", lambda: 2)


def played(id: str, steps: int, num_envs: int = 5, **arguments: Any) -> tuple[list[Any], Any]:
    """What a batch says, and the kind of crew that it had."""
    envs: Any = gymnasium.make_vec(id, num_envs=num_envs, **arguments)
    kind = type(envs.workers[-1].rows.crew)
    high = int(envs.single_action_space.n)
    said: list[Any] = [envs.reset(seed=3)]
    for action in np.random.default_rng(0).integers(0, high, (steps, num_envs)):
        said.append(envs.step(action))
        over = said[-1][2] | said[-1][3]
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            said.append(envs.reset(options={"reset_mask": over.numpy()}))
    envs.close()
    return said, kind


@pytest.mark.parametrize(
    ("id", "arguments"),
    [
        (SCORE, {}),
        (SCORE, {"autoreset_mode": "next_step"}),
        (SCORE, {"autoreset_mode": "disabled"}),
        (SCORE, {"observation_keys": ("glyphs_crop", "blstats", "tty_chars"), "crop": 5}),
        (SCORE, {"penalty_mode": "exp", "penalty_time": -0.1}),
        ("rewardzoo/NetHackGold-v0", {}),
        ("rewardzoo/NetHackEat-v0", {}),
        ("rewardzoo/NetHackChallenge-v0", {}),  # nothing is answered
        ("rewardzoo/NetHackStaircaseLvl2-v0", {}),  # reads what --More-- hides
        ("rewardzoo/NetHackStaircaseLvl2ExtendedActions-v0", {}),  # has questions of its own
        (ROOM, {"actions": "calm"}),  # presses keys before the action's
        ("rewardzoo/MiniHackSokoban1a-v0", {}),  # judges by the action too
    ],
)
def test_threads_change_nothing(id: str, arguments: dict[str, Any]) -> None:
    if id not in gymnasium.registry:
        pytest.fail(f"{id} is not registered")
    arguments = {"max_episode_steps": 90, **arguments}
    together, kind = played(id, 250, **arguments)
    in_turn, other = played(id, 250, num_workers=0, **arguments)
    assert kind is GameCrew and other is not GameCrew
    assert len(together) == len(in_turn)
    for step, (a, b) in enumerate(zip(together, in_turn, strict=True)):
        assert same(a, b), step


def test_helpers_answer_questions_and_click_on_as_the_game_does() -> None:
    """Keys that ask for directions, letters and lines, and texts of several screens."""
    keys = (
        "KICK",
        "EAT",
        "ZAP",
        "READ",
        "ENGRAVE",
        "CALL",
        "ATTRIBUTES",
        "INVENTORY",
        "PRAY",
        "SEARCH",
    )
    arguments = {"actions": keys, "max_episode_steps": 200}
    together, kind = played(SCORE, 400, **arguments)
    in_turn, _ = played(SCORE, 400, num_workers=0, **arguments)
    assert kind is GameCrew and same(together, in_turn)


def test_heroes_die_alike() -> None:
    """Whoever prays again and again is struck by lightning."""
    arguments = {"actions": ("PRAY", "NW"), "max_episode_steps": 400}  # NW is the y of yes
    together, kind = played(SCORE, 300, **arguments)
    in_turn, _ = played(SCORE, 300, num_workers=0, **arguments)
    assert kind is GameCrew and same(together, in_turn)
    assert sum(int(step[2].sum()) for step in together[1:]) > 1


def test_threads_end_with_the_environment() -> None:
    def count() -> int:
        return len(list(THREADS.iterdir()))

    if not THREADS.exists():
        pytest.skip("threads are counted in /proc")
    before = count()
    envs: Any = gymnasium.make_vec(SCORE, num_envs=2)
    assert count() == before + 1
    envs.reset(seed=0)
    envs.step_async(np.zeros(2, int))  # and nobody waits for it
    envs.close()
    assert count() == before
    envs = gymnasium.make_vec(SCORE, num_envs=2)
    del envs
    gc.collect()
    assert count() == before


def test_sleeping_helper_is_woken() -> None:
    envs: Any = gymnasium.make_vec(SCORE, num_envs=2)
    envs.reset(seed=0)
    helper = envs.workers[-1].rows.crew
    for _ in range(3):
        time.sleep(0.05)  # far longer than it looks for work
        before, deadline = helper.spent()[0], time.monotonic() + 20
        while helper.spent()[0] == before:
            envs.step(np.full(2, 18))
            assert time.monotonic() < deadline
    envs.close()


def test_broken_game_is_mended_and_the_crew_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    envs: Any = gymnasium.make_vec(SCORE, num_envs=3)
    envs.reset(seed=0)
    broken = envs.workers[-1].rows.engines[1]

    def fail(_: Any) -> None:
        raise ZeroDivisionError("judge")

    monkeypatch.setattr(broken.task, "judge", fail)
    ended: list[bool] = []
    crew_of_old = envs.workers[-1].rows.crew
    monkeypatch.setattr(crew_of_old, "close", lambda: ended.append(True))
    with pytest.warns(UserWarning, match="ZeroDivisionError: judge"):
        _, _, _, truncated, _ = envs.step(np.zeros(3, int))
    assert ended  # before another crew is made
    assert truncated.all() and envs.restarts == 1
    for _ in range(20):
        _, reward, _, _, _ = envs.step(np.zeros(3, int))
    assert torch.isfinite(reward).all() and envs.restarts == 1
    envs.close()


def test_forked_process_ends_without_the_threads_of_its_parent() -> None:
    envs: Any = gymnasium.make_vec(SCORE, num_envs=2)
    envs.reset(seed=0)
    envs.step(np.zeros(2, int))

    def child() -> None:
        rows = envs.workers[-1].rows
        rows.crew.close()  # would wait for ever for a thread that is not there
        os._exit(7)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    alive = process.exitcode is None
    process.kill()
    assert not alive and process.exitcode == 7
    envs.step(np.zeros(2, int))
    envs.close()


def test_without_a_compiler_processes_step_the_games(monkeypatch: pytest.MonkeyPatch) -> None:
    together, _ = played(SCORE, 60)
    monkeypatch.setattr(game.Game, "crew", None)
    envs: Any = gymnasium.make_vec(SCORE, num_envs=5)
    assert [type(w) for w in envs.workers] == [Worker, InProcess]
    envs.close()
    apart, _ = played(SCORE, 60)
    assert same(together, apart)


def test_number_of_processes_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def shape(num_envs: int, cores: int, **arguments: Any) -> list[tuple[int, int]]:
        monkeypatch.setattr("rewardzoo.simulator.cores", lambda: cores)
        envs: Any = gymnasium.make_vec(SCORE, num_envs=num_envs, **arguments)
        found = [(len(w.job.rows), w.job.helpers) for w in envs.workers]
        envs.close()
        return found

    assert shape(4, 4) == [(2, 1), (2, 1)]
    assert shape(3, 8) == [(3, 1)]
    assert shape(1, 8) == [(1, 0)]
    assert shape(4, 1) == [(4, 0)]
    assert shape(4, 4, num_workers=2) == [(2, 0), (2, 0)]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="count=0"):
        crew.Crew(0, 1)
    with pytest.raises(ValueError, match="helpers=-1"):
        crew.Crew(1, -1)
    two = crew.Crew(2, 1)
    with pytest.raises(RuntimeError, match="game 0 has not begun"):
        two.start([32, 32])
    with pytest.raises(ValueError, match="expected 2"):
        two.start([32])
    two.start([None, None])
    assert two.take(lambda: None) == -1
    with pytest.raises(OSError, match="has not begun"):
        two.bind(0, "/nowhere/libnethack.so", None, 0, 0, 0, (), ())
    with pytest.raises(ValueError, match="game 5 of 2"):
        two.bind(5, "/nowhere/libnethack.so", None, 0, 0, 0, (), ())
