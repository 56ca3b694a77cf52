"""check_vector_env: the conformance suite for vector environments."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from ..autoreset import StepTracker
from ..transition import Transition, to_numpy
from .recording import (
    CPU,
    MODES,
    Actions,
    EnvMaker,
    Log,
    assert_close,
    clone,
    leaf,
    make_envs,
    record,
    same,
    through_file,
)


@dataclasses.dataclass(frozen=True)
class EnvReport:
    """What ``check_vector_env`` found.

    Args:
        terminated: episodes that ended by themselves.
        truncated: episodes that were cut off.
        objective: every step carries ``info["objective"]``.
        saves: it has ``state_dict``, and continues from it.
    """

    terminated: int
    truncated: int
    objective: bool
    saves: bool


def check_vector_env(
    env: str | EnvMaker, num_envs: int = 4, steps: int = 60, seed: int = 0
) -> EnvReport:
    """Check a vector environment: shapes, seeding, rows, all autoreset modes, saving.

    Args:
        env: an id, or ``make(num_envs, autoreset_mode)``.
        num_envs: rows.
        steps: steps a row.
        seed: of environments and random actions.

    Raises:
        AssertionError: saying what is wrong and what to do.
    """
    log = record(env, MODES[0], num_envs, steps, seed, _Watch(MODES[0], num_envs))
    assert_close(
        record(env, MODES[0], num_envs, steps, seed).rows(steps),
        log.rows(steps),
        "two runs with one seed and the same actions differ: draw every random number from the "
        "seed given to reset",
    )
    for i in range(num_envs):
        assert_close(
            record(env, MODES[0], 1, steps, seed + i).rows(steps),
            [log.rows(steps)[i]],
            f"row {i} of {num_envs} environments seeded with {seed} is not the single one seeded "
            f"with {seed + i}: draw each row's random numbers from its own seed",
        )
    for mode in MODES[1:]:
        assert_close(
            record(env, mode, num_envs, steps, seed, _Watch(mode, num_envs)).rows(steps),
            log.rows(steps),
            f"{mode.name} and SAME_STEP give different transitions: next_obs must be the true "
            "successor, and the dead step of NEXT_STEP must not advance the episode",
        )
    ends = [t for t, _, _ in log.steps]
    return EnvReport(
        terminated=sum(int(t.terminated.sum()) for t in ends),
        truncated=sum(int((t.truncated & ~t.terminated).sum()) for t in ends),
        objective=all("objective" in t.info for t in ends),
        saves=_check_env_saving(env, log, num_envs, steps, seed),
    )


class _Watch:
    """Sees every call of a run and raises at the first that breaks the contract."""

    def __init__(self, mode: AutoresetMode, num_envs: int) -> None:
        self.mode, self.num_envs = mode, num_envs
        self.last: tuple[Any, Any] | None = None

    def __call__(self, envs: VectorEnv[Any, Any, Any], raw: Any, t: Transition | None) -> None:
        found = envs.metadata.get("autoreset_mode")
        assert found is self.mode, (
            f"metadata['autoreset_mode'] is {found!r}: {self.mode} was asked for"
        )
        assert envs.num_envs == self.num_envs, (
            f"num_envs is {envs.num_envs}: expected {self.num_envs}"
        )
        _check_step(envs, raw, t)
        if self.last is not None:
            # Tensors that were returned must stay as they were: they are kept, not copied.
            assert same(*self.last), (
                "step() wrote into the observation tensor that the step before returned: return a "
                "new tensor (obs.clone()) each step"
            )
        self.last = (raw[0], clone(raw[0])) if isinstance(leaf(raw[0]), Tensor) else None


def _check_step(envs: VectorEnv[Any, Any, Any], raw: Any, t: Transition | None) -> None:
    n = envs.num_envs
    rows = to_numpy(raw[0])
    for i in range(n):
        row = _row(rows, i, envs.single_observation_space)
        assert envs.single_observation_space.contains(row), (
            f"row {i} of the observation, {row!r}, is not in single_observation_space "
            f"{envs.single_observation_space}: give the shape, dtype and bounds that the space says"
        )
    if t is None:
        return
    _, reward, _, _, info = raw
    assert bool(torch.isfinite(t.reward).all()), f"reward {reward}: expected finite numbers"
    dead = ~t.valid
    assert not bool((dead & t.done).any()), (
        "a dead step of NEXT_STEP autoreset ended an episode: terminated and truncated must be "
        "False in the step that only resets a row"
    )
    paid = torch.as_tensor(np.asarray(to_numpy(reward)), dtype=torch.float32)
    assert not bool((dead & (paid != 0)).any()), (
        "a dead step of NEXT_STEP autoreset was paid: the step that only resets a row pays 0"
    )
    if envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and bool(t.done.any()):
        assert "final_obs" in info and "_final_obs" in info, (
            "an episode ended under SAME_STEP without info['final_obs'] and its mask "
            "info['_final_obs']: give the true last observation there"
        )
        mask = torch.as_tensor(np.asarray(to_numpy(info["_final_obs"])))
        assert bool((mask == t.done).all()), (
            "info['_final_obs'] is not terminated | truncated: mark exactly the rows that ended"
        )


def _check_env_saving(env: str | EnvMaker, log: Log, num_envs: int, steps: int, seed: int) -> bool:
    envs = make_envs(env, num_envs, AutoresetMode.SAME_STEP)
    if not hasattr(envs, "state_dict"):
        envs.close()
        return False
    half = steps // 2
    actions = Actions(envs, seed, steps)
    tracker = StepTracker(envs, CPU)
    tensors = False
    for step in range(half + 1):
        if step == 0:
            obs, _ = envs.reset(seed=seed)
            tensors = isinstance(leaf(obs), Tensor)
            tracker.reset(obs)
        else:
            action = actions.next()
            tracker.step(action, *envs.step(torch.from_numpy(action) if tensors else action))
            actions.count += 1
    state = through_file(envs.state_dict(), "the environment")
    other = make_envs(env, num_envs, AutoresetMode.SAME_STEP)
    other.load_state_dict(state)  # type: ignore[attr-defined]
    for t, _, _ in log.steps[half:]:
        action = actions.next()
        actions.count += 1
        raw = other.step(torch.from_numpy(action) if tensors else action)
        again = tracker.step(action, *raw)
        assert same((again.next_obs, again.reward, again.done), (t.next_obs, t.reward, t.done)), (
            "an environment loaded from state_dict() continues differently: save everything that "
            "the next step depends on"
        )
    envs.close()
    other.close()
    return True


def _row(x: Any, i: int, space: Any) -> Any:
    if isinstance(x, dict):
        return {key: _row(value, i, space[key]) for key, value in x.items()}
    if isinstance(x, tuple):
        return tuple(_row(value, i, space[k]) for k, value in enumerate(x))
    return np.int64(x[i]) if isinstance(space, spaces.Discrete) else x[i]
