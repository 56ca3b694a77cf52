"""What measurements tell about a Gaussian process: information gained, and entropy.

Rank-one growth of a Cholesky factor: for ``A = K_SS + noise * I = L L'`` a new point adds one row
to ``L``. Kept is the inverse ``W = L^-1``, whose new row is ``[-l' W, 1] / d`` with
``l = W k(S, x)`` and ``d^2 = K_xx - l'l + noise``: two products of a matrix and a vector, so that a
gain costs O(h^2) after h points, a whole path O(h^3), as one determinant would, and a batch of
paths runs as one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .base import integer
from .submodular import SetFunction


class InformationMemory(NamedTuple):
    """The points measured, and the inverse Cholesky factor of their covariance."""

    points: Tensor  # (N, capacity) int64, 0 beyond ``length``
    inverse: Tensor  # (N, capacity, capacity) float64, lower triangular, 0 beyond ``length``
    length: Tensor  # (N,) int64, how many


class Information(SetFunction):
    """Mutual information of a Gaussian process and noisy measurements, in nats.

    ``F(S) = I(y_S; f) = 1/2 log det(I + K_SS / noise)``.

    Args:
        kernel: (size, size) prior covariance of all points.
        noise: variance of a measurement, > 0.
        capacity: how many measurements a growing set has room for; further ones are not taken in.
        repeats: "multiset" where measuring a point again is another noisy measurement of it,
            "set" where it adds nothing.

    Raises:
        ValueError: for a covariance that is not symmetric or has a negative eigenvalue.

    Example:
        >>> round(Information([[1.0]], noise=1.0, capacity=2).value([0]), 6)  # log(2) / 2
        0.346574

    Paper: Krause, Singh, Guestrin (2008), "Near-optimal sensor placements in Gaussian processes".
    """

    Memory = InformationMemory

    def __init__(
        self, kernel: ArrayLike, noise: float, capacity: int, repeats: str = "multiset"
    ) -> None:
        table = check_kernel(kernel)
        if not (math.isfinite(noise) and noise > 0):
            raise ValueError(f"noise={noise}: expected a finite variance > 0")
        if repeats not in ("multiset", "set"):
            raise ValueError(f"repeats={repeats!r}: expected 'multiset' or 'set'")
        self.size, self.noise, self.repeats = len(table), float(noise), repeats
        self.capacity = integer("capacity", capacity, 1)
        self.kernel = torch.tensor(table)
        self._variance = self.kernel.diagonal().clone()

    def empty(self, num_rows: int) -> InformationMemory:
        """Nothing is measured."""
        device, h = self.kernel.device, self.capacity
        return InformationMemory(
            torch.zeros(num_rows, h, dtype=torch.int64, device=device),
            torch.zeros(num_rows, h, h, dtype=torch.float64, device=device),
            torch.zeros(num_rows, dtype=torch.int64, device=device),
        )

    def add(self, memory: InformationMemory, element: Tensor) -> tuple[InformationMemory, Tensor]:
        """Measure ``element``."""
        points, inverse, length = memory
        column, variance = self._posterior(memory, element)
        counts = self._counts(memory, element)
        deviation = (variance + self.noise).sqrt()
        row = -(column.unsqueeze(1) @ inverse).squeeze(1)
        slot = torch.arange(self.capacity, device=length.device) == length.unsqueeze(1)
        slot = slot & counts.unsqueeze(1)
        row = (row + slot) / deviation.unsqueeze(1)
        grown = InformationMemory(
            torch.where(slot, element.unsqueeze(1), points),
            torch.where(slot.unsqueeze(2), row.unsqueeze(1), inverse),
            length + counts,
        )
        return grown, torch.where(counts, self._worth(variance), 0.0)

    def gain(self, memory: InformationMemory, element: Tensor) -> Tensor:
        """``1/2 log(1 + posterior variance / noise)``."""
        _, variance = self._posterior(memory, element)
        return torch.where(self._counts(memory, element), self._worth(variance), 0.0)

    def gains(self, memory: InformationMemory) -> Tensor:
        """From the map of posterior variances."""
        counts = (memory.length < self.capacity).unsqueeze(1)
        if self.repeats == "set":
            counts = counts & self._measured(memory).logical_not()
        return torch.where(counts, self._worth(self.variances(memory)), 0.0)

    def variances(self, memory: InformationMemory) -> Tensor:
        """The posterior variance of every point, (N, size) float64."""
        columns = memory.inverse @ self.kernel[memory.points]
        return (self._variance - columns.square().sum(1)).clamp(min=0.0)

    def features(self, memory: InformationMemory) -> Tensor:
        """Posterior over prior variance of every point, and, for a set, the points measured."""
        share = self.variances(memory) / self._variance.clamp(min=1e-300)
        if self.repeats == "set":
            share = torch.cat([share, self._measured(memory).to(share.dtype)], 1)
        return share.to(torch.float32)

    def value(self, elements: Sequence[int]) -> float:
        """The determinant."""
        chosen = self._chosen(elements)
        block = self.kernel[chosen][:, chosen] / self.noise
        return float(torch.linalg.slogdet(torch.eye(len(chosen)).double() + block)[1]) / 2.0

    def signature(self, elements: Sequence[int]) -> Hashable:
        """What was measured, how often, in any order."""
        return tuple(sorted(self._chosen(elements)))

    def _chosen(self, elements: Sequence[int]) -> list[int]:
        return list(dict.fromkeys(elements)) if self.repeats == "set" else list(elements)

    def _posterior(self, memory: InformationMemory, element: Tensor) -> tuple[Tensor, Tensor]:
        """``W k(S, x)`` (N, capacity), and the posterior variance (N,) of ``x``."""
        covariance = self.kernel[element.unsqueeze(1), memory.points]
        # Columns of W beyond the length are 0: what stands for missing points has no effect.
        # From the left: a matrix times a vector has other bits in a batch than alone.
        column = (covariance.unsqueeze(1) @ memory.inverse.mT).squeeze(1)
        variance = self._variance[element] - column.square().sum(1)
        return column, variance.clamp(min=0.0)

    def _counts(self, memory: InformationMemory, element: Tensor) -> Tensor:
        """(N,) bool, whether measuring ``element`` adds anything."""
        counts = memory.length < self.capacity
        if self.repeats == "set":
            old = torch.arange(self.capacity, device=counts.device) < memory.length.unsqueeze(1)
            counts = counts & ((memory.points == element.unsqueeze(1)) & old).any(1).logical_not()
        return counts

    def _measured(self, memory: InformationMemory) -> Tensor:
        """(N, size) bool."""
        old = torch.arange(self.capacity, device=memory.length.device) < memory.length.unsqueeze(1)
        # Slots without a point write to a column beyond the last.
        place = torch.where(old, memory.points, self.size)
        out = torch.zeros(place.shape[0], self.size + 1, dtype=torch.bool, device=place.device)
        return out.scatter(1, place, True)[:, :-1]

    def _worth(self, variance: Tensor) -> Tensor:
        return 0.5 * torch.log1p(variance / self.noise)


class Entropy(Information):
    """Entropy of noisy measurements of a Gaussian process, ``1/2 log det(2 pi e A)``, in nats.

    It is ``Information`` plus the noise's own entropy, the same for every measurement. F grows
    with the set only where that makes no gain negative: ``noise >= 1 / (2 pi e) = .0585``.

    Args:
        kernel: (size, size) prior covariance of all points.
        noise: variance of a measurement, at least 1 / (2 pi e).
        capacity: how many measurements a growing set has room for; further ones are not taken in.
        repeats: "multiset" or "set".

    Raises:
        ValueError: for so little noise that F would fall.

    Paper: Shewry, Wynn (1987), "Maximum entropy sampling".
    """

    def __init__(
        self, kernel: ArrayLike, noise: float, capacity: int, repeats: str = "multiset"
    ) -> None:
        super().__init__(kernel, noise, capacity, repeats)
        self._own = 0.5 * math.log(2.0 * math.pi * math.e * self.noise)
        if self._own < 0:
            raise ValueError(
                f"noise={noise}: expected >= {1 / (2 * math.pi * math.e):.4f}, below which a "
                "measurement lowers the entropy; rescale the kernel, or use Information"
            )

    def value(self, elements: Sequence[int]) -> float:
        """The determinant."""
        return super().value(elements) + len(self._chosen(elements)) * self._own

    def _worth(self, variance: Tensor) -> Tensor:
        return super()._worth(variance) + self._own


def matern52(points: ArrayLike, length_scale: float = 1.0) -> NDArray[np.float64]:
    """The Matérn-5/2 covariance of ``points`` (size, D), variance 1, (size, size)."""
    if not (math.isfinite(length_scale) and length_scale > 0):
        raise ValueError(f"length_scale={length_scale}: expected a finite number > 0")
    x = np.asarray(points, dtype=np.float64) / length_scale
    distance = np.sqrt(np.maximum(((x[:, None] - x[None]) ** 2).sum(-1), 0.0))
    scaled = math.sqrt(5.0) * distance
    found: NDArray[np.float64] = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    return found


def conditioned(kernel: NDArray[np.float64], known: int, noise: float) -> NDArray[np.float64]:
    """The covariance of all points but the last ``known``, after those were measured."""
    if not known:
        return kernel
    cross = kernel[:-known, -known:]
    within = kernel[-known:, -known:] + noise * np.eye(known)
    after = kernel[:-known, :-known] - cross @ np.linalg.solve(within, cross.T)
    found: NDArray[np.float64] = (after + after.T) / 2.0
    return found


def check_kernel(kernel: ArrayLike) -> NDArray[np.float64]:
    """A covariance as float64.

    Raises:
        ValueError: unless it is square, finite, symmetric and has no negative eigenvalue.
    """
    k = np.array(kernel, dtype=np.float64)
    if k.ndim != 2 or k.shape[0] != k.shape[1] or not k.size:
        raise ValueError(f"kernel: shape {k.shape}, expected (size, size)")
    if not np.isfinite(k).all():
        where = [int(i) for i in np.argwhere(~np.isfinite(k))[0]]
        raise ValueError(f"kernel{where}={k[tuple(where)]}: expected a finite number")
    scale = max(float(np.trace(k)) / len(k), 1e-300)
    lopsided = np.abs(k - k.T)
    if lopsided.max() > 1e-8 * scale:
        i, j = (int(x) for x in np.unravel_index(int(lopsided.argmax()), k.shape))
        raise ValueError(f"kernel[{i}, {j}]={k[i, j]:g}: expected kernel[{j}, {i}]={k[j, i]:g}")
    try:  # it has a Cholesky factor just if no eigenvalue is below; that is the quick way to know
        np.linalg.cholesky(k + 1e-8 * scale * np.eye(len(k)))
    except np.linalg.LinAlgError:
        smallest = float(np.linalg.eigvalsh(k)[0])
        raise ValueError(f"kernel: eigenvalue {smallest:g}, expected none below 0") from None
    return k
