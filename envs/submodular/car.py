"""SubmodularCar: drive as far around a track as possible, paid for each stretch once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, box, positive
from rewardzoo.random import Rng
from rewardzoo.rewards.base import integer, number
from rewardzoo.rewards.submodular_coverage import SetCover


@dataclass(frozen=True)
class CarParams:
    """The track and the car."""

    horizon: int = 200
    """States in an episode, the first included."""
    dt: float = 0.1
    """Seconds between two actions."""
    half_width: float = 0.35
    """Of the track, in metres."""
    max_speed: float = 2.0
    """Metres a second."""
    acceleration: float = 2.0
    """Metres a second squared, at full throttle or brake."""
    wheelbase: float = 0.3
    """Metres between the axles."""
    max_steer: float = 0.5
    """Radians, at full lock."""
    time_cost: float = 0.01
    """Taken off every step."""
    off_track_cost: float = 1.0
    """Taken off on leaving the track."""
    lap_bonus: float = 1.0
    """Paid when the whole track is covered."""
    obs: str = "markov"
    """"markov": place, heading, speed and time; "augmented": also the stretches covered."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        integer("horizon", self.horizon, 1)
        for name in ("dt", "half_width", "max_speed", "acceleration", "wheelbase", "max_steer"):
            positive(name, getattr(self, name))
        for name in ("time_cost", "off_track_cost", "lap_bonus"):
            number(name, getattr(self, name), 0.0)
        if self.obs not in ("markov", "augmented"):
            raise ValueError(f"obs={self.obs!r}: expected 'markov' or 'augmented'")


class CarState(NamedTuple):
    """Where each car is, and what it has driven along."""

    x: Tensor  # (N,) float32, metres
    y: Tensor  # (N,) float32, metres
    heading: Tensor  # (N,) float32, radians
    speed: Tensor  # (N,) float32, metres a second
    time: Tensor  # (N,) int64
    memory: Any  # of the set function
    value: Tensor  # (N,) float64, metres of track covered
    gain: Tensor  # (N,) float64, metres that the last step added


class SubmodularCar(FuncEnv):
    """Drive along as much of a winding track as possible; going to and fro earns nothing.

    Dynamics: a kinematic bicycle: ``heading' = speed / wheelbase * tan(steer)``; speed between 0
    and ``max_speed``. The track is a closed curve of 15.8 metres, cut into 170 stretches.

    Observation: Box(6): place (over 4 m), cosine and sine of the heading, speed and time, scaled to
    [-1, 1]; ``obs="augmented"`` adds the stretches covered, as zeros and ones.

    Action: Box(2): steering and throttle in [-1, 1].

    Objective: metres of track covered for the first time, less ``time_cost``; less
    ``off_track_cost`` on leaving the track; ``lap_bonus`` more when all of it is covered.

    Start state: standing on the centre line, facing along it.

    End of episode: terminated off the track, after a whole lap, or after ``horizon - 1`` steps.

    Arguments: see Parameters.

    Data: the paper's race track is not public; this one is made up (a circle with three waves).

    Reference returns: steering towards the centre line half a metre ahead, at full throttle, drives
    the lap in 81 steps and returns 15.3; random actions leave the track after covering 1.6 metres.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Params = CarParams
    render_modes = ("rgb_array", "ansi")
    render_fps = 10

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: CarParams = self.params
        self.track, self.length = _track()
        cells = len(self.track)
        # A stretch covers itself and its neighbours, so that a fast car leaves no gap; one element
        # more, "off the track", covers nothing.
        reach = math.ceil(p.max_speed * p.dt / (self.length / cells))
        covers = [[(v + k) % cells for k in range(-reach, reach + 1)] for v in range(cells)]
        weights = np.full(cells, self.length / cells)
        self.set_function = SetCover([*covers, []], weights).to(self.device)
        self._track = torch.tensor(self.track, dtype=torch.float32, device=self.device)
        ahead = self.track[1] - self.track[0]
        self._first_heading = math.atan2(ahead[1], ahead[0])
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = box(-1.0, 1.0, (6 + (cells if p.obs == "augmented" else 0),))

    def initial(self, rng: Rng, params: Any = None) -> CarState:
        """At the beginning of the track."""
        zero = rng.integers(0, 1)
        still = zero.to(torch.float32)
        x, y = (still + self._track[0, k] for k in range(2))
        memory, value = self.set_function.add(self.set_function.empty(zero.shape[0]), zero)
        heading = still + self._first_heading
        return CarState(x, y, heading, still, zero, memory, value, value)

    def transition(self, state: CarState, action: Tensor, rng: Rng, params: Any = None) -> CarState:
        """A bicycle's step."""
        p: CarParams = self.params
        action = action.clamp(-1.0, 1.0)
        speed = (state.speed + action[:, 1] * p.acceleration * p.dt).clamp(0.0, p.max_speed)
        turn = torch.tan(action[:, 0] * p.max_steer) * (speed * (p.dt / p.wheelbase))
        heading = state.heading + turn
        x = (state.x + speed * torch.cos(heading) * p.dt).clamp(-4.0, 4.0)
        y = (state.y + speed * torch.sin(heading) * p.dt).clamp(-4.0, 4.0)
        memory, gain = self.set_function.add(state.memory, self._element(x, y))
        time = (state.time + 1).clamp(max=p.horizon - 1)
        return CarState(x, y, heading, speed, time, memory, state.value + gain, gain)

    def observation(self, state: CarState, rng: Rng, params: Any = None) -> Tensor:
        """By ``obs``."""
        p: CarParams = self.params
        time = state.time.to(torch.float32) * (2.0 / max(p.horizon - 1, 1)) - 1.0
        speed = state.speed * (2.0 / p.max_speed) - 1.0
        columns = (
            state.x / 4.0,
            state.y / 4.0,
            torch.cos(state.heading),
            torch.sin(state.heading),
            speed,
            time,
        )
        obs = torch.stack(columns, 1).clamp(-1.0, 1.0)
        if p.obs == "augmented":
            obs = torch.cat([obs, self.set_function.features(state.memory)], 1)
        return obs

    def reward(
        self,
        state: CarState,
        action: Tensor,
        next_state: CarState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """New metres, less the costs."""
        p: CarParams = self.params
        off = self._off(next_state).to(torch.float64)
        lap = self._lap(next_state).to(torch.float64)
        return next_state.gain - p.time_cost - p.off_track_cost * off + p.lap_bonus * lap

    def terminal(self, state: CarState, rng: Rng, params: Any = None) -> Tensor:
        """Off the track, around it, or out of time."""
        late = state.time >= self.params.horizon - 1
        return late | self._off(state) | self._lap(state)

    def state_info(self, state: CarState, params: Any = None) -> dict[str, Tensor]:
        """``F``: metres of track covered."""
        return {"F": state.value}

    def element_of(self, obs: Tensor) -> Tensor:
        """The stretch, (N,) int64, the last number off the track, from observations."""
        return self._element(obs[:, 0] * 4.0, obs[:, 1] * 4.0)

    def _element(self, x: Tensor, y: Tensor) -> Tensor:
        distance, nearest = self._nearest(x, y)
        off = distance > self.params.half_width
        return torch.where(off, self._track.shape[0], nearest)

    def _nearest(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        track = self._track.to(x.device)
        squared = (x.unsqueeze(1) - track[:, 0]).square() + (y.unsqueeze(1) - track[:, 1]).square()
        least, nearest = squared.min(1)
        return least.sqrt(), nearest

    def _off(self, state: CarState) -> Tensor:
        return self._nearest(state.x, state.y)[0] > self.params.half_width

    def _lap(self, state: CarState) -> Tensor:
        return state.value > self.length - 1e-6

    def render_image(self, state: CarState, i: int) -> np.ndarray:
        """The track, what is covered of it in blue, the car in orange, uint8."""
        from .render import track_frame

        return track_frame(self, state, i)

    def render_text(self, state: CarState, i: int) -> str:
        """Place, speed and metres covered."""
        return (
            f"({float(state.x[i]):.2f}, {float(state.y[i]):.2f}) m, "
            f"{float(state.speed[i]):.2f} m/s, {float(state.value[i]):.2f} m covered"
        )


def _track(stretches: int = 170) -> tuple[np.ndarray, float]:
    """The centre line at equal distances, (stretches, 2) float64, and its length, in metres."""
    angle = np.linspace(0.0, 2.0 * math.pi, 20_001)
    radius = 2.4 + 0.35 * np.cos(3.0 * angle)
    curve = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    driven = np.concatenate([[0.0], np.linalg.norm(np.diff(curve, axis=0), axis=1).cumsum()])
    at = np.arange(stretches) * driven[-1] / stretches
    line = np.stack([np.interp(at, driven, curve[:, k]) for k in range(2)], 1)
    return line, float(driven[-1])
