"""Random stacks of wrappers around random arithmetic of reward functions, against plain Python.

Every function here has a sibling of a few lines that is told of one batch of steps at a time and
knows no tensors, no autoreset and no wrappers; both must pay the same and remember the same. The
environments are single ones, batches of them and functional ones, with observations of all kinds,
to which one layer of the stack may append its memory.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo import RewardFunction, RewardWrapper, VectorRewardWrapper
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.rewards import (
    AppendRewardState,
    Clip,
    Delay,
    Normalise,
    Potential,
    Schedule,
    VectorAppendRewardState,
    env_reward,
)
from rewardzoo.testing.scripted import ScriptedEnv, ScriptedFunc, scripted_envs

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

    def observation_features(self) -> Any:
        return self.seen.unsqueeze(1)


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

    def memory(self, row: int) -> list[float]:
        """What the row's observation would have to carry."""
        return [x for each in self.inner for x in each.memory(row)]


class PlainEnv(Sibling):
    def pay(self, steps: Steps) -> list[float]:
        return [s.paid for s in steps]


class PlainCount(Sibling):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, float] = {}

    def began(self, rows: list[int]) -> None:
        for i in rows:
            self.seen[i] = 0.0

    def pay(self, steps: Steps) -> list[float]:
        for i, s in enumerate(steps):
            self.seen[i] += s.valid
        return [s.k + 1.0 for s in steps]

    def memory(self, row: int) -> list[float]:
        return [self.seen[row]]


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

    def memory(self, row: int) -> list[float]:
        owed = self.owed[row]
        return [sum(owed), len(owed) / self.k, *super().memory(row)]


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
    (lambda: Potential(step_number, gamma=0.5), PlainPotential),
]


def step_number(obs: Any) -> Any:
    """(N,), from observations of every kind, with a memory appended or not."""
    if isinstance(obs, dict):
        return obs["n"] if "n" in obs else step_number(obs["observation"])
    if isinstance(obs, tuple):
        return obs[0]
    return obs if obs.ndim == 1 else obs[:, 1]


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


class Func(ScriptedFunc):
    """Observes 0 and the number of the step, as a Box or as a Dict."""

    def __init__(self, device: Any = "cpu", **params: Any) -> None:
        kind = params.pop("observation")
        super().__init__(device, **params)
        self.observation_space = ScriptedEnv(observation=kind).observation_space

    def observation(self, state: Any, rng: Any, params: Any = None) -> Any:
        x = torch.stack((torch.zeros_like(state.k), state.k), 1).to(torch.float32)
        return {"x": x, "n": state.k} if hasattr(self.observation_space, "spaces") else x


class Alone:
    """A single environment as a batch of one that is never reset by itself."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        obs, info = self.env.reset(seed=seed)
        return one(obs), info

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(int(action[0]))
        episode = one(info.get("episode", {}))
        facts = {"objective": [info.get("objective")], "_episode": ["episode" in info]}
        return one(obs), [reward], [terminated], [truncated], {**facts, "episode": episode}


def one(obs: Any) -> Any:
    """With an axis of length 1 in front."""
    if isinstance(obs, dict):
        return {key: one(value) for key, value in obs.items()}
    return tuple(map(one, obs)) if isinstance(obs, tuple) else np.asarray(obs)[None]


class World(NamedTuple):
    """Environments that observe the number of the episode's step."""

    kind: str  # "functional", "vector" or "single"
    num_envs: int
    mode: AutoresetMode
    limit: int | None
    observation: str

    def inner(self) -> Any:
        ends = ("terminated", "truncated")
        if self.kind == "functional":
            return FunctionalVectorEnv(
                self.num_envs,
                lambda device: Func(device, observation=self.observation),
                max_episode_steps=self.limit,
                autoreset_mode=self.mode,
            )
        if self.kind == "vector":
            return scripted_envs(self.num_envs, self.mode, ends, self.observation)
        return ScriptedEnv((2, 4), ends, self.observation)

    def make(self) -> Any:
        return Alone(self.inner()) if self.kind == "single" else self.inner()

    def stack(self, pairs: list[Pair], appended: int | None = None) -> Any:
        """Wrapped in each function; the memory of one of them is appended."""
        single = self.kind == "single"
        envs = self.inner()
        for i, (make, _) in enumerate(pairs):
            envs = RewardWrapper(envs, make()) if single else VectorRewardWrapper(envs, make())
            if i == appended:
                envs = AppendRewardState(envs) if single else VectorAppendRewardState(envs)
        return Alone(envs) if single else envs


_sizes, _modes = st.integers(1, 4), st.sampled_from(MODES)
_limits = st.sampled_from([None, 1, 3])
_kinds = st.sampled_from(["box", "discrete", "dict", "tuple"])
worlds = st.one_of(
    st.tuples(st.just("functional"), _sizes, _modes, _limits, st.sampled_from(["box", "dict"])),
    st.tuples(st.just("vector"), _sizes, _modes, st.none(), _kinds),
    st.tuples(st.just("single"), st.just(1), st.just(AutoresetMode.DISABLED), st.none(), _kinds),
).map(lambda fields: World(*fields))
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

    def layer(self, which: int | None) -> int | None:
        """One of the layers that have a memory to append."""
        layers = [i for i, each in enumerate(self.stack) if each.memory(0)]
        return None if which is None or not layers else layers[which % len(layers)]

    def appended(self, obs: Any, row: int, layer: int | None) -> Any:
        """The row of a batch of observations, with the memory of a layer."""
        obs = row_of(obs, row)
        if layer is None:
            return obs
        memory = self.stack[layer].memory(row)
        if self.world.observation == "box":
            return [*obs, *memory]
        if isinstance(obs, dict):
            return {**obs, "reward_state": memory}
        return {"observation": obs, "reward_state": memory}

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


def row_of(obs: Any, i: int) -> Any:
    if isinstance(obs, dict):
        return {key: row_of(value, i) for key, value in obs.items()}
    return tuple(row_of(x, i) for x in obs) if isinstance(obs, tuple) else obs[i]


def same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert set(a) == set(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, tuple):
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-4, atol=1e-4)  # float32


@settings(max_examples=150, deadline=None)
@given(
    world=worlds,
    pairs=stacks,
    which=st.sampled_from([None, 0, 1, 2]),
    chance=chances,
    again=st.integers(1, STEPS),
)
def test_a_stack_pays_what_plain_python_pays_and_keeps_the_objective(
    world: World, pairs: list[Pair], which: int | None, chance: list[int], again: int
) -> None:
    siblings = Siblings(world, pairs)
    layer = siblings.layer(which)
    bare, envs = world.make(), world.stack(pairs, layer)
    everyone = range(world.num_envs)
    action = np.zeros(world.num_envs, dtype=np.int64)
    if world.kind == "functional":
        action = torch.from_numpy(action)

    def seen(expected: Any, found: Any, rows: Iterable[int] = everyone) -> None:
        """Whether these rows are the bare environments' observations with the memory."""
        for i in rows:
            same(row_of(found, i), siblings.appended(expected, i, layer))

    seen(bare.reset(seed=3)[0], envs.reset(seed=3)[0])
    for t in range(STEPS):
        if t == again:  # in the middle of episodes
            siblings.begin(list(everyone))
            seen(bare.reset(seed=9)[0], envs.reset(seed=9)[0])
        plain, out = bare.step(action), envs.step(action)
        for a, b in zip(plain[2:4], out[2:4], strict=True):
            same(a, b)  # a reward ends no episode
        same(out[4]["objective"], plain[1])
        paid, lived = siblings.step(*plain[1:4])
        same(out[1], paid)
        ended = [over and alive for over, alive in zip(siblings.over, lived, strict=True)]
        assert list(numbers(out[4]["_episode"])) == ended
        for i in np.flatnonzero(ended):
            episode = {k: float(v[i]) for k, v in out[4]["episode"].items()}
            same([episode["r"], episode["objective"]], siblings.sums[:, i])
            assert episode["l"] == siblings.k[i]
        if world.mode is AutoresetMode.SAME_STEP and any(ended):
            seen(plain[4]["final_obs"], out[4]["final_obs"], np.flatnonzero(ended))
        siblings.finish(lived)
        seen(plain[0], out[0])  # nor does it change what is observed
        if world.mode is AutoresetMode.DISABLED:
            mask = np.array([over or chance[t] >> i & 1 for i, over in enumerate(siblings.over)])
            mask = mask.astype(bool)
            if mask.any():
                given_ = torch.from_numpy(mask) if world.kind == "functional" else mask
                siblings.begin(list(np.flatnonzero(mask)))
                expected, found = (  # Gymnasium empties the options that it is given
                    each.reset(options={"reset_mask": given_})[0] for each in (bare, envs)
                )
                seen(expected, found, np.flatnonzero(mask))


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
    world = World("functional", num_envs, mode, limit, "box")
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
        World("functional", num_envs, AutoresetMode.SAME_STEP, 3, "dict").stack([(make, PlainEnv)])
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
