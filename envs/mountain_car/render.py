"""The valley, the car and the flag."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def _point(x: float) -> tuple[float, float]:
    return (x + 1.2) / 1.8 * 600.0, 380.0 - (np.sin(3 * x) * 0.45 + 0.55) * 280.0


def frame(position: float, goal: float) -> np.ndarray:
    """(400, 600, 3) uint8."""
    image = Image.new("RGB", (600, 400), "white")
    draw = ImageDraw.Draw(image)
    draw.line([_point(x) for x in np.linspace(-1.2, 0.6, 100)], fill=(60, 60, 60), width=3)
    x, y = _point(goal)
    draw.line((x, y, x, y - 50), fill=(60, 60, 60), width=3)
    draw.polygon([(x, y - 50), (x + 28, y - 41), (x, y - 32)], fill=(213, 94, 0))
    x, y = _point(position)
    draw.ellipse((x - 14, y - 28, x + 14, y), fill=(0, 114, 178))
    return np.asarray(image)
