"""Every environment is seen in a terminal and as a film, whichever way it draws itself."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from rich.console import Console
from rich.style import Style

from rewardzoo.frames import blocks, pictures, shades
from rewardzoo.registration import documented_class, env_ids
from rewardzoo.video import Shot, check_gif, record_episode, show


def halves(high: int = 40, wide: int = 80) -> Any:
    """White, its right half red."""
    frame = np.full((high, wide, 3), 255, np.uint8)
    frame[:, wide // 2 :] = (255, 0, 0)
    return frame


def played(id: str, folder: Path) -> None:
    """An episode shows something in a terminal without colours, and in every frame of a GIF."""
    out = io.StringIO()
    show(record_episode(id, max_steps=3), None, Console(file=out, width=80))
    assert out.getvalue().strip() and "[[" not in out.getvalue(), id  # no numbers of pixels
    assert all(len(line) <= 80 for line in out.getvalue().splitlines()), id
    record_episode(id, max_steps=3, gif=folder / "film.gif")
    with Image.open(folder / "film.gif") as image:
        for frame in ImageSequence.Iterator(image):
            low, high = frame.convert("L").getextrema()
            assert low != high and min(frame.size) > 30, id


@pytest.mark.parametrize("name", ["GridWorld", "CartPole", "OneState"])  # both ways, one, the other
def test_what_draws_itself_one_way_is_seen_both_ways(name: str, tmp_path: Path) -> None:
    played(f"rewardzoo/{name}-v0", tmp_path)


@pytest.mark.slow
def test_every_family_of_environments_is_seen_both_ways(tmp_path: Path) -> None:
    families = {documented_class(id): id for id in env_ids()}
    assert len(families) > 30
    for id in families.values():
        played(id, tmp_path)


def test_shades_grow_with_the_distance_from_the_background() -> None:
    lines = shades(halves(), 40).splitlines()
    assert lines == [" " * 20 + "@" * 20] * 10  # a character is twice as high as it is wide
    frame = halves()
    frame[:, 40:] = 200
    assert shades(frame, 40).splitlines()[0] == " " * 20 + ":" * 20  # 9 * 55 / 255 = 1.9
    assert shades(255 - halves(), 40).splitlines() == lines


@pytest.mark.parametrize(("high", "wide"), [(40, 80), (400, 80), (40, 800), (1, 1), (3, 5)])
def test_blocks_fit_and_show_two_pixels_a_character(high: int, wide: int) -> None:
    text = blocks(halves(high, wide), 40, 12)
    lines = text.plain.splitlines()
    assert len(lines) <= 12 and all(len(line) == len(lines[0]) <= 40 for line in lines)
    if wide == 80 and high == 40:
        assert len(lines) == 10 and len(lines[0]) == 40
        styles = [span.style for span in text.spans[18:22]]  # around the middle of the first line
        assert (
            styles
            == [Style.parse("#ffffff on #ffffff")] * 2 + [Style.parse("#ff0000 on #ff0000")] * 2
        )


def test_pages_become_pictures_of_one_size_with_their_lines_broken() -> None:
    short, long, other = pictures(["a", "word " * 60, "b"])
    assert short.shape == long.shape == other.shape and short.shape[1] < 700
    assert (short != 255).any() and (long != 255).sum() > (short != 255).sum()
    assert (short != other).any()


def terminal(high: int = 13) -> tuple[io.StringIO, Console]:
    """A terminal of 40 columns, and what was written to it."""
    out = io.StringIO()
    return out, Console(
        file=out, force_terminal=True, color_system="truecolor", width=40, height=high, legacy_windows=False
    )  # fmt: skip


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, which nobody waits for."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def test_pictures_move_in_a_terminal_below_their_captions(slept: list[float]) -> None:
    out, console = terminal()
    show([Shot(halves(), "start"), Shot(255 - halves(), "step 1")], None, console)
    assert slept == [1 / 20] * 2
    assert "▀" in out.getvalue() and "38;2;255;0;0" in out.getvalue() and "step 1" in out.getvalue()
    assert out.getvalue().count("\x1b[2K") > 0  # the first is wiped out by the second


@pytest.mark.parametrize("high", [13, 3])
def test_pages_of_text_move_in_a_terminal_with_time_to_read(high: int, slept: list[float]) -> None:
    """Where one does not fit, they follow each other."""
    out, console = terminal(high)
    show([Shot("first\nline", "start"), Shot("second\nline", "step 1")], None, console)
    assert slept == [1 / 3] * 2
    assert all(word in out.getvalue() for word in ("first", "second", "start", "step 1"))
    assert ("\x1b[2K" in out.getvalue()) == (high == 13)


def test_a_caption_says_what_was_done_paid_and_meant() -> None:
    shots = record_episode("rewardzoo/CartPole-v0", max_steps=3, reward="2 * objective")
    assert shots[0].caption == "start" and len(shots) == 4
    for step, shot in enumerate(shots[1:], 1):
        _, _, action, *rest = shot.caption.split(maxsplit=3)
        assert shot.caption.startswith(f"step {step}  action ")
        assert shot.caption.endswith(f"  reward 2  objective 1, in all {step}"), rest
    action = record_episode("rewardzoo/Pendulum-v0", max_steps=1)[1].caption.split("  ")[1]
    assert action.startswith("action [") and len(action) <= len("action [-0.123]")


def test_what_is_no_terminal_gets_each_page_below_its_caption() -> None:
    out = io.StringIO()
    shots = record_episode("rewardzoo/GridWorld-v0", max_steps=2)
    show(shots, None, Console(file=out, width=80))
    assert out.getvalue() == "".join(f"{s.caption}\n{s.frame}\n" for s in shots)


def test_pages_become_films_with_their_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def told(pages: list[str]) -> Any:
        written.extend(pages)
        return pictures(pages)

    monkeypatch.setattr("rewardzoo.video.pictures", told)
    shots = record_episode("rewardzoo/OneState-v0", max_steps=2, gif=tmp_path / "film.gif")
    assert written == [f"{s.caption}\n\n{s.frame}" for s in shots]


def test_a_film_that_cannot_be_written_is_refused_before_anything_is_played(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("rewardzoo.video.episode", never)
    for name in ("film.mp4", "film"):
        for play in (["play", "rewardzoo/GridWorld-v0"], ["zoo", "play", "ppo-gridworld"]):
            done = cli(*play, "--out", tmp_path / name)
            assert done.code == 2 and f"--out {tmp_path / name}: only GIFs are written" in done.err
            assert "a name that ends in .gif" in done.err
    check_gif(tmp_path / "new" / "film.GIF")
    assert not list(tmp_path.glob("film*"))
