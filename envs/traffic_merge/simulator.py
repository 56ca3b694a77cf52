"""One world of traffic in SUMO (Lopez et al. 2018), as an engine (``rewardzoo.engines.Engine``).

SUMO is called in the process itself, by libsumo: no socket lies between, but a process has one
world. Every random number (who arrives when, how fast they like to drive) is drawn
here, from the episode's own generator: what vehicles are told to do never changes who arrives.
"""

from __future__ import annotations

import importlib.resources
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding

from rewardzoo.engines import Buffers, Slots
from rewardzoo.extras import require
from rewardzoo.rewards.base import integer, number

LIMIT = 30.0  # m/s, on all roads
DECEL, ACCEL = -1.5, 1.0  # m/s², the least and the greatest acceleration
LEVELS = (-1.5, -0.5, 0.0, 1.0)
"""m/s²; a finite set of accelerations, for agents and base policies that need one."""
SIGHT = 200.0  # m; a vehicle farther away is not seen
MIN_GAP = 2.0  # m, which SUMO leaves out of its gaps
SAFE = 1.0  # s of headway, below which following is too close
COUNT = 20.0  # vehicles, the unit in which they are observed
APPROACHES = ("highway", "ramp")
ROADS = (*APPROACHES, "exit")
_LENGTH = 5.0  # m, of a vehicle, which enters with all of it
_AUTOMATED = " automated"  # end of such a vehicle's name
_SUBSTEP = 0.5  # s
_SUBSTEPS = 2
_ENTERS = {"highway": "max", "ramp": "7.5"}  # m/s; "max": as fast as traffic there lets it


class Seen(NamedTuple):
    """What is observed of a controlled vehicle, each in [0, 1] or near; zeros in an empty slot."""

    present: float  # 1
    on_ramp: float  # 1 before the merge on the ramp, else 0
    to_go: float  # km until it leaves
    speed: float  # / 30 m/s
    gap: float  # to the vehicle ahead, / 200 m; 1 without one
    leader_speed: float  # / 30 m/s; 1 without one
    behind: float  # gap to the vehicle behind, / 200 m; 1 without one
    follower_speed: float  # / 30 m/s; 0 without one


@dataclass(frozen=True)
class TrafficMergeParams:
    """How many come, who is controlled, and what comfort is worth."""

    highway_flow: float = 900.0
    """Vehicles an hour that arrive on the highway, at most 3600."""
    ramp_flow: float = 800.0
    """Vehicles an hour that arrive on the ramp, at most 3600."""
    penetration: float = 0.2
    """Share of automated vehicles among those that arrive."""
    slots: int = 5
    """Automated vehicles that are controlled at a time; more of them drive as humans do until one
    has left."""
    levels: tuple[float, ...] | None = None
    """With accelerations in m/s², the action is a number that chooses one of them for each slot;
    ``LEVELS`` has four."""
    warmup: int = 60
    """Seconds that traffic runs, all human, before the episode."""
    speed_spread: float = 0.1
    """Standard deviation of drivers' desired speed over the limit, cut at two of it."""
    accel_cost: float = 0.01
    """Minutes a step for each m/s² of mean absolute acceleration of controlled vehicles."""
    headway_cost: float = 0.01
    """Minutes a step for each second that their mean headway falls short of 1 s."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("highway_flow", "ramp_flow"):
            number(name, getattr(self, name), 0.0, 3600.0)
        number("penetration", self.penetration, 0.0, 1.0)
        number("speed_spread", self.speed_spread, 0.0, 0.3)
        integer("slots", self.slots, 1)
        integer("warmup", self.warmup, 0)
        for name in ("accel_cost", "headway_cost"):
            number(name, getattr(self, name), 0.0)
        if self.levels is not None and (
            len(self.levels) < 2 or not all(DECEL <= x <= ACCEL for x in self.levels)
        ):
            raise ValueError(
                f"levels={self.levels}: expected two or more accelerations in [{DECEL}, {ACCEL}]"
            )


class Merge:
    """Traffic on a highway with an on-ramp.

    Args:
        **params: of ``TrafficMergeParams``.

    Raises:
        ImportError: without the extra.
    """

    render_modes = ("rgb_array",)
    info_fields = {
        "mean_speed": float,
        "acceleration": float,
        "headway": float,
        "vehicles": int,
        "waiting": int,
        "arrived": int,
    }

    def __init__(self, **params: Any) -> None:
        self.params = p = TrafficMergeParams(**params)
        self._sumo = _libsumo()
        size = p.slots * len(Seen._fields) + len(ROADS) + len(APPROACHES)
        self.observation_space = spaces.Box(0.0, np.inf, (size,), np.float32)
        self.action_space: spaces.Space[Any]
        if p.levels is None:
            self.action_space = spaces.Box(DECEL, ACCEL, (p.slots,), np.float32)
        else:
            self.action_space = spaces.Discrete(len(p.levels) ** p.slots)
        self._rng: np.random.Generator | None = None
        self._running = False

    def attach(self, observation: Buffers, info: Slots) -> None:
        """See ``Engine``."""
        self._observation, self._info = observation, info

    def reset(self, seed: int | None) -> None:
        """See ``Engine``."""
        if seed is not None or self._rng is None:
            self._rng, _ = seeding.np_random(seed)
        # One draw an episode: the next one does not depend on how long this one lasted.
        self._draws = np.random.default_rng(int(self._rng.integers(2**63)))
        self._start()
        self._added = 0
        self._slots: list[str | None] = [None] * self.params.slots
        self._queue: list[str] = []
        for _ in range(self.params.warmup):
            self._second()
        self._look(0, {})

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """See ``Engine``; a second."""
        before: dict[str, float] = {}
        for name, acceleration in zip(self._slots, self.accelerations(action), strict=True):
            if name is not None:
                before[name] = self._sumo.vehicle.getSpeed(name)
                self._sumo.vehicle.setAcceleration(name, acceleration, 1.0)
        return self._look(self._second(), before), False, False

    def accelerations(self, action: Any) -> list[float]:
        """What an action tells each slot, m/s²."""
        levels = self.params.levels
        if levels is None:
            return [float(x) for x in np.clip(action, DECEL, ACCEL)]
        chosen, rest = [], int(action)
        for _ in range(self.params.slots):
            rest, i = divmod(rest, len(levels))
            chosen.append(levels[i])
        return chosen

    def render(self, mode: str) -> Any:
        """The roads from above, (200, 480, 3) uint8."""
        from .render import Car, frame

        sumo, controlled = self._sumo, {*self._slots}
        cars = [
            Car(*sumo.vehicle.getPosition(i), sumo.vehicle.getAngle(i), sumo.vehicle.getSpeed(i),
                i in controlled)
            for i in sumo.vehicle.getIDList()
        ]  # fmt: skip
        roads = [sumo.lane.getShape(f"{road}_0") for road in ROADS]
        return frame(roads, cars, self._now - self.params.warmup, self._waiting)

    def close(self) -> None:
        """End the simulation."""
        if self._running:
            self._sumo.close()
            self._running = False

    # ---- inside ------------------------------------------------------------------------------

    def _start(self) -> None:
        """An empty road."""
        if not self._running and self._sumo.isLoaded():
            raise RuntimeError(
                "SUMO has one world a process and this process has one already: make several as "
                "one batch, gymnasium.make_vec('rewardzoo/TrafficMerge-v0', num_envs=...)"
            )
        self.close()
        here = importlib.resources.files(__package__)
        with ExitStack() as stack:
            files = [
                str(stack.enter_context(importlib.resources.as_file(here / name)))
                for name in ("merge.net.xml", "drivers.add.xml")
            ]
            self._sumo.start(
                ["sumo", "--net-file", files[0], "--additional-files", files[1],
                 "--step-length", str(_SUBSTEP), "--no-step-log", "--no-warnings",
                 "--xml-validation", "never", "--xml-validation.net", "never",
                 # Who is stuck stays stuck, and is not lifted out of the jam.
                 "--time-to-teleport", "-1",
                 "--collision.action", "warn", "--collision.mingap-factor", "0"]
            )  # fmt: skip
        self._running = True
        self._now = 0
        length = self._sumo.lane.getLength
        ways = {"highway": ":merge_1_0", "ramp": ":merge_0_0"}  # across the junction
        self._length = {
            road: length(f"{road}_0") + length(across) + length("exit_0")
            for road, across in ways.items()
        }

    def _second(self) -> int:
        """A second of traffic; returns how many left."""
        sumo, p, draws = self._sumo, self.params, self._draws
        # As many draws in every second, whatever happens.
        chances, likes = draws.random((2, 2)), draws.standard_normal(2).clip(-2.0, 2.0)
        flows = (p.highway_flow, p.ramp_flow)
        for road, flow, (comes, kind), like in zip(APPROACHES, flows, chances, likes, strict=True):
            if comes < flow / 3600.0:
                automated = kind < p.penetration
                name = f"{road} {self._added}{_AUTOMATED if automated else ''}"
                self._added += 1
                sumo.vehicle.add(
                    name, road, typeID="human", departSpeed=_ENTERS[road], departPos="base"
                )
                if not automated:
                    sumo.vehicle.setSpeedFactor(name, 1.0 + p.speed_spread * float(like))
        left = 0
        for _ in range(_SUBSTEPS):
            sumo.simulationStep()
            left += sumo.simulation.getArrivedNumber()
            departed = sumo.simulation.getDepartedIDList()
            self._queue += [name for name in departed if name.endswith(_AUTOMATED)]
        self._now += 1
        return left

    def _look(self, left: int, before: dict[str, float]) -> float:
        """Fill the buffers; the objective of the second that has passed.

        Args:
            left: vehicles that left in it.
            before: speeds of those that were controlled in it, at its begin.
        """
        sumo, p = self._sumo, self.params
        speed_of = sumo.vehicle.getSpeed
        speeds = {name: speed_of(name) for name in sumo.vehicle.getIDList()}
        pending = sumo.simulation.getPendingVehicles()
        self._waiting = [sum(name.startswith(road) for name in pending) for road in APPROACHES]

        changes = [abs(speeds[name] - v) for name, v in before.items() if name in speeds]
        self._assign(speeds)
        rows, short = [], []
        for name in self._slots:
            if name is None:
                rows.append((0.0,) * len(Seen._fields))
                continue
            seen = self._see(name, speeds)
            rows.append(seen)
            if name in before and seen.speed > 0.0:
                headway = seen.gap * SIGHT / (seen.speed * LIMIT)
                short.append(max(0.0, SAFE - headway))
        counts = [sumo.edge.getLastStepVehicleNumber(road) for road in ROADS] + self._waiting
        self._observation[: -len(counts)] = np.ravel(rows)
        self._observation[-len(counts) :] = np.array(counts) / COUNT

        acceleration, headway = (sum(x) / max(1, len(x)) for x in (changes, short))
        info = self._info
        info["mean_speed"][0] = sum(speeds.values()) / len(speeds) if speeds else LIMIT
        info["acceleration"][0], info["headway"][0] = acceleration, headway
        info["vehicles"][0], info["waiting"][0] = len(speeds), len(pending)
        info["arrived"][0] = left
        minutes = (len(speeds) + len(pending)) / 60.0
        return -minutes - p.accel_cost * acceleration - p.headway_cost * headway

    def _assign(self, speeds: dict[str, float]) -> None:
        """Empty the slots of those that left, and fill them in the order of entrance."""
        self._queue = [name for name in self._queue if name in speeds]
        for i, name in enumerate(self._slots):
            if name in speeds:
                continue
            self._slots[i] = self._queue.pop(0) if self._queue else None
            if self._slots[i] is not None:
                self._sumo.vehicle.setType(self._slots[i], "automated")

    def _see(self, name: str, speeds: dict[str, float]) -> Seen:
        """What is observed of a controlled vehicle."""
        vehicle = self._sumo.vehicle
        road = name.split()[0]
        leader, gap = vehicle.getLeader(name, SIGHT) or ("", -1.0)
        follower, behind = vehicle.getFollower(name, SIGHT)
        return Seen(
            1.0,
            float(vehicle.getRoadID(name) == "ramp"),
            max(0.0, self._length[road] - _LENGTH - vehicle.getDistance(name)) / 1000.0,
            speeds[name] / LIMIT,
            _gap(gap) if leader else 1.0,
            speeds[leader] / LIMIT if leader else 1.0,
            _gap(behind) if follower else 1.0,
            speeds[follower] / LIMIT if follower else 0.0,
        )


def _gap(gap: float) -> float:
    """SUMO's gap, as it is observed."""
    return min(max(0.0, gap + MIN_GAP), SIGHT) / SIGHT


def _libsumo() -> Any:
    """libsumo; it would print about other packages, and set variables of the environment."""
    before = set(os.environ)
    os.environ.setdefault("LIBSUMO_AS_TRACI", "quiet")
    try:
        return require("libsumo", "traffic")
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]
