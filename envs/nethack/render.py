"""The terminal as a picture: 24 rows of 80 characters in their colours."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# The sixteen colours of NetHack's terminal, the first eight dark; black is shown as blue-grey.
_COLOURS = (
    (92, 99, 112), (205, 70, 70), (78, 170, 90), (176, 122, 62), (80, 120, 220), (180, 90, 190),
    (70, 175, 180), (190, 192, 196), (120, 126, 138), (235, 140, 60), (130, 220, 120),
    (240, 220, 100), (120, 170, 255), (230, 140, 230), (130, 225, 225), (255, 255, 255),
)  # fmt: skip
_PAPER, _CURSOR = (16, 18, 24), (70, 76, 90)
WIDTH, HEIGHT = 8, 16


@cache
def _glyphs() -> Any:
    """(256, HEIGHT, WIDTH) float32 in [0, 1]: how much of each pixel a character inks."""
    font = _font()
    out = np.zeros((256, HEIGHT, WIDTH), np.float32)
    for code in range(33, 127):
        image = Image.new("L", (WIDTH, HEIGHT))
        ImageDraw.Draw(image).text(
            (WIDTH / 2, HEIGHT - 4), chr(code), fill=255, font=font, anchor="ms"
        )
        out[code] = np.asarray(image, np.float32) / 255.0
    return out


def _font() -> Any:
    """DejaVu Sans Mono, which comes with Matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSansMono.ttf"
    return ImageFont.truetype(str(file), 13)


def frame(chars: Any, colours: Any, cursor: Any) -> np.ndarray:
    """(384, 640, 3) uint8.

    Args:
        chars: (24, 80) uint8.
        colours: (24, 80) int8, bits above the lowest four are attributes.
        cursor: (2,) row and column.
    """
    ink = _glyphs()[chars][..., None]
    fore = np.array(_COLOURS, np.float32)[colours & 15][:, :, None, None]
    back = np.full((*chars.shape, 1, 1, 3), _PAPER, np.float32)
    back[min(int(cursor[0]), 23), min(int(cursor[1]), 79)] = _CURSOR
    cells = back + (fore - back) * ink
    rows, columns = chars.shape
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(rows * HEIGHT, columns * WIDTH, 3)
    return picture.round().astype(np.uint8)


def text(chars: Any) -> str:
    """24 lines."""
    return "\n".join(bytes(row).decode("latin-1").rstrip() for row in chars)
