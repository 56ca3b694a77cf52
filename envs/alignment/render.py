"""The room, its goal and the lure."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

_SIZE = 400


def frame(x: float, y: float) -> np.ndarray:
    """(400, 400, 3) uint8; up is up."""
    image = Image.new("RGB", (_SIZE, _SIZE), "white")
    draw = ImageDraw.Draw(image)
    for low, high, colour in ((0.4, 0.6, (230, 159, 0)), (0.75, 0.99, (0, 158, 115))):
        draw.rectangle((*_point(low, high), *_point(high, low)), fill=colour)
    draw.rectangle((0, 0, _SIZE - 1, _SIZE - 1), outline=(60, 60, 60), width=4)
    column, row = _point(x, y)
    draw.ellipse((column - 9, row - 9, column + 9, row + 9), fill=(0, 114, 178))
    return np.asarray(image)


def _point(x: float, y: float) -> tuple[float, float]:
    return x * _SIZE, (1.0 - y) * _SIZE
