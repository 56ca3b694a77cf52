"""Run jobs in local processes, with live progress; a stopped or killed run can be continued."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from .experiment import ExperimentError
from .jobs import Interrupted, Job, run_job
from .registration import load_plugin

_STOPPED = 3  # a worker's exit code after saving on request


class JobsFailed(RuntimeError):
    """Some jobs failed; the others were run."""


@dataclass
class _Worker:
    """A process that runs one job after another, and what it is at."""

    process: Any
    pipe: Connection
    job: Job
    task: TaskID
    error: str = ""
    idle: bool = False


def run_jobs(jobs: Sequence[Job], workers: int, console: Console) -> None:
    """Run all unfinished jobs, ``workers`` at a time.

    Raises:
        JobsFailed: after all others have run, naming those that failed.
        KeyboardInterrupt: after Ctrl-C, when every worker has saved its checkpoint.
        ExperimentError: if another run is using the folder.
    """
    if not workers >= 1:
        raise ExperimentError(f"workers={workers}: expected an integer >= 1")
    waiting = [job for job in jobs if not job.finished]
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished already")
    if not waiting:
        return
    root = jobs[0].folder.parent.parent
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ExperimentError(
            f"out={str(root)!r}: another run is using it; wait for it, or use another --out"
        ) from None
    try:
        _run(waiting, min(workers, len(waiting)), console)
    finally:
        lock.release()


def _run(waiting: list[Job], workers: int, console: Console) -> None:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    overall = progress.add_task("[bold]all runs", total=len(waiting), status="")
    pending = list(waiting)
    running: list[_Worker] = []
    failed: list[str] = []

    def ended(worker: _Worker, error: str) -> None:
        """Account for a job, and give the worker another one if it lives."""
        progress.remove_task(worker.task)
        progress.advance(overall)
        if not worker.job.finished:
            reason = worker.error or error
            failed.append(f"{worker.job.name}: {reason} (see {worker.job.folder}/log.txt)")
            console.print(f"failed: {worker.job.name}: {reason}", style="red", markup=False)
        elif not console.is_terminal:
            console.print(f"finished: {worker.job.name}", highlight=False)
        if worker.process.exitcode is not None:
            running.remove(worker)
        elif pending:
            _give(worker, pending.pop(0), progress)
        else:
            worker.pipe.send(None)
            worker.process.join()
            running.remove(worker)

    with progress:
        try:
            while pending or running:
                while pending and len(running) < workers:
                    running.append(_start(pending.pop(0), progress))
                wait([w.pipe for w in running] + [w.process.sentinel for w in running], 1.0)
                for worker in list(running):
                    _listen(worker, progress)
                    if worker.idle:
                        ended(worker, "no result")
                    elif worker.process.exitcode is not None:
                        ended(worker, f"the process died with exit code {worker.process.exitcode}")
        except KeyboardInterrupt:
            _stop(running)
            raise
    if failed:
        raise JobsFailed(f"{len(failed)} of {len(waiting)} runs failed: {'; '.join(failed)}")


def _start(job: Job, progress: Progress) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, os.getpid()))
    process.start()
    theirs.close()
    worker = _Worker(process, ours, job, TaskID(0))
    _give(worker, job, progress)
    return worker


def _give(worker: _Worker, job: Job, progress: Progress) -> None:
    worker.job, worker.error, worker.idle = job, "", False
    worker.task = progress.add_task(job.name, total=job.budget.total_timesteps, status="starting")
    worker.pipe.send(job)


def _listen(worker: _Worker, progress: Progress) -> None:
    try:
        while worker.pipe.poll():
            message = worker.pipe.recv()
            if message is None:
                worker.idle = True
            elif isinstance(message, str):
                worker.error = message
            else:
                step, status = message
                progress.update(worker.task, completed=step, status=status)
    except (EOFError, OSError):
        pass  # the worker has ended; its exit code tells how


def _stop(running: Sequence[_Worker]) -> None:
    """Ask every worker to save and end; a second Ctrl-C kills them."""
    for worker in running:
        worker.process.terminate()
    try:
        for worker in running:
            worker.process.join(60)
    finally:
        for worker in running:
            worker.process.kill()


def _work(pipe: Connection, parent: int) -> None:
    """A worker process: the jobs that come through the pipe, until None."""
    asked = False

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked
        asked = True

    # Ctrl-C reaches the whole group; the parent alone decides, and asks by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, ask)
    import torch

    # One each: workers are the parallelism, and sums then do not depend on their number.
    torch.set_num_threads(1)
    last = 0.0

    def report(metrics: dict[str, float]) -> None:
        nonlocal last
        if os.getppid() != parent:
            os._exit(1)  # the parent was killed: leave the folder to the next run
        if time.monotonic() - last > 0.2:
            last = time.monotonic()
            pipe.send((metrics["time/total_timesteps"], _status(metrics)))

    loaded: set[str] = set()
    while (job := _next(pipe)) is not None:
        try:
            for plugin in job.plugins:
                if plugin not in loaded:
                    load_plugin(plugin)
                    loaded.add(plugin)
            job.folder.mkdir(parents=True, exist_ok=True)
            # A worker of a killed run may still be ending.
            with FileLock(job.folder / ".lock", timeout=60):
                run_job(job, report, lambda: asked)
        except Interrupted:
            sys.exit(_STOPPED)
        except Exception as error:
            (job.folder / "log.txt").write_text(traceback.format_exc())
            pipe.send(" ".join(f"{type(error).__name__}: {error}".split()))
        pipe.send(None)


def _next(pipe: Connection) -> Job | None:
    try:
        job: Job | None = pipe.recv()
        return job
    except EOFError:  # the parent is gone
        return None


def _status(metrics: dict[str, float]) -> str:
    """What the progress bar says: of an agent its speed and returns, else the first numbers."""
    if "rollout/ep_return" not in metrics:
        numbers = [(k, v) for k, v in metrics.items() if k != "time/total_timesteps"]
        return "  ".join(f"{k} {v:.4g}" for k, v in numbers[:3])
    speed, paid, objective = (
        metrics[k] for k in ("time/sps", "rollout/ep_return", "rollout/ep_objective")
    )
    return f"{speed:,.0f} steps/s  return {paid:.3f}  objective {objective:.3f}"
