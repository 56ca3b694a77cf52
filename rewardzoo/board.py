"""Board: what the jobs of a run are at, on the terminal, and which of them failed."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from .jobs import Job

if TYPE_CHECKING:
    from typing_extensions import Self


class JobsFailed(RuntimeError):
    """Some jobs failed; the others were run."""


class Board:
    """One bar for all jobs and one for each that runs; plain lines where there is no terminal.

    Args:
        console: where it is shown.
        total: how many jobs there are.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total
        self._failed: dict[str, list[Job]] = {}  # by reason
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("[bold]all runs", total=total, status="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def start(self, job: Job) -> TaskID:
        """A job begins."""
        total = job.budget.total_timesteps
        return self._progress.add_task(job.name, total=total, status="starting")

    def show(self, task: TaskID, step: float, status: str) -> None:
        """A job has come to ``step``."""
        self._progress.update(task, completed=step, status=status)

    def end(self, task: TaskID, job: Job, error: str) -> None:
        """A job has ended; ``error`` says why, should it have left no result."""
        self._progress.remove_task(task)
        self._progress.advance(self._all)
        if not job.finished:
            self._failed.setdefault(error, []).append(job)
            self._console.print(f"failed: {job.name}: {error}", style="red", markup=False)
        elif not self._console.is_terminal:
            self._console.print(f"finished: {job.name}", highlight=False)

    def raise_if_failed(self) -> None:
        """After all have ended.

        Raises:
            JobsFailed: saying each reason once, with the jobs that it stopped.
        """
        if self._failed:
            count = f"{sum(map(len, self._failed.values()))} of {self._total}"
            reasons = "; ".join(_blame(jobs, error) for error, jobs in self._failed.items())
            raise JobsFailed(f"{count} runs failed: {reasons}")


def _blame(jobs: list[Job], error: str) -> str:
    names = ", ".join(job.name for job in jobs[:3])
    more = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
    return f"{names}{more}: {error} (see {jobs[0].folder}/log.txt)"


def status(metrics: dict[str, float]) -> str:
    """What a bar says: of an agent its speed and returns, else the first numbers."""
    if "rollout/ep_return" not in metrics:
        numbers = [(k, v) for k, v in metrics.items() if k != "time/total_timesteps"]
        return "  ".join(f"{k} {v:.4g}" for k, v in numbers[:3])
    speed, paid, objective = (
        metrics[k] for k in ("time/sps", "rollout/ep_return", "rollout/ep_objective")
    )
    return f"{speed:,.0f} steps/s  return {paid:.3f}  objective {objective:.3f}"
