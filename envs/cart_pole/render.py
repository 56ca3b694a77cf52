"""The cart, its pole and the track."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw


def frame(params: Any, x: float, theta: float) -> np.ndarray:
    """(400, 600, 3) uint8."""
    image = Image.new("RGB", (600, 400), "white")
    draw = ImageDraw.Draw(image)
    scale = 300.0 / params.max_position
    cart_x, cart_y = 300.0 + x * scale * 0.9, 300.0
    length = scale * 2 * params.half_length
    draw.line((0, cart_y + 15, 600, cart_y + 15), fill=(60, 60, 60), width=2)
    draw.rectangle((cart_x - 35, cart_y - 15, cart_x + 35, cart_y + 15), fill=(60, 60, 60))
    tip = (cart_x + length * np.sin(theta), cart_y - length * np.cos(theta))
    draw.line((cart_x, cart_y, *tip), fill=(213, 94, 0), width=10)
    draw.ellipse((cart_x - 6, cart_y - 6, cart_x + 6, cart_y + 6), fill=(0, 114, 178))
    return np.asarray(image)
