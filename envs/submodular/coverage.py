"""SubmodularCoverage and SubmodularNests: see as much of a field as possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rewardzoo.rewards.base import integer
from rewardzoo.rewards.submodular_coverage import Coverage, check_shape, check_weights

from .data import gaussian_field, synthetic_nests
from .walk import Walk, WalkParams, grid_moves, grid_places, start_cell


@dataclass(frozen=True)
class CoverageParams(WalkParams):
    """The field and what is seen of it."""

    shape: tuple[int, int] = (30, 30)
    """Rows and columns."""
    weights: Any = "uniform"
    """"uniform"; "bimodal": two high corners; "gp": a draw of a Gaussian process; "nests": expected
    nests of a log-Gaussian Cox process; or an array of that shape, >= 0."""
    footprint: str = "diag"
    """What is seen from a cell: "cell", "diag" (itself, right, below, right below), "large" (3 x 3
    to the right and below), "disc" or "square"."""
    radius: float = 1.0
    """Of the disc or square, in cells."""
    start: tuple[int, int] = (1, 4)
    """Row and column where an episode begins."""
    instance: int = 0
    """Which draw of "gp" or "nests"."""

    def __post_init__(self) -> None:
        """Check the field."""
        super().__post_init__()
        integer("instance", self.instance, 0)


class SubmodularCoverage(Walk):
    """Walk over a field and see as much of it as possible; what was seen is worth nothing more.

    Dynamics: a walk on a grid; borders stop a move. With probability ``slip`` the action is
    replaced by one drawn uniformly.

    Observation: ``obs="markov"``: Box(3), row, column and time in [-1, 1]; ``"index"``:
    Discrete(cells * horizon), ``time * cells + cell``; ``"history"``: the former Box with all
    places so far, each with a flag, zeros for the future; ``"augmented"``: the former Box with the
    covered cells as zeros and ones.

    Action: Discrete(5): stay, right, down, left, up.

    Objective: the gain of the step, ``F(visited with the new cell) - F(visited)``, where ``F`` is
    the weight of all cells in sight of a visited one. It depends on the past: only with
    ``obs="augmented"`` or ``"history"`` does the observation determine it. An episode's sum is
    ``F(visited) - F({start})``; use it undiscounted. ``info["F"]`` has ``F(visited)``.

    Start state: ``start``.

    End of episode: terminated after ``horizon - 1`` steps.

    Arguments: ``shape``, ``weights``, ``footprint``, ``radius``, ``start``, ``instance``,
    ``horizon``, ``slip``, ``obs``.

    Reference returns: uniform weights and footprint "diag": every step sees at most two new cells,
    so ``F <= 4 + 2 * (horizon - 1)``, which paths away from the far borders attain: 82 for horizon
    40, 162 for 80, 18 on 5 x 5 with horizon 8. The uniform policy gets F = 29.5
    at horizon 40.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Params = CoverageParams

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: CoverageParams = self.params
        self.shape = check_shape(p.shape)
        weights = p.weights
        if isinstance(weights, str) and weights == "gp":
            # Spacing .1 and length scale 1: ten cells.
            field = gaussian_field(p.instance, self.shape, 10.0)
            weights = field - field.min()
        elif isinstance(weights, str) and weights == "nests":
            weights = synthetic_nests(p.instance, self.shape)
        elif not isinstance(weights, str):
            weights = check_weights(weights)
        function = Coverage(self.shape, p.footprint, weights, p.radius)
        self._build(
            function,
            grid_moves(self.shape),
            grid_places(self.shape),
            [start_cell(p.start, self.shape)],
        )


@dataclass(frozen=True)
class NestsParams(CoverageParams):
    """The field of nests."""

    weights: Any = "nests"
    """"nests": expected nests of a log-Gaussian Cox process; or an array, >= 0."""


class SubmodularNests(SubmodularCoverage):
    """Biodiversity monitoring: a drone sees as many gorilla nests as it can expect to.

    The field's weights are expected nests, 647 in all, of a synthetic log-Gaussian Cox process
    (Matérn-5/2); real sites are read by ``rewardzoo.envs.submodular.data.load_nests`` and given as
    ``weights``.

    Dynamics: those of SubmodularCoverage.

    Observation: as in SubmodularCoverage.

    Action: Discrete(5): stay, right, down, left, up.

    Start state: as in SubmodularCoverage.

    End of episode: terminated after ``horizon - 1`` steps.

    Objective: expected nests seen for the first time.

    Data: synthetic by default. The paper's are the nest sites of the Kagwene sanctuary, Cameroon
    (``gorillas`` of the R package spatstat.data), which this package does not hold.

    Reference returns: of the default field the uniform policy sees 19.5 nests of 647, greedy 109;
    no policy sees more than 146.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR;
    data: Funwi-Gabga, Mateu (2012), "Understanding the nesting spatial behaviour of gorillas".
    """

    Params = NestsParams
