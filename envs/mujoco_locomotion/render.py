"""A side view of the bodies, drawn without OpenGL, so that it works wherever MuJoCo does."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 480, 320
_SCALE = 110.0  # pixels a metre
_GROUND = 250  # row of height 0
_PLANE, _LONG = 0, (3, 5)  # MuJoCo's kinds of geometries; capsules and cylinders
_BODY, _LIMB, _FLOOR = (0, 114, 178), (213, 94, 0), (120, 120, 120)


def frame(model: Any, data: Any) -> np.ndarray:
    """(320, 480, 3) uint8; the view follows the first body, marks stand a metre apart."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    middle = float(data.xpos[1, 0])
    draw.line((0, _GROUND, WIDTH, _GROUND), fill=_FLOOR, width=2)
    for metre in range(int(middle) - 3, int(middle) + 4):
        x, y = _pixel(middle, metre, 0.0)
        draw.line((x, y, x, y + 8), fill=_FLOOR, width=2)
    # What is farther away first, so that near limbs hide it.
    for i in np.argsort(-data.geom_xpos[:, 1], kind="stable"):
        kind, size, at = model.geom_type[i], model.geom_size[i], data.geom_xpos[i]
        if kind == _PLANE:
            continue
        half = data.geom_xmat[i].reshape(3, 3)[:, 2] * size[1] if kind in _LONG else np.zeros(3)
        radius = max(1.0, size[0] * _SCALE)
        colour = _BODY if model.geom_bodyid[i] <= 1 else _LIMB
        ends = [_pixel(middle, *(at + sign * half)[[0, 2]]) for sign in (-1.0, 1.0)]
        draw.line((*ends[0], *ends[1]), fill=colour, width=round(2 * radius))
        for x, y in ends:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image)


def _pixel(middle: float, x: float, z: float) -> tuple[float, float]:
    return WIDTH / 2 + (x - middle) * _SCALE, _GROUND - z * _SCALE
