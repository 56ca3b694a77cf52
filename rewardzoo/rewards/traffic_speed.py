"""TrafficSpeed: how fast those go who are on the road (Pan et al. 2022; Laidlaw et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registration import register_reward
from ..transition import Transition
from .base import RewardFunction, Spaces, number


@register_reward("traffic_speed")
class TrafficSpeed(RewardFunction):
    """Pays the mean speed of the vehicles on the road, less what is uncomfortable.

    A proxy for commutes that looks where it is easy to look: who waits at an entrance is on no
    road. Among human drivers it correlates with commute times; letting nobody in from the ramp pays
    more than they do. Halting there now and then pays less, so the exploit lies behind a dip.

    Args:
        limit: m/s, the speed that is worth 1.
        accel_cost: for each m/s² of mean absolute acceleration of the controlled vehicles.
        headway_cost: for each second that their mean headway falls short of 1 s.

    Paper: Pan, Bhatia, Steinhardt (2022), "The effects of reward misspecification"; Laidlaw,
    Singhal, Dragan (2024), "Correlated proxies".
    """

    def __init__(
        self, limit: float = 30.0, accel_cost: float = 0.01, headway_cost: float = 0.01
    ) -> None:
        self.limit = number("limit", limit, 1.0)
        self.accel_cost = number("accel_cost", accel_cost, 0.0)
        self.headway_cost = number("headway_cost", headway_cost, 0.0)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Look for traffic.

        Raises:
            ValueError: on anything but ``rewardzoo/TrafficMerge-v0`` and its siblings.
        """
        if "mean_speed" not in getattr(spaces.dynamics, "info_fields", ()):
            raise ValueError("traffic_speed: this environment is no rewardzoo/TrafficMerge-v0")
        super().bind(num_envs, device, spaces)

    def __call__(self, t: Transition) -> Tensor:
        """Of the road after the second, (N,) float32."""
        speed: Tensor = t.info["mean_speed"] / self.limit
        cost: Tensor = self.accel_cost * t.info["acceleration"]
        cost = cost + self.headway_cost * t.info["headway"]
        return (speed - cost).to(torch.float32)
