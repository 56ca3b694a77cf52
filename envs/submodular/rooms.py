"""SubmodularTwoRooms and SubmodularBuilding: coverage behind walls and doors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rewardzoo.rewards.submodular_coverage import Coverage

from .walk import Walk, WalkParams, grid_moves, grid_places

TWO_ROOMS = "\n".join(
    ["....######...."] * 2 + ["......S......."] + [".............."] + ["....######...."] * 3
)
BUILDING = """\
.....#.....#.....
.....#.....#.....
.................
.....#.....#.....
.....#.....#.....
##.#####.#####.##
.................
S................
##.#####.#####.##
.....#.....#.....
.....#.....#.....
.................
.....#.....#.....
.....#.....#....."""


@dataclass(frozen=True)
class RoomsParams(WalkParams):
    """The floor plan and what is seen of it."""

    map: str = TWO_ROOMS
    """Rows of the plan: ``S`` a start, ``#`` a wall, ``.`` free."""
    footprint: str = "diag"
    """What is seen from a cell: "cell", "diag", "large", "disc" or "square"; walls are not
    seen."""
    radius: float = 1.0
    """Of the disc or square, in cells."""

    def __post_init__(self) -> None:
        """Check the plan."""
        super().__post_init__()
        if not isinstance(self.map, str) or not self.map.strip():
            raise ValueError(f"map={self.map!r}: expected rows of text, separated by newlines")
        if len({len(row) for row in self.map.split("\n")}) != 1:
            raise ValueError("map: expected rows of one length, separated by newlines")
        if wrong := set(self.map) - set("S#.\n"):
            raise ValueError(f"map: unknown cell {min(wrong)!r}; expected S, # or .")
        if "S" not in self.map:
            raise ValueError("map: expected at least one start, S")


class SubmodularTwoRooms(Walk):
    """Explore two rooms from the corridor between them: a wrong turn costs the other room.

    Dynamics: a walk on the free cells of a floor plan; walls and borders stop a move. With
    probability ``slip`` the action is replaced by one drawn uniformly.

    Observation: as in SubmodularCoverage.

    Action: Discrete(5): stay, right, down, left, up.

    Objective: free cells seen for the first time; footprints hold no walls' cells.

    Start state: a start cell of the plan, uniformly; the default starts inside the corridor.

    End of episode: terminated after ``horizon - 1`` steps.

    Arguments: ``map``, ``footprint``, ``radius``, ``horizon``, ``slip``, ``obs``.

    Reference returns: the default plan has 68 free cells; with horizon 40 greedy sees 35 of them
    (52 in the best of 64 ways to break ties), the uniform policy 18.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Params = RoomsParams

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: RoomsParams = self.params
        plan = np.array([list(row) for row in p.map.split("\n")])
        self.shape = plan.shape
        self.walls = plan == "#"
        self._build(
            Coverage(self.shape, p.footprint, "uniform", p.radius, self.walls),
            grid_moves(self.shape, self.walls),
            grid_places(self.shape),
            np.flatnonzero(plan == "S").tolist(),
        )


@dataclass(frozen=True)
class BuildingParams(RoomsParams):
    """A larger floor plan."""

    map: str = BUILDING
    """Rows of the plan: ``S`` a start, ``#`` a wall, ``.`` free."""
    horizon: int = 80
    """States in an episode, the first included."""


class SubmodularBuilding(SubmodularTwoRooms):
    """Search a floor of six rooms on a corridor: doors are the bottlenecks.

    Dynamics: those of SubmodularTwoRooms, on a larger plan.

    Observation: as in SubmodularCoverage.

    Action: Discrete(5): stay, right, down, left, up.

    Start state: the entrance of the plan.

    End of episode: terminated after ``horizon - 1`` steps.

    Objective: free cells seen for the first time.

    Reference returns: 194 free cells; with horizon 80 no walk sees more than 160, greedy sees 74
    (108 in the best of 64 ways to break ties), the uniform policy 25.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Params = BuildingParams
