"""Checkpoints: written atomically, read without executing code, checked before anything changes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

FORMAT = "rewardzoo-checkpoint-1"


class CheckpointError(ValueError):
    """A file that is not a whole checkpoint of the expected kind."""


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, strings, dicts and lists of them) to ``path``.

    The file appears whole or not at all.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | Path, algorithm: str, device: torch.device) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote.

    Raises:
        CheckpointError: if the file is missing, cut off, or of another algorithm.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"checkpoint {str(path)!r}: there is no such file")
    try:
        content = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {str(path)!r}: cannot be read ({type(error).__name__}); it is cut off or "
            "no checkpoint: use an earlier one"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {str(path)!r}: expected format {FORMAT!r}")
    if content["algorithm"] != algorithm:
        raise CheckpointError(
            f"checkpoint {str(path)!r}: it is of {content['algorithm']!r}, expected {algorithm!r}"
        )
    return content
