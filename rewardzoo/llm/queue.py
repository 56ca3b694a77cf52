"""Asynchronous annotation: training hands messages in and takes labels out, and never waits.

A message is asked about once, however often it is seen: what waits, is being asked or was answered
is not taken again, and a cache on disk (``cache.JudgementCache``) extends that to other runs. While
the judge is away the messages wait; a warning says so once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..rewards.base import integer
from .cache import JudgementCache, default_cache
from .client import LLMError
from .judges import Judge

_LOG = logging.getLogger("rewardzoo.llm")
_ATTEMPTS = 3  # an answer without a verdict is asked for so often
_ASKED_BY_OTHERS = 0.25  # seconds between looks at what another run has claimed


class InlineQueue:
    """Asks a judge that answers at once, in the caller's thread: runs with it are reproducible.

    Args:
        judge: a judge whose ``instant`` is True.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._known: set[str] = set()
        self._answered: list[tuple[str, float]] = []
        self._counts: Counter[str] = Counter()

    def submit(self, messages: Iterable[str]) -> None:
        """Judge those that are new."""
        new = [m for m in dict.fromkeys(messages) if m not in self._known]
        self._known.update(new)
        for message, score in self.judge.judge(new):
            self._counts["asked"] += 1
            if score is None:
                self._counts["unparsed"] += 1
            else:
                self._counts["labelled"] += 1
                self._answered.append((message, score))

    def drain(self) -> list[tuple[str, float]]:
        """The judgements since the last call, in order of submission."""
        answered, self._answered = self._answered, []
        return answered

    def remember(self, messages: Iterable[str]) -> None:
        """These were judged before (in a run that is resumed): never ask."""
        self._known.update(messages)

    def stats(self) -> dict[str, float]:
        """Counters; see ``AnnotationQueue.stats``."""
        return {name: float(self._counts[name]) for name in ("asked", "labelled", "unparsed")}

    def wait(self, timeout: float) -> bool:
        """Nothing is ever waiting."""
        return True

    def close(self) -> None:
        """Nothing to stop."""

    def __deepcopy__(self, memo: dict[int, Any]) -> InlineQueue:
        return self


class AnnotationQueue:
    """Asks a judge in a thread of its own, newest messages first.

    Args:
        judge: whom to ask.
        cache: file in which judgements are kept and shared by runs, None for none.
        batch_size: messages taken at a time.
        max_waiting: messages that may wait; beyond it new ones are dropped and counted. A dropped
            message is taken when it is seen again.
        pause: seconds until a judge that is away is asked again: at first, and at most.
        lease: seconds for which a message is claimed from other runs.
    """

    def __init__(
        self,
        judge: Judge,
        cache: str | Path | None = None,
        batch_size: int = 100,
        max_waiting: int = 10_000,
        pause: tuple[float, float] = (1.0, 60.0),
        lease: float = 120.0,
    ) -> None:
        self.judge = judge
        self.batch_size = integer("batch_size", batch_size, 1)
        self.max_waiting = integer("max_waiting", max_waiting, 1)
        self._pause, self._path, self._lease = pause, cache, lease
        self._cache: JudgementCache | None = None
        self._changed = threading.Condition()
        # All below is touched only while holding ``_changed``.
        self._stack: list[str] = []
        self._submitted: dict[str, float] = {}  # when: what is known, answered or not
        self._attempts: Counter[str] = Counter()
        self._in_flight = 0
        self._answered: list[tuple[str, float]] = []
        self._counts: Counter[str] = Counter()
        self._latency = 0.0
        self._away = 0  # failures in a row
        self._closed = False
        self._defect: BaseException | None = None
        self._thread: threading.Thread | None = None

    # ---- the learner's side ------------------------------------------------------------------

    def submit(self, messages: Iterable[str]) -> None:
        """Ask about those that are new; returns at once."""
        now = time.monotonic()
        with self._changed:
            if self._closed:
                return
            for message in messages:
                if message in self._submitted:
                    continue
                if len(self._stack) >= self.max_waiting:
                    self._counts["dropped"] += 1
                    continue
                self._submitted[message] = now
                self._stack.append(message)
            if self._stack and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="annotation", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drain(self) -> list[tuple[str, float]]:
        """The judgements (message, score in [0, 1]) that arrived since the last call.

        Raises:
            RuntimeError: if the judge has a defect, which asking again would not mend.
        """
        with self._changed:
            if self._defect is not None:
                raise RuntimeError(
                    f"judge {self.judge.name!r} failed and no more messages are judged: "
                    f"{self._defect!r}"
                ) from self._defect
            answered, self._answered = self._answered, []
        return answered

    def remember(self, messages: Iterable[str]) -> None:
        """These were judged before (in a run that is resumed): never ask."""
        with self._changed:
            self._submitted.update(dict.fromkeys(messages, 0.0))

    def stats(self) -> dict[str, float]:
        """What happened so far.

        ``asked`` answers of the judge, ``from_cache`` found on disk, ``labelled`` either way,
        ``waiting``, ``dropped``, ``unparsed`` given up after answers without a verdict,
        ``outages``, ``latency`` mean seconds from submission to label, and ``failures/KIND``.
        """
        names = ("asked", "from_cache", "labelled", "dropped", "unparsed", "outages")
        with self._changed:
            stats = {name: float(self._counts[name]) for name in names}
            stats["waiting"] = float(len(self._stack) + self._in_flight)
            stats["latency"] = self._latency / max(1, self._counts["labelled"])
            failures = Counter(self.judge.failures)
        stats.update({f"failures/{kind}": float(count) for kind, count in failures.items()})
        return stats

    def wait(self, timeout: float) -> bool:
        """Wait until nothing waits or is being asked; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._stack and not self._in_flight or self._defect is not None, timeout
            )

    def close(self) -> None:
        """Stop asking; waiting messages are forgotten, and asked again when seen again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.judge.close()
        if self._thread is not None:
            self._thread.join(5.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> AnnotationQueue:
        return self  # copies of a reward function share whom they ask

    # ---- the judge's side --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._work(batch)
        except Exception as error:  # kept for the learner: ``drain`` raises it
            with self._changed:
                self._defect = error
                self._in_flight = 0
                self._changed.notify_all()
        finally:
            if self._cache is not None:
                self._cache.close()

    def _take(self) -> list[str]:
        """The newest messages; waits for some; empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._stack) or self._closed)
            if self._closed:
                return []
            batch = self._stack[: -self.batch_size - 1 : -1]
            del self._stack[-self.batch_size :]
            self._in_flight = len(batch)
            return batch

    def _work(self, batch: list[str]) -> None:
        left = dict.fromkeys(batch)
        error: LLMError | None = None
        mine: Sequence[str] = batch
        try:
            cache = self._open_cache()
            if cache is not None:
                for message, score in cache.look_up(batch).items():
                    del left[message]
                    self._deliver(message, score, "from_cache")
                mine = cache.claim(list(left))
            for message, verdict in self.judge.judge(mine):
                if verdict is not None:
                    if cache is not None:
                        cache.store({message: verdict})
                    self._deliver(message, verdict, "asked")
                    del left[message]
                elif self._give_up(message):
                    del left[message]
                if self._closed:
                    break
        except LLMError as failure:
            error = failure
        if self._cache is not None:
            self._cache.release(mine)  # what was not answered
        with self._changed:
            # Below what came meanwhile: the newest first.
            self._stack[:0] = reversed(left)
            self._in_flight = 0
            self._note(error, stuck=not mine and bool(left))
            self._changed.notify_all()

    def _open_cache(self) -> JudgementCache | None:
        if self._cache is None and self._path is not None:
            judge = self.judge
            self._cache = JudgementCache(self._path, judge.name, judge.version, self._lease)
        return self._cache

    def _deliver(self, message: str, score: float, source: str) -> None:
        with self._changed:
            self._in_flight -= 1
            self._counts[source] += 1
            self._counts["labelled"] += 1
            self._latency += time.monotonic() - self._submitted[message]
            self._answered.append((message, score))
            self._changed.notify_all()

    def _give_up(self, message: str) -> bool:
        """Count an answer without a verdict; whether that was the last attempt."""
        with self._changed:
            self._counts["asked"] += 1
            self._attempts[message] += 1
            last = self._attempts[message] >= _ATTEMPTS
            if last:
                self._counts["unparsed"] += 1
                self._in_flight -= 1
            return last

    def _note(self, error: LLMError | None, stuck: bool) -> None:
        """Remember whether the judge is away, say so once, and wait before it is asked again."""
        if error is None:
            if self._away:
                _LOG.warning("judge %s answers again", self.judge.name)
            self._away = 0
            if stuck:
                self._changed.wait_for(lambda: self._closed, _ASKED_BY_OTHERS)
            return
        if not self._away:
            self._counts["outages"] += 1
            _LOG.warning(
                "judge %s is away (%s: %s); training goes on with the labels there are, "
                "%d messages wait",
                self.judge.name, error.kind, error, len(self._stack),
            )  # fmt: skip
        first, most = self._pause
        pause = error.wait if error.wait is not None else first * 2.0 ** min(self._away, 20)
        self._away += 1
        self._changed.wait_for(lambda: self._closed, min(pause, most))


Queue = InlineQueue | AnnotationQueue


def queue_for(judge: Judge, cache: str | Path | None = None) -> Queue:
    """The queue that fits a judge: inline where it answers at once, else a thread and a cache.

    Args:
        judge: whom to ask.
        cache: file for the judgements of one that takes time; None for the user's.
    """
    return InlineQueue(judge) if judge.instant else AnnotationQueue(judge, cache or default_cache())
