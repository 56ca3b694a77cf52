"""Worker processes: each owns several engines, which write into memory that all processes share.

One step costs one handshake: a semaphore wakes the worker (on Linux a futex: no system call where
nobody has to be woken), it steps its engines, one after the other or as a crew (``engines.Crew``),
and a semaphore wakes the caller. Nothing is sent: actions, observations and rewards lie in shared
memory. A pipe carries only what is rare: pictures and the text of exceptions.

One process an environment, the usual way, wakes as many processes a step as there are
environments; here there are as many as processor cores, and the caller's may be one of them.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engines import Crew, Engine, crew_of, leaves, tree, view

Layout = Mapping[str, tuple[tuple[int, ...], Any]]
STEP, RESET, RENDER, CLOSE = range(4)
_POLL = 0.2  # seconds between two looks whether the other side lives
_LOOKS = 500 if hasattr(os, "sched_yield") else 0  # at a semaphore, before falling asleep
# Forking takes milliseconds, and scripts need no ``if __name__ == "__main__"``. Where processes
# cannot be forked safely they are spawned.
_CONTEXT: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def _nothing() -> None:
    """What there is to do while others work, by default."""


class WorkerError(RuntimeError):
    """A worker process that fails again and again."""


class Board:
    """Arrays in shared memory, cut from one block.

    Args:
        layout: name to shape and dtype.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = dict(layout)
        # Each array begins a cache line, so that two processes never write into the same one
        # except where rows of small arrays meet.
        self.size = sum(-(-_bytes(*spec) // 64) * 64 for spec in self.layout.values())
        self.block = _CONTEXT.RawArray("b", max(self.size, 1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays, in whichever process asks."""
        memory = np.frombuffer(self.block, np.uint8)
        out, start = {}, 0
        for name, (shape, dtype) in self.layout.items():
            count = _bytes(shape, dtype)
            out[name] = memory[start : start + count].view(dtype).reshape(shape)
            start += -(-count // 64) * 64
        return out


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * int(np.dtype(dtype).itemsize)


@dataclass(frozen=True)
class Job:
    """What a worker does; picklable, so that it can be spawned too."""

    engine: Callable[..., Engine]
    kwargs: dict[str, Any]
    rows: range
    board: Board
    same_step: bool
    next_step: bool
    limit: int
    index: int  # of the worker
    helpers: int = 0  # threads that step engines beside the process's own


def board_layout(engine: Engine, num_envs: int, num_workers: int) -> Layout:
    """The arrays of ``num_envs`` worlds like ``engine``.

    ``floats`` holds rewards, returns so far and float info; ``ints`` episode lengths and integer
    info; ``final.…`` what a row's last step of an episode said, where the row was reset with it.
    """
    fields = engine.info_fields.values()
    n, floats = num_envs, sum(kind is float for kind in fields)
    layout: dict[str, tuple[tuple[int, ...], Any]] = {
        "command": ((num_workers, 8), np.int64),  # a cache line each
        "action": ((n, *(engine.action_space.shape or ())), engine.action_space.dtype),
        "seed": ((n,), np.int64),  # -1: go on with the sequence of episodes
        "mask": ((n,), np.bool_),  # rows to reset
        "over": ((n,), np.bool_),  # the row's episode has ended and it was not reset yet
        "flags": ((3, n), np.bool_),  # terminated, truncated, either
        "floats": ((2 + floats, n), np.float32),
        "ints": ((1 + len(fields) - floats, n), np.int64),
        "final.floats": ((2 + floats, n), np.float32),
        "final.ints": ((1 + len(fields) - floats, n), np.int64),
    }
    for name, (shape, dtype) in leaves(engine.observation_space).items():
        layout[f"obs.{name}"] = ((n, *shape), dtype)
        layout[f"final.obs.{name}"] = ((n, *shape), dtype)
    return layout


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def slots(info_fields: Mapping[str, type], floats: Any, ints: Any) -> dict[str, Any]:
    """Name to the (N,) row of ``floats`` or ``ints`` that holds the info of that name."""
    next_float, next_int = iter(floats[2:]), iter(ints[1:])
    return {k: next(next_float if v is float else next_int) for k, v in info_fields.items()}


class Worker:
    """The caller's side of one worker process.

    Args:
        job: what it does.
        timeout: seconds after which a silent process counts as hung.
    """

    def __init__(self, job: Job, timeout: float) -> None:
        self.job, self.timeout = job, timeout
        self.command = job.board.arrays()["command"][job.index]
        self.name = f"worker {job.index} (rows {job.rows.start} to {job.rows.stop - 1})"
        self.start()

    def start(self) -> None:
        """Start the process; ``wait`` returns when its engines are made."""
        self._go, self._done = _CONTEXT.Semaphore(0), _CONTEXT.Semaphore(0)
        self._ready = False  # said so, and was not waited for yet
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(
            target=_serve,
            args=(self.job, self._go, self._done, theirs, os.getpid()),
            name=f"rewardzoo-worker-{self.job.index}",
            daemon=True,
        )
        with warnings.catch_warnings():
            # The child uses no thread of the parent's: it runs engines and NumPy alone.
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            self.process.start()
        theirs.close()

    def send(self, command: int) -> None:
        """Wake the worker."""
        self.command[0] = command
        self._go.release()

    def ready(self) -> bool:
        """Whether ``wait`` would return at once."""
        self._ready = self._ready or self._done.acquire(False)
        return self._ready

    def wait(self, meanwhile: Callable[[], None] = _nothing) -> str:
        """Until the worker is ready; empty, or what went wrong with it.

        ``meanwhile`` is called where there is nothing to do but wait.
        """
        if not self.ready():
            meanwhile()
        if self._ready or _taken(self._done, _POLL):
            self._ready = False
            return ""
        deadline = time.monotonic() + self.timeout - _POLL
        while not self._done.acquire(True, min(_POLL, self.timeout)):
            if self.process.exitcode is not None:
                return self._last_words()
            if time.monotonic() > deadline:
                return f"said nothing for {self.timeout:g} s"
        return ""

    def _last_words(self) -> str:
        with contextlib.suppress(EOFError, OSError):
            if self.pipe.poll():
                return str(self.pipe.recv())
        code = self.process.exitcode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def stop(self) -> None:
        """End the process, kindly if it listens."""
        if self.process.exitcode is None:
            self.send(CLOSE)
            self.process.join(1.0)
        self.kill()

    def kill(self) -> None:
        """End the process."""
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.pipe.close()


class InProcess:
    """``Worker`` without a process: its engines step in the caller's.

    Waking a process and waiting for it takes as long as a few steps of fast worlds. What an engine
    raises is told as a worker tells it; one that crashes or hangs does so to the caller.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.pipe = job, self
        self.name = f"rows {job.rows.start} to {job.rows.stop - 1}"
        self._frames: list[Any] = []
        self._problem = ""
        self.start()

    def start(self) -> None:
        """Make the engines."""
        self._attempt(self._make)

    def send(self, command: Any) -> None:
        """Do it, but for steps, which are only begun; what is no command is a mode of frames."""
        if command == STEP:
            self._attempt(self.rows.start)
        elif command == RESET:
            self._attempt(self.rows.reset)
        elif isinstance(command, str):
            self._frames = [engine.render(command) for engine in self.rows.engines]

    def recv(self) -> list[Any]:
        """The frames."""
        return self._frames

    def wait(self, meanwhile: Callable[[], None] = _nothing) -> str:
        """End what was begun; what it raised, or nothing. ``meanwhile``: see ``Worker``."""
        if not self._problem:
            self._attempt(lambda: self.rows.finish(meanwhile))
        problem, self._problem = self._problem, ""
        return problem

    def kill(self) -> None:
        """Leave the engines as they are, they may be broken; but no thread steps them any more."""
        if hasattr(self, "rows"):
            self.rows.crew.close()

    def stop(self) -> None:
        """Close the engines."""
        if hasattr(self, "rows"):
            self.rows.close()

    def _make(self) -> None:
        self.rows = _Rows(self.job)

    def _attempt(self, order: Callable[[], None]) -> None:
        try:
            order()
        except Exception:  # whatever an engine raises, as in a process of its own
            self._problem = _raised()


def _raised() -> str:
    """The exception at hand, as text."""
    return f"raised\n{traceback.format_exc()[-8000:]}"


def _serve(job: Job, go: Any, done: Any, pipe: Any, parent: int) -> None:
    """What the worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller gets it too, and ends us
    try:
        rows = _Rows(job)
        done.release()
        while True:
            while not _taken(go, 5.0):
                if os.getppid() != parent:
                    return
            command = int(rows.command[0])
            if command == STEP:
                rows.start()
                rows.finish()
            elif command == RESET:
                rows.reset()
            elif command == RENDER:
                mode = pipe.recv()
                pipe.send([engine.render(mode) for engine in rows.engines])
            else:
                rows.close()
                return
            done.release()
    except BaseException:
        with contextlib.suppress(OSError):
            pipe.send(_raised())
        os._exit(1)  # whatever engines would do at exit, they may be broken


def _taken(semaphore: Any, seconds: float) -> bool:
    """Take a semaphore; False where nobody released it for so long.

    Between two steps of a rollout there is little time, and whoever falls asleep in it finds its
    caches cold: so first it looks again and again, a quarter of a millisecond at most, and leaves
    its core to anybody who wants it.
    """
    for _ in range(_LOOKS):
        if semaphore.acquire(False):
            return True
        os.sched_yield()
    return bool(semaphore.acquire(True, seconds))


class _Rows:
    """The engines of one worker, and their rows of the shared arrays."""

    def __init__(self, job: Job) -> None:
        self.same_step, self.next_step, self.limit = job.same_step, job.next_step, job.limit
        arrays = self.arrays = job.board.arrays()
        self.command = arrays["command"][job.index]
        self.rows = job.rows
        self.engines = [job.engine(**job.kwargs) for _ in self.rows]
        fields = slots(self.engines[0].info_fields, arrays["floats"], arrays["ints"])
        obs = {k[len("obs.") :]: v for k, v in arrays.items() if k.startswith("obs.")}
        for i, engine in zip(self.rows, self.engines, strict=True):
            row = {k: v[i, ...] for k, v in obs.items()}
            info = {k: view(v[i : i + 1]) for k, v in fields.items()}
            engine.attach(tree(engine.observation_space, row), info)
        self.crew: Crew = crew_of(self.engines, job.helpers)
        self._asleep: list[tuple[int, int]] = []  # engines and rows whose step is a dead one
        self._stepping = False
        self.time = [0] * len(self.rows)
        self.total = [0.0] * len(self.rows)
        # Reading and writing single numbers is several times faster through these.
        views = [view(arrays[k]) for k in ("seed", "mask", "over")]
        self.seed, self.mask, self.over = views
        views = [view(x) for x in (*arrays["flags"], *arrays["floats"][:2])]
        self.terminated, self.truncated, self.done, self.reward, self.returned = views
        self.length = view(arrays["ints"][0])
        self._flags = arrays["flags"]
        action = arrays["action"]
        self.action = view(action) if action.ndim == 1 else action
        self.finals = [
            (arrays[k[len("final.") :]], v) for k, v in arrays.items() if k.startswith("final.obs.")
        ]
        self.final_numbers = [(arrays[k], arrays[f"final.{k}"]) for k in ("floats", "ints")]

    def start(self) -> None:
        """Begin one step of every row."""
        first, last = self.rows.start, self.rows.stop
        actions: list[Any] = list(self.action[first:last])
        self._asleep = []
        if True in self.over[first:last]:
            self._asleep = [(j, i) for j, i in enumerate(self.rows) if self.over[i]]
            for j, _ in self._asleep:
                actions[j] = None
        self.crew.start(actions)
        self._stepping = True
        self._flags[:, first:last] = False

    def finish(self, meanwhile: Callable[[], None] = _nothing) -> None:
        """End the step that was begun, if there is one; ``meanwhile``: see ``Crew``."""
        if not self._stepping:
            return
        self._stepping = False
        for j, i in self._asleep:
            self.sleep(j, i)
        for j, outcome in self.crew.outcomes(meanwhile):
            self.note(j, self.rows[j], *outcome)

    def sleep(self, j: int, i: int) -> None:
        """The dead step of next-step autoreset."""
        self.begin(j, i)
        self.reward[i] = self.returned[i] = 0.0
        self.length[i] = 0

    def note(self, j: int, i: int, reward: float, terminated: bool, truncated: bool) -> None:
        """Write down what a row's step said; in same-step mode reset it."""
        self.time[j] = length = self.time[j] + 1
        self.total[j] = returned = self.total[j] + reward
        truncated = truncated or length >= self.limit
        self.reward[i], self.returned[i], self.length[i] = reward, returned, length
        if terminated or truncated:
            self.terminated[i], self.truncated[i] = terminated, truncated
            self.done[i] = self.over[i] = True
            if self.same_step:
                self.keep(i)
                self.begin(j, i)

    def keep(self, i: int) -> None:
        """Copy what the row's last step said out of the way of the reset."""
        for now, final in self.finals:
            final[i] = now[i]
        for now, final in self.final_numbers:
            final[:, i] = now[:, i]

    def reset(self) -> None:
        """Begin the next episode of the rows in the mask."""
        for j, i in enumerate(self.rows):
            if self.mask[i]:
                self.begin(j, i)

    def begin(self, j: int, i: int) -> None:
        """Begin the next episode of a row."""
        seed = self.seed[i]
        self.seed[i] = -1
        self.engines[j].reset(None if seed < 0 else seed)
        self.crew.began(j)
        self.time[j], self.total[j] = 0, 0.0
        self.over[i] = False

    def close(self) -> None:
        self.crew.close()
        for engine in self.engines:
            engine.close()
