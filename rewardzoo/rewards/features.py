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

_MOST_TILES = 1 << 20


class Features(nn.Module):
    """From observations (..., D) to features (..., size); the first feature is 1.

    Attributes:
        size: number of features.
    """

    size: int


class _Scaled(Features):
    """Of a flat Box; ``low`` and ``high`` (D,) float64 are the bounds of what ``_squash`` gives.

    Where a bound of the space is infinite, that is ``x / (1 + |x|)``, in [-1, 1].
    """

    def __init__(self, space: gym_spaces.Box) -> None:
        super().__init__()
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        finite = np.isfinite(low) & np.isfinite(high) & (high < 1e10) & (low > -1e10)
        self.low, self.high = np.where(finite, low, -1.0), np.where(finite, high, 1.0)
        self._bounded = bool(finite.all())
        self.register_buffer("finite", torch.tensor(finite), persistent=False)

    def _squash(self, obs: Tensor) -> Tensor:
        if self._bounded:
            return obs
        return torch.where(cast(Tensor, self.finite), obs, obs / (1.0 + obs.abs()))


class Fourier(_Scaled):
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
        super().__init__(space)
        order = integer("order", order, 1)
        grid = np.array(list(itertools.product(range(order + 1), repeat=len(self.low))))
        self.size = len(grid)
        # cos(pi c . (x - low) / (high - low)) = cos(weights x + phase)
        weights = math.pi * grid / (self.high - self.low)
        self.register_buffer("weights", torch.tensor(weights.T, dtype=torch.float32), False)
        phase = -(weights * self.low).sum(1)
        self.register_buffer("phase", torch.tensor(phase, dtype=torch.float32), False)

    def forward(self, obs: Tensor) -> Tensor:
        """(..., size)."""
        obs = self._squash(obs)
        shape = obs.shape[:-1]
        flat = torch.addmm(cast(Tensor, self.phase), obs.reshape(-1, obs.shape[-1]),
                           cast(Tensor, self.weights))  # fmt: skip
        return flat.cos().reshape(*shape, self.size)


class Tiles(_Scaled):
    """Tile coding: 1, then an indicator of the tile that the observation is in, a tiling each.

    A tiling is a grid of tiles that are ``(high - low) / tiles`` wide, and has ``tiles + 1`` to an
    axis, so that it covers the space however it is shifted. Tiling k of n is shifted down by
    ``k d mod n`` nths of a tile, where d is the axis' displacement: the first odd numbers that
    have no factor in common with n. With n a power of 2 these are 1, 3, 5, ..., the asymmetric
    displacements that Sutton and Barto recommend (after Miller and Glanz 1996) over shifts along
    the diagonal, whose traces generalisation shows. Having no common factor, the n shifts of an
    axis are all different, so two observations that differ in that axis alone by m nths of a tile
    share n - m tilings, and by a tile or more none.

    The tiles of a tiling sum to the first feature, which spans nothing new: it is what biases are
    kept in. Observations beyond the bounds are in the outermost tiles.

    Args:
        space: of one observation, a flat Box, with infinite bounds as in ``Fourier``.
        tilings: n, how many there are.
        tiles: to the space's extent along each axis.

    Paper: Sutton, Barto (2018), "Reinforcement learning: an introduction", second edition, section
    9.5.4; Albus (1981).
    """

    def __init__(self, space: gym_spaces.Box, tilings: int, tiles: int) -> None:
        super().__init__(space)
        n, per_axis = integer("tilings", tilings, 1), integer("tiles", tiles, 1) + 1
        axes = len(self.low)
        self.size = 1 + n * per_axis**axes
        if self.size > _MOST_TILES:
            raise ValueError(
                f"tiles={tiles}: {n} tilings of {per_axis} tiles along each of {axes} axes are "
                f"{self.size:.1e} features; lower it, or tilings, to at most {_MOST_TILES:,}"
            )
        odd = (d for d in itertools.count(1, 2) if math.gcd(d, n) == 1)
        displacements = np.array(list(itertools.islice(odd, axes)))
        shifts = np.outer(np.arange(n), displacements) % n / n
        scale = tiles / (self.high - self.low)
        self._last = tiles
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), False)
        shifts = shifts - scale * self.low
        self.register_buffer("shifts", torch.tensor(shifts, dtype=torch.float32), False)
        strides = torch.tensor(per_axis ** np.arange(axes))
        self.register_buffer("strides", strides, False)
        self.register_buffer("starts", 1 + torch.arange(n) * per_axis**axes, False)

    def forward(self, obs: Tensor) -> Tensor:
        """(..., size), of which 1 + tilings are 1."""
        scaled = self._squash(obs).unsqueeze(-2) * cast(Tensor, self.scale)
        tile = (scaled + cast(Tensor, self.shifts)).floor().clamp(0, self._last).long()
        index = (tile * cast(Tensor, self.strides)).sum(-1) + cast(Tensor, self.starts)
        x = torch.zeros(*obs.shape[:-1], self.size, device=obs.device).scatter(-1, index, 1.0)
        x[..., 0] = 1.0
        return x


class Plain(Features):
    """1 and the observation: a flat Box as it is, a Discrete one as an indicator."""

    def __init__(self, space: gym_spaces.Space[Any]) -> None:
        super().__init__()
        self._count = int(space.n) if isinstance(space, gym_spaces.Discrete) else 0
        self._start = int(space.start) if isinstance(space, gym_spaces.Discrete) else 0
        self.size = 1 + (self._count or math.prod(space.shape or ()))

    def forward(self, obs: Tensor) -> Tensor:
        """(..., size)."""
        if self._count:
            obs = nn.functional.one_hot(obs - self._start, self._count)
        obs = obs if obs.is_floating_point() else obs.to(torch.float32)
        return nn.functional.pad(obs, (1, 0), value=1.0)


def features(
    space: gym_spaces.Space[Any], kind: str, order: int, tilings: int = 5, tiles: int = 4
) -> Features:
    """Features by name: "fourier" (of ``order``), "tiles" (``tilings`` and ``tiles``) or "plain".

    Raises:
        ValueError: for another name, or observations that they cannot read.
    """
    if kind not in ("fourier", "tiles", "plain"):
        raise ValueError(f"features={kind!r}: expected fourier, tiles or plain")
    flat = isinstance(space, gym_spaces.Box) and len(space.shape) == 1
    if kind == "fourier" and flat:
        return Fourier(cast(gym_spaces.Box, space), order)
    if kind == "tiles" and flat:
        return Tiles(cast(gym_spaces.Box, space), tilings, tiles)
    if kind == "plain" and (flat or isinstance(space, gym_spaces.Discrete)):
        return Plain(space)
    wanted = "a flat Box or Discrete" if kind == "plain" else "a flat Box"
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
