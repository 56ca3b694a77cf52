"""Files that are written whole or not at all, and folders that one run has to itself."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Writes a file so that readers see the old one or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)  # mkstemp makes files private; give them the permissions of open()
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other runs out of ``folder``; the system lets them in when this process ends, however.

    Raises:
        ValueError: if another run is in it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"out={str(folder)!r}: another run is using it; wait for it, or use another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
