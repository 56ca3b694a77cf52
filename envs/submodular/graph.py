"""SubmodularGraph and SubmodularBandit: coverage on any graph, and without one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rewardzoo.rewards.base import integer
from rewardzoo.rewards.submodular_coverage import SetCover

from .walk import Walk, WalkParams

_CHAIN = tuple((i, j) for i in range(9) for j in (i - 1, i + 1) if 0 <= j < 9)


@dataclass(frozen=True)
class GraphParams(WalkParams):
    """The graph and what is seen from its nodes."""

    edges: Sequence[tuple[int, int]] = _CHAIN
    """Directed edges (from, to); action k follows the k-th edge out of a node."""
    covers: Sequence[Sequence[int]] | None = None
    """For each node, the cells that it covers; None: each node covers itself."""
    weights: Sequence[float] = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 10.0, 0.0)
    """Of the cells, >= 0."""
    starts: Sequence[int] = (3,)
    """Nodes where an episode begins, uniformly."""
    stay: bool = True
    """Whether action 0 stays where it is."""
    places: Sequence[Sequence[float]] | None = None
    """Where the nodes are, for observations, in [-1, 1]; None puts them on a circle."""
    horizon: int = 6
    """States in an episode, the first included."""


class SubmodularGraph(Walk):
    """Coverage along the edges of any graph; by default a chain on which greed is a trap.

    The default: nine nodes in a row with weights 1 1 1 0 0 0 0 10 0, start at the fourth, five
    steps. Left of the start lie three ones, right of it, out of sight, a ten.

    Dynamics: action ``k`` follows the ``k``-th edge out of the node, action 0 stays if ``stay``;
    actions beyond a node's last edge start again with its first. With probability ``slip`` the
    action is replaced by one drawn uniformly.

    Observation: as in SubmodularCoverage, with the node's place on a circle or as given.

    Action: Discrete(largest number of edges out of a node, one more with ``stay``).

    Objective: the weight of the cells covered for the first time.

    Start state: one of ``starts``, uniformly.

    End of episode: terminated after ``horizon - 1`` steps.

    Arguments: ``edges``, ``covers``, ``weights``, ``starts``, ``stay``, ``places``, ``horizon``,
    ``slip``, ``obs``.

    Reference returns: on the default graph greedy gets F = 3, the optimum is 10.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Params = GraphParams

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: GraphParams = self.params
        covers = p.covers if p.covers is not None else [[v] for v in range(len(p.weights))]
        function = SetCover(covers, p.weights)
        nodes = function.size
        places = circle(nodes) if p.places is None else np.array(p.places, dtype=np.float32)
        if places.shape[:1] != (nodes,) or places.ndim != 2 or np.abs(places).max() > 1:
            raise ValueError(f"places: expected {nodes} points in [-1, 1], one for each node")
        if len(np.unique(places, axis=0)) < nodes:
            raise ValueError("places: two nodes are in one place")
        for start in p.starts:
            if not 0 <= start < nodes:
                raise ValueError(f"starts: node {start}, expected 0 to {nodes - 1}")
        if not len(p.starts):
            raise ValueError("starts: expected at least one node")
        self.links = [(int(a), int(b)) for a, b in p.edges]
        self._build(function, _moves(self.links, nodes, p.stay), places, p.starts)


@dataclass(frozen=True)
class BanditParams(WalkParams):
    """The arms."""

    arms: int = 12
    """How many sets there are to choose from."""
    elements: int = 30
    """How many elements they are sets of, with random weights."""
    density: float = 0.2
    """Chance that an element is in a set."""
    instance: int = 0
    """Which random sets and weights."""
    horizon: int = 5
    """States in an episode: one more than sets are chosen."""

    def __post_init__(self) -> None:
        """Check the arms."""
        super().__post_init__()
        integer("arms", self.arms, 1)
        integer("elements", self.elements, 1)
        integer("instance", self.instance, 0)
        if not 0 < self.density <= 1:
            raise ValueError(f"density={self.density}: expected a number in (0, 1]")


class SubmodularBandit(Walk):
    """Maximum coverage: choose a few of many random sets; any set can follow any other.

    The bandit case of submodular reinforcement learning, in which greedy choice is known to reach
    ``1 - 1/e`` of the optimum.

    Dynamics: action ``k`` chooses set ``k``, unless it slips.

    Observation: as in SubmodularCoverage, with the last choice's place on a circle.

    Action: Discrete(arms).

    Objective: the weight of the elements covered for the first time.

    Start state: nothing is chosen.

    End of episode: terminated after ``horizon - 1`` choices.

    Arguments: ``arms``, ``elements``, ``density``, ``instance``, ``horizon``, ``slip``, ``obs``.

    Reference returns: greedy gets at least .632 of the optimum (Nemhauser, Wolsey, Fisher 1978);
    on random instances usually more than .95.

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    Params = BanditParams

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        super().__init__(device, **params)
        p: BanditParams = self.params
        rng = np.random.default_rng(p.instance)
        member = rng.random((p.arms, p.elements)) < p.density
        weights = rng.random(p.elements)
        covers = [np.flatnonzero(row).tolist() for row in member]
        moves = np.tile(np.arange(p.arms), (p.arms + 1, 1))
        # The start is one more cell, which covers nothing.
        function = SetCover([*covers, []], weights)
        self._build(function, moves, circle(p.arms + 1), [p.arms])


def circle(nodes: int) -> np.ndarray:
    """(nodes, 2) float32: places on a circle, all different."""
    angle = 2 * math.pi * np.arange(nodes) / nodes
    return np.stack([np.sin(angle), np.cos(angle)], 1).astype(np.float32).clip(-1, 1)


def _moves(edges: list[tuple[int, int]], nodes: int, stay: bool) -> np.ndarray:
    out: list[list[int]] = [[v] if stay else [] for v in range(nodes)]
    for i, (a, b) in enumerate(edges):
        if not (0 <= a < nodes and 0 <= b < nodes):
            raise ValueError(f"edges[{i}]=({a}, {b}): expected nodes 0 to {nodes - 1}")
        out[a].append(b)
    for v, targets in enumerate(out):
        if not targets:
            raise ValueError(f"edges: none leads out of node {v}; give one, or stay=True")
    width = max(map(len, out))
    return np.array([[targets[k % len(targets)] for k in range(width)] for targets in out])
