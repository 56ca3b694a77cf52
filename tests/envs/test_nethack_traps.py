"""What breaks naive use of NLE 1.3 and MiniHack 1.0: one test a trap."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rewardzoo  # noqa: F401

pytest.importorskip("nle")
pytest.importorskip("minihack")

from rewardzoo.envs.nethack.env import NetHackEnv, make_game  # noqa: E402
from rewardzoo.envs.nethack.folders import sweep  # noqa: E402
from rewardzoo.envs.nethack.game import cut  # noqa: E402

SCORE = "rewardzoo/NetHackScore-v0"
ROOM = "rewardzoo/MiniHackRoom5x5-v0"
KEY_ROOM = "rewardzoo/MiniHackKeyRoomS5-v0"


def start(env: Any, seed: int | None = None) -> Any:
    return env.reset(seed=seed)[0]


def equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("id", [SCORE, KEY_ROOM, "rewardzoo/MiniHackMultiRoomN2-v0"])
def test_seed_of_reset_seeds_the_game_and_the_games_after_it(id: str) -> None:
    a, b = gymnasium.make(id), gymnasium.make(id)
    first = [start(a, 3), start(a), start(a)]
    again = [start(b, 3), start(b), start(b)]
    assert all(map(equal, first, again))
    assert not equal(first[0], first[1]) and not equal(first[1], first[2])
    assert not equal(first[0], start(b, 4))


def test_every_world_of_a_batch_has_a_seed_of_its_own() -> None:
    envs = gymnasium.make_vec(SCORE, num_envs=3)
    first, again = envs.reset(seed=3)[0]["glyphs"], envs.reset(seed=3)[0]["glyphs"]
    envs.close()
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_level_seed_out_of_range_is_named(seed: int) -> None:
    with pytest.raises(ValueError, match=f"level_seed={seed}"):
        gymnasium.make(SCORE, level_seed=seed)


def test_challenge_can_be_seeded() -> None:
    """NLE's raises."""
    env = gymnasium.make("rewardzoo/NetHackChallenge-v0")
    assert equal(start(env, 3), start(env, 3))


def test_engine_never_reseeds_itself() -> None:
    env = gymnasium.make(SCORE)
    start(env)  # without a seed
    assert env.unwrapped.game._nethack.get_current_seeds()[2] is False


def test_level_seed_fixes_the_map_whatever_the_seed() -> None:
    env = gymnasium.make("rewardzoo/MiniHackRoomRandom15x15-v0", level_seed=7)
    other = gymnasium.make("rewardzoo/MiniHackRoomRandom15x15-v0")
    maps = {start(env, seed)["glyphs"].tobytes() for seed in range(4)}
    assert len(maps) == 1
    assert len({start(other, seed)["glyphs"].tobytes() for seed in range(4)}) > 1


@pytest.mark.parametrize("limit", [1, 5, 130])
def test_limit_truncates_at_its_step_and_reaches_the_game(limit: int) -> None:
    """MiniHack's own limit of 100 would end the game as terminated."""
    env = gymnasium.make(KEY_ROOM, max_episode_steps=limit, actions=("W",))
    start(env, 0)
    ends = [env.step(0)[2:4] for _ in range(limit)]
    assert ends == [(False, False)] * (limit - 1) + [(False, True)]


def test_death_terminates_and_its_numbers_are_the_last_of_the_living() -> None:
    env = gymnasium.make(SCORE)
    for seed in range(20):
        start(env, seed)
        terminated, before = False, {}
        for action in np.random.default_rng(seed).integers(0, 23, 3000):
            obs, reward, terminated, truncated, info = env.step(action)
            if terminated:
                break
            before = info
        if terminated:
            break
    assert terminated and not truncated and info["end_status"] == 1
    assert not obs["blstats"].any() and not obs["message"].any()  # as NetHack leaves them
    assert len(np.unique(obs["glyphs"])) == 1
    names = ("score", "depth", "gold", "experience_level", "turns")
    assert [info[k] for k in names] == [before[k] for k in names] and info["depth"] >= 1
    assert reward == 0.0


def test_last_observation_of_success_and_of_truncation_is_alive() -> None:
    """NLE quits the game and returns zeros."""
    env = gymnasium.make(ROOM, actions=("SE",), max_episode_steps=2)
    obs = start(env, 0)
    for _ in range(2):
        obs, _, _, truncated, _ = env.step(0)
    assert truncated and obs["blstats"][12] == 1
    env = gymnasium.make(ROOM, actions=("SE",))
    start(env, 0)
    for _ in range(4):
        obs, reward, terminated, _, info = env.step(0)
    assert terminated and reward == 1.0 and info["end_status"] == 2
    assert obs["blstats"][12] == 1 and (obs["glyphs"] != 0).any()


def test_observations_are_copies() -> None:
    env, other = gymnasium.make(SCORE), gymnasium.make(SCORE)
    obs = start(env, 0)
    start(other, 0)
    kept = {k: v.copy() for k, v in obs.items()}
    for action in (19, 1, 2, 3):
        following, *_ = env.step(action)
        assert equal(obs, kept) and not np.shares_memory(obs["glyphs"], following["glyphs"])
        want, *_ = other.step(action)
        assert equal(following, want)
        for value in following.values():
            value[...] = 1


@pytest.mark.parametrize("id", [SCORE, ROOM])
def test_options_of_reset_may_be_empty_or_unknown(id: str) -> None:
    env = gymnasium.make(id)
    assert equal(env.reset(seed=1, options={})[0], env.reset(seed=1, options={"x": 1})[0])


def test_specification_pickles_where_a_game_cannot() -> None:
    env = gymnasium.make(ROOM, penalty_step=-0.5)
    again = gymnasium.make(pickle.loads(pickle.dumps(env.spec)))
    assert equal(start(env, 0), start(again, 0))
    with pytest.raises(TypeError):
        pickle.dumps(env.unwrapped.game._engine)


_WITHOUT_PKG_RESOURCES = """
import importlib.abc, importlib.util, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "pkg_resources":
            raise ModuleNotFoundError(name, name=name)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "pkg_resources" else find(name, *a)
sys.meta_path.insert(0, Hide())
import gymnasium, rewardzoo
print(sorted({"nle", "minihack", "minigrid", "gym"} & set(sys.modules)))
env = gymnasium.make("rewardzoo/MiniHackRoom5x5-v0")
print(env.reset(seed=0)[0]["blstats"][12], "pkg_resources" in sys.modules)
"""


def test_project_imports_no_simulator_and_minihack_needs_no_pkg_resources() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PKG_RESOURCES], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "1 False"]


def test_missing_simulator_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nle", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        gymnasium.make(SCORE)
    assert str(raised.value) == 'nle is missing: pip install "rewardzoo[nethack]"'


def test_level_that_does_not_compile_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniHack would play an ordinary level."""
    make_game("rewardzoo.envs.nethack.minihack:MiniHackGame", level="MiniHack-Room-5x5-v0").close()
    from minihack.level_generator import LevelGenerator

    monkeypatch.setattr(LevelGenerator, "get_des", lambda self: "MAZE: bogus")
    with pytest.raises(RuntimeError, match="Room-5x5.*could not be compiled"):
        make_game("rewardzoo.envs.nethack.minihack:MiniHackGame", level="MiniHack-Room-5x5-v0")


def test_level_is_compiled_once_not_every_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    gymnasium.make(KEY_ROOM).close()
    import minihack

    calls = []
    patch = minihack.MiniHack._patch_nhdat
    monkeypatch.setattr(
        minihack.MiniHack, "_patch_nhdat", lambda self, des: (calls.append(1), patch(self, des))
    )
    env = gymnasium.make(KEY_ROOM)
    for _ in range(3):
        start(env)
    assert len(calls) == 1


def test_python_and_numpy_random_states_are_left_alone() -> None:
    env = gymnasium.make(KEY_ROOM)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = start(env, 5)
    before = random.getstate()
    again = start(env, 5)
    assert random.getstate() == before and equal(first, again)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert equal(first, start(env, 5))


def test_end_status_is_a_number() -> None:
    env = gymnasium.make(ROOM)
    assert type(env.reset(seed=0)[1]["end_status"]) is int
    envs = gymnasium.make_vec(ROOM, num_envs=2)
    info = envs.reset(seed=0)[1]
    envs.close()
    assert info["end_status"].dtype == torch.int64


@given(
    st.integers(0, 78),
    st.integers(0, 20),
    st.sampled_from([1, 3, 5, 9, 13, 25]),
    st.integers(0, 99),
)
def test_window_is_centred_on_the_hero_and_zero_outside(
    x: int, y: int, size: int, seed: int
) -> None:
    whole = np.random.default_rng(seed).integers(1, 255, (21, 79)).astype(np.uint8)
    out = np.full((size, size), 77, np.uint8)
    half = size // 2
    cut(whole, out, x, y, half)
    padded = np.pad(whole, half)
    np.testing.assert_array_equal(out, padded[y : y + size, x : x + size])


@pytest.mark.parametrize("crop", [0, 4, -1])
def test_windows_are_odd(crop: int) -> None:
    with pytest.raises(ValueError, match=f"crop={crop}"):
        gymnasium.make(SCORE, crop=crop)


def test_windows_are_observations() -> None:
    keys = ("chars", "chars_crop", "glyphs_crop", "blstats")
    env = gymnasium.make(KEY_ROOM, observation_keys=keys, crop=5)
    obs = start(env, 0)
    for action in (0, 1, 2, 3, 0, 1):
        assert obs["chars_crop"].shape == (5, 5) and obs["chars_crop"][2, 2] == ord("@")
        x, y = obs["blstats"][:2]
        np.testing.assert_array_equal(
            obs["chars_crop"], np.pad(obs["chars"], 2)[y : y + 5, x : x + 5]
        )
        obs, *_ = env.step(action)


@pytest.mark.parametrize("keys", [("blstats",), ("glyphs", "message")])
@pytest.mark.parametrize("id", [SCORE, ROOM])
def test_it_renders_whatever_is_observed(id: str, keys: tuple[str, ...]) -> None:
    env = gymnasium.make(id, render_mode="rgb_array", observation_keys=keys)
    start(env, 0)
    frame = env.render()
    assert frame.shape == (384, 640, 3) and frame.dtype == np.uint8
    # Dark paper, and ink where the map and the two status lines are.
    ink = (frame.max(-1) > 80).reshape(24, 16, 80, 8).any((1, 3))
    assert 0.005 < ink.mean() < 0.5 and ink[22].any() and ink[23].any()
    env.step(1)
    assert (env.render() != frame).any()
    env = gymnasium.make(id, render_mode="ansi", observation_keys=keys)
    start(env, 0)
    text = env.render()
    assert "@" in text and "Dlvl:1" in text and text.count("\n") == 23


def test_batches_render() -> None:
    envs = gymnasium.make_vec(ROOM, num_envs=3, num_workers=2, render_mode="ansi")
    envs.reset(seed=0)
    frames = envs.render()
    envs.close()
    assert len(frames) == 3 and all("Dlvl:1" in f for f in frames)


def test_unknown_render_mode_is_named() -> None:
    with pytest.raises(ValueError, match="render_mode='pixel'"):
        NetHackEnv(render_mode="pixel")
    with pytest.raises(ValueError, match="render_mode='pixel'"):
        gymnasium.make_vec(SCORE, num_envs=1, render_mode="pixel")


@pytest.mark.parametrize("key", ["internal", "program_state", "misc"])
def test_what_players_cannot_see_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        gymnasium.make("rewardzoo/NetHackEat-v0", observation_keys=("glyphs", key))


def test_hidden_numbers_do_not_leak() -> None:
    env = gymnasium.make("rewardzoo/NetHackEat-v0")
    assert set(start(env, 0)) == {"glyphs", "blstats", "message"}


@pytest.mark.parametrize("keys", [("glyph",), ("message_crop",), ()])
def test_unknown_observations_are_named(keys: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="observation_keys"):
        gymnasium.make(SCORE, observation_keys=keys)


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        gymnasium.make(ROOM, nonsense=1)
    with pytest.raises(ValueError, match="penalty_mode='often'"):
        gymnasium.make(SCORE, penalty_mode="often")
    with pytest.raises(ValueError, match="task='win'"):
        make_game(task="win")


_KILLED = """
import os, signal, rewardzoo
from rewardzoo.engines import own_buffers
from rewardzoo.envs.nethack.env import make_game
game = make_game(task="score")
own_buffers(game)
game.reset(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_folders_of_killed_games_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = gymnasium.make(SCORE)
    start(env, 0)
    (tmp_path / "nle-of-another-program").mkdir()
    kept = set(tmp_path.iterdir())
    killed = [sys.executable, "-c", _KILLED]
    done = subprocess.run(killed, env={**os.environ, "TMPDIR": str(tmp_path)}, timeout=300)
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 3
    sweep.cache_clear()  # as in a process that plays its first game
    sweep()
    assert set(tmp_path.iterdir()) == kept
    env.step(0)  # and goes on
    env.close()
    assert [p.name for p in tmp_path.iterdir()] == ["nle-of-another-program"]
