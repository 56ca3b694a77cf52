"""Checkpoints: written atomically, read without executing code, checked before anything changes.

Training that saves again and again keeps the checkpoint before the last one beside it, as
``checkpoint.previous.pt``: should the last one be damaged, the run goes on from the one before, to
the same result. That takes twice a checkpoint's room on the disk, three times while one is written.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from .files import write_atomic

T = TypeVar("T")

FORMAT = "rewardzoo-checkpoint-2"


class CheckpointError(ValueError):
    """A file that is not a whole checkpoint of the expected kind."""


class DamagedCheckpointError(CheckpointError):
    """A file that is cut off, or whose content is not what was written."""


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
        CheckpointError: if the file is missing, of another kind, or holds anything that would
            have to be executed.
        DamagedCheckpointError: if it is cut off, or a bit of it has changed.
    """
    _check_whole(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        # torch says what it refused as "Unsupported global: GLOBAL posix.system was not ...".
        reason = str(error).partition("GLOBAL ")[2].split(" ")[0]
        if not reason:
            raise _damaged(path, type(error).__name__) from error
        raise _refused(path, f"{reason}, asked for by its pickle,") from None
    except Exception as error:
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {str(path)!r}: expected format {FORMAT!r}")
    if kind is not None and content["kind"] != kind:
        raise CheckpointError(
            f"checkpoint {str(path)!r}: it is of {content['kind']!r}, expected {kind!r}"
        )
    return content


def save_keeping_previous(save: Callable[[Path], None], path: str | Path) -> None:
    """Save, and keep the checkpoint that was there as ``NAME.previous.pt``.

    At every moment ``latest_checkpoint`` finds a whole one.

    Args:
        save: writes a checkpoint to the path that it is given: an agent's ``save``.
        path: of the checkpoint.
    """
    path = Path(path)
    fresh = path.with_stem(f"{path.stem}.next")
    save(fresh)
    if path.is_file():
        os.replace(path, _previous(path))
    os.replace(fresh, path)


def resume(checkpoint: str | Path, load: Callable[[Path], T], make: Callable[[], T]) -> T:
    """``load`` of the latest checkpoint (see there), or what ``make`` makes where there is none."""
    found = latest_checkpoint(checkpoint)
    return make() if found is None else load(found)


def latest_checkpoint(path: str | Path) -> Path | None:
    """The newest whole one of ``path`` and the checkpoint before it; None where there is none.

    A damaged one is set aside as ``NAME.damaged.pt`` (in place of one set aside earlier), with a
    warning that says what is gone on from.

    Raises:
        CheckpointError: if the file is a bare pickle, which is refused and left where it is.
    """
    path = Path(path)
    found, damaged = None, []
    for file in (path, _previous(path)):
        if found is None and file.is_file():
            try:
                _check_whole(file)
                found = file
            except DamagedCheckpointError:
                aside = file.with_stem(f"{file.stem}.damaged")
                os.replace(file, aside)
                damaged.append(aside.name)
    if damaged:
        then = f"going on from {found.name}" if found else "no whole one is left to go on from"
        warnings.warn(
            f"checkpoint {str(path)!r}: damaged, so set aside as {' and '.join(damaged)}; {then}",
            stacklevel=2,
        )
    return found


def remove_previous(path: str | Path) -> None:
    """Delete what ``save_keeping_previous`` kept beside ``path``: the training has ended."""
    _previous(Path(path)).unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_stem(f"{path.stem}.previous")


def _check_whole(path: str | Path) -> None:
    """Compare every part of the file with its checksum, which torch writes and does not read."""
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"checkpoint {str(path)!r}: there is no such file")
    with file.open("rb") as stream:
        if stream.read(1) == b"\x80":  # ours are archives, whose pickle is read word by word
            raise _refused(path, "a bare pickle")
    try:
        with zipfile.ZipFile(file) as archive:
            changed = archive.testzip()
    except Exception as error:
        raise _damaged(path, type(error).__name__) from error
    if changed is not None:
        raise _damaged(path, f"checksum of {changed}")


def _damaged(path: str | Path, reason: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"checkpoint {str(path)!r}: cannot be read ({reason}); it is cut off, changed or no "
        "checkpoint: put an earlier one in its place, or delete it to begin anew"
    )


def _refused(path: str | Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {str(path)!r}: {what} could execute code, so it is refused: checkpoints hold "
        "tensors, numbers and text. Delete it, unless you trust whoever wrote it"
    )
