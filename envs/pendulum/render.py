"""The rod and its axle."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def frame(theta: float) -> np.ndarray:
    """(400, 400, 3) uint8."""
    image = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(image)
    tip = (200 + 140 * np.sin(theta), 200 - 140 * np.cos(theta))
    draw.line((200, 200, *tip), fill=(213, 94, 0), width=24)
    draw.ellipse((tip[0] - 12, tip[1] - 12, tip[0] + 12, tip[1] + 12), fill=(213, 94, 0))
    draw.ellipse((190, 190, 210, 210), fill=(60, 60, 60))
    return np.asarray(image)
