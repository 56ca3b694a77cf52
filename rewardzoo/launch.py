"""Run jobs, in processes of this machine or on a cluster; what was stopped can be continued."""

from __future__ import annotations

import contextlib
import importlib
import traceback
from collections.abc import Callable, Sequence

from filelock import FileLock
from rich.console import Console

from .board import Board
from .experiment import ExperimentError
from .files import hold
from .jobs import Interrupted, Job, remove, run_job
from .registration import load_plugin

LAUNCHERS = {"local": ".launch_local", "ray": ".launch_ray"}
"""Modules by name; each has ``launch(jobs, workers, board)``."""

_plugins: set[str] = set()


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    console: Console,
    launcher: str = "local",
    fresh: bool = False,
) -> None:
    """Run all unfinished jobs.

    Args:
        jobs: of one run, in the order in which to start them.
        workers: how many at a time; 0: as many as there are cores.
        console: where progress is shown.
        launcher: "local", or "ray" for a Ray cluster (that of ``RAY_ADDRESS``, or a new one on
            this machine).
        fresh: delete what earlier runs of these jobs wrote, and run them all.

    Raises:
        JobsFailed: after all others have run, naming those that failed.
        KeyboardInterrupt: after Ctrl-C, when every worker has saved its checkpoint.
        ValueError: if another run is using the folder.
    """
    if launcher not in LAUNCHERS:
        raise ExperimentError(f"launcher={launcher!r}: expected {' or '.join(LAUNCHERS)}")
    if not workers >= 0:
        raise ExperimentError(f"workers={workers}: expected an integer >= 0")
    launch = importlib.import_module(LAUNCHERS[launcher], __package__).launch
    waiting = list(jobs) if fresh else _unfinished(jobs, console)
    if not waiting:
        return
    root = jobs[0].folder.parent.parent
    root.mkdir(parents=True, exist_ok=True)
    with hold(root):
        if fresh:  # not before: another run may be writing what would be deleted
            remove(jobs)
        with Board(console, len(waiting)) as board:
            launch(waiting, workers, board)
    board.raise_if_failed()


def _unfinished(jobs: Sequence[Job], console: Console) -> list[Job]:
    """Those that are to be run; says how many are not."""
    waiting = [job for job in jobs if not job.finished]
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished already")
    return waiting


def attempt(job: Job, report: Callable[[dict[str, float]], None], stop: Callable[[], bool]) -> str:
    """Run one job in this process, a worker's; returns why it failed, or nothing.

    Raises:
        Interrupted: when asked to stop; the checkpoint is written.
    """
    import torch

    # One each: workers are the parallelism, and sums then do not depend on their number.
    torch.set_num_threads(1)
    try:
        for plugin in job.plugins:
            if plugin not in _plugins:
                load_plugin(plugin)
                _plugins.add(plugin)
        job.folder.mkdir(parents=True, exist_ok=True)
        # A worker of a killed run may still be ending.
        with FileLock(job.folder / ".lock", timeout=60):
            run_job(job, report, stop)
    except Interrupted:
        raise
    except Exception as error:
        with contextlib.suppress(OSError):  # a full disk may be what stopped the job
            (job.folder / "log.txt").write_text(traceback.format_exc())
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""
