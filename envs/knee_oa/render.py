"""The timeline of a knee patient: what the joint space did, and what was seen of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from .cohort import NEVER

if TYPE_CHECKING:
    from .dynamics import KneeOA, KneeOAState

_INK, _GREY, _PAPER = (40, 40, 40), (190, 190, 190), (255, 255, 255)
_KNEES = ((0, 114, 178), (213, 94, 0))
_EVENT = (204, 121, 167)


def _taken(state: KneeOAState, i: int) -> list[int]:
    mask, done = int(state.taken[i]), int(state.visit[i])
    return [t for t in range(done + 1) if mask >> t & 1]


def line(func: KneeOA, state: KneeOAState, i: int) -> str:
    """One line: ``V`` a visit, ``.`` a skipped one, ``?`` one to come; ``*`` a progression."""
    horizon, done = func.params.horizon, int(state.visit[i])
    taken = _taken(state, i)
    events = {int(t) for t in func.events[state.patient[i]] if int(t) != NEVER}
    marks = [
        ("V" if t in taken else "." if t <= done else "?") + ("*" if t in events else "")
        for t in range(horizon + 1)
    ]
    return f"visits {' '.join(marks)}  found {float(state.found[i]):.2f} mm"


def frame(func: KneeOA, state: KneeOAState, i: int) -> np.ndarray:
    """(240, 420, 3) uint8: joint space of each knee over visits; filled points were seen."""
    horizon = func.params.horizon
    image = Image.new("RGB", (420, 240), _PAPER)
    draw = ImageDraw.Draw(image)
    patient, done, taken = int(state.patient[i]), int(state.visit[i]), _taken(state, i)
    phi = func.phi.reshape(-1, horizon + 1, func.phi.shape[-1])[patient].cpu().numpy()
    events = {int(t) for t in func.events[patient] if int(t) != NEVER}
    low, high = float(phi.min()) - 0.3, float(phi.max()) + 0.3

    def place(t: int, value: float) -> tuple[float, float]:
        return 50 + t * 340 / horizon, 190 - 150 * (value - low) / (high - low)

    draw.text((14, 8), "joint space width, mm (filled: seen)", fill=_INK, font_size=12)
    for t in range(horizon + 1):
        x, _ = place(t, low)
        if t in events:
            draw.rectangle((x - 12, 36, x + 12, 192), fill=(245, 230, 240))
            draw.text((x, 26), "progression", fill=_EVENT, font_size=10, anchor="ma")
        word = "visit" if t in taken else "skip" if t <= done else "to come"
        draw.text((x, 200), word, fill=_INK if t in taken else _GREY, font_size=12, anchor="ma")
        draw.text((x, 216), f"year {t}", fill=_GREY, font_size=11, anchor="ma")
    for part, colour in zip(range(phi.shape[1]), _KNEES, strict=False):
        points = [place(t, phi[t, part]) for t in range(horizon + 1)]
        draw.line(points, fill=colour, width=1)
        for t, (x, y) in enumerate(points):
            seen = colour if t in taken else _PAPER
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=seen, outline=colour)
    for value in (low + 0.3, high - 0.3):
        draw.text((8, place(0, value)[1]), f"{value:.1f}", fill=_GREY, font_size=11, anchor="lm")
    return np.asarray(image)
