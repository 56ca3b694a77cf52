"""Checkpoints of language models and trainers: written whole, read without executing code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from ..results import write_atomic


def save(path: str | Path, kind: str, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, dicts and lists of them; whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"kind": kind, **content}, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: str | Path, kind: str) -> dict[str, Any]:
    """Read what ``save`` wrote.

    Raises:
        ValueError: if the file is missing, cut off, or of another kind.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"checkpoint {str(path)!r}: there is no such file")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"checkpoint {str(path)!r}: cannot be read ({type(error).__name__}); it is cut off or "
            "no checkpoint"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise ValueError(f"checkpoint {str(path)!r}: expected one of kind {kind!r}")
    return content
