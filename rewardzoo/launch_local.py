"""Run jobs in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from rich.progress import TaskID

from .board import Board, status
from .jobs import Interrupted, Job
from .launch import attempt

_STOPPED = 3  # a worker's exit code after saving on request


@dataclass
class _Worker:
    """A process that runs one job after another, and what it is at."""

    process: Any
    pipe: Connection
    job: Job
    task: TaskID
    error: str = ""
    idle: bool = False


def launch(jobs: Sequence[Job], workers: int, board: Board) -> None:
    """Run ``jobs``, ``workers`` at a time (0: one a core); a worker that dies costs one job."""
    limit = min(workers or os.cpu_count() or 1, len(jobs))
    pending = list(jobs)
    running: list[_Worker] = []

    def ended(worker: _Worker, error: str) -> None:
        """Account for a job, and give the worker another one if it lives."""
        board.end(worker.task, worker.job, worker.error or error)
        if worker.process.exitcode is not None:
            running.remove(worker)
        elif pending:
            _give(worker, pending.pop(0), board)
        else:
            worker.pipe.send(None)
            worker.process.join()
            running.remove(worker)

    try:
        while pending or running:
            while pending and len(running) < limit:
                running.append(_start(pending.pop(0), board))
            wait([w.pipe for w in running] + [w.process.sentinel for w in running], 1.0)
            for worker in list(running):
                _listen(worker, board)
                if worker.idle:
                    ended(worker, "no result")
                elif worker.process.exitcode is not None:
                    ended(worker, f"the process died with exit code {worker.process.exitcode}")
    except KeyboardInterrupt:
        _stop(running)
        raise


def _start(job: Job, board: Board) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, os.getpid()))
    process.start()
    theirs.close()
    worker = _Worker(process, ours, job, TaskID(0))
    _give(worker, job, board)
    return worker


def _give(worker: _Worker, job: Job, board: Board) -> None:
    worker.job, worker.error, worker.idle = job, "", False
    worker.task = board.start(job)
    worker.pipe.send(job)


def _listen(worker: _Worker, board: Board) -> None:
    try:
        while worker.pipe.poll():
            message = worker.pipe.recv()
            if message is None:
                worker.idle = True
            elif isinstance(message, str):
                worker.error = message
            else:
                board.show(worker.task, *message)
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
    last = 0.0

    def report(metrics: dict[str, float]) -> None:
        nonlocal last
        if os.getppid() != parent:
            os._exit(1)  # the parent was killed: leave the folder to the next run
        if time.monotonic() - last > 0.2:
            last = time.monotonic()
            pipe.send((metrics["time/total_timesteps"], status(metrics)))

    while (job := _next(pipe)) is not None:
        try:
            error = attempt(job, report, lambda: asked)
        except Interrupted:
            sys.exit(_STOPPED)
        if error:
            pipe.send(error)
        pipe.send(None)


def _next(pipe: Connection) -> Job | None:
    try:
        job: Job | None = pipe.recv()
        return job
    except EOFError:  # the parent is gone
        return None
