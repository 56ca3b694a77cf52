"""The garden from above."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

_SIZE = 32
_COLOURS = {"#": (70, 70, 70), "B": (230, 159, 0), "T": (245, 225, 215)}


def frame(rows: list[str], agent: tuple[int, int], wet: list[tuple[int, int]]) -> np.ndarray:
    """(32 * rows, 32 * columns, 3) uint8: red tomatoes are watered, pale ones dry."""
    image = Image.new("RGB", (_SIZE * len(rows[0]), _SIZE * len(rows)), "white")
    draw = ImageDraw.Draw(image)
    for y, row in enumerate(rows):
        for x, kind in enumerate(row):
            corner = (x * _SIZE, y * _SIZE, (x + 1) * _SIZE, (y + 1) * _SIZE)
            draw.rectangle(corner, fill=_COLOURS.get(kind, "white"), outline=(205, 205, 205))
            if kind == "T":
                colour = (213, 60, 40) if (y, x) in wet else (235, 200, 190)
                draw.ellipse(_inside(y, x, 4), fill=colour, outline=(150, 60, 50))
    draw.ellipse(_inside(*agent, 9), fill=(0, 114, 178))
    return np.asarray(image)


def _inside(y: int, x: int, margin: int) -> tuple[int, int, int, int]:
    """A box within a cell."""
    left, top = x * _SIZE + margin, y * _SIZE + margin
    return (left, top, left + _SIZE - 2 * margin, top + _SIZE - 2 * margin)
