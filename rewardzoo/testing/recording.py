"""Runs to drive conformance checks with, and trees of tensors to compare."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from ..autoreset import StepTracker
from ..registration import check_env_id
from ..rewards.base import Spaces
from ..transition import Obs, Transition, to_numpy, to_torch

EnvMaker = Callable[..., "VectorEnv[Any, Any, Any]"]
MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)
LIMIT = 13  # steps until truncation: short, so that a short run sees both ends of episodes
CPU = torch.device("cpu")


def make_envs(
    env: str | EnvMaker,
    num_envs: int,
    autoreset_mode: AutoresetMode,
    max_episode_steps: int | None = LIMIT,
) -> VectorEnv[Any, Any, Any]:
    """A vector environment in the mode, from an id or ``make(num_envs, autoreset_mode)``."""
    if not isinstance(env, str):
        return env(num_envs=num_envs, autoreset_mode=autoreset_mode)
    check_env_id(env)
    kwargs: dict[str, Any] = {"max_episode_steps": max_episode_steps} if max_episode_steps else {}
    if "dynamics" in gymnasium.spec(env).kwargs:  # batched by nature
        return gymnasium.make_vec(env, num_envs, autoreset_mode=autoreset_mode, **kwargs)
    makers = [lambda: gymnasium.make(env, **kwargs)] * num_envs
    return SyncVectorEnv(makers, autoreset_mode=autoreset_mode)


@dataclasses.dataclass
class Log:
    """A run: what reward functions are driven with."""

    spaces: Spaces
    num_envs: int
    first_obs: Obs
    steps: list[tuple[Transition, Tensor, Obs]]  # and the rows that began, with their observations

    def rows(self, count: int) -> list[list[Any]]:
        """The first ``count`` valid steps of each row, as lists of comparable values."""
        rows: list[list[Any]] = [[] for _ in range(self.num_envs)]
        for t, _, _ in self.steps:
            for i, row in enumerate(rows):
                if bool(t.valid[i]) and len(row) < count:
                    part = (t.obs, t.next_obs, t.reward, t.terminated, t.truncated, t.episode_step)
                    row.append(take(part, torch.tensor([i])))
        return rows


class Actions:
    """Random actions that depend on the row's seed and the number of its valid steps alone."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], seed: int, steps: int) -> None:
        space = copy.deepcopy(envs.single_action_space)
        rows = []
        for i in range(envs.num_envs):
            space.seed(seed + i)
            rows.append([np.asarray(space.sample()) for _ in range(steps + 1)])
        self.table = np.array(rows)
        self.count = np.zeros(envs.num_envs, dtype=np.int64)
        self.steps = steps

    def next(self) -> Any:
        """(N, ...)."""
        return self.table[np.arange(len(self.table)), np.minimum(self.count, self.steps)]


def play(
    envs: VectorEnv[Any, Any, Any], actions: Actions, seed: int
) -> Iterator[tuple[Any, Transition | None, StepTracker]]:
    """Yield the reset and then each step, raw and as a transition, until all rows have enough."""
    tracker = StepTracker(envs, CPU)
    obs, _ = envs.reset(seed=seed)
    tensors = isinstance(leaf(obs), Tensor)
    tracker.reset(to_torch(obs, CPU))
    yield (obs,), None, tracker
    while (actions.count < actions.steps).any():
        action = actions.next()
        raw = envs.step(torch.from_numpy(action) if tensors else action)
        _check_types(envs.num_envs, *raw[1:4])
        t = tracker.step(action, *raw)
        actions.count += t.valid.numpy()
        if tracker.mode is AutoresetMode.DISABLED and bool(t.done.any()):
            mask = t.done if tensors else t.done.numpy()
            obs, _ = envs.reset(options={"reset_mask": mask})
            tracker.reset(obs, {"reset_mask": mask})
        yield raw, t, tracker


def _check_types(n: int, reward: Any, terminated: Any, truncated: Any) -> None:
    assert tuple(reward.shape) == (n,), f"reward has shape {tuple(reward.shape)}: expected ({n},)"
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        assert "bool" in str(flag.dtype) and tuple(flag.shape) == (n,), (
            f"{name} is {flag.dtype} {tuple(flag.shape)}: expected ({n},) bool"
        )


def record(
    env: str | EnvMaker,
    mode: AutoresetMode,
    num_envs: int,
    steps: int,
    seed: int,
    watch: Callable[[VectorEnv[Any, Any, Any], Any, Transition | None], None] | None = None,
) -> Log:
    """Play random actions and keep the transitions; ``watch`` sees what each call returned."""
    envs = make_envs(env, num_envs, mode)
    spaces = Spaces(envs.single_observation_space, envs.single_action_space, envs)
    log = Log(spaces, num_envs, None, [])
    for raw, t, tracker in play(envs, Actions(envs, seed, steps), seed):
        if t is None:
            log.first_obs = tracker.obs
        else:
            log.steps.append((t, tracker.began, tracker.obs))
        if watch is not None:
            watch(envs, raw, t)
    envs.close()
    return log


# ---- trees of tensors ----------------------------------------------------------------------------


def map_tree(x: Any, change: Callable[[Any], Any]) -> Any:
    """``x`` with its leaves changed."""
    if isinstance(x, Transition):
        names = [f.name for f in dataclasses.fields(x)]
        return Transition(**{name: map_tree(getattr(x, name), change) for name in names})
    if isinstance(x, dict):
        return {key: map_tree(value, change) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        return type(x)(map_tree(value, change) for value in x)
    return change(x)


def take(x: Any, index: Tensor | None) -> Any:
    """Rows of everything in ``x`` that has rows."""

    def take(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim:
            return value[index]
        if isinstance(value, np.ndarray) and value.ndim:
            return value[to_numpy(index)]
        return value

    return x if index is None else map_tree(x, take)


def clone(x: Any) -> Any:
    """A deep copy."""
    return map_tree(x, lambda v: v.clone() if isinstance(v, Tensor) else copy.deepcopy(v))


def to(x: Any, device: torch.device) -> Any:
    """Tensors moved to a device."""
    return map_tree(x, lambda v: v.to(device) if isinstance(v, Tensor) else v)


def leaf(x: Any) -> Any:
    """The first leaf."""
    if isinstance(x, dict):
        return leaf(next(iter(x.values())))
    return leaf(x[0]) if isinstance(x, tuple) else x


def same(a: Any, b: Any) -> bool:
    """Equality, bit for bit (NaN equals NaN)."""
    if isinstance(a, Transition):
        names = [f.name for f in dataclasses.fields(a)]
        return all(same(getattr(a, name), getattr(b, name)) for name in names)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.allclose(a, b, 0, 0, equal_nan=True)
    if isinstance(a, np.ndarray):
        return same(list(a), list(b)) if a.dtype == object else np.array_equal(a, b, True)
    return bool(a == b)


def assert_close(got: list[list[Any]], want: list[list[Any]], message: str) -> None:
    """Raise unless two results of ``Log.rows`` agree to rounding."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        for step, (x, y) in enumerate(zip(a, b, strict=True)):
            assert near(x, y), f"{message} (row {i}, step {step})"


def near(a: Any, b: Any) -> bool:
    """Equality to the rounding of float32."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(near(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(near, a, b))
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def through_file(state: Any, owner: str) -> Any:
    """Saved and loaded."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:
        raise AssertionError(
            f"{owner}: state_dict() holds more than tensors, numbers, strings and dicts of them, "
            "so it cannot be loaded safely: keep to these"
        ) from error
