"""Pendulum's dynamics: those of Gymnasium's Pendulum-v1."""

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
from rewardzoo.rewards.base import number


@dataclass(frozen=True)
class PendulumParams:
    """Constants of the rod; the values are those of Gymnasium's Pendulum-v1."""

    g: float = 10.0
    """m/s^2."""
    m: float = 1.0
    """kg."""
    l: float = 1.0  # noqa: E741
    """m."""
    dt: float = 0.05
    """s, between two decisions."""
    max_speed: float = 8.0
    """rad/s."""
    max_torque: float = 2.0
    """N m."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("m", "l", "dt", "max_speed", "max_torque"):
            positive(name, getattr(self, name))
        number("g", self.g)


class PendulumState(NamedTuple):
    """Each (N,) float64; ``theta`` is 0 upright."""

    theta: Tensor
    theta_dot: Tensor


class Pendulum(FuncEnv):
    """Swing a pendulum up and hold it there, with a motor too weak to lift it.

    Dynamics: those of Gymnasium's Pendulum-v1, in float64.

    Observation: Box (3,) float32: cosine and sine of the angle (0 is upright), angular velocity in
    [-8, 8] rad/s.

    Action: Box (1,) float32: torque in [-2, 2] N m.

    Objective: ``-(angle^2 + 0.1 * velocity^2 + 0.001 * torque^2)`` of the state before the step,
    the angle in [-pi, pi).

    Start state: angle uniform in [-pi, pi), velocity uniform in [-1, 1).

    End of episode: truncated after 200 steps; never terminated.

    Reference returns: uniform policy -1,228 (mean of 10,000 episodes); pumping energy, then holding
    by a proportional-derivative controller, -151 (of 5,000).

    Paper: none; the task is Gymnasium's.
    """

    Params = PendulumParams
    render_modes = ("rgb_array",)

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: PendulumParams = self.params
        high = np.array([1.0, 1.0, p.max_speed], np.float32)
        self.observation_space = spaces.Box(-high, high)
        self.action_space = box(-p.max_torque, p.max_torque, (1,))

    def initial(self, rng: Rng, params: Any = None) -> PendulumState:
        """Anywhere, moving slowly."""
        u = rng.uniform(2).to(torch.float64) * 2.0 - 1.0
        return PendulumState(u[:, 0] * math.pi, u[:, 1])

    def transition(
        self, state: PendulumState, action: Tensor, rng: Rng, params: Any = None
    ) -> PendulumState:
        """One semi-implicit Euler step."""
        p: PendulumParams = params or self.params
        torque = self._torque(action, p)
        acceleration = (3.0 * p.g / (2.0 * p.l)) * torch.sin(state.theta) + (
            3.0 / (p.m * p.l * p.l)
        ) * torque
        theta_dot = (state.theta_dot + acceleration * p.dt).clamp(-p.max_speed, p.max_speed)
        return PendulumState(state.theta + theta_dot * p.dt, theta_dot)

    def observation(self, state: PendulumState, rng: Rng, params: Any = None) -> Tensor:
        """Cosine, sine, velocity: (N, 3) float32."""
        columns = (torch.cos(state.theta), torch.sin(state.theta), state.theta_dot)
        # Each made short first: a compiled step spreads half the bytes over the rows.
        return torch.stack([x.to(torch.float32) for x in columns], 1)

    def reward(
        self,
        state: PendulumState,
        action: Tensor,
        next_state: PendulumState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """Minus the cost of being away from upright rest."""
        p: PendulumParams = params or self.params
        torque = self._torque(action, p)
        angle = torch.remainder(state.theta + math.pi, 2 * math.pi) - math.pi
        cost = angle * angle + 0.1 * (state.theta_dot * state.theta_dot) + 0.001 * (torque * torque)
        return -cost

    def terminal(self, state: PendulumState, rng: Rng, params: Any = None) -> Tensor:
        """Never."""
        return torch.zeros_like(state.theta, dtype=torch.bool)

    def render_image(self, state: PendulumState, i: int) -> np.ndarray:
        """A frame (400, 400, 3) uint8."""
        from .render import frame

        return frame(float(state.theta[i]))

    @staticmethod
    def _torque(action: Tensor, p: PendulumParams) -> Tensor:
        # In float32, as Gymnasium computes it: two hundred steps would amplify the difference.
        return action[:, 0].clamp(-p.max_torque, p.max_torque)
