"""Tile coding: one tile a tiling, shifts by nths of a tile, and generalisation as far as a tile."""

from __future__ import annotations

import math

import gymnasium
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rewardzoo.rewards.features import Features, features


def coded(axes: int, tilings: int, tiles: int, low: float = 0.0, high: float = 1.0) -> Features:
    """Tiles over a cube."""
    return features(gymnasium.spaces.Box(low, high, (axes,)), "tiles", 1, tilings, tiles)


def active(basis: Features, obs: Tensor, tilings: int) -> Tensor:
    """Which tile of each tiling an observation (..., D) is in, (..., tilings)."""
    x = basis(obs)
    assert (x[..., 0] == 1.0).all()
    tiles = x[..., 1:].unflatten(-1, (tilings, -1))
    assert ((tiles == 0.0) | (tiles == 1.0)).all() and (tiles.sum(-1) == 1.0).all()
    return tiles.argmax(-1)


@pytest.mark.parametrize(("axes", "tilings", "tiles"), [(1, 1, 1), (2, 5, 4), (3, 8, 2), (4, 3, 3)])
def test_one_tile_a_tiling_is_active_on_and_beyond_the_bounds_too(
    axes: int, tilings: int, tiles: int
) -> None:
    basis = coded(axes, tilings, tiles, -2.0, 6.0)
    assert basis.size == 1 + tilings * (tiles + 1) ** axes
    draw = torch.Generator().manual_seed(0)
    inside = 8.0 * torch.rand(50, 4, axes, generator=draw) - 2.0
    assert active(basis, inside, tilings).shape == (50, 4, tilings)
    corners = torch.cartesian_prod(*[torch.tensor([-2.0, 2.0, 6.0])] * axes).reshape(-1, axes)
    assert active(basis, corners, tilings).shape == (3**axes, tilings)
    beyond = torch.tensor([-1e9, 1e9]).unsqueeze(1).expand(2, axes)
    ends = torch.tensor([-2.0, 6.0]).unsqueeze(1).expand(2, axes)
    assert torch.equal(active(basis, beyond, tilings)[0], active(basis, ends, tilings)[0])


def test_tiles_of_a_line_by_hand() -> None:
    """Two tilings of unit tiles over [0, 4], the second half a tile further down."""
    obs = torch.tensor([0.0, 0.25, 0.75, 1.0, 3.25, 3.75, 4.0]).unsqueeze(1)
    expected = [[0, 0], [0, 0], [0, 1], [1, 1], [3, 3], [3, 4], [4, 4]]
    assert active(coded(1, 2, 4, 0.0, 4.0), obs, 2).tolist() == expected


@pytest.mark.parametrize(
    ("tilings", "shifts"),
    [
        (
            8,
            [[0, 1, 2, 3, 4, 5, 6, 7], [0, 3, 6, 1, 4, 7, 2, 5], [0, 5, 2, 7, 4, 1, 6, 3]],
        ),  # by 1, 3, 5
        (5, [[0, 1, 2, 3, 4], [0, 3, 1, 4, 2], [0, 2, 4, 1, 3]]),  # by 1, 3, 7
        (6, [[0, 1, 2, 3, 4, 5], [0, 5, 4, 3, 2, 1], [0, 1, 2, 3, 4, 5]]),  # by 1, 5, 7
    ],
)
def test_tilings_are_shifted_by_nths_of_a_tile_differently_along_each_axis(
    tilings: int, shifts: list[list[int]]
) -> None:
    """A tiling that is shifted down by k nths has an edge k nths below the first edge inside."""
    basis = coded(3, tilings, 4, 0.0, 4.0)
    for axis, expected in enumerate(shifts):
        obs = torch.zeros(tilings, 3)  # the middles of the nths of the first tile
        obs[:, axis] = (torch.arange(tilings) + 0.5) / tilings
        tiles = active(basis, obs, tilings)
        below = (tiles == tiles[0]).sum(0)  # nths below the edge; all of them in tiling 0
        assert (tilings - below).tolist() == expected


@given(data=st.data())
def test_what_is_learned_at_a_point_is_generalised_to_a_tile_around_it(data: st.DataObject) -> None:
    """A step of 1 / n moves a point that shares m tilings by m / n; moved along one axis by j nths
    of a tile, m is n - j; along several, at most that of the farthest."""
    axes = data.draw(st.integers(1, 3))
    tilings = data.draw(st.sampled_from([1, 2, 4, 5, 6, 9]))
    basis = coded(axes, tilings, 4, 0.0, 4.0)
    nths = st.lists(st.integers(0, 4 * tilings - 1), min_size=axes, max_size=axes)
    here, there = (torch.tensor([data.draw(nths)]) for _ in range(2))
    x, y = (basis((at + 0.5) / tilings)[:, 1:] for at in (here, there))
    weights = x / tilings  # one step from 0 towards 1
    moved = tilings * float((weights * y).sum())
    farthest = int((here - there).abs().max())
    if axes == 1 or int(((here - there) != 0).sum()) <= 1:
        assert moved == pytest.approx(max(0, tilings - farthest), abs=1e-4)
    assert moved <= max(0, tilings - farthest) + 1e-4


def test_an_axis_without_bounds_is_squashed_first() -> None:
    basis = features(gymnasium.spaces.Box(-math.inf, math.inf, (1,)), "tiles", 1, 1, 4)
    obs = torch.tensor([-1e9, -1.01, -0.99, -0.01, 0.01, 0.99, 1.01, 1e9]).unsqueeze(1)
    assert active(basis, obs, 1).flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 4]


def test_tiles_wait_for_no_device() -> None:
    """One without data would refuse."""
    host = coded(2, 5, 4)(torch.zeros(3, 7, 2))
    meta = coded(2, 5, 4).to("meta")(torch.zeros(3, 7, 2, device="meta"))
    assert (meta.shape, meta.dtype, meta.device.type) == (host.shape, host.dtype, "meta")


def test_what_cannot_be_coded_is_named() -> None:
    box = gymnasium.spaces.Box(0.0, 1.0, (17,))
    for space, kind, sizes, message in (
        (box, "wavelets", (5, 4), "features='wavelets': expected fourier, tiles or plain"),
        (gymnasium.spaces.Discrete(2), "tiles", (5, 4), "features='tiles': need a flat Box"),
        (box, "tiles", (0, 4), "tilings=0"),
        (box, "tiles", (5, 0), "tiles=0"),
        (box, "tiles", (5, 4), r"tiles=4: 5 tilings of 5 tiles along each of 17 axes are 3.8e\+12"),
    ):
        with pytest.raises(ValueError, match=message):
            features(space, kind, 1, *sizes)
