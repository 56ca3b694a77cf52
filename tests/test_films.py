"""Who plays in the gallery's films can play: each reaches what its environment is about."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from rewardzoo.video import episode


def test_only_sokoban_is_left_to_chance(docs: Any) -> None:
    players, pages = docs("players"), docs("gallery").pages()
    shown = [film for page, ids in pages.items() for film in players.films(page, ids[0])]
    assert len(shown) > 50
    assert [f.id for f in shown if f.player is players.at_random] == [
        "rewardzoo/MiniHackSokoban1a-v0"
    ]


def film(docs: Any, page: str, id: str) -> Any:
    (found,) = (f for f in docs("players").films(page, "") if f.id == f"rewardzoo/{id}-v0")
    return found


@pytest.mark.parametrize(
    ("name", "steps"), [("KeyRoomS5", 10), ("River", 68), ("QuestEasy", 33), ("WoDEasyFull", 3)]
)
def test_heroes_do_what_their_levels_ask(name: str, steps: int, docs: Any) -> None:
    pytest.importorskip("nle")
    shown = film(docs, "NetHack", f"MiniHack{name}")
    env = gymnasium.make(shown.id, render_mode="ansi", **shown.arguments)
    shots = list(episode(env, docs("gallery").Playing(shown, env), 300, shown.seed))
    env.close()
    assert len(shots) == steps + 1 and "reward 1 " in shots[-1].caption


@pytest.mark.parametrize(
    ("page", "metres"), [("HalfCheetah", 30.0), ("Walker2d", 1.5), ("Ant", 10.0)]
)
def test_gaits_go_forward_and_do_not_fall(page: str, metres: float, docs: Any) -> None:
    pytest.importorskip("mujoco")
    shown = film(docs, page, page)
    env: Any = gymnasium.make(shown.id)
    obs, _ = env.reset(seed=shown.seed)
    player = shown.player(env.unwrapped)
    for _ in range(300):
        obs, _, terminated, _, info = env.step(player(obs))
        assert not terminated
    assert info["x_position"] > metres
    env.close()


def test_a_gait_repeats_itself_and_stays_within_the_torques(docs: Any) -> None:
    pytest.importorskip("mujoco")
    gaits = docs("gaits")
    env: Any = gymnasium.make("rewardzoo/HalfCheetah-v0")
    env.reset(seed=0)
    numbers = np.concatenate([[4.0, 1.0, 0.0, 0.0], np.repeat([0.1, 0.5, 0.25, 0.0], 6)])
    gait = gaits.Gait("HalfCheetah", numbers, env.unwrapped.engine)
    first = [gait(None) for _ in range(10)]  # the world stands still; 4 Hz in steps of .05 s
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(first, first[5:], strict=False))
    assert all(x.dtype == np.float32 and np.abs(x).max() <= 1 for x in first)
    assert not np.allclose(first[0], first[1])
    env.close()
