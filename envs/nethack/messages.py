"""NetHack's messages as text."""

from __future__ import annotations

from typing import Any

import numpy as np


def decode_message(message: Any) -> str:
    """The text of a message (256,) uint8, padded with zeros.

    Example:
        >>> import numpy as np
        >>> decode_message(np.frombuffer(b"Hello!" + bytes(250), np.uint8))
        'Hello!'
    """
    return bytes(np.asarray(message, np.uint8)).split(b"\0", 1)[0].decode("latin-1")
