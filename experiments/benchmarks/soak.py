"""Memory of a process that trains on and on: megabytes a minute, for half an hour.

Round after round, an agent that learns from its rollouts, one that learns from a replay buffer and
one whose worlds are stepped by worker processes go on training, are evaluated, saved, and read
again from their files. Whatever is kept by mistake of a round, an environment, a graph, a worker's
shared memory, grows with their number.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from rewardzoo.registration import AGENTS

from .timing import Row, missing

MINUTES = 30.0
BAR = 1.0  # MB a minute
_WARM_UP = 0.2  # of the time: buffers fill, allocators settle
_STATUS = Path("/proc/self/status")
_NUM_ENVS = 8


def run(say: Callable[[str], None]) -> list[Row]:
    """The bar: 1 MB a minute."""
    name = "memory of a training process, growth"
    if not _STATUS.is_file():
        return [missing(name, "this system has no /proc/self/status")]
    readings = soak(MINUTES, say)
    growth, low, high = slope(readings)
    minutes, megabytes = readings[-1]
    return [
        Row(
            name,
            {"growth": [growth], "at the end": [megabytes]},
            "MB",
            [growth],
            bar=BAR,
            at_most=True,
            times=False,
            note=f"a minute, over {minutes:.0f} minutes; 95% interval {low:.3f} to {high:.3f}",
            extra={"minutes, MB": readings},
        )
    ]


def soak(
    minutes: float, say: Callable[[str], None], after_round: Callable[[], Any] = lambda: None
) -> list[tuple[float, float]]:
    """Train in this process for ``minutes``; returns (minutes, MB resident) after each round.

    Args:
        minutes: at least so long.
        say: told of the memory once a minute.
        after_round: called after each round.
    """
    start, told = time.monotonic(), 0.0
    readings: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        learners = [_learner(*settings) for settings in _SETTINGS]
        while not readings or readings[-1][0] < minutes:
            learners = [_round(learner, Path(folder)) for learner in learners]
            after_round()
            now = (time.monotonic() - start) / 60.0
            readings.append((now, _megabytes()))
            if now - told >= 1.0:
                told = now
                say(f"{now:.0f} of {minutes:g} minutes: {readings[-1][1]:,.1f} MB")
    return readings


def slope(readings: list[tuple[float, float]]) -> tuple[float, float, float]:
    """MB a minute after warming up, and its 95 % interval (Theil and Sen: outliers do not count).

    Raises:
        ValueError: for fewer than three readings after warming up.
    """
    kept = [r for r in readings if r[0] >= _WARM_UP * readings[-1][0]]
    if len(kept) < 3:
        raise ValueError(f"readings: {len(kept)} after warming up, expected at least 3; run longer")
    kept = kept[:: 1 + len(kept) // 2000]  # every pair of readings is looked at
    minutes, megabytes = zip(*kept, strict=True)
    growth, _, low, high = stats.theilslopes(megabytes, minutes)
    return float(growth), float(low), float(high)


def _functional(env: str, reward: str) -> Any:
    from rewardzoo.jobs import make_envs

    return make_envs(env, reward, _NUM_ENVS)


def _workers(env: str, reward: str) -> Any:
    """In two processes beside this one."""
    from rewardzoo import VectorRewardWrapper
    from rewardzoo.engines import GymnasiumEngine
    from rewardzoo.rewards import make_reward
    from rewardzoo.simulator import SimulatorVectorEnv

    envs = SimulatorVectorEnv(_NUM_ENVS, GymnasiumEngine, num_workers=2, env=env)
    return VectorRewardWrapper(envs, make_reward(reward))


_SETTINGS: tuple[tuple[str, str, Callable[[], Any], dict[str, Any]], ...] = (
    (
        "cart-pole",
        "ppo",
        partial(
            _functional,
            "rewardzoo/CartPole-v0",
            "normalise(objective, gamma=0.99) + 0.1 * pole_rule()",
        ),
        {"num_steps": 64},
    ),
    (
        "pendulum",
        "sac",
        partial(_functional, "rewardzoo/Pendulum-v0", "objective"),
        {"buffer_size": 4096, "num_steps": 16, "updates_per_step": 0.125, "learning_starts": 256},
    ),
    (
        "workers",
        "ppo",
        partial(_workers, "CartPole-v1", "normalise(objective, gamma=0.99)"),
        {"num_steps": 64},
    ),
)


class _Learner(NamedTuple):
    name: str  # of its files
    agent: Any
    envs: Callable[[], Any]  # makes its environments


def _learner(name: str, agent: str, envs: Callable[[], Any], settings: dict[str, Any]) -> _Learner:
    return _Learner(name, AGENTS[agent](envs(), seed=0, **settings), envs)


def _round(learner: _Learner, folder: Path) -> _Learner:
    """Train, evaluate, save; the agent that is read again goes on."""
    name, agent, envs = learner
    agent.learn(1024, reset_num_timesteps=False, log_dir=folder / name)
    agent.evaluate(envs(), 8)
    path = folder / f"{name}.pt"
    agent.save(path)
    return learner._replace(agent=type(agent).load(path, env=envs()))


def _megabytes() -> float:
    """Resident memory of this process that no file holds: its own, and shared with workers."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return sum(float(x[1]) for x in lines if x[0] in ("RssAnon:", "RssShmem:")) / 1024.0
