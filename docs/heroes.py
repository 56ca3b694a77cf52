"""Heroes for films of NetHack: scripted, they look at the map that the agent sees.

An environment of theirs is made with ``observation_keys=("chars", "blstats")``.
"""

from __future__ import annotations

from collections import deque
from typing import Any

Spot = tuple[int, int]  # column and row


class Explorer:
    """Walks to the stairs down; where they are not in sight, to the nearest unknown place.

    Args:
        env: NetHack's or MiniHack's, begun.
        first: commands to give before.
    """

    STEPS = {"N": (0, -1), "E": (1, 0), "S": (0, 1), "W": (-1, 0)}
    WALLS = " -|}`0"  # the unseen, walls, lava and water, boulders

    def __init__(self, env: Any, first: tuple[str, ...] = ()) -> None:
        self.names, self.first = env.action_names, list(first)
        self.tried: dict[Spot, int] = {}
        self.goal, self.passages = ">", set[Spot]()

    def __call__(self, obs: Any) -> int:
        """One straight step, or the next of the first commands."""
        if self.first:
            return self.press(self.first.pop(0))
        chars, here = obs["chars"], self.place(obs)
        self.tried[here] = self.tried.get(here, 0) + 1
        step = self._towards(chars, here)
        dx, dy = self.STEPS[step]
        target = here[0] + dx, here[1] + dy
        self.tried[target] = self.tried.get(target, 0) + 1
        return self.press(step)

    def press(self, name: str) -> int:
        """The action of a command."""
        return int(self.names.index(name))

    @staticmethod
    def place(obs: Any) -> Spot:
        """Where the hero is: column and row."""
        return int(obs["blstats"][0]), int(obs["blstats"][1])

    def _towards(self, chars: Any, here: Spot) -> str:
        """The first step of the shortest way to the goal, or else to something new."""
        queue, first = deque([here]), {here: ""}
        frontier = ""
        while queue:
            spot = queue.popleft()
            if spot != here and chars[spot[1], spot[0]] == ord(self.goal):
                return first[spot]
            if not frontier and spot != here and self._news(chars, spot):
                frontier = first[spot]
            for name, (x, y) in self._beside(spot):
                free = chr(chars[y, x]) not in self.WALLS or (x, y) in self.passages
                if (x, y) not in first and free:
                    first[x, y] = first[spot] or name
                    queue.append((x, y))
        # Nothing new is in sight: where it has tried least, be it a wall that is an open door.
        return frontier or min(self._beside(here), key=lambda b: self.tried.get(b[1], 0))[0]

    def _beside(self, spot: Spot) -> list[tuple[str, Spot]]:
        places = ((d, (spot[0] + dx, spot[1] + dy)) for d, (dx, dy) in self.STEPS.items())
        return [(d, (x, y)) for d, (x, y) in places if 0 <= x < 79 and 0 <= y < 21]

    def _news(self, chars: Any, spot: Spot) -> bool:
        """Whether a place hardly tried has unknown neighbours."""
        x, y = spot
        unknown = (chars[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] == ord(" ")).any()
        return self.tried.get(spot, 0) < 2 and bool(unknown)


class KeyBearer(Explorer):
    """Fetches a key, unlocks the closed door with it, then looks for the stairs down."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.goal = "("
        self.key: Spot | None = None

    def __call__(self, obs: Any) -> int:
        """One step, or a command to pick up or to unlock."""
        chars, here = obs["chars"], self.place(obs)
        if self.goal == "(":
            if here == self.key:
                self.goal = "+"
                return self.press("PICKUP")
            ys, xs = (chars == ord("(")).nonzero()
            self.key = (int(xs[0]), int(ys[0])) if len(xs) else None
        if self.goal == "+":
            doors = {(x, y) for _, (x, y) in self._beside(here) if chars[y, x] == ord("+")}
            if doors:
                self.goal, self.passages = ">", doors  # an open door looks like a wall
                return self.press("APPLY")
        return super().__call__(obs)


class Bridger(Explorer):
    """Pushes boulders into one row of the river until it can be crossed there, then explores."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.row: int | None = None

    def __call__(self, obs: Any) -> int:
        """The next step of the pushes that are planned, one boulder after the other."""
        chars = obs["chars"]
        left = self.row is None or (chars[self.row] == ord("}")).any()
        if not self.first and left:
            self.first = self._pushes(chars, self.place(obs))
        return super().__call__(obs)

    def _pushes(self, chars: Any, here: Spot) -> list[str]:
        """The shortest way to get any boulder into the water, of its row if that is chosen."""
        best: list[str] = []
        ys, xs = (chars == ord("`")).nonzero()
        for boulder in zip(xs.tolist(), ys.tolist(), strict=True):
            way = self._push(chars, here, boulder)
            if way and (not best or len(way) < len(best)):
                best = way
        if best and self.row is None:
            x, y = here
            for name in best:
                x, y = x + self.STEPS[name][0], y + self.STEPS[name][1]
            self.row = y
        return best

    def _push(self, chars: Any, here: Spot, boulder: Spot) -> list[str]:
        """The steps after which a boulder is in the water; the others stay where they are."""
        start = here, boulder
        queue, before = deque([start]), {start: (start, "")}
        while queue:
            state = hero, stone = queue.popleft()
            for name, to in self._beside(hero):
                beyond = to[0] + self.STEPS[name][0], to[1] + self.STEPS[name][1]
                following = (to, beyond) if to == stone else (to, stone)
                if following in before:
                    continue
                if to == stone and chars[beyond[1], beyond[0]] == ord("}"):
                    if name == "E" and self.row in (None, to[1]):
                        return [*self._steps_to(before, state), name]
                    continue
                if self._free(chars, following[0], boulder) and (
                    to != stone or self._free(chars, beyond, boulder)
                ):
                    before[following] = state, name
                    queue.append(following)
        return []

    def _free(self, chars: Any, spot: Spot, boulder: Spot) -> bool:
        """Whether something can be there once the boulder has left its place."""
        return spot == boulder or chr(chars[spot[1], spot[0]]) not in self.WALLS

    @staticmethod
    def _steps_to(before: dict[Any, tuple[Any, str]], state: Any) -> list[str]:
        steps: list[str] = []
        while before[state][1]:
            state, name = before[state]
            steps.insert(0, name)
        return steps
