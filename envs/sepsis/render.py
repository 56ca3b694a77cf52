"""A patient's state as a picture or a line of text."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .data import ABSORBING, ACTION_LEAKS, DEATH, FEATURES, SURVIVAL, tables

_OUTCOMES = {DEATH: "died", SURVIVAL: "survived", ABSORBING: "discharged from the model"}
_INK, _PAPER, _LOW, _HIGH = (33, 37, 41), (250, 250, 247), (0, 114, 178), (213, 94, 0)


def line(state: int) -> str:
    """State, SOFA score and outcome."""
    if state in _OUTCOMES:
        return f"patient {_OUTCOMES[state]}"
    return f"state {state:3d}  SOFA {tables().sofa[state]:4.1f}"


def frame(state: int) -> np.ndarray:
    """(240, 420, 3) uint8: the ten features that deviate most from the cohort's mean."""
    image = Image.new("RGB", (420, 240), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((14, 10), line(state), fill=_INK, font_size=18)
    if state not in _OUTCOMES:
        names = np.array(FEATURES)
        values = tables().centres[state]
        shown = ~np.isin(names, ACTION_LEAKS)
        order = np.argsort(-np.abs(np.where(shown, values, 0.0)))[:10]
        draw.text((14, 36), "largest deviations from the cohort, in standard deviations",
                  fill=(110, 110, 110), font_size=11)  # fmt: skip
        for i, k in enumerate(order):
            y = 58 + 17 * i
            width = float(np.clip(values[k] / 3.0, -1, 1)) * 105
            left, right = sorted((280.0, 280.0 + width))
            draw.text((14, y), names[k], fill=_INK, font_size=12)
            draw.rectangle((left, y + 2, right, y + 13), fill=_LOW if width < 0 else _HIGH)
            draw.text((390, y), f"{values[k]:+.1f}", fill=_INK, font_size=12, anchor="la")
        draw.line((280, 56, 280, 230), fill=_INK)
    return np.asarray(image)
