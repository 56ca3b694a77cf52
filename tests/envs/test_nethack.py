"""NetHack's games repeat under a seed, pay what NLE's tasks pay, and are one in both faces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils import seeding

import rewardzoo  # noqa: F401
from rewardzoo.engines import own_buffers
from rewardzoo.registration import env_ids
from rewardzoo.testing import check_vector_env

pytest.importorskip("nle")
pytest.importorskip("minihack")
from gymnasium.utils.env_checker import check_env  # noqa: E402
from nle import nethack  # noqa: E402
from nle.env import tasks as nle_tasks  # noqa: E402

from rewardzoo.envs.nethack.env import make_game  # noqa: E402
from rewardzoo.envs.nethack.keys import action_keys  # noqa: E402
from rewardzoo.envs.nethack.messages import decode_message  # noqa: E402

SCORE = "rewardzoo/NetHackScore-v0"
IDS = [i for i in env_ids() if "/NetHack" in i or "/MiniHack" in i]
KEYS = ("glyphs", "blstats", "message")
NLE_TASKS = ("Score", "Staircase", "StaircasePet", "Oracle", "Gold", "Eat", "Scout")


def play(env: Any, seed: int | None, actions: Any) -> Iterator[tuple[Any, ...]]:
    """Observations, rewards and ends of games, one after the other."""
    obs, _ = env.reset(seed=seed)
    yield obs, 0.0, False, False
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(int(action))
        yield obs, reward, terminated, truncated
        if terminated or truncated:
            yield env.reset()[0], 0.0, False, False


def same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return a[1:] == b[1:] and all(np.array_equal(a[0][k], b[0][k]) for k in a[0])


def random_actions(steps: int, seed: int = 0, count: int = 23) -> Any:
    return np.random.default_rng(seed).integers(0, count, steps)


def test_seeded_games_repeat_in_sequence() -> None:
    actions = random_actions(600)
    envs = [gymnasium.make(SCORE, max_episode_steps=200) for _ in range(2)]
    first, again = (list(play(env, 7, actions)) for env in envs)  # three games each
    assert len(first) == 604 and all(map(same, first, again))
    starts = [first[0], first[201], first[402]]
    maps = {s[0]["glyphs"].tobytes() for s in starts}
    assert len(maps) == 3, "the second and third game are the first again"
    other = next(play(envs[0], 8, actions))
    assert not same(first[0], other)


def test_games_in_one_process_do_not_interact() -> None:
    actions = random_actions(200)
    alone = list(play(gymnasium.make(SCORE), 3, actions))
    a, b = gymnasium.make(SCORE), gymnasium.make(SCORE)
    games = zip(play(a, 3, actions), play(b, 4, actions[::-1]), strict=False)
    assert all(same(x, y) for x, (y, _) in zip(alone, games, strict=False))


@pytest.mark.parametrize("task", NLE_TASKS)
def test_task_pays_what_nle_pays(task: str) -> None:
    """Step by step, from the same seeds; NLE empties the last observation, ours is true."""
    env = gymnasium.make(f"rewardzoo/NetHack{task}-v0")
    other = getattr(nle_tasks, f"NetHack{task}")(observation_keys=KEYS, fix_moon_phase=True)
    assert action_keys("task")[1] == tuple(int(a) for a in other.actions)
    steps = 0
    for seed in range(3):
        core, disp, levels = (
            int(x) for x in seeding.np_random(seed)[0].integers(0, 2**63, 3, dtype=np.int64)
        )
        other.seed(core, disp, False, levels)
        other._frozen_steps = 0  # NLE carries it into the next game
        obs, _ = env.reset(seed=seed)
        want, _ = other.reset()
        for action in random_actions(400, seed):
            assert all(np.array_equal(obs[k], want[k]) for k in KEYS)
            obs, reward, terminated, _, _ = env.step(action)
            want, pay, over, _, _ = other.step(int(action))
            assert (reward, terminated) == (pytest.approx(pay, abs=1e-12), over)
            steps += 1
            if over:
                break
    assert steps > 20
    env.close()
    other.close()


@pytest.mark.parametrize("id", [SCORE, "rewardzoo/MiniHackKeyRoomS5-v0"])
def test_vector_face_keeps_the_contract(id: str) -> None:
    def make(num_envs: int, autoreset_mode: Any) -> Any:
        return gymnasium.make_vec(
            id, num_envs=num_envs, autoreset_mode=autoreset_mode, max_episode_steps=13
        )

    report = check_vector_env(make, num_envs=2, steps=30)
    assert report.truncated and report.objective


def test_row_of_a_batch_is_the_single_game() -> None:
    steps, limit = 120, 50
    envs = gymnasium.make_vec(SCORE, num_envs=3, max_episode_steps=limit)
    actions = np.random.default_rng(0).integers(0, 23, (steps, 3))
    first, _ = envs.reset(seed=5)
    rows = [envs.step(torch.as_tensor(a)) for a in actions]
    envs.close()
    for i in range(3):
        env = gymnasium.make(SCORE, max_episode_steps=limit)
        obs, _ = env.reset(seed=5 + i)
        assert all(np.array_equal(obs[k], first[k][i]) for k in obs)
        for t in range(steps):
            obs, reward, terminated, truncated, info = env.step(actions[t, i])
            _, r, term, trunc, found = rows[t]
            assert all(np.array_equal(obs[k], found["final_obs"][k][i]) for k in obs)
            assert (terminated, truncated) == (bool(term[i]), bool(trunc[i]))
            assert reward == pytest.approx(float(r[i]), abs=1e-6)
            for key in ("score", "depth", "gold", "experience_level", "turns", "end_status"):
                assert info[key] == int(found["final_info"][key][i])
            if terminated or truncated:
                env.reset()


@pytest.mark.parametrize("id", IDS[:: len(IDS) // 8])
def test_gymnasium_accepts_it(id: str) -> None:
    check_env(gymnasium.make(id).unwrapped, skip_render_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("id", IDS)
def test_everybody_accepts_every_id(id: str) -> None:
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    check_env(gymnasium.make(id, render_mode="rgb_array").unwrapped)
    sb3.check_env(gymnasium.make(id), skip_render_check=True)
    envs = gymnasium.make_vec(id, num_envs=2, num_workers=1)
    envs.reset(seed=0)
    for _ in range(3):
        envs.step(torch.as_tensor(envs.action_space.sample()))
    envs.close()


def test_stable_baselines3_accepts_it() -> None:
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    sb3.check_env(gymnasium.make("rewardzoo/MiniHackRoom5x5-v0"), skip_render_check=True)


# ---- rewards ------------------------------------------------------------------------------------


def test_return_without_penalties_is_the_final_score() -> None:
    env = gymnasium.make(SCORE, penalty_step=-0.01)
    obs, info = env.reset(seed=11)
    start, total, frozen = int(obs["blstats"][9]), 0.0, 0
    for action in random_actions(600, 1):
        before = int(obs["blstats"][20])
        obs, reward, terminated, _, info = env.step(action)
        total += reward
        if terminated:
            break
        frozen += int(obs["blstats"][20]) == before
    assert total + 0.01 * frozen == pytest.approx(info["score"] - start)
    assert frozen > 10 and info["score"] >= 0


@pytest.mark.parametrize(
    ("mode", "want"),
    [
        ("constant", [0, -0.01, -0.01, -0.01]),
        ("linear", [0, -0.01, -0.02, -0.03]),
        ("square", [0, -0.01, -0.04, -0.09]),
        ("exp", [-0.01, -0.02, -0.04, -0.08]),
        ("always", [-0.01, -0.01, -0.01, -0.01]),
    ],
)
def test_penalty_of_frozen_steps(mode: str, want: list[float]) -> None:
    env = gymnasium.make(
        "rewardzoo/MiniHackRoom5x5-v0", penalty_mode=mode, actions=("WAIT", "MORE"), level_seed=1
    )
    env.reset(seed=0)
    paid = [env.step(a)[1] for a in (0, 1, 1, 1)]  # the clock moves on, then stands still
    assert paid == pytest.approx(want)
    assert env.step(0)[1] == pytest.approx(want[0])  # and starts counting anew


def test_penalty_of_time() -> None:
    env = gymnasium.make("rewardzoo/MiniHackRoom5x5-v0", penalty_time=-0.5, actions=("WAIT",))
    env.reset(seed=0)
    assert env.step(0)[1] == pytest.approx(-0.5)


def test_scout_pays_each_glyph_of_a_level_once() -> None:
    env = gymnasium.make("rewardzoo/NetHackScout-v0", penalty_step=0.0)
    env.reset(seed=2)
    total = 0.0
    for action in random_actions(300, 3, 17):
        obs, reward, terminated, _, info = env.step(action)
        assert not terminated and info["depth"] == 1
        total += reward
    assert total == np.sum(obs["glyphs"] != nethack.GLYPH_CMAP_OFF)


class Stub:
    """A game whose numbers a test sets."""

    def __init__(self, task: Any) -> None:
        self.buffers = {"glyphs": np.full((21, 79), nethack.GLYPH_CMAP_OFF, np.int16)}
        self.blstats = np.zeros(27, np.int64)
        self.blstats[[0, 1]] = 10, 5
        self.internal = np.zeros(9, np.int32)
        self.message = np.zeros(256, np.uint8)
        self.info = {"scout": np.zeros(1, np.int64), "kills": np.zeros(1, np.int64)}
        self.task = task
        task.start(self)

    def say(self, text: bytes) -> None:
        self.message[:] = 0
        self.message[: len(text)] = np.frombuffer(text, np.uint8)

    def neighbours(self) -> Any:
        from rewardzoo.envs.nethack.game import Game

        return Game.neighbours(self)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("condition", "pays"), [(0, 50.0), (0x220, 0.0), (0x200, 0.0), (0x20, 50.0), (0x1020, 50.0)]
)
def test_sober_oracle_is_not_fooled_by_hallucination(condition: int, pays: float) -> None:
    from rewardzoo.envs.nethack.tasks import OracleSober

    game = Stub(OracleSober())
    assert game.task.judge(game) == (0.0, 0)
    game.buffers["glyphs"][4, 11] = game.task._glyph
    game.blstats[25] = condition
    assert game.task.judge(game) == (pays, 2 if pays else 0)


@pytest.mark.parametrize("corner", [(0, 0), (78, 20), (0, 20), (78, 0)])
def test_oracle_is_seen_at_the_border_of_the_map(corner: tuple[int, int]) -> None:
    """Where NLE's own window is empty."""
    from rewardzoo.envs.nethack.tasks import Oracle

    game = Stub(Oracle())
    x, y = corner
    game.blstats[[0, 1]] = x, y
    assert game.task.judge(game) == (0.0, 0)
    game.buffers["glyphs"][abs(y - 1), abs(x - 1)] = game.task._glyph
    assert game.task.judge(game) == (1.0, 2)


def test_descent_needs_the_stairs_and_the_level_and_keeps_the_message() -> None:
    from rewardzoo.envs.nethack.tasks import Descent

    game = Stub(Descent(level=3))
    game.blstats[24] = 3
    game.say(b"A trap door opens up under you!")
    assert game.task.judge(game) == (0.0, 0)
    game.say(b"You descend the stairs.")
    game.blstats[24] = 2
    assert game.task.judge(game) == (0.0, 0)
    game.blstats[[23, 24]] = 2, 3  # the third level of the Gnomish Mines
    assert game.task.judge(game) == (0.0, 0)
    game.blstats[23] = 0
    game.task.before_more(game)  # --More--: clicking on clears the message
    game.say(b"")
    assert game.task.judge(game) == (50.0, 2)
    assert decode_message(game.message) == "You descend the stairs."


def test_continual_task_pays_once_and_goes_on() -> None:
    from rewardzoo.envs.nethack.tasks import SparseOracle

    game = Stub(SparseOracle(continual=True))
    game.buffers["glyphs"][4, 11] = game.task._glyph
    assert [game.task.judge(game) for _ in range(3)] == [(50.0, 0), (0.0, 0), (0.0, 0)]
    game.task.start(game)
    assert game.task.judge(game) == (50.0, 0)


def test_descent_is_rewarded_in_the_real_game() -> None:
    """MiniHack's room has real stairs; what is below it is an ordinary level."""
    game = make_game(
        "rewardzoo.envs.nethack.minihack:MiniHackGame",
        level="MiniHack-Room-5x5-v0",
        actions=("E", "SE", "S", "DOWN"),
    )
    from rewardzoo.envs.nethack.tasks import Descent

    game.task, game._penalised = Descent(level=2), False
    game.info_fields.update(game.task.info_fields)
    obs, _ = own_buffers(game)
    game.reset(0)
    outcome = [game.step(action) for action in (1, 1, 1, 1, 3)]
    assert [o[0] for o in outcome[:4]] == pytest.approx([0.0] * 4)
    assert outcome[4][0] == 50.0 and outcome[4][1]
    assert decode_message(obs["message"]) == "You descend the stairs."
    assert obs["blstats"][24] == 2
    game.close()


# ---- actions ------------------------------------------------------------------------------------


def test_extended_actions() -> None:
    env = gymnasium.make("rewardzoo/NetHackScoreExtendedActions-v0")
    names = env.unwrapped.action_names
    assert len(names) == 28 and env.action_space.n == 28
    act = {name: names.index(name) for name in names}

    def step(name: str) -> str:
        obs, *_ = env.step(act[name])
        return decode_message(obs["message"])

    env.reset(seed=1)  # a monk with food, potions and a spell
    assert step("EAT").startswith("What do you want to eat?")
    assert step("N") == "Never mind."
    assert step("QUAFF").startswith("What do you want to drink?")
    assert step("E") == "Never mind."
    step("EAT")
    eaten = step("NW")  # y takes the first
    assert "want" not in eaten and "have that object" not in eaten
    energy = env.unwrapped.game.blstats[14]
    said = step("CAST")
    assert "energy" in said or "direction" in said or env.unwrapped.game.blstats[14] < energy
    assert step("PRAY").startswith("Are you sure you want to pray?")
    step("N")
    assert "not owe" in step("PAY") or "shopkeeper" in step("PAY") or "no" in step("PAY")


def test_skill_is_enhanced_when_offered_and_the_message_stays() -> None:
    game = make_game("rewardzoo.envs.nethack.extended:ExtendedGame", task="score")
    own_buffers(game)
    game.reset(0)
    pressed = []
    press = game._press

    def spy(key: int) -> None:
        pressed.append(key)
        press(key)
        if len(pressed) == 1:
            text = b"You feel more confident in your martial arts skills."
            game.message[: len(text)] = np.frombuffer(text, np.uint8)

    game._press = spy
    game.step(game.action_names.index("SEARCH"))
    assert pressed[1] == 0x80 | ord("e") and pressed[2] == ord("a")
    assert decode_message(game.message).startswith("You feel more confident")
    game.close()


@pytest.mark.parametrize(
    "actions", ["nonsense", ("N", "NORTH"), (), ("FAR_UP",)], ids=["set", "name", "none", "far"]
)
def test_unknown_actions_are_named(actions: Any) -> None:
    with pytest.raises(ValueError, match="actions"):
        make_game(actions=actions)


def test_challenge_presses_no_key_for_the_agent_and_has_patience() -> None:
    env = gymnasium.make("rewardzoo/NetHackChallenge-v0")
    names = env.unwrapped.action_names
    assert len(names) == 121
    env.reset(seed=0)
    obs, *_ = env.step(names.index("KICK"))
    assert decode_message(obs["message"]).startswith("In what direction?")
    game = env.unwrapped.game
    game._frozen = 9_998
    assert env.step(names.index("ESC"))[2:4] == (False, False)
    assert env.step(names.index("ESC"))[2:4] == (False, True)
