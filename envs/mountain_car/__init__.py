"""MountainCar: swing an underpowered car out of a valley."""

from __future__ import annotations

from rewardzoo.registration import register_env

register_env(
    "rewardzoo/MountainCar-v0",
    "rewardzoo.envs.mountain_car.dynamics:MountainCar",
    max_episode_steps=200,
)
register_env(
    "rewardzoo/MountainCarContinuous-v0",
    "rewardzoo.envs.mountain_car.dynamics:MountainCarContinuous",
    max_episode_steps=999,
)
