"""Random stacks of wrappers around random arithmetic of reward functions, against plain Python.

Every function here has a sibling of a few lines that is told of one batch of steps at a time and
knows no tensors, no autoreset and no wrappers; both must pay the same.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo import RewardFunction, VectorRewardWrapper
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.rewards import Clip, Delay, Normalise, Potential, Schedule, env_reward
from rewardzoo.testing.scripted import ScriptedFunc, scripted_envs

MODES = list(AutoresetMode)
STEPS = 14


class Row(NamedTuple):
    """What a row's step was."""

    valid: bool
    k: int  # steps of the episode before it
    paid: float  # by what is inside
    terminated: bool
    done: bool


Steps = list[Row]


class Count(RewardFunction):
    """Pays how many steps it has seen since the row's memory was cleared."""

    markov = False

    def bind(self, num_envs: int, device: Any, spaces: Any) -> None:
        self.seen = torch.zeros(num_envs, device=device)

    def reset(self, mask: Any, obs: Any) -> None:
        self.seen = self.seen.masked_fill(mask, 0.0)

    def __call__(self, t: Any) -> Any:
        self.seen = self.seen + t.valid
        return self.seen


# ---- the siblings ----------------------------------------------------------------------------


class Sibling:
    """Pays a batch of rows; ``began`` is told of the rows whose episode begins."""

    def __init__(self, *inner: Sibling) -> None:
        self.inner = inner

    def began(self, rows: list[int]) -> None:
        for each in self.inner:
            each.began(rows)

    def pay(self, steps: Steps) -> list[float]:
        raise NotImplementedError


class PlainEnv(Sibling):
    def pay(self, steps: Steps) -> list[float]:
        return [s.paid for s in steps]


class PlainCount(Sibling):
    def pay(self, steps: Steps) -> list[float]:
        return [s.k + 1.0 for s in steps]


class PlainPotential(Sibling):
    """``gamma phi(s') - phi(s)``, phi the step's number, 0 when terminated."""

    def pay(self, steps: Steps) -> list[float]:
        return [0.5 * (0 if s.terminated else s.k + 1) - s.k for s in steps]


class PlainSum(Sibling):
    def pay(self, steps: Steps) -> list[float]:
        a, b = (each.pay(steps) for each in self.inner)
        return [x + y for x, y in zip(a, b, strict=True)]


class PlainMap(Sibling):
    """A function of the inner reward alone."""

    def __init__(self, inner: Sibling, f: Callable[[float], float]) -> None:
        super().__init__(inner)
        self.f = f

    def pay(self, steps: Steps) -> list[float]:
        return [self.f(x) for x in self.inner[0].pay(steps)]


class PlainDelay(Sibling):
    def __init__(self, inner: Sibling, k: int) -> None:
        super().__init__(inner)
        self.k = k
        self.owed: dict[int, list[float]] = {}

    def began(self, rows: list[int]) -> None:
        super().began(rows)
        for i in rows:
            self.owed[i] = []

    def pay(self, steps: Steps) -> list[float]:
        out = [0.0] * len(steps)
        for i, (s, x) in enumerate(zip(steps, self.inner[0].pay(steps), strict=True)):
            if s.valid:
                self.owed[i].append(x)
                if len(self.owed[i]) == self.k or s.done:
                    out[i] = sum(self.owed[i])
                    self.owed[i] = []
        return out


class PlainSchedule(Sibling):
    def __init__(self, inner: Sibling, steps: int, start: float, end: float) -> None:
        super().__init__(inner)
        self.steps, self.start, self.end = steps, start, end
        self.count = 0

    def pay(self, steps: Steps) -> list[float]:
        done = min(1.0, self.count / self.steps)
        self.count += sum(s.valid for s in steps)
        weight = self.start + (self.end - self.start) * done
        return [weight * x for x in self.inner[0].pay(steps)]


class PlainNormalise(Sibling):
    """Remembers every discounted return there was, and 0 with variance 1 at a weight of 1e-4."""

    def __init__(self, inner: Sibling) -> None:
        super().__init__(inner)
        self.returns: dict[int, float] = {}
        self.all: list[float] = []

    def began(self, rows: list[int]) -> None:
        super().began(rows)
        for i in rows:
            self.returns[i] = 0.0

    def pay(self, steps: Steps) -> list[float]:
        paid = self.inner[0].pay(steps)
        for i, (s, x) in enumerate(zip(steps, paid, strict=True)):
            if s.valid:
                self.returns[i] = 0.5 * self.returns[i] + x
                self.all.append(self.returns[i])
        total = 1e-4 + len(self.all)
        mean = sum(self.all) / total
        squares = 1e-4 * (1.0 + mean**2) + sum((x - mean) ** 2 for x in self.all)
        return [x / math.sqrt(squares / total + 1e-2) for x in paid]


# ---- pairs of both, drawn --------------------------------------------------------------------

Pair = tuple[Callable[[], RewardFunction], Callable[[], Sibling]]
weights = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0])
LEAVES: list[Pair] = [
    (lambda: env_reward, PlainEnv),
    (Count, PlainCount),
    (lambda: Potential(lambda obs: obs[:, -1], gamma=0.5), PlainPotential),
]


def larger(pairs: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    def add(a: Pair, b: Pair) -> Pair:
        return (lambda: a[0]() + b[0]()), (lambda: PlainSum(a[1](), b[1]()))

    def subtract(a: Pair, b: Pair) -> Pair:
        minus = lambda: PlainMap(b[1](), lambda x: -x)  # noqa: E731
        return (lambda: a[0]() - b[0]()), (lambda: PlainSum(a[1](), minus()))

    def scale(a: Pair, w: float) -> Pair:
        return (lambda: w * a[0]()), (lambda: PlainMap(a[1](), lambda x: w * x))

    def clip(a: Pair, low: float, width: float) -> Pair:
        high = low + width
        return (
            lambda: Clip(a[0](), low, high),
            lambda: PlainMap(a[1](), lambda x: min(max(x, low), high)),
        )

    def delay(a: Pair, k: int) -> Pair:
        return (lambda: Delay(a[0](), k)), (lambda: PlainDelay(a[1](), k))

    def schedule(a: Pair, steps: int, start: float, end: float) -> Pair:
        return (
            lambda: Schedule(a[0](), steps, start, end),
            lambda: PlainSchedule(a[1](), steps, start, end),
        )

    def normalise(a: Pair) -> Pair:
        # A large epsilon: while all returns are equal, rounding is not blown up.
        return (
            lambda: Normalise(a[0](), gamma=0.5, epsilon=1e-2),
            lambda: PlainNormalise(a[1]()),
        )

    return st.one_of(
        st.builds(add, pairs, pairs),
        st.builds(subtract, pairs, pairs),
        st.builds(scale, pairs, weights),
        st.builds(clip, pairs, st.integers(-9, 9).map(float), st.integers(1, 9).map(float)),
        st.builds(delay, pairs, st.integers(1, 5)),
        st.builds(schedule, pairs, st.integers(1, 30), weights, weights),
        st.builds(normalise, pairs),
    )


functions = st.recursive(st.sampled_from(LEAVES), larger, max_leaves=4)
stacks = st.lists(functions, min_size=1, max_size=3)


class World(NamedTuple):
    """Environments whose observation ends with the number of the episode's step."""

    functional: bool
    num_envs: int
    mode: AutoresetMode
    limit: int | None

    def make(self) -> Any:
        if self.functional:
            return FunctionalVectorEnv(
                self.num_envs, ScriptedFunc, max_episode_steps=self.limit, autoreset_mode=self.mode
            )
        return scripted_envs(self.num_envs, self.mode, ("terminated", "truncated"))

    def stack(self, pairs: list[Pair]) -> Any:
        envs = self.make()
        for make, _ in pairs:
            envs = VectorRewardWrapper(envs, make())
        return envs


worlds = st.builds(
    World, st.booleans(), st.integers(1, 4), st.sampled_from(MODES), st.sampled_from([None, 1, 3])
)
chances = st.lists(st.integers(0, 15), min_size=STEPS, max_size=STEPS)
"""For each step, which rows are begun anew where that is the user's task."""


class Siblings:
    """A stack of siblings, and the bookkeeping of episodes that a wrapper would do."""

    def __init__(self, world: World, pairs: list[Pair]) -> None:
        self.world, self.stack = world, [make() for _, make in pairs]
        n = world.num_envs
        self.k, self.over = [0] * n, [False] * n
        self.sums = np.zeros((2, n))  # specified return and objective
        self.begin(list(range(n)))

    def begin(self, rows: list[int]) -> None:
        for i in rows:
            self.k[i], self.over[i] = 0, False
            self.sums[:, i] = 0.0
        for each in self.stack:
            each.began(rows)

    def step(self, inner: Any, terminated: Any, truncated: Any) -> tuple[list[float], list[bool]]:
        """What each row is paid, and which rows lived."""
        mode = self.world.mode
        dead = [mode is AutoresetMode.NEXT_STEP and over for over in self.over]
        done = np.asarray(terminated) | np.asarray(truncated)
        objective = paid = [float(x) for x in inner]
        for each in self.stack:
            facts = zip(dead, self.k, paid, terminated, done, strict=True)
            steps = [Row(not d, k, x, bool(t), bool(o)) for d, k, x, t, o in facts]
            paid = [x if s.valid else 0.0 for s, x in zip(steps, each.pay(steps), strict=True)]
        self.sums += np.array([paid, objective]) * ~np.array(dead)
        self.k = [k + (not d) for k, d in zip(self.k, dead, strict=True)]
        self.over = [bool(x) for x in done]
        return paid, [not d for d in dead]

    def finish(self, lived: list[bool]) -> None:
        """Episodes that the environment begins by itself."""
        mode = self.world.mode
        if mode is AutoresetMode.SAME_STEP:
            self.begin([i for i, over in enumerate(self.over) if over])
        elif mode is AutoresetMode.NEXT_STEP:
            self.begin([i for i, alive in enumerate(lived) if not alive])


def numbers(x: Any) -> np.ndarray:
    return np.asarray(x, dtype=np.float64)


def same(a: Any, b: Any) -> None:
    np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-4, atol=1e-4)  # float32


@settings(max_examples=60, deadline=None)
@given(world=worlds, pairs=stacks, chance=chances, again=st.integers(1, STEPS))
def test_a_stack_pays_what_plain_python_pays_and_keeps_the_objective(
    world: World, pairs: list[Pair], chance: list[int], again: int
) -> None:
    bare, envs, siblings = world.make(), world.stack(pairs), Siblings(world, pairs)
    action = np.zeros(world.num_envs, dtype=np.int64)
    if world.functional:
        action = torch.from_numpy(action)
    same(bare.reset(seed=3)[0], envs.reset(seed=3)[0])
    for t in range(STEPS):
        if t == again:  # in the middle of episodes
            same(bare.reset(seed=9)[0], envs.reset(seed=9)[0])
            siblings.begin(list(range(world.num_envs)))
        plain, out = bare.step(action), envs.step(action)
        for a, b in zip((*plain[:1], *plain[2:4]), (*out[:1], *out[2:4]), strict=True):
            same(a, b)  # a reward changes no dynamics
        same(out[4]["objective"], plain[1])
        paid, lived = siblings.step(*plain[1:4])
        same(out[1], paid)
        ended = [over and alive for over, alive in zip(siblings.over, lived, strict=True)]
        assert list(numbers(out[4]["_episode"])) == ended
        for i in np.flatnonzero(ended):
            episode = {k: float(v[i]) for k, v in out[4]["episode"].items()}
            same([episode["r"], episode["objective"]], siblings.sums[:, i])
            assert episode["l"] == siblings.k[i]
        siblings.finish(lived)
        if world.mode is AutoresetMode.DISABLED:
            mask = np.array([over or chance[t] >> i & 1 for i, over in enumerate(siblings.over)])
            mask = mask.astype(bool)
            if mask.any():
                given_ = torch.from_numpy(mask) if world.functional else mask
                for each in (bare, envs):
                    each.reset(options={"reset_mask": given_})
                siblings.begin(list(np.flatnonzero(mask)))


@settings(max_examples=30, deadline=None)
@given(
    pairs=stacks,
    num_envs=st.integers(1, 4),
    mode=st.sampled_from(MODES[:2]),
    limit=st.sampled_from([None, 1, 3]),
    cut=st.integers(0, STEPS),
)
def test_a_stack_that_is_saved_and_read_goes_on_as_if_it_had_not_been(
    pairs: list[Pair], num_envs: int, mode: AutoresetMode, limit: int | None, cut: int
) -> None:
    world = World(True, num_envs, mode, limit)
    envs, other = world.stack(pairs), world.stack(pairs)
    action = torch.zeros(num_envs, dtype=torch.int64)
    envs.reset(seed=3)
    for _ in range(cut):
        envs.step(action)
    file = io.BytesIO()
    torch.save(envs.state_dict(), file)
    file.seek(0)
    other.reset(seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(STEPS):
        for a, b in zip(envs.step(action)[:4], other.step(action)[:4], strict=True):
            assert torch.equal(a, b)
    assert str(envs.state_dict()) == str(other.state_dict())


@settings(max_examples=30, deadline=None)
@given(pair=functions, num_envs=st.integers(1, 4), w=weights)
def test_arithmetic_is_arithmetic(pair: Pair, num_envs: int, w: float) -> None:
    """``w (f + g) = w f + w g``, ``f - f = 0``, and the terms of a sum add up to it."""
    f = pair[0]
    left, right, zero = (
        World(True, num_envs, AutoresetMode.SAME_STEP, 3).stack([(make, PlainEnv)])
        for make in (
            lambda: w * (f() + Count()),
            lambda: w * f() + w * Count(),
            lambda: f() - f(),
        )
    )
    action = torch.zeros(num_envs, dtype=torch.int64)
    for each in (left, right, zero):
        each.reset(seed=3)
    for _ in range(STEPS):
        a, b, nothing = (each.step(action) for each in (left, right, zero))
        same(a[1], b[1])
        same(nothing[1], np.zeros(num_envs))
        for out in (a, b):
            terms = out[4]["reward_terms"].values()
            same(sum(terms), out[1])
