"""SubmodularDesign and SubmodularFacility: where to measure, and where to build, along a path."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rewardzoo.functional import positive
from rewardzoo.rewards.base import integer
from rewardzoo.rewards.submodular_coverage import check_shape
from rewardzoo.rewards.submodular_facility import FacilityLocation
from rewardzoo.rewards.submodular_information import Information, conditioned, matern52

from .walk import Walk, WalkParams, grid_moves, grid_places, start_cell


@dataclass(frozen=True)
class DesignParams(WalkParams):
    """The field that is measured."""

    shape: tuple[int, int] = (30, 30)
    """Rows and columns."""
    spacing: float = 0.1
    """Distance between neighbouring cells, in length scales of the field."""
    noise: float = 1e-3
    """Variance of a measurement; the field's prior variance is 1."""
    known: int = 10
    """Measurements made before, at random places, so that some regions are known better."""
    repeats: str = "multiset"
    """"multiset": measuring a cell again is another noisy measurement; "set": it adds nothing."""
    start: tuple[int, int] = (1, 4)
    """Row and column where an episode begins."""
    instance: int = 0
    """Which random places of the known measurements."""

    def __post_init__(self) -> None:
        """Check the field."""
        super().__post_init__()
        positive("spacing", self.spacing)
        positive("noise", self.noise)
        integer("known", self.known, 0)
        integer("instance", self.instance, 0)


class SubmodularDesign(Walk):
    """Informative path planning: measure a Gaussian process along a path, and learn most about it.

    Dynamics: a walk on a grid, as in SubmodularCoverage; every cell reached is measured.

    Observation: as in SubmodularCoverage; ``obs="augmented"`` shows posterior over prior variance
    of every cell.

    Action: Discrete(5): stay, right, down, left, up.

    Objective: information gained by the measurement, in nats: ``1/2 log(1 + posterior variance /
    noise)``; in all ``F(S) = 1/2 log det(I + K_SS / noise)``, with a Matérn-5/2 covariance
    conditioned on ``known`` measurements that were made before.

    Start state: ``start``.

    End of episode: terminated after ``horizon - 1`` steps.

    Arguments: ``shape``, ``spacing``, ``noise``, ``known``, ``repeats``, ``start``, ``instance``,
    ``horizon``, ``slip``, ``obs``.

    Reference returns: on the default field greedy gains 37.4 nats, the uniform policy 15.6; no
    policy gains more than 56.9.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR;
    Krause, Singh, Guestrin (2008), "Near-optimal sensor placements in Gaussian processes".
    """

    Params = DesignParams

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: DesignParams = self.params
        self.shape = check_shape(p.shape)
        self._build(
            _information(self.shape, p.spacing, p.noise, p.known, p.instance, p.horizon, p.repeats),
            grid_moves(self.shape),
            grid_places(self.shape),
            [start_cell(p.start, self.shape)],
        )


@functools.lru_cache(maxsize=8)
def _information(
    shape: tuple[int, int],
    spacing: float,
    noise: float,
    known: int,
    instance: int,
    horizon: int,
    repeats: str,
) -> Information:
    """Made once: the covariance of a large field takes a moment, and nothing changes it."""
    cells = np.indices(shape).reshape(2, -1).T * spacing
    reach = np.array(shape) * spacing
    before = np.random.default_rng(instance).random((known, 2)) * reach
    kernel = conditioned(matern52(np.concatenate([cells, before])), known, noise)
    return Information(kernel, noise, horizon, repeats)


@dataclass(frozen=True)
class FacilityParams(WalkParams):
    """The customers."""

    shape: tuple[int, int] = (12, 12)
    """Rows and columns."""
    customers: int = 40
    """How many, at random places."""
    reach: float = 2.0
    """Distance, in cells, at which a stop's worth to a customer has fallen to .61."""
    start: tuple[int, int] = (6, 6)
    """Row and column where an episode begins."""
    instance: int = 0
    """Which random places and demands."""
    horizon: int = 20
    """States in an episode, the first included."""

    def __post_init__(self) -> None:
        """Check the customers."""
        super().__post_init__()
        integer("customers", self.customers, 1)
        positive("reach", self.reach)
        integer("instance", self.instance, 0)


class SubmodularFacility(Walk):
    """A travelling service: every customer counts the nearest stop that the walk has made.

    Dynamics: a walk on a grid, as in SubmodularCoverage.

    Observation: as in SubmodularCoverage; ``obs="augmented"`` shows how well each customer is
    served.

    Action: Discrete(5): stay, right, down, left, up.

    Objective: the gain of facility location, ``F(S) = sum_j max_{s in S} demand_j *
    exp(-|s - customer_j|^2 / (2 reach^2))``.

    Start state: ``start``.

    End of episode: terminated after ``horizon - 1`` steps.

    Arguments: ``shape``, ``customers``, ``reach``, ``start``, ``instance``, ``horizon``, ``slip``,
    ``obs``.

    Reference returns: F is at most the sum of demands, 23.3 on the first instance; greedy gets
    11.0 (13.0 in the best of 64 ways to break ties), the uniform policy 8.6.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Params = FacilityParams

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: FacilityParams = self.params
        self.shape = check_shape(p.shape)
        rng = np.random.default_rng(p.instance)
        places = rng.random((p.customers, 2)) * self.shape
        demand = rng.random(p.customers)
        cells = np.indices(self.shape).reshape(2, -1).T + 0.5
        squared = ((cells[:, None] - places[None]) ** 2).sum(-1)
        self._build(
            FacilityLocation(demand * np.exp(-squared / (2 * p.reach**2))),
            grid_moves(self.shape),
            grid_places(self.shape),
            [start_cell(p.start, self.shape)],
        )
