"""The maze from above."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

_COLOURS = {"#": (60, 60, 60), "G": (0, 158, 115), "T": (213, 94, 0), "S": (230, 230, 230)}
_SIZE = 48


def frame(rows: list[str], cell: int) -> np.ndarray:
    """(48 * rows, 48 * columns, 3) uint8."""
    width = len(rows[0])
    image = Image.new("RGB", (_SIZE * width, _SIZE * len(rows)), "white")
    draw = ImageDraw.Draw(image)
    for y, row in enumerate(rows):
        for x, kind in enumerate(row):
            corner = (x * _SIZE, y * _SIZE, (x + 1) * _SIZE, (y + 1) * _SIZE)
            draw.rectangle(corner, fill=_COLOURS.get(kind, "white"), outline=(200, 200, 200))
    y, x = divmod(cell, width)
    margin = _SIZE // 5
    draw.ellipse(
        (
            x * _SIZE + margin,
            y * _SIZE + margin,
            (x + 1) * _SIZE - margin,
            (y + 1) * _SIZE - margin,
        ),
        fill=(0, 114, 178),
    )
    return np.asarray(image)
