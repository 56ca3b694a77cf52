"""MountainCar's dynamics: those of Gymnasium's two (Moore 1990)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, box, positive
from rewardzoo.random import Rng
from rewardzoo.rewards.base import number

_LEFT_END, _RIGHT_END = -1.2, 0.6


@dataclass(frozen=True)
class MountainCarParams:
    """Constants of the valley; the values are those of Gymnasium's MountainCar-v0."""

    force: float = 0.001
    """Acceleration of a push, track units per step squared."""
    gravity: float = 0.0025
    """Acceleration on the steepest slope, track units per step squared."""
    max_speed: float = 0.07
    """Track units per step."""
    goal_position: float = 0.5
    """The flag."""
    goal_velocity: float = 0.0
    """At least this fast at the flag."""

    def __post_init__(self) -> None:
        """Check the values."""
        _check(self, "force", "gravity", "max_speed")


@dataclass(frozen=True)
class MountainCarContinuousParams:
    """Constants of the valley; the values are those of Gymnasium's MountainCarContinuous-v0."""

    power: float = 0.0015
    """Acceleration of the strongest push, track units per step squared."""
    gravity: float = 0.0025
    """Acceleration on the steepest slope, track units per step squared."""
    max_speed: float = 0.07
    """Track units per step."""
    goal_position: float = 0.45
    """The flag."""
    goal_velocity: float = 0.0
    """At least this fast at the flag."""
    goal_reward: float = 100.0
    """Objective for reaching the flag."""
    action_cost: float = 0.1
    """Objective lost per step and squared action."""

    def __post_init__(self) -> None:
        """Check the values."""
        _check(self, "power", "gravity", "max_speed")
        number("goal_reward", self.goal_reward)
        number("action_cost", self.action_cost, 0.0)


def _check(params: Any, *above_zero: str) -> None:
    for name in above_zero:
        positive(name, getattr(params, name))
    number("goal_position", params.goal_position, _LEFT_END, _RIGHT_END)
    number("goal_velocity", params.goal_velocity)


class MountainCarState(NamedTuple):
    """Each (N,) float64; float32 in the continuous task."""

    position: Tensor
    velocity: Tensor


class MountainCar(FuncEnv):
    """Swing an underpowered car out of a valley.

    Dynamics: those of Gymnasium's MountainCar-v0, in float64. The left end of the track stops the
    car.

    Observation: Box (2,) float32: position in [-1.2, 0.6], velocity in [-0.07, 0.07].

    Action: Discrete(3): 0 pushes left, 1 coasts, 2 pushes right.

    Objective: -1 for every step, that which reaches the flag included.

    Start state: position uniform in [-0.6, -0.4), at rest.

    End of episode: terminated at position 0.5 and beyond; truncated after 200 steps.

    Reference returns: uniform policy -200; pushing along the velocity -119.3 (mean of 10,000
    episodes).

    Paper: Moore (1990), "Efficient memory-based learning for robot control".
    """

    Params = MountainCarParams
    render_modes = ("rgb_array",)

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        speed = self.params.max_speed
        low, high = np.array([_LEFT_END, -speed]), np.array([_RIGHT_END, speed])
        self.observation_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        self.action_space = spaces.Discrete(3)

    def initial(self, rng: Rng, params: Any = None) -> MountainCarState:
        """At rest in the valley."""
        position = rng.uniform().to(torch.float64) * 0.2 - 0.6
        return MountainCarState(position, torch.zeros_like(position))

    def transition(
        self, state: MountainCarState, action: Tensor, rng: Rng, params: Any = None
    ) -> MountainCarState:
        """One step of unit length."""
        p: MountainCarParams = params or self.params
        slope = torch.cos(3.0 * state.position)
        push = (action - 1).to(torch.float64) * p.force
        return _roll(state, push - slope * p.gravity, p.max_speed)

    def observation(self, state: MountainCarState, rng: Rng, params: Any = None) -> Tensor:
        """The state, (N, 2) float32."""
        # Each made short first: a compiled step spreads half the bytes over the rows.
        return torch.stack([x.to(torch.float32) for x in state], 1)

    def reward(
        self,
        state: MountainCarState,
        action: Tensor,
        next_state: MountainCarState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """Minus one a step."""
        return torch.full_like(next_state.position, -1.0, dtype=torch.float32)

    def terminal(self, state: MountainCarState, rng: Rng, params: Any = None) -> Tensor:
        """At the flag."""
        p: MountainCarParams = params or self.params
        return (state.position >= p.goal_position) & (state.velocity >= p.goal_velocity)

    def render_image(self, state: MountainCarState, i: int) -> np.ndarray:
        """A frame (400, 600, 3) uint8."""
        from .render import frame

        return frame(float(state.position[i]), self.params.goal_position)


class MountainCarContinuous(MountainCar):
    """Swing an underpowered car out of a valley, with pushes of any strength that cost effort.

    Dynamics: those of Gymnasium's MountainCarContinuous-v0, in float32 as there. The left end of
    the track stops the car.

    Observation: Box (2,) float32: position in [-1.2, 0.6], velocity in [-0.07, 0.07].

    Action: Box (1,) float32: the push, from -1 (left) to 1 (right).

    Objective: 100 for reaching the flag, minus 0.1 times the squared action in every step. Doing
    nothing pays 0, which traps learners that have not found the flag.

    Start state: position uniform in [-0.6, -0.4), at rest.

    End of episode: terminated at position 0.45 and beyond; truncated after 999 steps.

    Reference returns: uniform policy -33, no push 0, full push along the velocity 89.3 (mean of
    10,000 episodes).

    Paper: Moore (1990), "Efficient memory-based learning for robot control".
    """

    Params = MountainCarContinuousParams

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        self.action_space = box(-1.0, 1.0, (1,))

    def initial(self, rng: Rng, params: Any = None) -> MountainCarState:
        """At rest in the valley."""
        return MountainCarState(*(x.to(torch.float32) for x in super().initial(rng, params)))

    def transition(
        self, state: MountainCarState, action: Tensor, rng: Rng, params: Any = None
    ) -> MountainCarState:
        """One step of unit length."""
        p: MountainCarContinuousParams = params or self.params
        push = action[:, 0].to(torch.float32).clamp(-1.0, 1.0) * p.power
        slope = torch.cos((3.0 * state.position).to(torch.float64)) * p.gravity
        return _roll(state, push - slope.to(torch.float32), p.max_speed)

    def reward(
        self,
        state: MountainCarState,
        action: Tensor,
        next_state: MountainCarState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """The prize at the flag, minus the effort."""
        p: MountainCarContinuousParams = params or self.params
        push = action[:, 0].to(torch.float64)
        return self.terminal(next_state, rng, p) * p.goal_reward - push * push * p.action_cost


def _roll(state: MountainCarState, acceleration: Tensor, max_speed: float) -> MountainCarState:
    velocity = (state.velocity + acceleration).clamp(-max_speed, max_speed)
    position = (state.position + velocity).clamp(_LEFT_END, _RIGHT_END)
    stopped = (position == _LEFT_END) & (velocity < 0)
    return MountainCarState(position, torch.where(stopped, 0.0, velocity))
