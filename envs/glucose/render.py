"""A patient's last hours: readings, the range to stay in, and the insulin given."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

_SIZE = (420, 240)
_LOW, _HIGH, _TOP = 70.0, 180.0, 400.0  # mg/dl: the range to stay in, and the picture's top
_PLOT = (44, 30, 410, 170)  # left, top, right, bottom
_DOSE_TOP = 180


def frame(readings: list[float], doses: list[float], most: float, text: str) -> np.ndarray:
    """(240, 420, 3) uint8: readings over the green range above, insulin below.

    Args:
        readings: mg/dl, oldest first.
        doses: given between them, as many.
        most: a dose that is drawn in full height.
        text: above all.
    """
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = _PLOT

    def height(glucose: float) -> float:
        return bottom - (bottom - top) * min(glucose, _TOP) / _TOP

    draw.rectangle((left, height(_HIGH), right, height(_LOW)), fill=(226, 243, 232))
    for level in (_LOW, _HIGH, _TOP):
        draw.text((8, height(level) - 6), f"{level:.0f}", fill=(90, 90, 90))
        draw.line((left, height(level), right, height(level)), fill=(200, 200, 200))
    width = (right - left) / len(readings)
    for k, (glucose, dose) in enumerate(zip(readings, doses, strict=True)):
        x = left + (k + 0.5) * width
        colour = (0, 114, 178) if _LOW <= glucose <= _HIGH else (213, 94, 0)
        y = height(glucose)
        draw.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), fill=colour)
        share = min(1.0, dose / most)
        floor = _SIZE[1] - 10
        draw.rectangle(
            (x - width / 2 + 1, floor - share * (floor - _DOSE_TOP), x + width / 2 - 1, floor),
            fill=(130, 130, 130),
        )
    draw.text((8, floor - 20), "U", fill=(90, 90, 90))
    draw.text((8, 6), text, fill="black")
    return np.asarray(image)
