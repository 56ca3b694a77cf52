"""Training from the command line: progress, TensorBoard, checkpoints, and going on from them."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..checkpoint import latest_checkpoint, remove_previous, save_keeping_previous
from ..files import write_atomic
from .trainer import Metrics, Trainer

CHECKPOINT = "checkpoint.pt"


class Stopped(Exception):
    """Ctrl-C; what was learned is saved."""


def train(
    trainer: Trainer,
    steps: int,
    folder: Path,
    settings: Mapping[str, Any],
    console: Console,
    resume: bool = False,
    log_every: int = 10,
    save_every: int = 100,
) -> Metrics:
    """Train up to ``steps`` steps in all, writing ``checkpoint.pt`` and TensorBoard files.

    Args:
        trainer: what to train.
        steps: in all, those before a checkpoint too.
        folder: of checkpoint and logs.
        settings: what a checkpoint depends on; another run's checkpoint is refused.
        console: for the bar.
        resume: go on from the folder's checkpoint; without, one that is there is an error.
        log_every: steps.
        save_every: steps.

    Returns:
        The metrics of the last step.

    Raises:
        ValueError: for a folder that holds another run.
        Stopped: on Ctrl-C, once the checkpoint is written.
    """
    from torch.utils.tensorboard import SummaryWriter

    _claim(folder, settings, resume)
    checkpoint = folder / CHECKPOINT
    if resume:
        trainer.load(latest_checkpoint(checkpoint) or checkpoint)
    columns = (
        TextColumn("[bold]steps"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    writer = SummaryWriter(str(folder), purge_step=trainer.num_steps + 1)
    metrics: Metrics = {}
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    with progress as bar, _interrupts() as asked, closing(writer):
        task = bar.add_task("steps", total=steps, completed=trainer.num_steps, status="")
        start, done = time.perf_counter(), 0
        while trainer.num_steps < steps:
            metrics = trainer.train(1)
            done += 1
            metrics["time/steps_per_second"] = done / (time.perf_counter() - start)
            step, status = trainer.num_steps, _status(metrics)
            bar.update(task, completed=step, status=status)
            if step % log_every == 0 or step == steps:
                for name, value in metrics.items():
                    if math.isfinite(value):
                        writer.add_scalar(name, value, step)
                if not console.is_terminal:
                    console.print(f"step {step:>6}  {status}", highlight=False)
            if step % save_every == 0 or step == steps or asked:
                save_keeping_previous(trainer.save, checkpoint)
            if asked:
                raise Stopped
    remove_previous(checkpoint)
    return metrics


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM, so that no step is cut in half; a second one ends at once."""
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        for each in numbers:
            signal.signal(each, signal.default_int_handler)

    before = [signal.signal(number, note) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _claim(folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Raise unless the folder is this run's."""
    path = folder / "run.json"  # config.json is a model's
    text = json.dumps(settings, indent=1, default=str)
    if resume:
        if not path.is_file() or latest_checkpoint(folder / CHECKPOINT) is None:
            raise ValueError(f"--out {folder}: there is no checkpoint to resume")
        before = json.loads(path.read_text())
        for name, value in json.loads(text).items():
            if before.get(name) != value:
                raise ValueError(
                    f"--resume: {name} is {value!r}, the run in {folder} has {before.get(name)!r}"
                )
    elif latest_checkpoint(folder / CHECKPOINT) is not None:
        raise ValueError(
            f"--out {folder}: it holds a run; --resume goes on with it, or choose another folder"
        )
    try:
        write_atomic(path, text)
    except OSError as error:
        raise ValueError(
            f"--out {folder}: cannot write there ({error.strerror}); choose another folder"
        ) from None


def _status(metrics: Metrics) -> str:
    shown = ("train/loss", "train/accuracy", "rollout/reward", "rollout/kl_k1")
    found = [f"{name.split('/')[1]} {metrics[name]:.3g}" for name in shown if name in metrics]
    return "  ".join([*found, f"{metrics['time/steps_per_second']:.1f} steps/s"])
