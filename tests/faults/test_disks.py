"""Full and read-only disks: it says so in a line, and no finished result is lost."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rewardzoo.experiment import Experiment
from rewardzoo.files import write_atomic
from rewardzoo.jobs import Interrupted, Job, jobs_of, run_job
from rewardzoo.launch import attempt
from rewardzoo.registration import load_plugin

ENV = "rewardzoo/CartPole-v0"
PLUGIN = """
from rewardzoo.experiment import Arm, Budget, Experiment

Experiment(
    name="faulty", title="Two arms", paper="none", claims=[], seeds=(0,),
    grid=[
        Arm(label, "rewardzoo/CartPole-v0", "objective", agent_kwargs={"num_steps": 16})
        for label in ("plain", "other")
    ],
    budgets={"quick": Budget(total_timesteps=1024, num_envs=8, eval_episodes=8, seeds=1)},
)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.py"
    path.write_text(PLUGIN)
    return path


def rewardzoo(plugin: Path, *args: Any, **kwargs: Any) -> Any:
    """The command in a process of its own."""
    env = dict(os.environ, COLUMNS="200", REWARDZOO_PLUGINS=str(plugin))
    line = [sys.executable, "-m", "rewardzoo", *map(str, args)]
    return subprocess.run(line, env=env, text=True, capture_output=True, timeout=300, **kwargs)


def stop_after(job: Job, iterations: int) -> None:
    """Run a job until it is asked to stop."""
    seen: list[Any] = []
    with pytest.raises(Interrupted):
        run_job(job, seen.append, lambda: len(seen) >= iterations)


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["tempfile.mkstemp", "os.fsync", "os.replace"])
def test_a_full_disk_leaves_the_old_file_and_no_part_of_a_new_one(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(path, "new" * 100_000)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_costs_the_job_and_nothing_that_was_kept(
    final: Any, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, job = jobs_of(experiment, "quick", tmp_path / "full")
    whole = jobs_of(experiment, "quick", tmp_path / "whole")[1]
    for each in (done, whole):
        run_job(each)
    kept = (done.folder / "result.json").read_bytes()
    stop_after(job, 3)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        patch.setattr(Path, "write_text", full)  # there is no room for a log either
        error = attempt(job, lambda metrics: None, lambda: False)
    assert "No space left on device" in error and not job.finished
    assert (done.folder / "result.json").read_bytes() == kept
    assert attempt(job, lambda metrics: None, lambda: False) == ""  # there is room again
    assert final(job.folder) == final(whole.folder)


def in_this_process(jobs: Any, workers: int, board: Any) -> None:
    """A launcher for quick tests."""
    for job in jobs:
        task = board.start(job)
        board.end(task, job, attempt(job, lambda metrics: None, lambda: False))


def test_a_run_on_a_full_disk_says_so_in_a_line_and_goes_on_when_there_is_room(
    cli: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewardzoo.launch_local.launch", in_this_process)
    monkeypatch.setenv("QUICK", "1")
    load_plugin(tiny)
    args = ("run", "tiny", "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        done = cli(*args)
    assert done.code == 1 and done.err.count("\n") == 1, done
    assert "2 of 2 runs failed" in done.err and "No space left on device" in done.err
    assert cli(*args).code == 0 and len(list(tmp_path.rglob("result.json"))) == 2


def read_only(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Nobody can make files in ``folder``, or below it."""
    touch = Path.touch

    def refused(self: Path, *args: Any, **kwargs: Any) -> None:
        if folder in self.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        touch(self, *args, **kwargs)

    patch.setattr(Path, "touch", refused)


@pytest.mark.parametrize(
    "args",
    [
        ["run", "tiny", "--out", "FOLDER"],
        ["train", "--env", ENV, "--out", "FOLDER"],
        ["train", "--env", ENV, "--save", "FOLDER", "--out", "ELSEWHERE"],
        ["compare", "objective", "--env", ENV, "--out", "FOLDER"],
        ["zoo", "train", "ppo-gridworld", "--out", "FOLDER"],
        ["zoo", "play", "ppo-gridworld", "--out", "FOLDER/film.gif"],
        ["play", "rewardzoo/GridWorld-v0", "--out", "FOLDER/film.gif"],
        ["report", "RUN", "RUN", "--out", "FOLDER/page.html"],
        ["bench", "--only", "scaling_envs", "--out", "FOLDER/here.json"],
    ],
)
def test_every_command_tries_its_folder_before_it_does_anything(
    args: list[str], cli: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    for work in (
        "rewardzoo.launch.run_jobs", "rewardzoo.agents.ppo.PPO.learn", "rewardzoo.video.episode",
        "rewardzoo.results.read_json", "rewardzoo.experiments.benchmarks.rows_of",
    ):  # fmt: skip
        monkeypatch.setattr(work, never)
    folder = tmp_path / "mine"
    folder.mkdir()
    read_only(folder, monkeypatch)
    elsewhere = str(tmp_path / "elsewhere")
    args = [x.replace("FOLDER", str(folder)).replace("ELSEWHERE", elsewhere) for x in args]
    done = cli("--plugin", tiny, *args)
    option = "--save" if "--save" in args else "--out"
    assert done.code == 2 and done.err.count("\n") == 1, done
    assert f"{option} {folder}" in done.err and "cannot write there (Read-only file" in done.err
    assert not list(folder.rglob("*.*"))


@pytest.mark.slow
def test_a_run_on_a_disk_without_room_says_so_in_a_line(plugin: Path, tmp_path: Path) -> None:
    """Files may have 20,000 bytes, as on a full disk: the system refuses what is written beyond."""
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    done = rewardzoo(plugin, "run", "faulty", "--out", tmp_path, "--workers", 1, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert "OSError: [Errno 27] File too large" in done.stderr and "Traceback" not in done.stderr
    again = rewardzoo(plugin, "run", "faulty", "--out", tmp_path, "--workers", 1)
    assert again.returncode == 0 and len(list(tmp_path.glob("**/result.json"))) == 2


def without_overriding_permissions() -> None:
    """Root may write everywhere: take that from what is executed next."""
    if os.geteuid() == 0:
        drop_from_bounding_set, dac_override = 24, 1
        assert ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0) == 0


@pytest.mark.slow
def test_a_read_only_folder_is_named_before_anything_is_run(
    digest: Any, plugin: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    assert rewardzoo(plugin, "run", "faulty", "--out", out, "--workers", 1).returncode == 0
    before = digest(out)
    for folder in (out, *(p for p in out.rglob("*") if p.is_dir())):
        folder.chmod(0o555)
    try:
        done = rewardzoo(
            plugin, "run", "faulty", "--out", out, preexec_fn=without_overriding_permissions
        )
        shown = rewardzoo(
            plugin, "report", out / "faulty/quick", preexec_fn=without_overriding_permissions
        )
    finally:
        for folder in (out, *(p for p in out.rglob("*") if p.is_dir())):
            folder.chmod(0o755)
    assert done.returncode == 2 and f"--out {out}: cannot write there" in done.stderr
    assert "plain" in shown.stdout  # the table needs no file
    assert shown.returncode == 2 and "Permission denied" in shown.stderr
    assert digest(out) == before
