"""Checkpoints: written atomically, read without executing code, checked before anything changes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from .results import write_atomic

FORMAT = "rewardzoo-checkpoint-2"


class CheckpointError(ValueError):
    """A file that is not a whole checkpoint of the expected kind."""


def save_checkpoint(path: str | Path, kind: str, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, strings, dicts and lists of them) to ``path``.

    The file appears whole or not at all.

    Args:
        path: of the file.
        kind: what it is a checkpoint of: an algorithm, a model.
        content: any names but ``format`` and ``kind``.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "kind": kind, **content}, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(
    path: str | Path, kind: str, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote.

    Raises:
        CheckpointError: if the file is missing, cut off, or of another kind.
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
    if content["kind"] != kind:
        raise CheckpointError(
            f"checkpoint {str(path)!r}: it is of {content['kind']!r}, expected {kind!r}"
        )
    return content
