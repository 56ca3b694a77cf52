"""Films of an insertion, a jam, and a jam that is given up.

``python -m rewardzoo.envs.peg_in_hole_contact.film docs/media``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from rewardzoo.video import write_gif

from .env import PegInHoleContact
from .simulator import FAILURE, INSERT, SEARCH, SUCCESS, Simulator

FPS = 5
STORIES = ("success", "jam", "aborted")
_PATIENCE = 5.0  # s in the hole without being through, after which the third film gives up


def film(story: str, first_seed: int = 0, attempts: int = 60) -> list[Any]:
    """Frames of the first episode that tells the story.

    Args:
        story: ``success`` (an insertion after some searching), ``jam`` (an attempt that wedges in
            the hole until its time is up), ``aborted`` (a jam, given up, then a success).
        first_seed: of the episodes to look through.
        attempts: how many to look through.

    Raises:
        ValueError: if none of them tells it.
    """
    for seed in range(first_seed, first_seed + attempts):
        env = PegInHoleContact(render_mode="rgb_array", stride=1.0 / FPS, tilt_sigma_deg=3.0)
        env.reset(seed=seed)
        if not _promising(story, env.process.simulator):
            continue
        frames, fits = _play(env, story)
        if fits:
            return frames
    raise ValueError(f"story={story!r}: none of {attempts} episodes tells it; try other seeds")


def _promising(story: str, simulator: Simulator) -> bool:
    """Run the attempt without looking: does it end as the story begins?"""
    trial = Simulator(1, simulator.params)
    lane = np.zeros(1, dtype=np.int64)
    trial.begin(lane, simulator.pose)
    searched = 0
    while not trial.outcome[0]:
        trial.tick(lane)
        searched += int(trial.phase[0] == SEARCH)
    if story == "success":
        return bool(trial.outcome[0] == SUCCESS) and 100 < searched < 300
    return bool(trial.outcome[0] == FAILURE and trial.phase[0] == INSERT) and 50 < searched < 250


def _play(env: PegInHoleContact, story: str) -> tuple[list[Any], bool]:
    frames = [env.render()]
    stuck, outcomes = 0.0, []
    while True:
        in_hole = env.process.simulator.phase[0] == INSERT
        stuck = stuck + 1.0 / FPS if in_hole else 0.0
        give_up = story == "aborted" and stuck > _PATIENCE
        _, _, terminated, _, info = env.step(int(give_up))
        frames.append(env.render())
        if info["attempt_end"]:
            outcomes.append(info["outcome"])
            if story != "aborted" or terminated or len(outcomes) == 2:
                break
    if story == "jam":
        frames.pop()  # the next attempt's first
    wanted = {"success": [SUCCESS], "jam": [FAILURE], "aborted": [3, SUCCESS]}[story]
    return frames + frames[-1:] * FPS, outcomes == wanted and len(frames) < 120


def main(folder: str) -> None:
    """Write the three films."""
    for story in STORIES:
        path = Path(folder) / f"PegInHoleContact-{story}.gif"
        write_gif(film(story), path, FPS)
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docs/media")
