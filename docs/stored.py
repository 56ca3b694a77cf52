"""What takes long to make is kept in ``docs/.cache`` and made again when a source changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from rewardzoo.files import write_atomic

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "docs" / ".cache"
SOURCES = ("rewardzoo", "envs", "agents", "experiments")


@cache
def sources_digest() -> str:
    """Of every Python file of the package: whatever is shown may depend on any of them."""
    total = hashlib.sha256()
    for room in SOURCES:
        for path in sorted((ROOT / room).rglob("*.py")):
            total.update(path.relative_to(ROOT).as_posix().encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def stored(name: str, key: str, make: Callable[[], bytes]) -> bytes:
    """The bytes kept under ``name`` for this ``key`` and these sources, or what ``make`` returns.

    Args:
        name: of the file, with its suffix; an older one of the same name is replaced.
        key: of all that the bytes depend on beside the package's sources.
        make: called where nothing is stored.
    """
    digest = hashlib.sha256((sources_digest() + key).encode()).hexdigest()[:16]
    path = CACHE / f"{digest}-{name}"
    if path.is_file():
        return path.read_bytes()
    content = make()
    for old in CACHE.glob(f"{'?' * 16}-{name}"):
        old.unlink()
    write_atomic(path, content)
    return content
