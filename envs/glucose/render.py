"""A patient's last hours: readings, the range to stay in, and the insulin given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from .dynamics import Glucose, GlucoseState

_SIZE = (420, 240)
_LOW, _HIGH, _TOP = 70.0, 180.0, 400.0  # mg/dl: the range to stay in, and the picture's top
_PLOT = (44, 30, 410, 170)  # left, top, right, bottom
_DOSE_TOP = 180


def frame(func: Glucose, state: GlucoseState, i: int) -> np.ndarray:
    """(240, 420, 3) uint8: readings over the green range above, insulin below."""
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = _PLOT
    readings, doses = state.readings[i].tolist(), state.doses[i].tolist()

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
        share = min(1.0, dose / func.params.most)
        floor = _SIZE[1] - 10
        draw.rectangle(
            (x - width / 2 + 1, floor - share * (floor - _DOSE_TOP), x + width / 2 - 1, floor),
            fill=(130, 130, 130),
        )
    draw.text((8, floor - 20), "U", fill=(90, 90, 90))
    draw.text((8, 6), line(func, state, i), fill="black")
    return np.asarray(image)


def line(func: Glucose, state: GlucoseState, i: int) -> str:
    """For instance ``adult#001 07:35  blood 152  sensor 149 mg/dl  insulin 1.50 basal``."""
    from . import body
    from .dynamics import DAY, STEP

    minute = int(state.step[i]) * STEP % DAY
    name = body.table()["names"][int(state.patient[i])]
    return (
        f"{name} {minute // 60:02d}:{minute % 60:02d}  blood {float(func.glucose(state)[i]):.0f}  "
        f"sensor {float(state.readings[i, -1]):.0f} mg/dl  "
        f"insulin {float(state.doses[i, -1]):.2f} basal"
    )
