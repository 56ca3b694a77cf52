"""Families of running times with a given mean, drawn on the device and as quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rewardzoo.random import Rng

FAMILIES = ("exponential", "poisson", "gamma", "lognormal", "deterministic", "empirical")
_POISSON_BITS = 12  # counts up to 4,095 seconds


def draw(family: str, mean: Tensor, spread: float, samples: Tensor | None, rng: Rng) -> Tensor:
    """(N,) float32 times.

    Args:
        family: one of ``FAMILIES``.
        mean: (N,) or () s.
        spread: the coefficient of variation of lognormal times; that of gamma times, whose shape is
            the nearest integer to ``1 / spread^2``.
        samples: (K,) of mean 1, for empirical times.
        rng: of the rows.
    """
    if family == "gamma":
        shape = gamma_shape(spread)
        return torch.log1p(-rng.uniform(shape)).sum(-1) * (-mean / shape)
    u = rng.uniform()
    if family == "exponential":
        return torch.log1p(-u) * -mean
    if family == "deterministic":
        return mean.expand_as(u)
    if family == "lognormal":
        variance = float(np.log1p(spread**2))
        # In float64, where the middles of the 2**24 cells are neither 0 nor 1.
        z = torch.special.ndtri(u.to(torch.float64) + 2.0**-25).to(torch.float32)
        return mean * torch.exp(variance**0.5 * z - variance / 2)
    if family == "empirical":
        assert samples is not None
        return mean * samples[(u * len(samples)).long()]
    return _poisson(mean, u)


def quantiles(
    family: str, mean: float, spread: float, samples: NDArray[Any] | None, count: int = 4096
) -> NDArray[np.float64]:
    """(count,) s, the quantiles at the middles of ``count`` equal parts, scaled to the mean."""
    from scipy import stats

    u = (np.arange(count) + 0.5) / count
    if family == "empirical":
        assert samples is not None
        return mean * np.sort(np.resize(samples, len(samples) * (-(-count // len(samples)))))
    sigma = float(np.sqrt(np.log1p(spread**2)))
    shape = gamma_shape(spread)
    laws = {
        "exponential": stats.expon(scale=mean),
        "poisson": stats.poisson(mean),
        "gamma": stats.gamma(shape, scale=mean / shape),
        "lognormal": stats.lognorm(sigma, scale=mean * np.exp(-(sigma**2) / 2)),
    }
    if family == "deterministic":
        return np.full(count, mean)
    found: NDArray[np.float64] = laws[family].ppf(u)
    return found


def gamma_shape(spread: float) -> int:
    """The integer shape of gamma times: how many exponential stages they have."""
    return max(1, round(1.0 / spread**2))


def _poisson(mean: Tensor, u: Tensor) -> Tensor:
    """The smallest k with P(X <= k) > u, by bisection; P(X <= k) = Q(k + 1, mean)."""
    rate, u = mean.to(torch.float64).expand_as(u), u.to(torch.float64)
    low = torch.full_like(u, -1.0)  # P(X <= low) <= u
    step = 2.0 ** (_POISSON_BITS - 1)
    while step >= 1.0:
        middle = low + step
        below = torch.special.gammaincc(middle + 1.0, rate) <= u
        low = torch.where(below, middle, low)
        step /= 2.0
    return (low + 1.0).to(torch.float32)
