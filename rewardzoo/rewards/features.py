"""Features of observations, and heads over them with one set of parameters for each of many runs.

Small learners cost what their operations cost to start, so many runs (seeds, arms) are computed as
one: parameters are (R, P), inputs (R, B, F).
"""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from .base import integer


class Features(nn.Module):
    """From observations (..., D) to features (..., size); the first feature is 1.

    Attributes:
        size: number of features.
        key: equal for features that are equal.
    """

    size: int
    key: tuple[Any, ...]


class Fourier(Features):
    """The coupled cosine basis ``cos(pi c . x)`` for all c in {0..order}^D.

    Observations are scaled to [0, 1] by the space's bounds; where a bound is infinite, by
    ``x / (1 + |x|)`` first.

    Args:
        space: of one observation, a flat Box.
        order: greatest frequency.

    Paper: Konidaris, Osentoski, Thomas (2011), "Value function approximation in reinforcement
    learning using the Fourier basis".
    """

    def __init__(self, space: gym_spaces.Box, order: int) -> None:
        super().__init__()
        dims = space.shape[0]
        order = integer("order", order, 1)
        grid = np.array(list(itertools.product(range(order + 1), repeat=dims)))
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        finite = np.isfinite(low) & np.isfinite(high) & (high < 1e10) & (low > -1e10)
        low, high = np.where(finite, low, -1.0), np.where(finite, high, 1.0)
        self.size, self.key = len(grid), ("fourier", order)
        self._bounded = bool(finite.all())
        self.register_buffer("finite", torch.tensor(finite), persistent=False)
        # cos(pi c . (x - low) / (high - low)) = cos(weights x + phase)
        weights = math.pi * grid / (high - low)
        self.register_buffer("weights", torch.tensor(weights.T, dtype=torch.float32), False)
        phase = -(weights * low).sum(1)
        self.register_buffer("phase", torch.tensor(phase, dtype=torch.float32), False)

    def forward(self, obs: Tensor) -> Tensor:
        """(..., size)."""
        if not self._bounded:
            obs = torch.where(cast(Tensor, self.finite), obs, obs / (1.0 + obs.abs()))
        shape = obs.shape[:-1]
        flat = torch.addmm(cast(Tensor, self.phase), obs.reshape(-1, obs.shape[-1]),
                           cast(Tensor, self.weights))  # fmt: skip
        return flat.cos().reshape(*shape, self.size)


class Plain(Features):
    """1 and the observation: a flat Box as it is, a Discrete one as an indicator."""

    def __init__(self, space: gym_spaces.Space[Any]) -> None:
        super().__init__()
        self.key = ("plain",)
        self._count = int(space.n) if isinstance(space, gym_spaces.Discrete) else 0
        self._start = int(space.start) if isinstance(space, gym_spaces.Discrete) else 0
        self.size = 1 + (self._count or math.prod(space.shape or ()))

    def forward(self, obs: Tensor) -> Tensor:
        """(..., size)."""
        if self._count:
            obs = nn.functional.one_hot(obs - self._start, self._count)
        obs = obs if obs.is_floating_point() else obs.to(torch.float32)
        return nn.functional.pad(obs, (1, 0), value=1.0)


def features(space: gym_spaces.Space[Any], kind: str, order: int) -> Features:
    """Features by name: "fourier" or "plain".

    Raises:
        ValueError: for another name, or observations that they cannot read.
    """
    if kind not in ("fourier", "plain"):
        raise ValueError(f"features={kind!r}: expected fourier or plain")
    flat = isinstance(space, gym_spaces.Box) and len(space.shape) == 1
    if kind == "fourier" and flat:
        return Fourier(cast(gym_spaces.Box, space), order)
    if kind == "plain" and (flat or isinstance(space, gym_spaces.Discrete)):
        return Plain(space)
    wanted = "a flat Box" if kind == "fourier" else "a flat Box or Discrete"
    raise ValueError(f"features={kind!r}: need {wanted} of observations, these are {space}")


class Head:
    """Outputs from features: linear, or by one layer of tanh units; parameters are given.

    Args:
        inputs: number of features.
        outputs: K.
        hidden: units of the layer; 0 for a linear head.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 0) -> None:
        self.inputs, self.outputs, self.hidden = inputs, outputs, hidden
        self.size = outputs * inputs
        if hidden:
            self.size = hidden * inputs + outputs * (hidden + 1)

    def initial(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(P,) parameters that give the (K,) ``outputs`` everywhere.

        With a hidden layer its weights are random.
        """
        if not self.hidden:
            return nn.functional.pad(outputs.unsqueeze(1), (0, self.inputs - 1)).flatten()
        scale = 1.0 / math.sqrt(self.inputs)
        first = scale * torch.randn(self.hidden * self.inputs, generator=generator)
        last = nn.functional.pad(outputs.unsqueeze(1), (0, self.hidden)).flatten()
        return torch.cat([first, last])

    def __call__(self, parameters: Tensor, x: Tensor) -> Tensor:
        """(R, B, K) of parameters (R, P) and features (R, B, F)."""
        if not self.hidden:
            return x @ parameters.reshape(-1, self.outputs, self.inputs).transpose(1, 2)
        split = self.hidden * self.inputs
        first, last = parameters[..., :split], parameters[..., split:]
        h = torch.tanh(x @ first.reshape(-1, self.hidden, self.inputs).transpose(1, 2))
        last = last.reshape(-1, self.outputs, self.hidden + 1)
        out: Tensor = last[..., 0].unsqueeze(1) + h @ last[..., 1:].transpose(1, 2)
        return out
