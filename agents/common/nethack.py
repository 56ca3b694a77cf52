"""An encoder for what NetHack shows: the map around the hero, the hero's numbers, the message.

The parts are those of ONI's policy (Zheng et al. 2024), with a learned vector for each glyph of
the window in place of a picture of it, which costs a CPU far less.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rewardzoo.transition import MASK_KEY

from .layers import orthogonal

MAP, NUMBERS, MESSAGE = (21, 79), (27,), (256,)
_WINDOW = 9
_GLYPH_SIZE = 16
# What each of ``blstats`` is multiplied by before it is clipped to [-5, 5]. The score, the depth,
# the level, the conditions, hit dice and alignment are 0: the policy does not see them.
_SCALES = (
    1 / 79, 1 / 21, 0, 1 / 10, 1 / 10, 1 / 10, 1 / 10, 1 / 10, 1 / 10, 0, 1 / 10, 1 / 10, 0,
    1 / 1000, 1 / 10, 1 / 10, 1 / 10, 0, 1 / 10, 1 / 100, 1 / 1000, 1, 1 / 10, 0, 0, 0, 0,
)  # fmt: skip


def takes(space: spaces.Space) -> bool:
    """Whether this is a Dict with NetHack's ``glyphs`` (or their window) and ``blstats``."""
    if not isinstance(space, spaces.Dict):
        return False
    keys = space.spaces
    seen = "glyphs_crop" in keys or ("glyphs" in keys and keys["glyphs"].shape == MAP)
    return seen and "blstats" in keys and keys["blstats"].shape == NUMBERS


class Numbers(nn.Module):
    """``blstats`` as features of about unit size, (..., 27), beside a layer on them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor(_SCALES), persistent=False)
        self.layers = layers(len(_SCALES), size, size)
        self.num_features = len(_SCALES) + size

    def scaled(self, blstats: Tensor) -> Tensor:
        """The features themselves."""
        return (blstats.to(torch.float32) * self.scales).clamp(-5.0, 5.0)

    def forward(self, blstats: Tensor) -> Tensor:
        """(..., 27) to (..., num_features)."""
        x = self.scaled(blstats)
        return torch.cat([x, self.layers(x)], -1)


class Window(nn.Module):
    """The glyphs around the hero, a learned vector each, and a layer on all of them.

    Args:
        glyphs: how many kinds there are.
        width: of the window, odd.
        size: number of features.
    """

    def __init__(self, glyphs: int, width: int, size: int) -> None:
        super().__init__()
        self.outside = glyphs  # one more kind: beyond the map
        self.width, self.num_features = width, size
        self.vectors = nn.Embedding(glyphs + 1, _GLYPH_SIZE)
        self.layers = layers(width * width * _GLYPH_SIZE, size)
        # Offsets of the window's cells, rows first.
        offsets = torch.arange(width) - width // 2
        self.register_buffer("down", offsets.repeat_interleave(width), persistent=False)
        self.register_buffer("right", offsets.repeat(width), persistent=False)

    def cut(self, glyphs: Tensor, blstats: Tensor) -> Tensor:
        """(..., 21, 79) to the window around the hero, (..., width * width) int64."""
        height, width = MAP
        x = blstats[..., 0:1] + self.right
        y = blstats[..., 1:2] + self.down
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = torch.where(inside, y * width + x, 0)
        found = glyphs.flatten(-2).to(torch.int64).gather(-1, index)
        return torch.where(inside, found, self.outside)

    def forward(self, window: Tensor) -> Tensor:
        """(..., width * width) to (..., num_features)."""
        return self.layers(self.vectors(window.to(torch.int64)).flatten(-2))


class NetHackEncoder(nn.Module):
    """A Dict of NetHack's observations to features; other entries take the usual encoders.

    Args:
        space: the observation space; see ``takes``.
        size: width of the parts.
        other: makes the encoder of another entry's space.
    """

    shared = True
    """One for actor and critic: it is most of the network."""

    def __init__(
        self, space: spaces.Dict, size: int, other: Callable[[spaces.Space], nn.Module]
    ) -> None:
        super().__init__()
        keys = space.spaces
        self.cropped = "glyphs_crop" in keys
        source = keys["glyphs_crop" if self.cropped else "glyphs"]
        width = source.shape[0] if self.cropped else _WINDOW
        self.window = Window(int(source.high.max()) + 1, width, 2 * size)
        self.numbers = Numbers(size)
        self.message = layers(MESSAGE[0], size, size) if "message" in keys else None
        own = {"glyphs", "glyphs_crop", "blstats", "message", MASK_KEY}
        self.rest = nn.ModuleDict({k: other(s) for k, s in keys.items() if k not in own})
        self.num_features = (
            self.window.num_features
            + self.numbers.num_features
            + size * (self.message is not None)
            + sum(int(part.num_features) for part in self.rest.values())
        )

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """A dict of (..., shape) to (..., num_features)."""
        blstats = obs["blstats"]
        window = (
            obs["glyphs_crop"].flatten(-2)
            if self.cropped
            else self.window.cut(obs["glyphs"], blstats)
        )
        parts = [self.window(window), self.numbers(blstats)]
        if self.message is not None:
            parts.append(self.message(obs["message"].to(torch.float32) / 255.0))
        parts += [part(obs[key]) for key, part in self.rest.items()]
        return torch.cat(parts, -1)


def layers(*sizes: int) -> nn.Sequential:
    """Linear layers, each followed by a rectifier."""
    pairs = zip(sizes, sizes[1:], strict=False)
    out: list[nn.Module] = []
    for a, b in pairs:
        out += [orthogonal(nn.Linear(a, b), math.sqrt(2)), nn.ReLU()]
    return nn.Sequential(*out)
