"""Watch a policy: an episode as text frames or as a GIF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium


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
        gif: where to write frames as an animation; None gives text frames.

    Returns:
        Frames, (H, W, 3) uint8 each, or strings.

    Raises:
        ValueError: if the environment cannot be drawn that way.
    """
    mode = "ansi" if gif is None else "rgb_array"
    env: Any = gymnasium.make(env_id, render_mode=mode)
    frames = play(env, policy, max_steps, seed)
    env.close()
    if gif is not None:
        write_gif(frames, gif, env.metadata.get("render_fps", 30))
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
    """Say where a film is, or print an episode's pages of text."""
    if out is not None:
        console.print(f"{len(frames)} frames in {out}")
        return
    for frame in frames:
        console.print(frame, markup=False, highlight=False)
