"""Pictures as characters and characters as pictures, so that every film can be seen either way."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rich.text import Text

Frame = NDArray[np.uint8]  # (H, W, 3)

_SHADES = " .:-=+*#%@"  # from the background's colour to what differs most from it
_COLUMNS, _FONT, _MARGIN = 60, 14, 12  # of a page of text as a picture; pixels


def blocks(frame: Frame, columns: int, rows: int) -> Text:
    """A picture for a terminal that has colours: two pixels a character, one above the other.

    Args:
        frame: (H, W, 3) uint8.
        columns: at most so many characters wide.
        rows: at most so many lines.
    """
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    small = _shrunk(frame, columns, 2 * rows, 1.0)
    small = small[: len(small) // 2 * 2]
    text = Text(no_wrap=True, end="")
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    return text


def shades(frame: Frame, columns: int) -> str:
    """A picture in plain characters, the denser the further from the colour of its corner.

    Args:
        frame: (H, W, 3) uint8.
        columns: at most so many characters wide.
    """
    small = _shrunk(frame, columns, frame.shape[0], 0.5).astype(np.float64)
    ink = np.abs(small - frame[0, 0].astype(np.float64)).max(-1) / 255.0
    lines = np.array(list(_SHADES))[(ink * (len(_SHADES) - 1)).round().astype(int)]
    return "\n".join("".join(line).rstrip() for line in lines)


def _shrunk(frame: Frame, columns: int, rows: int, height: float) -> Frame:
    """At most so many pixels wide and high, each ``height`` as high as it is wide."""
    from PIL import Image

    high, wide = frame.shape[0] * height, frame.shape[1]
    scale = min(1.0, columns / wide, rows / high)
    size = max(1, int(wide * scale)), max(1, int(high * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def pictures(pages: Sequence[str]) -> list[Frame]:
    """Pages of text as pictures of one size, (H, W, 3) uint8, long lines broken.

    Args:
        pages: at least one.
    """
    from PIL import Image, ImageDraw

    broken = [_broken(page) for page in pages]
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    ends = [probe.textbbox((_MARGIN, _MARGIN), page, font_size=_FONT)[2:] for page in broken]
    size = tuple(int(max(end)) + _MARGIN for end in zip(*ends, strict=True))
    return [_written(page, size) for page in broken]


def _broken(page: str) -> str:
    lines = (textwrap.wrap(line, _COLUMNS) or [""] for line in page.splitlines())
    return "\n".join(part for parts in lines for part in parts)


def _written(page: str, size: Any) -> Frame:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((_MARGIN, _MARGIN), page, fill="black", font_size=_FONT)
    return np.asarray(image)
