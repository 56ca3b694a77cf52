"""What was judged before, on disk: one SQLite file for all runs, in write-ahead-log mode.

A judgement is keyed by model, prompt version and message. A message that is being asked about is
claimed, so that runs which share the file ask once; a claim runs out, so that a killed run blocks
nobody.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..rewards.base import number

_SCHEMA = """
CREATE TABLE IF NOT EXISTS judgements (
    model TEXT NOT NULL, prompt TEXT NOT NULL, message TEXT NOT NULL,
    score REAL, owner TEXT, until REAL,
    PRIMARY KEY (model, prompt, message)
) WITHOUT ROWID
"""
_KEY = "model = ? AND prompt = ? AND message"
LONGEST_LEASE = 1200.0  # seconds
_ROWS = 500  # in one query: SQLite bounds the number of parameters


def default_cache() -> Path:
    """``$REWARDZOO_CACHE/judgements.sqlite``, else in the user's cache folder."""
    root = os.environ.get("REWARDZOO_CACHE")
    base = Path(root) if root else Path.home() / ".cache" / "rewardzoo"
    return base / "judgements.sqlite"


class JudgementCache:
    """Judgements of one model under one prompt.

    Safe to use from several threads and processes; survives a kill at any moment.

    Args:
        path: of the file; it is made if missing.
        model: name of the judge.
        prompt: version of what it is asked.
        lease: seconds for which a claim holds, at most 1,200.

    Raises:
        ValueError: if the file is no such cache.
    """

    def __init__(self, path: str | Path, model: str, prompt: str, lease: float = 120.0) -> None:
        self.path = Path(path)
        self.key = (model, prompt)
        self.lease = number("lease", lease, 0.0, LONGEST_LEASE)
        self._owner = uuid.uuid4().hex
        self._lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Transactions are begun by hand: claims must see and write in one.
        self._db = sqlite3.connect(
            self.path, timeout=30.0, isolation_level=None, check_same_thread=False
        )
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            # After a power cut the last judgements may be missing, after a kill none is.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(
                f"cache={str(path)!r}: {error}; expected a cache of judgements, or no file"
            ) from None

    def look_up(self, messages: Sequence[str]) -> dict[str, float]:
        """The scores of those of ``messages`` that were judged."""
        found: dict[str, float] = {}
        with self._lock:
            for part in _parts(messages):
                marks = ",".join("?" * len(part))
                query = f"SELECT message, score FROM judgements WHERE {_KEY} IN ({marks})"
                rows = self._db.execute(f"{query} AND score IS NOT NULL", (*self.key, *part))
                found.update(rows)
        return found

    def claim(self, messages: Sequence[str]) -> list[str]:
        """Claim those of ``messages`` that nobody has judged or is asking about; returns them."""
        now = time.time()
        free: list[str] = []
        with self._lock, _Write(self._db):
            for message in messages:
                row = self._db.execute(
                    f"SELECT score, owner, until FROM judgements WHERE {_KEY} = ?",
                    (*self.key, message),
                ).fetchone()
                if row is not None:
                    score, owner, until = row
                    if score is not None:
                        continue
                    # A claim further ahead than any lease was made before the clock was set back.
                    if owner != self._owner and now < until <= now + LONGEST_LEASE:
                        continue
                self._db.execute(
                    "INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, NULL, ?, ?)",
                    (*self.key, message, self._owner, now + self.lease),
                )
                free.append(message)
        return free

    def store(self, scores: Mapping[str, float]) -> None:
        """Keep judgements, in one transaction."""
        with self._lock, _Write(self._db):
            self._db.executemany(
                "INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?, NULL, NULL)",
                [(*self.key, message, float(score)) for message, score in scores.items()],
            )

    def release(self, messages: Iterable[str]) -> None:
        """Give up own claims: others may ask."""
        with self._lock, _Write(self._db):
            self._db.executemany(
                f"DELETE FROM judgements WHERE {_KEY} = ? AND score IS NULL AND owner = ?",
                [(*self.key, message, self._owner) for message in messages],
            )

    def __len__(self) -> int:
        """How many messages were judged."""
        with self._lock:
            query = f"SELECT COUNT(*) FROM judgements WHERE {_KEY} IS NOT NULL"
            count: int = self._db.execute(f"{query} AND score IS NOT NULL", self.key).fetchone()[0]
        return count

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


class _Write:
    """A transaction that locks the file from its start, so that what it reads stays true."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *rest: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _parts(messages: Sequence[str]) -> list[Sequence[str]]:
    return [messages[i : i + _ROWS] for i in range(0, len(messages), _ROWS)]
