"""Tasks of behaviour alignment: a sparse or plain objective, and advice that may mislead."""

from __future__ import annotations

from rewardzoo.registration import register_env, register_simulator

_HERE = "rewardzoo.envs.alignment"

register_env("rewardzoo/AlignmentMaze-v0", f"{_HERE}.maze:AlignmentMaze", max_episode_steps=50)
register_env(
    "rewardzoo/AlignmentMountainCar-v0",
    f"{_HERE}.classic:AlignmentMountainCar",
    max_episode_steps=2000,
)
register_env(
    "rewardzoo/AlignmentCartPole-v0", f"{_HERE}.classic:AlignmentCartPole", max_episode_steps=500
)
register_simulator(
    "rewardzoo/AlignmentHalfCheetah-v0",
    f"{_HERE}.half_cheetah:AlignmentHalfCheetah",
    f"{_HERE}.half_cheetah:AlignmentHalfCheetahVector",
    max_episode_steps=1000,
)
