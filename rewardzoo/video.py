"""Watch a policy: an episode in the terminal or as a GIF, whichever way its environment draws."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from rich.console import Console, Group
from rich.text import Text

from .disk import check_writable
from .frames import blocks, pictures, shades
from .rewards.parse import make_reward
from .rewards.terminate import TerminateTask, ends_tasks
from .rewards.wrappers import RewardWrapper

_TERMINAL_FPS = 20
_PAGES_FPS = 3  # of text in a terminal, which is read as it comes
_TEXT_FPS = 1  # of text as a film, which takes time to read


class Shot(NamedTuple):
    """What is seen after a step.

    Args:
        frame: as the environment draws it, (H, W, 3) uint8 or text.
        caption: one line: step, action, what was paid, and the objective with its sum so far.
    """

    frame: Any
    caption: str


def check_gif(path: Path) -> None:
    """Raise ValueError unless a film can be written there: a GIF, in a folder for files."""
    if path.suffix.lower() != ".gif":
        raise ValueError(f"--out {path}: only GIFs are written; give it a name that ends in .gif")
    check_writable("--out", path.parent)


def record_episode(
    env_id: str,
    policy: Any = None,
    max_steps: int = 200,
    seed: int = 0,
    gif: str | Path | None = None,
    reward: str = "objective",
) -> list[Shot]:
    """Play one episode and return what was seen.

    Args:
        env_id: environment id.
        policy: with ``predict``; None acts at random.
        max_steps: stop after so many.
        seed: of the episode.
        gif: where to write frames as an animation; None prefers text.
        reward: what captions say was paid, as ``make_reward`` reads it.

    Returns:
        The first state and every step; its frames are strings where the environment only has text
        or where that is preferred.
    """
    wanted, other = ("ansi", "rgb_array") if gif is None else ("rgb_array", "ansi")
    probe: Any = gymnasium.make(env_id)
    mode = wanted if wanted in probe.metadata["render_modes"] else other
    probe.close()
    fn = make_reward(reward)
    if hasattr(policy, "gamma"):
        fn.match_gamma(policy.gamma)
    env: Any = RewardWrapper(gymnasium.make(env_id, render_mode=mode), fn)
    if ends_tasks(fn):
        env = TerminateTask(env)
    shots = list(episode(env, policy, max_steps, seed))
    env.close()
    if gif is not None:
        if mode == "rgb_array":
            write_gif([shot.frame for shot in shots], gif, env.metadata.get("render_fps", 30))
        else:
            write_gif(pictures([f"{s.caption}\n\n{s.frame}" for s in shots]), gif, _TEXT_FPS)
    return shots


def play(env: Any, policy: Any = None, max_steps: int = 200, seed: int = 0) -> list[Any]:
    """The frames of one episode, its first and last included; arguments as for ``episode``."""
    return [shot.frame for shot in episode(env, policy, max_steps, seed)]


def episode(env: Any, policy: Any = None, max_steps: int = 200, seed: int = 0) -> Iterator[Shot]:
    """One episode, its first and last state included.

    Args:
        env: a single Gymnasium environment with a render mode that returns frames.
        policy: with ``predict``; None acts at random.
        max_steps: stop after so many.
        seed: of the episode.
    """
    obs, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    yield Shot(env.render(), "start")
    state: Any = None
    total = 0.0
    for step in range(1, max_steps + 1):
        if policy is None:
            action = env.action_space.sample()
        else:
            action, state = policy.predict(obs, state, deterministic=True)
        obs, reward, terminated, truncated, info = env.step(action)
        objective = float(info.get("objective", reward))
        total += objective
        yield Shot(env.render(), _caption(step, action, float(reward), objective, total))
        if terminated or truncated:
            break


def _caption(step: int, action: Any, reward: float, objective: float, total: float) -> str:
    done = np.array2string(np.asarray(action), precision=3, threshold=8, max_line_width=10**6)
    did = " ".join(done.split())
    return (
        f"step {step}  action {did}  reward {reward:.4g}  objective {objective:.4g}, "
        f"in all {total:.4g}"
    )


def write_gif(frames: list[Any], path: str | Path, fps: float) -> None:
    """Write frames (H, W, 3) uint8 as an animated GIF."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=max(20, int(1000 / fps)), loop=0
    )


def show(shots: Sequence[Shot], out: Path | None, console: Console) -> None:
    """Say where a film is, or show it in the terminal, where pictures and pages of text move.

    Where the output is no terminal, every frame is printed below its caption, pictures as plain
    characters.
    """
    if out is not None:
        console.print(f"{len(shots)} frames in {out}")
    elif console.is_terminal:
        _animate(shots, console)
    else:
        for frame, caption in shots:
            page = frame if isinstance(frame, str) else shades(frame, console.width)
            console.print(caption, page, sep="\n", markup=False, highlight=False)


def _animate(shots: Sequence[Shot], console: Console) -> None:
    """One frame in place of the other; pages that are higher than the terminal below each other."""
    from rich.live import Live

    texts = [shot.frame for shot in shots if isinstance(shot.frame, str)]
    pause = 1.0 / (_PAGES_FPS if texts else _TERMINAL_FPS)
    if any(page.count("\n") + 3 > console.height for page in texts):
        for frame, caption in shots:
            console.print(Text(caption, style="dim"), Text.from_ansi(frame), sep="\n")
            time.sleep(pause)
        return
    with Live(console=console, auto_refresh=False) as live:
        for frame, caption in shots:
            picture = (
                Text.from_ansi(frame)
                if isinstance(frame, str)
                else blocks(frame, console.width, console.height - 2)
            )
            line = Text(caption, style="dim", no_wrap=True, overflow="ellipsis")
            live.update(Group(line, picture), refresh=True)
            time.sleep(pause)
