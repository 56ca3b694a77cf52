"""What ``import rewardzoo`` adds to ``import torch, gymnasium``, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from .timing import REPEATS, Row

_CODE = """
import time
import torch, gymnasium
start = time.perf_counter()
import rewardzoo
print(time.perf_counter() - start)
"""


def run(say: Callable[[str], None]) -> list[Row]:
    """The bar: 0.3 s."""
    _seconds()  # the first one writes byte code
    readings = [_seconds() for _ in range(REPEATS)]
    return [
        Row(
            "import rewardzoo, beyond torch and gymnasium",
            {"rewardzoo": readings},
            "s",
            readings,
            bar=0.3,
            at_most=True,
            times=False,
        )
    ]


def _seconds() -> float:
    command = [sys.executable, "-c", _CODE]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
