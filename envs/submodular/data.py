"""Where animals nest: intensity of a point process on a grid, from a file or made up.

Real data: the gorilla nest sites of the Kagwene sanctuary, ``gorillas`` in the R package
spatstat.data; written with ``write.csv(as.data.frame(gorillas), "nests.csv")`` they are read by
``load_nests``. They are not part of this package.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import numpy as np

from rewardzoo.rewards.submodular_information import matern52


def load_nests(
    path: str | Path,
    x: str = "x",
    y: str = "y",
    window: tuple[float, float, float, float] | None = None,
    shape: tuple[int, int] = (30, 30),
    bandwidth: float | None = None,
) -> np.ndarray:
    """Expected nests in each cell, from a file of nest sites.

    A Gaussian kernel estimate whose kernels are cut off and scaled up at the window's edge
    (Diggle 1985), so that the weights sum to the number of sites.

    Args:
        path: CSV with a line a site.
        x: column of the eastings.
        y: column of the northings; the first row of the grid is the northernmost.
        window: (west, east, south, north); None takes the sites' bounding box.
        shape: rows and columns of the grid.
        bandwidth: standard deviation of the kernel, in the units of ``x``; None takes Scott's rule.

    Returns:
        (rows, columns) float64, >= 0.

    Raises:
        ValueError: for a missing column, a site that is no number (with its line), sites outside
            the window (with their count), or fewer than two sites.
    """
    sites = _read(Path(path), x, y)
    if window is None:
        (west, south), (east, north) = sites.min(0), sites.max(0)
    else:
        west, east, south, north = window
    if not (west < east and south < north):
        raise ValueError(
            f"window={(west, east, south, north)}: expected (west, east, south, north)"
        )
    outside = (sites < (west, south)).any(1) | (sites > (east, north)).any(1)
    if outside.any():
        raise ValueError(f"{str(path)!r}: {int(outside.sum())} sites are outside the window")
    if bandwidth is None:
        bandwidth = float(sites.std(0).mean()) * len(sites) ** (-1.0 / 6.0)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth={bandwidth}: expected a number > 0")
    rows, columns = shape
    across = _axis_weights(sites[:, 0], np.linspace(west, east, columns + 1), bandwidth)
    down = _axis_weights(sites[:, 1], np.linspace(south, north, rows + 1), bandwidth)
    return (down[:, :, None] * across[:, None, :]).sum(0)[::-1].copy()


def synthetic_nests(
    seed: int,
    shape: tuple[int, int] = (30, 30),
    expected: float = 647.0,
    length_scale: float = 0.25,
    deviation: float = 1.2,
) -> np.ndarray:
    """The intensity of a log-Gaussian Cox process: expected nests in each cell.

    Args:
        seed: of the field.
        shape: rows and columns.
        expected: nests in all; 647 as in Kagwene.
        length_scale: of the Matérn-5/2 field, in widths of the longer side.
        deviation: of the log-intensity.

    Returns:
        (rows, columns) float64, > 0, with sum ``expected``.
    """
    field = gaussian_field(seed, shape, length_scale * max(shape))
    weights = np.exp(deviation * field)
    return weights * (expected / weights.sum())


@functools.lru_cache(maxsize=32)
def gaussian_field(seed: int, shape: tuple[int, int], length_scale: float) -> np.ndarray:
    """A draw of a Matérn-5/2 Gaussian process on a grid of unit spacing, variance 1."""
    points = np.indices(shape).reshape(2, -1).T
    kernel = matern52(points, length_scale)
    factor = np.linalg.cholesky(kernel + 1e-6 * np.eye(len(kernel)))
    draw = np.random.default_rng(seed).standard_normal(len(kernel))
    field = (factor @ draw).reshape(shape)
    field.flags.writeable = False  # it is kept for the next call
    return field


def _read(path: Path, x: str, y: str) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"path={str(path)!r}: there is no such file")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        for column in (x, y):
            if column not in (reader.fieldnames or []):
                raise ValueError(f"{str(path)!r}: no column {column!r}, it has {reader.fieldnames}")
        sites = []
        for row in reader:
            try:
                site = (float(row[x]), float(row[y]))
            except (TypeError, ValueError):
                site = (np.nan, np.nan)
            if not np.isfinite(site).all():
                raise ValueError(
                    f"{str(path)!r}, line {reader.line_num}: expected numbers in {x!r} and {y!r}"
                )
            sites.append(site)
    if len(sites) < 2:
        raise ValueError(f"{str(path)!r}: {len(sites)} sites, expected at least 2")
    return np.array(sites)


def _axis_weights(sites: np.ndarray, edges: np.ndarray, bandwidth: float) -> np.ndarray:
    """(sites, cells): the share of each site's kernel in each cell of an axis; rows sum to 1."""
    from scipy.special import ndtr

    below = ndtr((edges[None, :] - sites[:, None]) / bandwidth)
    share = np.diff(below, axis=1)
    return share / share.sum(1, keepdims=True)
