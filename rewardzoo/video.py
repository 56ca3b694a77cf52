"""Watch a policy: an episode in the terminal or as a GIF, whichever way its environment draws."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium

from .frames import blocks, pictures, shades

_TERMINAL_FPS = 20
_TEXT_FPS = 1  # of text as a film, which takes time to read


def record_episode(
    env_id: str,
    policy: Any = None,
    max_steps: int = 200,
    seed: int = 0,
    gif: str | Path | None = None,
) -> list[Any]:
    """Play one episode and return its frames.

    Args:
        env_id: environment id.
        policy: with ``predict``; None acts at random.
        max_steps: stop after so many.
        seed: of the episode.
        gif: where to write frames as an animation; None prefers text.

    Returns:
        Frames, as the environment draws them: (H, W, 3) uint8 each, or strings where it only has
        text or where that is preferred.
    """
    wanted, other = ("ansi", "rgb_array") if gif is None else ("rgb_array", "ansi")
    probe: Any = gymnasium.make(env_id)
    mode = wanted if wanted in probe.metadata["render_modes"] else other
    probe.close()
    env: Any = gymnasium.make(env_id, render_mode=mode)
    frames = play(env, policy, max_steps, seed)
    env.close()
    if gif is not None:
        drawn = mode == "rgb_array"
        fps = env.metadata.get("render_fps", 30) if drawn else _TEXT_FPS
        write_gif(frames if drawn else pictures(frames), gif, fps)
    return frames


def play(env: Any, policy: Any = None, max_steps: int = 200, seed: int = 0) -> list[Any]:
    """The frames of one episode, its first and last included.

    Args:
        env: a single Gymnasium environment with a render mode that returns frames.
        policy: with ``predict``; None acts at random.
        max_steps: stop after so many.
        seed: of the episode.
    """
    obs, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    frames: list[Any] = [env.render()]
    state: Any = None
    for _ in range(max_steps):
        if policy is None:
            action = env.action_space.sample()
        else:
            action, state = policy.predict(obs, state, deterministic=True)
        obs, _, terminated, truncated, _ = env.step(action)
        frames.append(env.render())
        if terminated or truncated:
            break
    return frames


def write_gif(frames: list[Any], path: str | Path, fps: float) -> None:
    """Write frames (H, W, 3) uint8 as an animated GIF."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=max(20, int(1000 / fps)), loop=0
    )


def show(frames: list[Any], out: Path | None, console: Any) -> None:
    """Say where a film is, or show it in the terminal: pages of text, or pictures that move.

    Where the output is no terminal, pictures are printed as plain characters.
    """
    if out is not None:
        console.print(f"{len(frames)} frames in {out}")
    elif isinstance(frames[0], str) or not console.is_terminal:
        for frame in frames:
            page = frame if isinstance(frame, str) else shades(frame, console.width)
            console.print(page, markup=False, highlight=False)
    else:
        from rich.live import Live

        with Live(console=console, auto_refresh=False) as live:
            for frame in frames:
                live.update(blocks(frame, console.width, console.height - 1), refresh=True)
                time.sleep(1.0 / _TERMINAL_FPS)
