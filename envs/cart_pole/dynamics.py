"""CartPole's dynamics: those of Gymnasium's CartPole-v1 (Barto, Sutton, Anderson 1983)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import FuncEnv, positive
from rewardzoo.random import Rng
from rewardzoo.rewards.base import number


@dataclass(frozen=True)
class CartPoleParams:
    """Constants of the cart and the pole; the values are those of Gymnasium's CartPole-v1."""

    gravity: float = 9.8
    """m/s^2."""
    mass_cart: float = 1.0
    """kg."""
    mass_pole: float = 0.1
    """kg."""
    half_length: float = 0.5
    """m, half of the pole."""
    force: float = 10.0
    """N, of a push."""
    tau: float = 0.02
    """s, between two decisions."""
    max_angle: float = 12 * 2 * math.pi / 360
    """rad, the pole has fallen beyond it."""
    max_position: float = 2.4
    """m, the cart has left the track beyond it."""
    reset_bound: float = 0.05
    """All four numbers start uniformly in [-reset_bound, reset_bound)."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("mass_cart", "mass_pole", "half_length", "tau", "max_angle", "max_position"):
            positive(name, getattr(self, name))
        for name in ("gravity", "force"):
            number(name, getattr(self, name))
        number("reset_bound", self.reset_bound, 0.0)


class CartPoleState(NamedTuple):
    """Each (N,) float64."""

    x: Tensor
    x_dot: Tensor
    theta: Tensor
    theta_dot: Tensor


class CartPole(FuncEnv):
    """Push a cart left or right so that the pole on it stays upright.

    Dynamics: explicit Euler steps of the cart-pole equations of Barto, Sutton and Anderson, as in
    Gymnasium's CartPole-v1, in float64; equal to it to rounding.

    Observation: Box (4,) float32: cart position [m], cart velocity [m/s], pole angle [rad], pole
    angular velocity [rad/s].

    Action: Discrete(2): 0 pushes left, 1 pushes right.

    Objective: 1 for every step, that which ends the episode included.

    Start state: all four numbers uniform in [-0.05, 0.05).

    End of episode: terminated when the cart leaves [-2.4, 2.4] m or the pole leaves 12 degrees;
    truncated after 500 steps.

    Reference returns: uniform policy 22.3 (mean of 10,000 episodes); pushing to the side to which
    the pole falls (``angle + angular velocity + 0.1 position + 0.3 velocity > 0``) 500, optimal.

    Paper: Barto, Sutton, Anderson (1983), "Neuronlike adaptive elements that can solve difficult
    learning control problems".
    """

    Params = CartPoleParams
    render_modes = ("rgb_array",)
    render_fps = 50

    def __init__(self, device: torch.device | str = "cpu", **params: float) -> None:
        super().__init__(device, **params)
        p: CartPoleParams = self.params
        limit = np.float32(np.inf)
        high = np.array([p.max_position * 2, limit, p.max_angle * 2, limit], np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    def initial(self, rng: Rng, params: CartPoleParams | None = None) -> CartPoleState:
        """Near the upright rest."""
        bound = (params or self.params).reset_bound
        u = (rng.uniform(4).to(torch.float64) * 2.0 - 1.0) * bound
        return CartPoleState(*u.unbind(1))

    def transition(
        self, state: CartPoleState, action: Tensor, rng: Rng, params: CartPoleParams | None = None
    ) -> CartPoleState:
        """One Euler step of length ``tau``."""
        p: CartPoleParams = params or self.params
        x, x_dot, theta, theta_dot = state
        # Products of constants first: fewer tensor operations, which are what a small batch costs.
        total_mass = p.mass_cart + p.mass_pole
        share = p.mass_pole * p.half_length / total_mass
        push = p.force / total_mass
        cos, sin = torch.cos(theta), torch.sin(theta)
        temp = action.to(torch.float64) * (2.0 * push) - push + theta_dot * theta_dot * sin * share
        theta_acc = (sin * p.gravity - cos * temp) / (p.half_length * 4.0 / 3.0 - cos * cos * share)
        x_acc = temp - theta_acc * cos * share
        return CartPoleState(
            x + p.tau * x_dot,
            x_dot + p.tau * x_acc,
            theta + p.tau * theta_dot,
            theta_dot + p.tau * theta_acc,
        )

    def observation(
        self, state: CartPoleState, rng: Rng, params: CartPoleParams | None = None
    ) -> Tensor:
        """The state, (N, 4) float32."""
        # Each made short first: a compiled step spreads half the bytes over the rows.
        return torch.stack([x.to(torch.float32) for x in state], 1)

    def reward(
        self,
        state: CartPoleState,
        action: Tensor,
        next_state: CartPoleState,
        rng: Rng,
        params: CartPoleParams | None = None,
    ) -> Tensor:
        """One a step."""
        return torch.ones_like(next_state.x, dtype=torch.float32)

    def terminal(
        self, state: CartPoleState, rng: Rng, params: CartPoleParams | None = None
    ) -> Tensor:
        """The pole has fallen or the cart has left the track."""
        p: CartPoleParams = params or self.params
        return (state.x.abs() > p.max_position) | (state.theta.abs() > p.max_angle)

    def render_image(self, state: CartPoleState, i: int) -> np.ndarray:
        """A frame (400, 600, 3) uint8."""
        from .render import frame

        return frame(self.params, float(state.x[i]), float(state.theta[i]))
