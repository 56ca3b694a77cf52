"""What a killed game leaves in the temporary folder, and who clears it away.

Each engine keeps its files in a folder of its own, which it removes when it is closed. A process
that is killed closes nothing. So every game locks a file in its folder; the system opens the lock
when the process is gone, however it went, and the next one to play finds and removes the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from functools import cache
from io import FileIO
from pathlib import Path

_PREFIX, _MARK = "nle", "rewardzoo.lock"  # NLE's name for its folders, our file in them


def claim(folder: str | Path) -> FileIO:
    """Mark a folder as in use for as long as the returned file is open."""
    fresh = Path(folder, f"{_MARK}.new")
    file = FileIO(fresh, "w")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fresh.rename(fresh.with_name(_MARK))  # only now, locked, does it count
    return file


@cache
def sweep() -> None:
    """Remove the folders of games whose process is gone; once a process."""
    for mark in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_MARK}"):
        try:
            file = os.open(mark, os.O_WRONLY)
        except OSError:  # somebody else's, or swept by another process meanwhile
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # still playing
            continue
        else:
            shutil.rmtree(mark.parent, ignore_errors=True)
        finally:
            os.close(file)
