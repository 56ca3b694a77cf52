"""The gallery: a film of every family of environments; those without pictures show their text.

Found from the registry; ``players.py`` says who plays. ``python docs/gallery.py GridWorld-v0``
makes one page's films into the present folder, to look at them.
"""

from __future__ import annotations

import io
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gaits
import gymnasium
import heroes
import numpy as np
import players
from PIL import Image
from players import Film
from stored import stored

from rewardzoo.files import write_atomic
from rewardzoo.frames import pictures
from rewardzoo.registration import documented_class, env_ids, functional_ids
from rewardzoo.video import episode

LIMIT = 300_000  # bytes of a film
FRAMES = 48  # of a film
STEPS = 300  # of an episode, at most
PAGES = 12  # of text, at most
WIDTH = 360  # pixels
SECONDS = 8.0  # a film lasts at most


def page_of(id: str) -> str:
    """The page of an environment; those that share a simulator's class share a page."""
    if id in functional_ids():
        return id.split("/")[1]
    return documented_class(id).__name__.removesuffix("Env")


def pages() -> dict[str, list[str]]:
    """Every page with its ids."""
    found: dict[str, list[str]] = {}
    for id in env_ids():
        found.setdefault(page_of(id), []).append(id)
    return found


class Playing:
    """A film's player as a policy; it is called in when its environment has been reset."""

    def __init__(self, film: Film, env: Any) -> None:
        self.act = cache(lambda: film.player(env.unwrapped))

    def predict(self, obs: Any, state: Any, deterministic: bool) -> tuple[Any, Any]:
        """What the player does."""
        return self.act()(obs), state


def play(film: Film) -> tuple[list[Any], float]:
    """The frames of the film's episode, at most ``FRAMES`` evenly spaced, and frames a second.

    Of an environment that only has text, pages of the first ``PAGES`` steps with their captions.
    """
    probe = gymnasium.make(film.id)
    drawn = "rgb_array" in probe.unwrapped.metadata["render_modes"]
    probe.close()
    mode = "rgb_array" if drawn else "ansi"
    env: Any = gymnasium.make(film.id, render_mode=mode, **film.arguments)
    shots = list(episode(env, Playing(film, env), STEPS if drawn else PAGES, film.seed))
    fps = float(env.metadata.get("render_fps", 30))
    env.close()
    if not drawn:
        return pictures([f"{shot.caption}\n\n{shot.frame}" for shot in shots]), PAGES / SECONDS
    frames = [shot.frame for shot in shots]
    kept = np.unique(np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int))
    seconds = min(SECONDS, len(frames) / fps)
    if film.rows is not None:
        frames = cropped([frame[film.rows] for frame in frames])
    return [frames[i] for i in kept], len(kept) / seconds


def cropped(frames: list[Any], margin: int = 16) -> list[Any]:
    """All frames cut to what any of them shows on the colour of the first one's corner."""
    drawn = (np.stack(frames) != frames[0][0, 0]).any((0, 3))
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    return [f[top : rows[-1] + margin, left : columns[-1] + margin] for f in frames]


def gif(frames: list[Any], fps: float) -> bytes:
    """The frames as an animation of at most ``LIMIT`` bytes, with ever fewer colours and pixels.

    The last frame stays for a second, so that the end is seen.
    """
    for width, colours in ((WIDTH, 256), (WIDTH, 64), (WIDTH * 2 // 3, 32), (WIDTH // 2, 16)):
        images = [_shrunk(Image.fromarray(f), width) for f in frames]
        palette = _montage(images).quantize(colours, method=Image.Quantize.MAXCOVERAGE)
        images = [i.quantize(palette=palette, dither=Image.Dither.NONE) for i in images]
        delay = max(20, round(1000 / fps / 10) * 10)
        out = io.BytesIO()
        images[0].save(
            out,
            "gif",
            save_all=True,
            append_images=images[1:],
            duration=[delay] * (len(images) - 1) + [delay + 1000],
            loop=0,
        )
        if out.tell() <= LIMIT:
            break
    else:
        raise ValueError(f"a film takes {out.tell()} bytes; lower FRAMES or WIDTH")
    return out.getvalue()


def _shrunk(image: Image.Image, width: int) -> Image.Image:
    if image.width <= width:
        return image
    size = (width, round(image.height * width / image.width))
    return image.resize(size, Image.Resampling.LANCZOS)


def _montage(images: list[Image.Image]) -> Image.Image:
    """First, middle and last in one picture, from which the palette is taken."""
    chosen = [images[0], images[len(images) // 2], images[-1]]
    out = Image.new("RGB", (chosen[0].width, 3 * chosen[0].height))
    for i, image in enumerate(chosen):
        out.paste(image, (0, i * image.height))
    return out


def name_of(film: Film) -> str:
    """Its file."""
    return f"film-{film.id.split('/')[1]}.gif"


def film_of(film: Film) -> bytes:
    """The bytes of one film, from the store if it is there."""
    sources = (__file__, *(module.__file__ for module in (players, gaits, heroes)), gaits.STORE)
    key = "".join(Path(source).read_text() for source in sources)
    return stored(name_of(film), key, lambda: gif(*play(film)))


def write_gallery(out: Path) -> None:
    """Write the films and the page that shows them."""
    lines = [
        "# Gallery",
        "",
        "One episode of every family of environments. A film's caption says who plays; a click "
        "leads to the card.",
        "",
        '<div class="gallery" markdown>',
        "",
    ]
    for page, ids in pages().items():
        for film in players.films(page, ids[0]):
            name = name_of(film)
            write_atomic(out / name, film_of(film))
            label = page if len(players.films(page, ids[0])) == 1 else film.id.split("/")[1]
            lines += [
                "<figure markdown>",
                f"[![{label}: {film.caption}]({name})]({page}.md)",
                f"<figcaption markdown>[{label}]({page}.md): {film.caption}</figcaption>",
                "</figure>",
                "",
            ]
    write_atomic(out / "gallery.md", "\n".join([*lines, "</div>", ""]))


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        for shown in players.films(chosen, pages()[chosen][0]):
            write_atomic(name_of(shown), film_of(shown))
            print(name_of(shown))
