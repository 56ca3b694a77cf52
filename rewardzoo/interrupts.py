"""Ctrl-C while the command is still importing: one line, and no traceback out of a library.

Importing this installs the handler where the process is the ``rewardzoo`` command, and nothing
anywhere else. The command gives Ctrl-C back to Python when it begins.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any


def is_command(arguments: list[str]) -> bool:
    """Whether a process that was started so is ``rewardzoo`` or ``python -m rewardzoo``."""
    _, *rest = arguments or [""]
    return rest[:2] == ["-m", "rewardzoo"] or (bool(rest) and Path(rest[0]).stem == "rewardzoo")


def _leave(signum: int, frame: Any) -> None:
    """At once: an exception here would be raised, and sometimes caught, by whatever is imported."""
    os.write(2, b"stopped\n")
    os._exit(130)


def release() -> None:
    """Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Not where a shell has it ignored, as it does for jobs in the background.
if is_command(sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
