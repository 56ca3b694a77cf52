"""Jobs on a Ray cluster of two nodes: equal to local ones, and what is lost is made good."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rewardzoo.board import JobsFailed
from rewardzoo.experiment import ExperimentError
from rewardzoo.jobs import Job, jobs_of, run_job
from rewardzoo.launch import run_jobs
from rewardzoo.registration import EXPERIMENTS, load_plugin

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from rewardzoo import launch_ray  # noqa: E402

PLUGIN = '''
import os
import time
from pathlib import Path

import ray

from rewardzoo.experiment import Arm, Budget, Experiment, Measure
from rewardzoo.jobs import run_job
from rewardzoo.registration import register_reward
from rewardzoo.rewards.base import RewardFunction

HERE = Path(__file__).parent
if os.getpid() != TESTING:  # a worker: it saves a checkpoint after every iteration
    run_job.__defaults__ = (*run_job.__defaults__[:-1], 0.0)


@register_reward("stumbles")
class Stumbles(RewardFunction):
    """Loses its worker at its 70th call unless one is lost already; keeps count."""

    calls = 0

    def __call__(self, t):
        self.calls += 1
        if self.calls == 70 and not (HERE / "lost").exists():
            (HERE / "lost").write_text(ray.get_runtime_context().get_node_id())
            if (HERE / "node").exists():
                time.sleep(600.0)  # until its node is taken away
            os._exit(7)
        with (HERE / f"calls-{os.getpid()}").open("a") as file:
            file.write(".")
        return t.reward


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


BUDGETS = {
    "smoke": Budget(total_timesteps=512, num_envs=8, eval_episodes=8, seeds=2),
    "longer": Budget(total_timesteps=1024, num_envs=8, eval_episodes=8, seeds=1),
}
COMMON = dict(title="Jobs of a cluster", paper="none", claims=[], seeds=(0, 1), budgets=BUDGETS)
ENV, SETTINGS = "rewardzoo/CartPole-v0", {"num_steps": 16}
Experiment(
    name="ray_equal", grid=[Arm("plain", ENV, "objective", agent_kwargs=SETTINGS)], **COMMON
)
Experiment(
    name="ray_lost", grid=[Arm("plain", ENV, "stumbles", agent_kwargs=SETTINGS)], **COMMON
)
Experiment(
    name="ray_faults",
    grid=[Measure("dies once", dies_once), Measure("dies", always_dies), Measure("raises", raises)],
    **COMMON,
)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "ray_experiments.py"
    path.write_text(PLUGIN.replace("TESTING", str(os.getpid())))
    return path


@pytest.fixture
def plugin(file: Path) -> Iterator[Path]:
    """One file for all tests, as the cluster's workers have read it; here it is forgotten."""
    yield file
    forget()


def forget() -> None:
    """The experiments of the file, so that it can be read again."""
    for name in [name for name in EXPERIMENTS if name.startswith("ray_")]:
        del EXPERIMENTS._entries[name]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes for jobs; the head, to which the run is connected, has no room for any."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    cluster.shutdown()


def jobs(name: str, budget: str, out: Path, plugin: Path) -> list[Job]:
    if name not in EXPERIMENTS:
        load_plugin(plugin)
    return jobs_of(EXPERIMENTS[name], budget, out, plugins=(str(plugin),))


def finals(made: list[Job]) -> list[Any]:
    return [json.loads((job.folder / "result.json").read_text())["final"] for job in made]


def remove_the_node_that_lost(cluster: Any, lost: Path) -> None:
    """As soon as somebody waits there."""
    deadline = time.monotonic() + 120
    while not (lost.exists() and lost.read_text()):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
    (node,) = (node for node in cluster.worker_nodes if node.node_id == lost.read_text())
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.slow
def test_the_command_ends_with_the_results_of_local_processes(
    cli: Any, tmp_path: Path, cluster: Any, plugin: Path
) -> None:
    args = ("--plugin", plugin, "run", "ray_equal", "--budget", "smoke")
    local = cli(*args, "--workers", 1, "--out", tmp_path / "a")
    forget()
    there = cli(*args, "--launcher", "ray", "--out", tmp_path / "b")
    assert local.code == there.code == 0 and there.err == "", there
    a, b = (
        json.loads((tmp_path / name / "ray_equal/smoke/results.json").read_text())["arms"]
        for name in "ab"
    )
    assert a == b and len(a[0]["seeds"]) == 2
    made = jobs("ray_equal", "smoke", tmp_path / "b", plugin)
    assert finals(made) == finals(jobs("ray_equal", "smoke", tmp_path / "a", plugin))
    assert finals(made)[0] != finals(made)[1]  # of two seeds


@pytest.mark.slow
@pytest.mark.parametrize("what", ["worker", "node"])
def test_a_training_that_is_lost_goes_on_from_its_checkpoint_to_the_local_result(
    what: str, tmp_path: Path, cluster: Any, plugin: Path
) -> None:
    (here,), (there,) = (jobs("ray_lost", "longer", tmp_path / n, plugin) for n in "ab")
    lost, node = plugin.parent / "lost", plugin.parent / "node"
    lost.touch()
    run_job(here)
    (whole,) = calls_of(plugin)
    lost.unlink()
    if what == "node":
        node.touch()
        remover = threading.Thread(target=remove_the_node_that_lost, args=(cluster, lost))
        remover.start()
    run_jobs([there], 0, Console(file=io.StringIO()), "ray")
    if what == "node":
        remover.join()
        node.unlink()
        (left,) = cluster.worker_nodes
        assert lost.read_text() != left.node_id
        cluster.add_node(num_cpus=1)
    assert finals([there]) == finals([here])
    # 16 calls an iteration: the second attempt began after the fourth, of which 6 more were lost.
    assert sorted(calls_of(plugin)) == sorted((69, whole - 64))


def calls_of(plugin: Path) -> list[int]:
    """Of each process; they are then forgotten."""
    files = list(plugin.parent.glob("calls-*"))
    found = [file.stat().st_size for file in files]
    for file in files:
        file.unlink()
    return found


@pytest.mark.slow
def test_lost_workers_are_tried_again_and_failures_named(
    tmp_path: Path, cluster: Any, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though whoever is told how far they are is lost as well."""

    class Lost(launch_ray._News):
        def read(self) -> Any:
            os._exit(7)

    monkeypatch.setattr(launch_ray, "_News", Lost)
    made = jobs("ray_faults", "longer", tmp_path, plugin)
    with pytest.raises(JobsFailed, match="2 of 3") as failed:
        run_jobs(made, 0, Console(file=io.StringIO()), "ray")
    assert "raises, seed 0: ValueError: on purpose" in str(failed.value)
    assert "dies, seed 0" in str(failed.value)
    assert [f["objective"] for f in finals([job for job in made if job.finished])] == [0.0]


def test_an_unknown_launcher_is_named(tmp_path: Path, plugin: Path) -> None:
    with pytest.raises(ExperimentError, match="launcher='slurm': expected local or ray"):
        run_jobs(jobs("ray_equal", "smoke", tmp_path, plugin), 1, Console(), "slurm")


def test_a_wrong_address_is_one_line_before_ray_is_asked(
    cli: Any, tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(ray, "init", never)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")  # nobody listens there any more
    args = ("--plugin", plugin, "run", "ray_equal", "--budget", "smoke", "--launcher", "ray")
    done = cli(*args, "--out", tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1, done
    assert f"RAY_ADDRESS='127.0.0.1:{port}': no Ray cluster answers there" in done.err
    assert "start one with `ray start --head`, or unset the variable" in done.err


def test_whoever_listens_has_to_speak_as_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_ray, "_PATIENCE", 0.1)
    for answer, reason in ((b"HTTP/1.1 400 Bad Request\r\n", "is not Ray"), (b"", "timed out")):
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"ray://127.0.0.1:{server.getsockname()[1]}"
            thread = threading.Thread(target=answers, args=(server, answer))
            thread.start()
            with pytest.raises(ValueError, match=rf"RAY_ADDRESS='{address}': .*{reason}"):
                launch_ray.check_address(address)
            thread.join()
    with pytest.raises(ValueError, match="RAY_ADDRESS='nonsense': expected HOST:PORT, ray://"):
        launch_ray.check_address("nonsense")
    launch_ray.check_address("auto")  # Ray finds it


def answers(server: Any, words: bytes) -> None:
    """Take one call and say these words; without any, until the caller gives up."""
    connection, _ = server.accept()
    with connection, contextlib.suppress(ConnectionResetError):
        connection.sendall(words)
        while connection.recv(64):
            pass
