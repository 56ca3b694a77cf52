"""Policies that learn nothing: the intelligent driver model on what is observed, and its abuse."""

from __future__ import annotations

import torch
from torch import Tensor

from rewardzoo.rewards.base import number

from .simulator import ACCEL, APPROACHES, DECEL, LIMIT, MIN_GAP, ROADS, SIGHT, Seen

_RAMP_BEGINS = 0.67  # km to go, of 0.6945 at the entrance
_ELSEWHERE = len(ROADS) + len(APPROACHES)  # numbers at the end of an observation


def slots(obs: Tensor) -> Seen:
    """What is observed of each slot, each (N, slots), from observations (N, D)."""
    rows = obs[:, :-_ELSEWHERE].unflatten(1, (-1, len(Seen._fields)))
    return Seen(*rows.unbind(2))


class IDM:
    """Drives as the simulator's human drivers do, by the intelligent driver model.

    ``a (1 - (v/v0)^4 - (s*/s)^2)`` with ``s* = s0 + max(0, v T + v (v - v_l) / (2 sqrt(a b)))``,
    a = 1 and b = 1.5 m/s², T = 1 s, s0 = 2 m, v0 = 30 m/s.

    Paper: Treiber, Hennecke, Helbing (2000), "Congested traffic states in empirical observations
    and microscopic simulations".
    """

    def __call__(self, obs: Tensor) -> Tensor:
        """The action (N, slots) float32 of ``rewardzoo/TrafficMerge-v0``, in its box."""
        seen = slots(obs)
        speed, leader = seen.speed * LIMIT, seen.leader_speed * LIMIT
        closing = speed * (speed - leader) / (2.0 * (-DECEL * ACCEL) ** 0.5)
        wanted = MIN_GAP + (speed + closing).clamp(min=0.0)
        gap = (seen.gap * SIGHT).clamp(min=0.1)
        near = torch.where(seen.gap < 1.0, (wanted / gap).square(), 0.0)
        found = ACCEL * (1.0 - seen.speed.square().square() - near)
        return found.clamp(DECEL, ACCEL)


class RampBlocker(IDM):
    """The proxy's exploit: controlled vehicles stop where the ramp begins; elsewhere they drive.

    Behind the first of them one or two stand on the ramp, and nobody else comes onto the road,
    where speeds are measured; in front of it the highway is free.
    """

    def __call__(self, obs: Tensor) -> Tensor:
        """The action (N, slots) float32."""
        seen = slots(obs)
        begins = (seen.on_ramp > 0.0) & (seen.to_go > _RAMP_BEGINS)
        return torch.where(begins, DECEL, super().__call__(obs))


class NoisyIDM:
    """``IDM`` that chooses among accelerations, and now and then another than it would.

    Args:
        levels: accelerations in m/s², in ascending order, as given to the environment.
        eps: share of uniformly random accelerations, in each slot by itself.
    """

    def __init__(self, levels: tuple[float, ...], eps: float = 0.1) -> None:
        if len(levels) < 2 or list(levels) != sorted(levels):
            raise ValueError(f"levels={levels}: expected two or more numbers, ascending")
        self.levels = torch.tensor(levels)
        self.eps = number("eps", eps, 0.0, 1.0)
        self.driver = IDM()

    def __call__(self, obs: Tensor) -> Tensor:
        """Probabilities (N, L**slots) float32: around the wanted acceleration, by nearness."""
        levels = self.levels.to(obs.device)
        wanted = self.driver(obs).clamp(levels[0], levels[-1]).unsqueeze(2)
        upper = (wanted > levels).sum(2, keepdim=True).clamp(1, len(levels) - 1)
        low, high = levels[upper - 1], levels[upper]
        share = (wanted - low) / (high - low)
        probs = torch.zeros(*wanted.shape[:2], len(levels), device=obs.device)
        probs = probs.scatter(2, upper - 1, 1.0 - share).scatter(2, upper, share)
        probs = (1.0 - self.eps) * probs + self.eps / len(levels)
        # The first slot's level counts ones, the second's len(levels), and so on.
        joint = probs[:, 0]
        for i in range(1, probs.shape[1]):
            joint = (probs[:, i].unsqueeze(2) * joint.unsqueeze(1)).flatten(1)
        return joint
