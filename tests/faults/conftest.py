"""What goes wrong around a run: two experiments that take no time, and looks at what is left.

Told elsewhere: workers that die and killed runs that go on (test_experiment.py), environments'
workers (test_workers.py), workers and nodes of a cluster (test_launch_ray.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewardzoo.experiment import Arm, Budget, Experiment
from rewardzoo.registration import EXPERIMENTS, REWARDS
from rewardzoo.rewards.base import RewardFunction

TINY = '''
import os
import time

from rewardzoo.experiment import Budget, Experiment, Measure


def short(trial):
    """Ends at once."""
    return {"value": 1.0}


def waits(trial):
    """Goes on until it is asked to stop, or is stuck."""
    (trial.folder / "here").touch()
    if "QUICK" in os.environ:
        return {"value": 2.0}
    if "STUCK" in os.environ:
        time.sleep(600.0)
    for step in range(1, 100_000):
        time.sleep(0.01)
        (trial.folder / "saved").touch()
        trial.log(step, value=0.0)


Experiment(
    name="tiny", title="Two measures", paper="none", claims=[], seeds=(0,),
    grid=[Measure("short", short), Measure("waits", waits)], columns={"value": "value"},
    budgets={"quick": Budget(total_timesteps=1, num_envs=1, eval_episodes=1, seeds=1)},
)
'''


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A plugin whose experiment takes no time but its workers'."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    yield path
    EXPERIMENTS._entries.pop("tiny", None)


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        name="faults", title="", paper="", seeds=(0, 1), claims=[],
        grid=[Arm("a", "rewardzoo/CartPole-v0", "objective", agent_kwargs={"num_steps": 16})],
        budgets={"quick": Budget(2048, 8, 8, 2)},
    )  # fmt: skip


@pytest.fixture
def final() -> Any:
    """A function that reads what the job of a folder ended with."""

    def read(folder: Path) -> Any:
        return json.loads((folder / "result.json").read_text())["final"]

    return read


@pytest.fixture
def digest() -> Any:
    """A function that gives the hash of every file below a folder."""

    def read(folder: Path) -> dict[str, str]:
        files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    return read


class Terminated(RewardFunction):
    """Its hundredth step sends the process what a cluster sends before it kills."""

    calls = 0

    def __call__(self, t: Any) -> Any:
        Terminated.calls += 1
        if Terminated.calls == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        return t.reward


@pytest.fixture
def terminated(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of that reward function, which has not been called yet."""
    monkeypatch.setitem(REWARDS._entries, "terminated", Terminated)
    monkeypatch.setattr(Terminated, "calls", 0)
    return "terminated"
