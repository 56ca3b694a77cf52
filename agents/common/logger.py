"""Logging: TensorBoard, a progress bar, and nothing when neither is asked for."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any


class Logger:
    """Writes metrics to TensorBoard and shows a progress bar.

    Args:
        total: environment steps to go.
        log_dir: TensorBoard folder, or None.
        progress_bar: whether to show a bar.
    """

    def __init__(self, total: int, log_dir: str | Path | None, progress_bar: bool) -> None:
        self._writer: Any = None
        self._bar: Any = None
        if log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(log_dir))
        if progress_bar:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("[bold]steps"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
            )
            self._task = self._bar.add_task("steps", total=total, status="")

    def __enter__(self) -> Logger:
        """Start the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the bar and flush."""
        if self._bar is not None:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def log(self, metrics: dict[str, float], step: int, done: int) -> None:
        """Write ``metrics`` at ``step``; ``done`` of ``total`` steps are made."""
        if self._writer is not None:
            for key, value in metrics.items():
                if math.isfinite(value):
                    self._writer.add_scalar(key, value, step)
        if self._bar is not None:
            status = (
                f"{metrics['time/sps']:,.0f} steps/s  return {metrics['rollout/ep_return']:.3g}  "
                f"objective {metrics['rollout/ep_objective']:.3g}"
            )
            self._bar.update(self._task, completed=done, status=status)
