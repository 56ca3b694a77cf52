"""Encoders of Gymnasium's observation spaces to features."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rewardzoo.transition import MASK_KEY

from . import nethack
from .layers import ACTIVATIONS, orthogonal


class Flat(nn.Module):
    """Box of any shape to a vector."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.ndim = len(space.shape)
        self.num_features = math.prod(space.shape)

    def forward(self, obs: Tensor) -> Tensor:
        """(..., *shape) to (..., num_features) float32."""
        obs = obs if obs.dtype == torch.float32 else obs.to(torch.float32)
        return obs if self.ndim == 1 else obs.reshape(*obs.shape[: obs.ndim - self.ndim], -1)


class Index(nn.Module):
    """Discrete, MultiDiscrete or MultiBinary to the sum of one learned vector a component.

    The same as a linear layer on one-hot vectors, and much faster.
    """

    def __init__(self, nvec: list[int], start: list[int], size: int, activation: str) -> None:
        super().__init__()
        self.single = len(nvec) == 1
        self.table = nn.Embedding(sum(nvec), size)
        nn.init.orthogonal_(self.table.weight, math.sqrt(2))
        first = [sum(nvec[:i]) - start[i] for i in range(len(nvec))]
        self.register_buffer("first", torch.tensor(first), persistent=False)
        self.offset = first[0]
        self.activation = ACTIVATIONS[activation]
        self.num_features = size

    def forward(self, obs: Tensor) -> Tensor:
        """(...,) or (..., K) integers to (..., num_features)."""
        if self.single and self.offset == 0:
            return self.activation(self.table(obs))
        index = obs.unsqueeze(-1) if self.single else obs
        return self.activation(self.table(index.to(torch.int64) + self.first).sum(-2))


class Image(nn.Module):
    """A uint8 picture, channels first or last, to 512 features (Mnih et al. 2015)."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.channels_last = space.shape[-1] <= 4 < space.shape[0]
        channels = space.shape[-1] if self.channels_last else space.shape[0]
        height, width = space.shape[:2] if self.channels_last else space.shape[1:]
        if min(height, width) < 36:
            raise ValueError(
                f"observation {space.shape}: the image encoder needs at least 36 x 36 pixels; "
                "flatten smaller pictures into a float32 Box"
            )
        self.convolutions = nn.Sequential(
            orthogonal(nn.Conv2d(channels, 32, 8, 4), math.sqrt(2)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(32, 64, 4, 2), math.sqrt(2)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(64, 64, 3, 1), math.sqrt(2)),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.head = nn.Sequential(orthogonal(nn.Linear(flat, 512), math.sqrt(2)), nn.ReLU())
        self.num_features = 512

    def forward(self, obs: Tensor) -> Tensor:
        """(..., H, W, C) or (..., C, H, W) uint8 to (..., 512)."""
        lead = obs.shape[:-3]
        obs = obs.reshape(-1, *obs.shape[-3:])
        if self.channels_last:
            obs = obs.permute(0, 3, 1, 2)
        return self.head(self.convolutions(obs.to(torch.float32) / 255.0)).reshape(*lead, 512)


class Keys(nn.Module):
    """A Dict: the features of its entries side by side; the action mask is no feature."""

    def __init__(self, space: spaces.Dict, size: int, activation: str) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {k: encoder(s, size, activation) for k, s in space.items() if k != MASK_KEY}
        )
        self.num_features = sum(int(p.num_features) for p in self.parts.values())  # type: ignore[arg-type]

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """A dict of (..., shape) to (..., num_features)."""
        return torch.cat([part(obs[k]) for k, part in self.parts.items()], -1)


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether the image encoder takes this space: a uint8 Box with three axes."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype.kind == "u"


def has_image(space: spaces.Space[Any]) -> bool:
    """Whether there is a picture anywhere in this space."""
    inner = space.spaces.values() if isinstance(space, spaces.Dict) else ()
    return is_image(space) or any(has_image(s) for s in inner)


def encoder(space: spaces.Space[Any], size: int, activation: str) -> nn.Module:
    """The encoder of an observation space.

    Raises:
        ValueError: for a space that none takes.
    """
    if is_image(space):
        return Image(space)  # type: ignore[arg-type]
    if isinstance(space, spaces.Box):
        return Flat(space)
    if isinstance(space, spaces.Discrete):
        return Index([int(space.n)], [int(space.start)], size, activation)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return Index(list(map(int, space.nvec)), list(map(int, space.start)), size, activation)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return Index([2] * space.shape[0], [0] * space.shape[0], size, activation)
    if isinstance(space, spaces.Dict):
        if nethack.takes(space):
            return nethack.NetHackEncoder(space, size, lambda x: encoder(x, size, activation))
        return Keys(space, size, activation)
    raise ValueError(
        f"observation_space={space}: expected Box, Discrete, flat MultiDiscrete or MultiBinary, "
        "or a Dict of them"
    )
