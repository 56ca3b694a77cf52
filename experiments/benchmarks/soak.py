"""Memory of a process that trains on and on: megabytes a minute, for half an hour.

Round after round, an agent that learns from its rollouts and one that learns from a replay buffer
go on training, are evaluated, saved, and read again from their files. Whatever is kept by mistake
of a round, an environment, a graph, a file, grows with their number.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy import stats

from rewardzoo.registration import AGENTS

from .timing import Row, missing

MINUTES = 30.0
BAR = 1.0  # MB a minute
_WARM_UP = 0.2  # of the time: buffers fill, allocators settle
_STATUS = Path("/proc/self/status")


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


_SETTINGS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    (
        "ppo",
        "rewardzoo/CartPole-v0",
        "normalise(objective, gamma=0.99) + 0.1 * pole_rule()",
        {"num_steps": 64},
    ),
    (
        "sac",
        "rewardzoo/Pendulum-v0",
        "objective",
        {"buffer_size": 4096, "num_steps": 16, "updates_per_step": 0.125, "learning_starts": 256},
    ),
)  # fmt: skip


def _learner(agent: str, env: str, reward: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """An agent, and what makes its environments."""
    from rewardzoo.jobs import make_envs

    def envs() -> Any:
        return make_envs(env, reward, 8)

    return AGENTS[agent](envs(), seed=0, **settings), envs


def _round(learner: tuple[Any, Any], folder: Path) -> tuple[Any, Any]:
    """Train, evaluate, save; the agent that is read again goes on."""
    agent, envs = learner
    agent.learn(1024, reset_num_timesteps=False, log_dir=folder / agent.registered_name)
    agent.evaluate(envs(), 8)
    path = folder / f"{agent.registered_name}.pt"
    agent.save(path)
    return type(agent).load(path, env=envs()), envs


def _megabytes() -> float:
    """Resident memory of this process that is its own: not of files and not shared."""
    (line,) = [x for x in _STATUS.read_text().splitlines() if x.startswith("RssAnon")]
    return float(line.split()[1]) / 1024.0
