"""SimulatorVectorEnv: many worlds of one simulator in a few worker processes, as one batch.

The vector face of what is no ``FuncEnv``: NetHack, MuJoCo, any Gymnasium environment. It returns
what ``FunctionalVectorEnv`` returns: tensors, a dense ``final_obs``, all three autoreset modes.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from .autoreset import parse_autoreset_mode
from .engines import Engine, load
from .functional import check_device
from .mirror import Copy, Mirror
from .random import row_seeds
from .transition import to_numpy
from .workers import (
    RENDER,
    RESET,
    STEP,
    Board,
    InProcess,
    Job,
    Worker,
    WorkerError,
    board_layout,
    cores,
)

Step = tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]

_BLANKS = 16  # rooms for the results of steps to come, at most
_ROOMS = 2  # that take turns where results are not copies
_GIVE_UP = 3  # failures of a worker without a completed step between them


class SimulatorVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """N worlds of a simulator, stepped by a few processes that own several each.

    ``step`` returns tensors on ``device``, as ``FunctionalVectorEnv`` does: observations (N, ...),
    rewards (N,) float32, ``terminated`` and ``truncated`` (N,) bool, and in ``info``, dense over
    all rows: ``objective``; ``episode`` (``r``, ``objective``, ``l``) with mask ``_episode``; the
    engine's ``info_fields``; in same-step mode ``final_obs`` with mask ``_final_obs``, and
    ``final_info``. Row ``i`` of a batch seeded with ``s`` is the single world seeded with
    ``s + i``.

    A worker that dies, raises or says nothing for ``timeout`` seconds is named in a warning and
    started again; the episodes of its rows are reported as truncated, with the last observation
    that was returned, and their next ones have fresh seeds. ``restarts`` counts it.

    For double buffering make two batches of half the size, with ``num_workers`` given, and let one
    step while the policy looks at the other: ``a.step_async(actions)``, work on ``b``, then
    ``a.step_wait()``.

    Args:
        num_envs: N.
        engine: makes an ``Engine``: a callable, or ``"module:name"``.
        num_workers: processes, at most N. Default: one for each processor core, or for each two
            where the engines have a ``Crew``; the caller's is among them: it steps its share while
            the others step theirs, so that there is one less to wake and to wait for. 0: the
            caller's alone. What a simulator raises in the caller's process is mended as in any
            other, but one that crashes or hangs there takes the caller along; any number keeps all
            worlds out of it.
        device: where the tensors live.
        max_episode_steps: truncate after so many steps; None never truncates.
        autoreset_mode: one of Gymnasium's three modes, by value or by name.
        render_mode: one of the engine's ``render_modes``; frames come as a tuple of N.
        timeout: seconds in which a worker must have stepped, or made, its worlds.
        copy: whether the tensors of a step are new ones, as in Gymnasium's vector environments.
            False: the next step but one overwrites them, so that what a step changed can still be
            seen. That saves making some twenty tensors, which matters where steps take a tenth of
            a millisecond, to loops that copy what they keep; reward wrappers and agents, which do
            not, refuse it. On another device than the CPU tensors are always new.
        **kwargs: of ``engine``.

    Raises:
        WorkerError: if a worker fails three times without one step in between.
    """

    def __init__(
        self,
        num_envs: int,
        engine: str | Callable[..., Engine],
        num_workers: int | None = None,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        timeout: float = 60.0,
        copy: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, value, low in (("num_envs", num_envs, 1), ("num_workers", num_workers, 0),
                                 ("max_episode_steps", max_episode_steps, 1)):  # fmt: skip
            if value is not None and not value >= low:
                raise ValueError(f"{name}={value}: expected an integer >= {low}")
        if not timeout > 0:
            raise ValueError(f"timeout={timeout}: expected a number of seconds > 0")
        self.device = check_device(device)
        self.autoreset_mode = mode = parse_autoreset_mode(autoreset_mode)
        make = load(engine)
        probe = make(**kwargs)
        if render_mode is not None and render_mode not in probe.render_modes:
            raise ValueError(f"render_mode={render_mode!r}: expected {list(probe.render_modes)}")
        self.render_mode, self.max_episode_steps = render_mode, max_episode_steps
        self.metadata = {"autoreset_mode": mode, "render_modes": list(probe.render_modes)}
        self.num_envs = num_envs
        self.single_observation_space = probe.observation_space
        self.single_action_space = probe.action_space
        self.observation_space = batch_space(probe.observation_space, num_envs)
        self.action_space = batch_space(probe.action_space, num_envs)
        self.info_fields = dict(probe.info_fields)
        self._names = [k for k, v in self.info_fields.items() if v is float]
        self._names += [k for k, v in self.info_fields.items() if v is not float]

        # Where engines of a process can step at the same time, two cores share a process.
        threads = min(cores() if num_workers is None else max(1, num_workers), num_envs)
        paired = num_workers is None and threads > 1 and getattr(probe, "crew", None) is not None
        count, helpers = (threads // 2, 1) if paired else (threads, 0)
        board = Board(board_layout(probe, num_envs, count))
        probe.close()
        self._arrays = arrays = board.arrays()
        self._mirror = Mirror(self.device, self.single_observation_space, arrays)
        self._failures = [0] * count
        self.restarts = 0
        bounds = [num_envs * w // count for w in range(count + 1)]
        self._same_step = same = mode is AutoresetMode.SAME_STEP
        following = mode is AutoresetMode.NEXT_STEP
        limit = max_episode_steps or 1 << 62
        arrays["seed"][:] = -1
        jobs = [
            Job(make, kwargs, range(*bounds[w : w + 2]), board, same, following, limit, w, helpers)
            for w in range(count)
        ]
        # The caller's share is the last one: by then the others are at work.
        self.workers: list[Worker | InProcess] = [Worker(job, timeout) for job in jobs[:-1]]
        own = InProcess(jobs[-1]) if not num_workers else Worker(jobs[-1], timeout)
        self.workers.append(own)
        self._finalizer = weakref.finalize(self, _stop, self.workers)
        self._obs: Any = None
        self._last: list[NDArray[Any]] = []  # flags, floats and ints of the last step
        self._waiting = False
        self._blanks: list[tuple[Copy, Step]] = []
        self._rooms: Iterator[Copy] | None = None
        self.reuses_tensors = not copy and self.device.type == "cpu"
        if self.reuses_tensors:
            self._rooms = itertools.cycle([self._mirror.blank() for _ in range(_ROOMS)])
        for worker in self.workers:
            if problem := worker.wait():
                self._give_up(worker, problem)

    # ---- Gymnasium's face --------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode of every row, or of the rows in ``options["reset_mask"]``.

        Args:
            seed: one int ``s`` (row ``i`` gets ``s + i``) or N of them: start the sequences of
                episodes anew. None continues them.
            options: ``{"reset_mask": (N,) bool}`` resets part of the batch.
        """
        mask = (options or {}).get("reset_mask")
        if self._obs is None and mask is not None:
            raise gymnasium.error.ResetNeeded("the first reset cannot have a reset_mask")
        rows = np.ones(self.num_envs, bool) if mask is None else self._check_mask(mask)
        seeds = None
        if seed is not None or self._obs is None:
            seeds = row_seeds(self, seed)
        self._reset_rows(self.workers, rows, seeds)
        self._arrays["flags"][:, rows] = False
        self._arrays["floats"][:2, rows] = 0.0
        self._arrays["ints"][0, rows] = 0
        copy = self._mirror.fill(self._mirror.blank())
        self._obs, self._last = copy.obs, copy.numbers
        return copy.obs, self._fields(copy)

    def step(self, actions: Any) -> Step:
        """One step of every row; see the class for what comes back."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Let the workers step; the caller's own share, if it has one, steps in ``step_wait``."""
        if self._obs is None:
            raise gymnasium.error.ResetNeeded("call envs.reset() before anything else")
        if self._waiting:
            raise RuntimeError("step_async: the step before is still running; call step_wait()")
        action = np.asarray(to_numpy(actions))
        if action.shape != self.action_space.shape:
            raise ValueError(f"actions: shape {action.shape}, expected {self.action_space.shape}")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._arrays["over"].any():
            raise gymnasium.error.ResetNeeded(
                "autoreset is disabled and an episode is over: "
                'call reset(options={"reset_mask": terminated | truncated}) first'
            )
        self._arrays["action"][...] = action
        self._waiting = True
        for worker in self.workers:
            worker.send(STEP)

    def step_wait(self) -> Step:
        """Wait for the workers; returns what ``step`` returns."""
        if not self._waiting:
            raise RuntimeError("step_wait: no step is running; call step_async(actions)")
        self._waiting = False
        if not self._blanks:
            self._store_blank()
        # The caller's own share first: it waits for nobody.
        workers = reversed(self.workers)
        failed = [(w, problem) for w in workers if (problem := w.wait(self._store_blank))]
        for worker, problem in failed:
            self._restart(worker, problem)
        if not failed and any(self._failures):
            self._failures = [0] * len(self.workers)
        copy, result = self._blanks.pop()
        self._mirror.fill(copy)
        self._obs, self._last = copy.obs, copy.numbers
        # Where no row was reset, the very same tensors: that tells callers so.
        if self._same_step and 1 in copy.numbers[0][2].tobytes():
            last, info = self._mirror.ended(copy), result[4]
            info["final_obs"] = last.obs
            if self._names:
                info["final_info"] = self._fields(last)
        return result

    def _store_blank(self) -> None:
        """Whoever must wait makes room for the steps to come; who need not has some in store."""
        if len(self._blanks) < (_BLANKS if self._rooms is None else 1):
            self._blanks.append(self._blank_step())

    def _blank_step(self) -> tuple[Copy, Step]:
        """What the step will return, to be filled when the workers are ready."""
        copy = self._mirror.blank() if self._rooms is None else next(self._rooms)
        (terminated, truncated, done), (reward, returned, *_), (length, *_) = copy.rows
        fields = self._fields(copy)
        info: dict[str, Any] = {
            **fields,
            "objective": reward,
            "episode": {"r": returned, "objective": returned, "l": length},
            "_episode": done,
        }
        if self._same_step:
            info["final_obs"], info["_final_obs"] = copy.obs, done
            if fields:
                info["final_info"] = fields
        return copy, (copy.obs, reward, terminated, truncated, info)

    def _fields(self, copy: Copy) -> dict[str, Tensor]:
        """The engines' own numbers by name."""
        _, floats, ints = copy.rows
        return dict(zip(self._names, (*floats[2:], *ints[1:]), strict=True))

    def render(self) -> tuple[Any, ...] | None:
        """N frames, by ``render_mode``."""
        if self.render_mode is None:
            return None
        if self._obs is None:
            raise gymnasium.error.ResetNeeded("call envs.reset() before envs.render()")
        frames: list[Any] = []
        for worker in self.workers:
            worker.send(RENDER)
            worker.pipe.send(self.render_mode)
            frames += worker.pipe.recv()
            worker.wait()
        return tuple(frames)

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers."""
        if hasattr(self, "_finalizer"):  # Gymnasium closes what was never made, too
            self._finalizer()

    # ---- failures ----------------------------------------------------------------------------

    def _restart(self, worker: Worker | InProcess, problem: str) -> None:
        """Start a worker anew; its rows' episodes end as truncated."""
        rows = self._replace(worker, problem)
        arrays = self._arrays
        # What the dead worker wrote may be half a step: take all from the step before.
        self._mirror.put(self._obs, rows)
        flags, floats, ints = (x[:, rows] for x in self._last)
        going = ~flags[2]
        arrays["flags"][:, rows] = [[False], [True], [True]]
        arrays["floats"][:, rows], arrays["ints"][:, rows] = floats, ints
        arrays["floats"][0, rows] = 0.0
        arrays["floats"][1, rows] *= going
        arrays["ints"][0, rows] = ints[0] * going + 1
        arrays["over"][rows] = True
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._mirror.keep(rows)
            mask = np.zeros(self.num_envs, bool)
            mask[rows] = True
            self._reset_rows([worker], mask)

    def _reset_rows(
        self,
        workers: Sequence[Worker | InProcess],
        mask: NDArray[np.bool_],
        seeds: NDArray[np.int64] | None = None,
    ) -> None:
        """Begin the next episode of the rows in ``mask``, which ``workers`` own."""
        self._arrays["mask"][...] = mask
        concerned = [w for w in workers if mask[w.job.rows.start : w.job.rows.stop].any()]
        if seeds is not None:
            self._arrays["seed"][mask] = seeds[mask]
        for worker in concerned:
            worker.send(RESET)
        for worker in concerned:
            while problem := worker.wait():
                rows = self._replace(worker, problem)
                if seeds is not None:
                    self._arrays["seed"][rows][mask[rows]] = seeds[rows][mask[rows]]
                worker.send(RESET)

    def _replace(self, worker: Worker | InProcess, problem: str) -> slice:
        """Kill a worker and start it anew, with fresh seeds; returns its rows."""
        w = worker.job.index
        worker.kill()
        self._failures[w] += 1
        if self._failures[w] >= _GIVE_UP:
            self._give_up(worker, problem)
        gymnasium.logger.warn(
            f"{worker.name} {problem}; it is started again, and its rows' episodes are truncated"
        )
        self.restarts += 1
        rows = slice(worker.job.rows.start, worker.job.rows.stop)
        fresh = self.np_random.integers(2**31, size=len(worker.job.rows))
        self._arrays["seed"][rows] = fresh
        worker.start()
        if problem := worker.wait():
            return self._replace(worker, problem)
        return rows

    def _give_up(self, worker: Worker | InProcess, problem: str) -> None:
        self.close()
        raise WorkerError(f"{worker.name} {problem}")

    # ---- edges -------------------------------------------------------------------------------

    def _check_mask(self, mask: Any) -> NDArray[np.bool_]:
        rows = np.asarray(to_numpy(mask))
        if rows.shape != (self.num_envs,) or rows.dtype != np.bool_:
            raise ValueError(
                f"options['reset_mask']: {rows.shape} {rows.dtype}, expected ({self.num_envs},) "
                "bool"
            )
        return rows


def _stop(workers: list[Worker | InProcess]) -> None:
    for worker in workers:
        worker.stop()
