"""The running attempt as a clock."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

_OUTCOMES = ("", "success", "failure", "given up")
_WIDTH, _HEIGHT = 420, 160
_BLUE, _GREEN, _RED, _GREY = (0, 114, 178), (0, 158, 115), (213, 94, 0), (120, 120, 120)


def text(params: Any, state: Any, i: int) -> str:
    """One line: the clock, the attempt, what the predictor says, how the last attempt ended."""
    last = _OUTCOMES[int(state.outcome[i])]
    words = f"t {float(state.makespan[i]):7.1f} s  attempt {int(state.attempts[i]) + 1}"
    return f"{words}  {_signal(params, state, i)}{f'  last: {last}' if last else ''}"


def frame(params: Any, state: Any, i: int) -> np.ndarray:
    """(160, 420, 3) uint8: seconds in the attempt against the mean times to success and failure."""
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    pen.text((16, 12), text(params, state, i), fill="black")
    mts, mtf = (_row(x, i) for x in (params.mts, params.mtf))
    scale = (_WIDTH - 40) / (1.5 * max(mts, mtf))
    if params.mode == "window":
        elapsed = int(state.window[i]) * params.dt
    else:
        elapsed = float(state.call_time[i]) if bool(state.called[i]) else 0.0
    pen.rectangle((20, 70, _WIDTH - 20, 94), outline=_GREY)
    pen.rectangle((20, 70, 20 + min(elapsed * scale, _WIDTH - 40), 94), fill=_BLUE)
    for value, colour, name in ((mts, _GREEN, "mean success"), (mtf, _RED, "mean failure")):
        x = 20 + value * scale
        pen.line((x, 60, x, 104), fill=colour, width=3)
        pen.text((x - 30, 108 if colour == _GREEN else 124), name, fill=colour)
    return np.asarray(image)


def _signal(params: Any, state: Any, i: int) -> str:
    if params.mode == "window":
        return f"score {float(state.score[i]):+.2f}"
    if bool(state.called[i]):
        return f"failure called after {float(state.call_time[i]):.1f} s"
    return "no call"


def _row(x: Any, i: int) -> float:
    return float(x[i]) if getattr(x, "ndim", 0) else float(x)
