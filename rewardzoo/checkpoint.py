"""Checkpoints: written atomically, read without executing code, checked before anything changes."""

from __future__ import annotations

import io
import pickle
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
    path: str | Path, kind: str | None, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote; nothing in the file is executed.

    Args:
        path: of the file.
        kind: what it must be a checkpoint of; None takes any.
        device: where its tensors are put.

    Raises:
        CheckpointError: if the file is missing, cut off, of another kind, or holds anything that
            would have to be executed.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"checkpoint {str(path)!r}: there is no such file")
    with file.open("rb") as stream:
        if stream.read(1) == b"\x80":  # ours are archives, whose pickle is read word by word
            raise _refused(path, "a bare pickle")
    try:
        content = torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        # torch says what it refused as "Unsupported global: GLOBAL posix.system was not ...".
        reason = str(error).partition("GLOBAL ")[2].split(" ")[0]
        if not reason:
            raise _unreadable(path, error) from error
        raise _refused(path, f"{reason}, asked for by its pickle,") from None
    except Exception as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {str(path)!r}: expected format {FORMAT!r}")
    if kind is not None and content["kind"] != kind:
        raise CheckpointError(
            f"checkpoint {str(path)!r}: it is of {content['kind']!r}, expected {kind!r}"
        )
    return content


def _unreadable(path: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {str(path)!r}: cannot be read ({type(error).__name__}); it is cut off or no "
        "checkpoint: put an earlier one in its place, or delete it to begin anew"
    )


def _refused(path: str | Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {str(path)!r}: {what} could execute code, so it is refused: checkpoints hold "
        "tensors, numbers and text. Delete it, unless you trust whoever wrote it"
    )
