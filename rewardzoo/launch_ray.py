"""Run jobs on a Ray cluster: that of ``RAY_ADDRESS``, or a new one on this machine.

Workers write into the jobs' folders, as local ones do, so the folder of the runs must be one that
every node sees. A job whose worker is lost is tried again, and goes on from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .board import Board, status
from .extras import require
from .jobs import Interrupted, Job
from .launch import attempt

RETRIES = 3
"""How often a job is tried again when the worker that ran it is lost."""

_SECONDS = 0.5  # between two looks at the tasks, and between two words of a task
_PATIENCE = 10.0  # seconds for a cluster to answer
_SETTINGS = 4  # the type of the frame with which an HTTP/2 server, as gRPC's is one, begins


def launch(jobs: Sequence[Job], workers: int, board: Board) -> None:
    """Run ``jobs``, at most ``workers`` at a time (0: as many as the cluster has cores).

    Raises:
        ValueError: if there is no cluster at ``RAY_ADDRESS``.
    """
    ray = require("ray", "ray")
    known: dict[str, Any] = {}
    if address := os.environ.get("RAY_ADDRESS"):
        check_address(address)
    else:
        known = {"num_cpus": workers or None, "include_dashboard": False}
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **known)
    stop_file = jobs[0].folder.resolve().parent.parent / ".stop"
    stop_file.unlink(missing_ok=True)
    try:
        _watch(ray, jobs, workers, board, stop_file)
    finally:
        stop_file.unlink(missing_ok=True)
        if started:
            ray.shutdown()


def check_address(address: str) -> None:
    """Ask for a sign of life where the cluster should be: Ray itself would ask for minutes.

    Args:
        address: host:port or ray://host:port; what else Ray knows ("auto", "local", other schemes)
            is left to it.

    Raises:
        ValueError: if nobody answers there, or somebody who does not speak gRPC.
    """
    place = address.removeprefix("ray://")
    if place in ("auto", "local") or "://" in place:
        return
    host, _, port = place.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(
            f"RAY_ADDRESS={address!r}: expected HOST:PORT, ray://HOST:PORT, auto or local"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE) as server:
            if os.environ.get("RAY_USE_TLS") != "1":
                server.sendall(
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS)) + bytes(5)
                )
                if server.recv(4)[3:] != bytes((_SETTINGS,)):
                    raise ConnectionError("whoever listens there is not Ray")
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"RAY_ADDRESS={address!r}: no Ray cluster answers there ({error}); start one with "
            "`ray start --head`, or unset the variable to use this machine"
        ) from None


def _watch(ray: Any, jobs: Sequence[Job], workers: int, board: Board, stop_file: Path) -> None:
    # Restarted elsewhere when its node is lost: what it knew is told again.
    news = ray.remote(num_cpus=0, max_restarts=-1)(_News).remote()
    gpus = 1 if jobs[0].device.startswith("cuda") else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_run)
    pending = list(jobs)
    running: dict[Any, tuple[Job, Any]] = {}
    try:
        while pending or running:
            while pending and (not workers or len(running) < workers):
                job = pending.pop(0)
                job = replace(job, folder=job.folder.resolve())  # the same in every process
                running[task.remote(job, news, str(stop_file))] = (job, board.start(job))
            done, _ = ray.wait(list(running), timeout=_SECONDS)
            try:
                told = ray.get(news.read.remote(), timeout=10 * _SECONDS)
            except ray.exceptions.RayError:  # it is being restarted
                told = {}
            for job, bar in running.values():
                if job.folder in told:
                    board.show(bar, *told[job.folder])
            for reference in done:
                job, bar = running.pop(reference)
                try:
                    error = ray.get(reference)
                except ray.exceptions.RayError as lost:
                    error = " ".join(str(lost).split())[:300]
                board.end(bar, job, error or "no result; is --out a folder that every node sees?")
    except KeyboardInterrupt:
        stop_file.touch()  # the tasks save and end
        ray.wait(list(running), num_returns=len(running), timeout=60)
        raise


class _News:
    """An actor that remembers how far each job has come."""

    def __init__(self) -> None:
        self.told: dict[Path, tuple[float, str]] = {}

    def tell(self, folder: Path, step: float, text: str) -> None:
        self.told[folder] = (step, text)

    def read(self) -> dict[Path, tuple[float, str]]:
        return self.told


def _run(job: Job, news: Any, stop_file: str) -> str:
    """A task: one job; returns why it failed, or nothing."""
    asked, last = False, 0.0

    def report(metrics: dict[str, float]) -> None:
        nonlocal asked, last
        if time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            asked = os.path.exists(stop_file)
            news.tell.remote(job.folder, metrics["time/total_timesteps"], status(metrics))

    try:
        return attempt(job, report, lambda: asked)
    except Interrupted:
        return "stopped"
