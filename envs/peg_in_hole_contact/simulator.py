"""The robot's skill on B lanes of contact physics: approach, spiral search, compliant insertion.

All lanes share one model, because only commands differ: the hole stays where it is, and the robot
believes it elsewhere. One call of ``mujoco.rollout`` a control tick advances every running lane on
a pool of threads; a lane's numbers do not depend on the other lanes nor on the number of threads.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import CONTROL_HZ, PHYSICS_STEPS, PegInHoleContactParams, build, mujoco_module

Array = NDArray[np.float64]

APPROACH, SEARCH, INSERT = 0, 1, 2
RUNNING, SUCCESS, FAILURE = 0, 1, 2
NOISE = np.array([0.1, 0.1, 0.2, 5e-3, 5e-3, 5e-3])  # N and N m, standard deviation

_START_HEIGHT = 6e-3  # m
_SPEED = 20e-3  # m/s, of approach and insertion
_CONTACT_FORCE = 2.0  # N
_PRESS = 6e-3  # m below first contact
_PITCH = 0.4e-3  # m a turn
_SPIRAL_SPEED = 4e-3  # m/s along the spiral
_SMALLEST_RADIUS = 0.3e-3  # m, bounds the angular speed near the centre
_DROP = 0.8e-3  # m below first contact: the peg has found the hole
_LEAD = 20e-3  # m, how far the command may run ahead of the tip
_DITHER, _DITHER_HZ = 0.3e-3, 2.0
_DONE_HEIGHT = -18e-3  # m
_TICK = 1.0 / CONTROL_HZ
_FIELDS = (
    *("physics", "pose", "outcome", "phase", "ticks"),
    *("angle", "command_z", "contact_z", "hole", "dither"),
)


class Simulator:
    """B independent attempts at inserting the peg.

    Args:
        lanes: B.
        params: the environment's constants.
        threads: of physics; 0 runs on the calling thread, None takes all that the process may use.

    Attributes:
        physics: (B, 13) float64: time, positions and velocities of the six joints.
        outcome: (B,) int8, ``RUNNING``, ``SUCCESS`` or ``FAILURE``.
        ticks: (B,) int64, control ticks of 20 ms since the attempt began.
    """

    def __init__(
        self, lanes: int, params: PegInHoleContactParams | None = None, threads: int | None = 0
    ) -> None:
        self.params = params or PegInHoleContactParams()
        mujoco = mujoco_module()
        self.model = build(self.params.friction)
        if threads is None:
            threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self.threads = threads
        self._pool = mujoco.rollout.Rollout(nthread=threads)
        self._data = [mujoco.MjData(self.model) for _ in range(max(1, threads))]
        self._limit = round(self.params.time_limit * CONTROL_HZ)
        self.physics_steps = 0
        self.physics = np.zeros((lanes, 13))
        self.pose = np.zeros((lanes, 4))  # the errors of an attempt: x, y (m), tilt (rad)
        self.outcome = np.zeros(lanes, dtype=np.int8)
        self.phase = np.zeros(lanes, dtype=np.int8)
        self.ticks = np.zeros(lanes, dtype=np.int64)
        self.angle = np.zeros(lanes)  # of the spiral
        self.command_z = np.zeros(lanes)
        self.contact_z = np.zeros(lanes)  # height at first contact
        self.hole = np.zeros((lanes, 2))  # where the peg dropped
        self.dither = np.zeros(lanes)  # s since then

    def begin(self, lanes: NDArray[np.int64], pose: Array) -> None:
        """Start an attempt on some lanes.

        Args:
            lanes: (K,) which ones.
            pose: (K, 4) error of position (m) in x and y, tilt about x and y (rad).
        """
        self.pose[lanes] = pose
        self.physics[lanes] = 0.0
        self.physics[lanes, 1:3] = pose[:, :2]
        self.physics[lanes, 3] = _START_HEIGHT
        self.physics[lanes, 4:6] = pose[:, 2:]
        self.outcome[lanes] = RUNNING
        self.phase[lanes] = APPROACH
        self.ticks[lanes] = 0
        self.command_z[lanes] = _START_HEIGHT
        for name in ("angle", "contact_z", "dither"):
            getattr(self, name)[lanes] = 0.0
        self.hole[lanes] = 0.0

    def tick(self, lanes: NDArray[np.int64]) -> Array:
        """Advance running lanes by 20 ms.

        Returns:
            (K, 6) force (N) and torque (N m) at the wrist, mean over the tick, without noise.
        """
        control = self._commands(lanes)
        state, sensors = self._pool.rollout(
            self.model,
            self._data,
            self.physics[lanes],
            np.repeat(control[:, None], PHYSICS_STEPS, axis=1),
        )
        self.physics_steps += len(lanes) * PHYSICS_STEPS
        self.physics[lanes] = state[:, -1]
        self.ticks[lanes] += 1
        wrench: Array = sensors.mean(1)
        self._transitions(lanes, wrench)
        return wrench

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that the next tick depends on, by name."""
        return {name: getattr(self, name) for name in _FIELDS}

    def _commands(self, lanes: NDArray[np.int64]) -> Array:
        """(K, 6) set-points: the believed hole, plus what the phase adds."""
        phase, pose = self.phase[lanes], self.pose[lanes]
        control = np.zeros((len(lanes), 6))
        control[:, :2] = pose[:, :2]
        control[:, 3:5] = pose[:, 2:]

        searching = phase == SEARCH
        angle = self.angle[lanes]
        radius = np.minimum(_PITCH * angle / (2 * math.pi), self.params.search_radius)
        step = _SPIRAL_SPEED * _TICK / np.maximum(radius, _SMALLEST_RADIUS)
        angle = np.where(searching, angle + step, angle)
        radius = np.minimum(_PITCH * angle / (2 * math.pi), self.params.search_radius)
        spiral = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        control[:, :2] += np.where(searching[:, None], spiral, 0.0)
        self.angle[lanes] = angle

        inserting = phase == INSERT
        turn = 2 * math.pi * _DITHER_HZ * self.dither[lanes]
        circle = _DITHER * np.stack([np.cos(turn), np.sin(turn)], 1)
        control[:, :2] = np.where(inserting[:, None], self.hole[lanes] + circle, control[:, :2])
        self.dither[lanes] += np.where(inserting, _TICK, 0.0)

        height = self.physics[lanes, 3]
        z = self.command_z[lanes]
        z = np.where(searching, self.contact_z[lanes] - _PRESS, z - _SPEED * _TICK)
        z = np.where(inserting, np.maximum(z, height - _LEAD), z)
        self.command_z[lanes] = z
        control[:, 2] = z
        return control

    def _transitions(self, lanes: NDArray[np.int64], wrench: Array) -> None:
        """Change phase on contact and on dropping into the hole; end attempts."""
        phase, height = self.phase[lanes], self.physics[lanes, 3]
        touched = (phase == APPROACH) & (np.abs(wrench[:, 2]) > _CONTACT_FORCE)
        dropped = (phase == SEARCH) & (height < self.contact_z[lanes] - _DROP)
        self.contact_z[lanes] = np.where(touched, height, self.contact_z[lanes])
        self.hole[lanes] = np.where(dropped[:, None], self.physics[lanes, 1:3], self.hole[lanes])
        phase = np.where(touched, SEARCH, np.where(dropped, INSERT, phase))
        self.phase[lanes] = phase
        late = np.where(self.ticks[lanes] >= self._limit, FAILURE, RUNNING)
        self.outcome[lanes] = np.where(height < _DONE_HEIGHT, SUCCESS, late)
