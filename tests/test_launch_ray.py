"""Jobs on a Ray cluster of two nodes: equal to local ones, and a lost worker is made good."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rewardzoo.board import JobsFailed
from rewardzoo.experiment import ExperimentError
from rewardzoo.jobs import Job, jobs_of
from rewardzoo.launch import run_jobs
from rewardzoo.registration import EXPERIMENTS, load_plugin

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

PLUGIN = '''
import os

from rewardzoo.experiment import Arm, Budget, Experiment, Measure


def dies_once(trial):
    """Loses its worker on the first attempt."""
    mark = trial.folder / "attempted"
    if not mark.exists():
        mark.touch()
        os._exit(7)
    return {"objective": float(trial.seed)}


def always_dies(trial):
    """Loses its worker on every attempt."""
    os._exit(7)


def raises(trial):
    """Fails."""
    raise ValueError("on purpose")


BUDGET = Budget(total_timesteps=512, num_envs=8, eval_episodes=8, seeds=2)
COMMON = dict(title="Jobs of a cluster", paper="none", claims=[], seeds=(0, 1))
Experiment(
    name="ray_equal",
    grid=[Arm("plain", "rewardzoo/CartPole-v0", "objective", agent_kwargs={"num_steps": 16})],
    budgets={"quick": BUDGET}, **COMMON,
)
Experiment(
    name="ray_faults",
    grid=[Measure("dies once", dies_once), Measure("dies", always_dies), Measure("raises", raises)],
    budgets={"quick": BUDGET}, **COMMON,
)
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "ray_experiments.py"
    path.write_text(PLUGIN)
    load_plugin(path)
    return str(path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    cluster.shutdown()


def jobs(name: str, out: Path, plugin: str) -> list[Job]:
    return jobs_of(EXPERIMENTS[name], "quick", out, plugins=(plugin,))


def finals(made: list[Job]) -> list[Any]:
    return [json.loads((job.folder / "result.json").read_text())["final"] for job in made]


def test_equals_local_processes(tmp_path: Path, cluster: Any, plugin: str) -> None:
    here, there = (
        jobs("ray_equal", tmp_path / "a", plugin),
        jobs("ray_equal", tmp_path / "b", plugin),
    )
    run_jobs(here, 1, Console(file=io.StringIO()))
    run_jobs(there, 0, Console(file=io.StringIO()), "ray")
    assert finals(here) == finals(there)
    assert finals(here)[0] != finals(here)[1]  # of two seeds


def test_lost_workers_are_tried_again_and_failures_named(
    tmp_path: Path, cluster: Any, plugin: str
) -> None:
    made = jobs("ray_faults", tmp_path, plugin)
    with pytest.raises(JobsFailed, match="4 of 6") as failed:
        run_jobs(made, 0, Console(file=io.StringIO()), "ray")
    assert "raises, seed 0, raises, seed 1: ValueError: on purpose" in str(failed.value)
    assert "dies, seed 1" in str(failed.value)
    done = [job for job in made if job.finished]
    assert [f["objective"] for f in finals(done)] == [0.0, 1.0]


def test_an_unknown_launcher_is_named(tmp_path: Path, plugin: str) -> None:
    with pytest.raises(ExperimentError, match="launcher='slurm': expected local or ray"):
        run_jobs(jobs("ray_equal", tmp_path, plugin), 1, Console(file=io.StringIO()), "slurm")
