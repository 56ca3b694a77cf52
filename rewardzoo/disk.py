"""Where commands write: tried before anything is run, and named with its option when it fails."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def check_writable(option: str, folder: Path) -> None:
    """Raise unless files can be written in ``folder``, which is made, before anything else is done.

    Args:
        option: of the command line, by which the folder was chosen.
        folder: where files will be written.

    Raises:
        ValueError: naming the option, the folder and the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(option, folder, error, "choose another folder") from None


def check_room(option: str, folder: Path, save: Callable[[Path], object]) -> None:
    """Raise unless there is room in ``folder`` for what ``save`` writes to the path it is given.

    Raises:
        ValueError: naming the option, the folder and the reason.
    """
    probe = folder / ".room.pt"
    with keeping_room(option, folder, lambda: "make room, or choose another folder"):
        try:
            save(probe)
        finally:
            probe.unlink(missing_ok=True)


@contextlib.contextmanager
def keeping_room(option: str, path: Path, fix: Callable[[], str]) -> Iterator[None]:
    """A full disk, or one that has become read-only, is told in a line.

    Args:
        option: of the command line, by which the path was chosen.
        path: what is written inside the block.
        fix: says what to do; asked when the disk is full.

    Raises:
        ValueError: naming the option, the path, the reason and the fix.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _unwritable(option, path, error, fix()) from None


def _unwritable(option: str, path: Path, error: OSError, fix: str) -> ValueError:
    return ValueError(f"{option} {path}: cannot write there ({error.strerror}); {fix}")
