"""Policies that learn nothing: constant rates, and a PID controller on what is observed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewardzoo.rewards.base import number

from .dynamics import STEP, Glucose


class PID:
    """Insulin by how far glucose is from a target, how long it has been, and how fast it moves.

    ``rate = 1 + kp e + ki mean(e) + kd de/dt`` in units of the basal rate, at least 0, with ``e``
    the reading less the target and the mean over the hours that are observed (an integral that
    forgets, so that the controller needs no memory of its own).

    The default gains are gentle: of a grid, others hold adult#001 tighter at the same target (.04
    and 1.0 lose .69 a day, these .83), and let other patients' glucose fall low more often.

    Args:
        func: the dynamics.
        target: mg/dl; simglucose's.
        kp: basal rates per mg/dl.
        ki: basal rates per mg/dl.
        kd: basal rates per mg/dl/min.
    """

    def __init__(
        self,
        func: Glucose,
        target: float = 140.0,
        kp: float = 0.02,
        ki: float = 0.0,
        kd: float = 0.5,
    ) -> None:
        self.func = func
        self.target = number("target", target, 0.0)
        self.kp, self.ki, self.kd = (
            number(name, x, 0.0) for name, x in (("kp", kp), ("ki", ki), ("kd", kd))
        )

    def rate(self, obs: Tensor) -> Tensor:
        """What it would give, (N,), in units of the basal rate."""
        readings = obs[:, : obs.shape[1] // 2] * 100.0 - self.target
        last = readings[:, -1]
        # Over a quarter of an hour: the sensor's error moves less than glucose does in that time.
        slope = (last - readings[:, -4]) / (3 * STEP) if readings.shape[1] > 3 else 0.0 * last
        rate = 1.0 + self.kp * last + self.ki * readings.mean(1) + self.kd * slope
        return rate.clamp(0.0, self.func.params.most)

    def __call__(self, obs: Tensor) -> Tensor:
        """The action (N, 1) float32 of ``rewardzoo/Glucose-v0``."""
        return (self.rate(obs) / self.func.params.most).to(torch.float32).unsqueeze(1)


class NoisyPID:
    """A PID controller that chooses among rates, and now and then another than it would.

    Args:
        func: dynamics with ``levels``, in ascending order.
        eps: share of uniformly random rates.
        **gains: of ``PID``.
    """

    def __init__(self, func: Glucose, eps: float = 0.1, **gains: Any) -> None:
        if func.params.levels is None:
            raise ValueError("func: expected dynamics with levels, such as Glucose(levels=RATES)")
        self.pid = PID(func, **gains)
        self.eps = number("eps", eps, 0.0, 1.0)
        self.levels = func.levels.to(torch.float32)

    def __call__(self, obs: Tensor) -> Tensor:
        """Probabilities (N, A) float32: the two rates around the controller's share its weight."""
        levels = self.levels
        rate = self.pid.rate(obs).to(torch.float32).unsqueeze(1)
        upper = (rate > levels).sum(1, keepdim=True).clamp(1, len(levels) - 1)
        low, high = levels[upper - 1], levels[upper]
        share = ((rate - low) / (high - low)).clamp(0.0, 1.0)
        probs = torch.zeros(len(obs), len(levels), device=obs.device)
        probs = probs.scatter(1, upper - 1, 1.0 - share).scatter(1, upper, share)
        return (1.0 - self.eps) * probs + self.eps / len(levels)
