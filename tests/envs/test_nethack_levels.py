"""MiniHack's levels are what MiniHack plays, and its key rooms can be solved."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import seeding

import rewardzoo  # noqa: F401

pytest.importorskip("nle")
pytest.importorskip("minihack")

from rewardzoo.envs.nethack.env import make_game  # noqa: E402
from rewardzoo.envs.nethack.messages import decode_message  # noqa: E402
from rewardzoo.envs.nethack.minihack import minihack  # noqa: E402

STEPS = {
    "N": (0, -1), "E": (1, 0), "S": (0, 1), "W": (-1, 0),
    "NE": (1, -1), "SE": (1, 1), "SW": (-1, 1), "NW": (-1, -1),
}  # fmt: skip


class Walker:
    """Walks the shortest way over what it sees."""

    def __init__(self, env: Any, compass: tuple[str, ...]) -> None:
        self.env, self.compass = env, compass
        self.names = env.unwrapped.action_names
        self.total, self.over = 0.0, False

    def reset(self, seed: int) -> None:
        self.obs, _ = self.env.reset(seed=seed)
        self.total, self.over, self.steps = 0.0, False, 0
        self.door: tuple[int, int] | None = None  # an open one, which looks like a wall

    def act(self, name: str) -> None:
        self.obs, reward, terminated, truncated, self.info = self.env.step(self.names.index(name))
        self.total += reward
        self.over = terminated or truncated
        self.steps += 1

    @property
    def here(self) -> tuple[int, int]:
        return int(self.obs["blstats"][0]), int(self.obs["blstats"][1])

    def find(self, symbol: str) -> list[tuple[int, int]]:
        rows, columns = np.nonzero(self.obs["chars"] == ord(symbol))
        return list(zip(columns.tolist(), rows.tolist(), strict=True))

    def walk(self, targets: list[tuple[int, int]]) -> bool:
        """To any of the targets; False where there is no way."""
        for _ in range(100):
            path = self.path(targets)
            if path is None:
                return False
            if not path:
                return True
            self.act(path[0])
            if self.over:
                return True
        return False

    def explore(self, symbol: str) -> None:
        """Walk over the floor until a symbol is in sight."""
        for spot in self.find("."):
            if self.find(symbol):
                return
            self.walk([spot])

    def path(self, targets: list[tuple[int, int]]) -> list[str] | None:
        chars, start = self.obs["chars"], self.here
        seen: dict[tuple[int, int], list[str]] = {start: []}
        queue = [start]
        while queue:
            x, y = queue.pop(0)
            if (x, y) in targets:
                return seen[x, y]
            for name in self.compass:
                dx, dy = STEPS[name]
                spot = x + dx, y + dy
                if spot in seen or not (0 <= spot[0] < 79 and 0 <= spot[1] < 21):
                    continue
                if chr(chars[spot[1], spot[0]]) in ".()<>@" or spot in targets or spot == self.door:
                    seen[spot] = [*seen[x, y], name]
                    queue.append(spot)
        return None


def solve_key_room(walker: Walker) -> None:
    """Key, door, stairs; by straight steps alone, for a door lets nobody through askew."""
    start = walker.here  # the hero may stand on the key
    walker.explore("(")
    assert walker.walk(walker.find("(") or [start])
    walker.act("PICKUP")
    assert "key named The Master Key of Thievery" in decode_message(walker.obs["message"])
    walker.explore("+")
    ((x, y),) = walker.find("+")
    beside = [(x + dx, y + dy) for dx, dy in (STEPS[c] for c in "NESW")]
    inside = [spot for spot in beside if chr(walker.obs["chars"][spot[1], spot[0]]) in ".@"]
    assert walker.walk(inside)
    for _ in range(20):
        walker.act("APPLY")
        if not walker.find("+"):
            break
    assert not walker.find("+"), "the door did not open"
    walker.door = (x, y)
    assert walker.walk(walker.find(">") or [(x, y)])
    for _ in range(8):  # the stairs are seen from the doorway
        if walker.over:
            return
        assert walker.walk(walker.find(">"))


@pytest.mark.parametrize("actions", ["calm", None])
def test_scripted_play_solves_every_key_room(actions: str | None) -> None:
    env = gymnasium.make(
        "rewardzoo/MiniHackKeyRoomS5-v0",
        observation_keys=("chars", "blstats", "message"),
        actions=actions,
    )
    assert env.action_space.n == (6 if actions else 10)
    walker = Walker(env, ("N", "E", "S", "W"))
    for seed in range(20):
        walker.reset(seed)
        solve_key_room(walker)
        assert walker.over and walker.info["end_status"] == 2, f"seed {seed}"
        assert walker.total > 0.8


def test_walk_to_the_stairs_of_a_room_pays_one() -> None:
    env = gymnasium.make(
        "rewardzoo/MiniHackRoomRandom5x5-v0", observation_keys=("chars", "blstats")
    )
    walker = Walker(env, tuple(STEPS))
    for seed in range(5):
        walker.reset(seed)
        assert walker.walk(walker.find(">"))
        assert walker.over and walker.total == 1.0 and walker.info["end_status"] == 2


def test_unlocking_gives_up_on_a_door_that_stays_shut() -> None:
    game = make_game("rewardzoo.envs.nethack.minihack:KeyRoomGame", level="MiniHack-KeyRoom-S5-v0")
    from rewardzoo.engines import own_buffers

    own_buffers(game)
    game.reset(0)
    pressed: list[int] = []
    press = game._press
    game._press = lambda key: (pressed.append(key), press(ord("s")))
    game._key_letter, game._door_direction = lambda: ord("a"), lambda: ord("l")
    game.step(game.action_names.index("APPLY"))
    assert 64 <= pressed.count(ord("l")) <= 66
    game.close()


@pytest.mark.parametrize(
    "level",
    ["Room-Ultimate-5x5", "KeyRoom-S5", "River-Narrow", "Quest-Easy", "WoD-Easy-Restricted",
     "Eat-Fixed", "HideNSeek-Lava", "Corridor-R2", "MazeWalk-9x9", "Memento-Short-F2"],
)  # fmt: skip
def test_level_is_what_minihack_plays(level: str) -> None:
    """Observations, rewards and ends, step by step, from the same seeds."""
    minihack()
    name = f"rewardzoo/MiniHack{level.replace('-', '')}-v0"
    env = gymnasium.make(name, max_episode_steps=150)
    spec = gymnasium.registry[f"MiniHack-{level}-v0"]
    other = gymnasium.make(spec.id, fix_moon_phase=True, render_mode=None).unwrapped
    assert env.unwrapped.game._keys == tuple(int(a) for a in other.actions)
    other._max_episode_steps = 1000
    for seed in range(2):
        core, disp, levels = (
            int(x) for x in seeding.np_random(seed)[0].integers(0, 2**63, 3, dtype=np.int64)
        )
        other.seed(core, disp, False, levels)
        other._frozen_steps = 0
        obs, _ = env.reset(seed=seed)
        want, _ = other.reset()
        for action in np.random.default_rng(seed).integers(0, env.action_space.n, 120):
            assert all(np.array_equal(obs[k], want[k]) for k in obs)
            obs, reward, terminated, _, _ = env.step(action)
            want, pay, over, _, _ = other.step(int(action))
            assert (reward, terminated) == (pytest.approx(pay, abs=1e-12), over)
            if over:
                break
    env.close()
    other.close()


def test_grid_levels_change_with_the_seed_and_stay_inside_their_walls() -> None:
    env = gymnasium.make("rewardzoo/MiniHackLavaCrossingS9N1-v0", observation_keys=("chars",))
    maps = [env.reset(seed=seed)[0]["chars"] for seed in (0, 0, 1)]
    assert np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])
    assert (maps[0] == ord("}")).sum() >= 5  # a river of lava
    assert (maps[0] == ord(">")).sum() == 1 and (maps[0] == ord("@")).sum() == 1
