"""The field from above: weights in grey, what is covered in blue, the walker in orange."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rewardzoo.rewards.submodular_information import Information

_COVERED = np.array([86, 180, 233])
_WALL = np.array([60, 60, 60])
_VISITED = (0, 114, 178)
_WALKER = (213, 94, 0)


def frame(func: Any, state: Any, i: int) -> np.ndarray:
    """(height, width, 3) uint8."""
    return grid_frame(func, state, i) if hasattr(func, "shape") else graph_frame(func, state, i)


def worth(func: Any, state: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every cell: its worth alone in [0, 1], and the share of it that is taken, in [0, 1].

    For coverage the cells themselves; for information the share of the prior variance that is gone;
    for other functions what the cell would no longer add.
    """
    f = func.set_function
    memory = type(state.memory)(*(x[i : i + 1] for x in state.memory))
    if hasattr(f, "covered") and f.cells == f.size:
        alone, taken = f.weights.cpu().numpy(), f.covered(memory)[0].float().cpu().numpy()
    elif isinstance(f, Information):
        alone = f.singles().cpu().numpy()
        taken = 1.0 - f.features(memory)[0, : f.size].cpu().numpy()
    else:
        alone = f.singles().cpu().numpy()
        left = f.gains(memory)[0].cpu().numpy()
        taken = 1.0 - np.divide(left, alone, out=np.ones_like(left), where=alone > 0)
    return alone / max(float(alone.max()), 1e-12), taken


def grid_frame(func: Any, state: Any, i: int) -> np.ndarray:
    """A grid, cell by cell."""
    rows, columns = func.shape
    size = max(6, 360 // max(rows, columns))
    alone, taken = worth(func, state, i)
    grey = 250 - 90 * alone[:, None] * np.ones(3)
    colour = grey + (_COVERED * (0.55 + 0.45 * alone[:, None]) - grey) * taken[:, None]
    colour = colour.reshape(rows, columns, 3)
    walls = getattr(func, "walls", None)
    if walls is not None:
        colour[walls] = _WALL
    pixels = colour.clip(0, 255).astype(np.uint8).repeat(size, 0).repeat(size, 1)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)

    def centre(cell: int) -> tuple[float, float]:
        y, x = divmod(cell, columns)
        return (x + 0.5) * size, (y + 0.5) * size

    path = [int(c) for c in state.visited[i] if c >= 0]
    if len(path) > 1:
        draw.line([centre(c) for c in path], fill=_VISITED, width=max(1, size // 6))
    x, y = centre(int(state.cell[i]))
    r = size * 0.38
    draw.ellipse((x - r, y - r, x + r, y + r), fill=_WALKER)
    return np.asarray(image)


def graph_frame(func: Any, state: Any, i: int) -> np.ndarray:
    """Nodes at their places, with the edges between them."""
    side, margin = 360, 30
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    places = func.places if func.places.shape[1] > 1 else np.pad(func.places, ((0, 0), (0, 1)))
    spots = margin + (places[:, ::-1][:, :2] + 1) / 2 * (side - 2 * margin)
    for a, b in getattr(func, "links", []):
        draw.line([*map(float, spots[a]), *map(float, spots[b])], fill=(190, 190, 190), width=2)
    alone, taken = worth(func, state, i)
    here = int(state.cell[i])
    for v, (x, y) in enumerate(spots):
        r = 5 + 9 * float(alone[v])
        share = float(taken[v]) if alone[v] > 0 else 0.0
        fill = tuple(int(200 + (c - 200) * share) for c in _COVERED)
        edge = _WALKER if v == here else (90, 90, 90)
        draw.ellipse(
            (x - r, y - r, x + r, y + r), fill=fill, outline=edge, width=4 - 3 * (v != here)
        )
    return np.asarray(image)


def track_frame(func: Any, state: Any, i: int) -> np.ndarray:
    """The car's track from above."""
    side = 360
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)

    def spot(x: float, y: float) -> tuple[float, float]:
        return (x / 8.0 + 0.5) * side, (0.5 - y / 8.0) * side

    memory = type(state.memory)(*(x[i : i + 1] for x in state.memory))
    covered = func.set_function.covered(memory)[0].tolist()
    r = func.params.half_width / 8.0 * side
    for colours in ((False, (215, 215, 215)), (True, tuple(int(c) for c in _COVERED))):
        for (x, y), seen in zip(func.track.tolist(), covered, strict=True):
            if seen is colours[0]:
                u, v = spot(x, y)
                draw.ellipse((u - r, v - r, u + r, v + r), fill=colours[1])
    x, y, heading = (float(v[i]) for v in (state.x, state.y, state.heading))
    u, v = spot(x, y)
    draw.ellipse((u - 6, v - 6, u + 6, v + 6), fill=_WALKER)
    draw.line((u, v, u + 14 * np.cos(heading), v - 14 * np.sin(heading)), fill=_WALKER, width=3)
    return np.asarray(image)


def ground_frame(covered: np.ndarray, path: np.ndarray, half_side: float) -> np.ndarray:
    """The ant's field from above: x to the right, y up."""
    cells = len(covered)
    size = max(1, 400 // cells)
    picture = np.full((cells, cells, 3), 235, dtype=np.uint8)
    picture[covered.T[::-1]] = _COVERED
    image = Image.fromarray(picture.repeat(size, 0).repeat(size, 1))
    draw = ImageDraw.Draw(image)
    side = cells * size
    u = (path[:, 0] / half_side + 1) / 2 * side
    v = (1 - path[:, 1] / half_side) / 2 * side
    spots = list(zip(u.tolist(), v.tolist(), strict=True))
    if len(spots) > 1:
        draw.line(spots, fill=_VISITED, width=2)
    x, y = spots[-1]
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=_WALKER)
    return np.asarray(image)
