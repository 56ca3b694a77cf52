"""MuJoCo locomotion: Gymnasium's own ``-v5`` tasks, with this project's two faces."""

from __future__ import annotations

from rewardzoo.registration import register_simulator

_HERE = "rewardzoo.envs.mujoco_locomotion.env"

for _name in (
    "InvertedPendulum", "InvertedDoublePendulum", "Hopper", "HalfCheetah", "Walker2d", "Ant",
):  # fmt: skip
    register_simulator(
        f"rewardzoo/{_name}-v0",
        f"{_HERE}:{_name}",
        f"{_HERE}:{_name}Vector",
        max_episode_steps=1000,
    )
