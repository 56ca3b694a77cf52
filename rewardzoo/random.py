"""Counter-based random numbers: every draw is a hash of (seed, episode, step, draw), on the device.

There is no generator state. Row ``i`` of a batch seeded with ``s`` draws exactly what a single
environment seeded with ``s + i`` draws, a checkpoint holds counters only, and a resumed run
continues bit for bit.

The hash is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom
number generators", with Stafford's "Mix13" constants) applied to a sum of the counters, each
multiplied by an odd 64-bit constant of its own, modulo 2**64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SEED = 0x9E3779B97F4A7C15
_EPISODE = 0xD1B54A32D192ED03
_STEP = 0x8CB92BA72F3D8DD7
_DRAW = 0xABC98388FB8FAC03
_STREAM = 0xF1357AEA2E62A9C5
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


SEEDS_APART = 1 << 20


def row_seeds(envs: Any, seed: int | Sequence[int] | None) -> NDArray[np.int64]:
    """(N,) the rows' seeds, where a vector environment is asked to ``reset(seed=seed)``.

    Args:
        envs: the vector environment; it draws a seed by itself where there is none.
        seed: one int ``s`` (row ``i`` gets ``s + i``), N of them, or None.

    Raises:
        ValueError: for another number of seeds than of environments.
    """
    if seed is not None:
        first = seed if isinstance(seed, int) else int(seed[0])
        envs._np_random, envs._np_random_seed = gymnasium.utils.seeding.np_random(first)
    start = seed if seed is not None else int(envs.np_random.integers(2**31))
    if isinstance(start, (int, np.integer)):
        return np.arange(envs.num_envs) + int(start)
    if len(start) != envs.num_envs:
        raise ValueError(f"seed: {len(start)} seeds for {envs.num_envs} environments")
    return np.array([int(s) for s in start], np.int64)


def first_row(seed: int) -> int:
    """The seed of row 0 of a run's batch, from the run's own.

    Row ``i`` of a batch draws from ``seed + i``. If runs with the seeds 0, 1, 2, … gave these to
    their batches as they are, they would share nearly all rows, and an interval over seeds would
    be too narrow. So every run has ``SEEDS_APART`` rows to itself.

    Raises:
        ValueError: unless the seed is an integer whose rows' seeds fit 64 bits.
    """
    if not abs(seed) < 1 << 43:
        raise ValueError(f"seed={seed}: expected an integer below 2**43")
    return seed * SEEDS_APART


def _signed(x: int) -> int:
    """The int64 with the same 64 bits as ``x`` modulo 2**64."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


def _mix(x: Tensor) -> Tensor:
    """Hash int64 to int64. Torch shifts int64 arithmetically; the masks make the shifts logical."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _signed(_MIX_1)
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _signed(_MIX_2)
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


class Rng:
    """The random numbers of one step of a batch of environments.

    Args:
        seed: (N,) int64, the seed of each row.
        episode: (N,) int64, the episode each row is in.
        step: (N,) int64, or one int for all rows; 0 is the reset, ``t`` the ``t``-th step.
        stream: separates users of one seed (environments use 0, agents another).

    Each call draws fresh numbers: the object counts its draws. Two objects made of the same
    counters draw the same sequence.

    Example:
        >>> import torch
        >>> zero = torch.zeros(2, dtype=torch.int64)
        >>> Rng(torch.tensor([7, 8]), zero, zero).uniform()
        tensor([0.1739, 0.7715])
        >>> Rng(torch.tensor([8]), zero[:1], zero[:1]).uniform()
        tensor([0.7715])
    """

    def __init__(self, seed: Tensor, episode: Tensor, step: Tensor | int, stream: int = 0) -> None:
        self._counters = (seed, episode, step, stream)
        self._key: Tensor | None = None
        self.draws = 0  # so far, a row

    def bits(self, *shape: int) -> Tensor:
        """Uniform integers in [0, 2**32), (N, *shape) int64."""
        if self._key is None:  # hashed on first use, so that steps which draw nothing pay nothing
            seed, episode, step, stream = self._counters
            rest = stream * _STREAM
            if isinstance(step, int):
                self._key = (
                    seed * _signed(_SEED)
                    + episode * _signed(_EPISODE)
                    + _signed(rest + step * _STEP)
                )
            else:
                self._key = (
                    seed * _signed(_SEED)
                    + episode * _signed(_EPISODE)
                    + step * _signed(_STEP)
                    + _signed(rest)
                )
        count = math.prod(shape)
        first = self.draws
        self.draws += count
        if not shape:
            return (_mix(self._key + _signed(first * _DRAW)) >> 32) & 0xFFFFFFFF
        draw = torch.arange(first, first + count, device=self._key.device)
        keys = self._key.unsqueeze(1) + draw * _signed(_DRAW)
        return ((_mix(keys) >> 32) & 0xFFFFFFFF).reshape(-1, *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in [low, high), (N, *shape) float32, from 24 random bits."""
        u = (self.bits(*shape) >> 8).to(torch.float32) * 2.0**-24
        return u if low == 0.0 and high == 1.0 else low + (high - low) * u

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (N, *shape) float32, by the Box-Muller transform."""
        u = self.uniform(2, *shape)
        radius = torch.sqrt(-2.0 * torch.log1p(-u[:, 0]))  # 1 - u is never 0
        return radius * torch.cos((2.0 * math.pi) * u[:, 1])

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel numbers, (N, *shape) float32: argmax(logits + gumbel) is a sample."""
        # 23 bits and a half: both ends of (0, 1) are exact in float32, and log1p keeps the tail.
        u = ((self.bits(*shape) >> 9).to(torch.float32) + 0.5) * 2.0**-23
        return -torch.log(-torch.log1p(-u))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform integers in [low, high), (N, *shape) int64 (bias below (high - low) * 2**-32)."""
        if not high > low:
            raise ValueError(f"high={high}: expected an integer above low={low}")
        return low + ((self.bits(*shape) * (high - low)) >> 32)

    def categorical(self, probs: Tensor | None = None, logits: Tensor | None = None) -> Tensor:
        """One index a row, (N,) int64, from ``probs`` or ``logits`` of shape (N, K) or (K,).

        Probabilities are inverted on their cumulative sum (rows need not be normalised), so the
        result is a function of one uniform number; logits are normalised first.
        """
        if (probs is None) == (logits is None):
            raise ValueError("categorical: give exactly one of probs and logits")
        if probs is None:
            assert logits is not None
            probs = torch.softmax(logits, -1)
        cdf = probs.to(torch.float64).cumsum(-1)
        u = (self.bits().to(torch.float64) + 0.5) * 2.0**-32
        below = cdf <= (u * cdf[..., -1]).unsqueeze(-1)
        return below.sum(-1).clamp_(max=cdf.shape[-1] - 1)

    def permutation(self, n: int) -> Tensor:
        """A uniform permutation of range(n) for each row, (N, n) int64 (ties: below n**2/2**33)."""
        bits = self.bits(n)
        if bits.shape[0] == 1:  # one long row: the one-dimensional sort is a radix sort
            return bits[0].argsort(stable=True).unsqueeze(0)
        return bits.argsort(dim=-1, stable=True)
