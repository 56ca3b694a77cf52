"""MountainCar that pays only at the flag, and CartPole: tasks for advice (Gupta et al. 2023)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rewardzoo.envs.cart_pole.dynamics import CartPole
from rewardzoo.envs.mountain_car.dynamics import MountainCar, MountainCarState
from rewardzoo.random import Rng


class AlignmentMountainCar(MountainCar):
    """Swing an underpowered car out of a valley; nothing is paid before the flag.

    Dynamics: those of ``rewardzoo/MountainCar-v0``, which are Gymnasium's.

    Observation: Box (2,) float32: position in [-1.2, 0.6], velocity in [-0.07, 0.07].

    Action: Discrete(3): 0 pushes left, 1 coasts, 2 pushes right.

    Objective: 1 for the step that reaches the flag, else 0.

    Advice: ``velocity_push(w)`` pays for pushing along the velocity. Even this misleads: with
    w = 1, a car that brakes once a swing, never to arrive, collects more of it. ``push_right()``
    pays for pushing right while moving right alone.

    Start state: position uniform in [-0.6, -0.4), at rest.

    End of episode: terminated at position 0.5 and beyond; truncated after 2000 steps.

    Reference returns: pushing along the velocity 1, optimal.

    Paper: Gupta, Chandak, Jordan, Thomas, Castro da Silva (2023), "Behavior Alignment via Reward
    Function Optimization"; Moore (1990).
    """

    def reward(
        self,
        state: MountainCarState,
        action: Tensor,
        next_state: MountainCarState,
        rng: Rng,
        params: Any = None,
    ) -> Tensor:
        """One at the flag."""
        return self.terminal(next_state, rng, params).float()


class AlignmentCartPole(CartPole):
    """Push a cart left or right so that the pole on it stays upright.

    Dynamics: those of ``rewardzoo/CartPole-v0``, which are Gymnasium's.

    Observation: Box (4,) float32: cart position [m], cart velocity [m/s], pole angle [rad], pole
    angular velocity [rad/s].

    Action: Discrete(2): 0 pushes left, 1 pushes right.

    Objective: 1 for every step, that which ends the episode included.

    Advice: ``pole_rule(5, -1)`` pays for agreeing with a proportional-derivative rule that balances
    the pole; ``pole_rule(-5, 1)`` for contradicting it.

    Start state: all four numbers uniform in [-0.05, 0.05).

    End of episode: terminated when the cart leaves [-2.4, 2.4] m or the pole leaves 12 degrees;
    truncated after 500 steps.

    Reference returns: uniform policy 22.3 (mean of 10,000 episodes); optimal 500.

    Paper: Gupta, Chandak, Jordan, Thomas, Castro da Silva (2023), "Behavior Alignment via Reward
    Function Optimization"; Barto, Sutton, Anderson (1983).
    """
