"""GridWorld: a small maze with a goal and traps."""

from __future__ import annotations

from rewardzoo.registration import register_env

register_env(
    "rewardzoo/GridWorld-v0", "rewardzoo.envs.grid_world.dynamics:GridWorld", max_episode_steps=100
)
