"""Tomato watering: a garden with a bucket in which all tomatoes look watered."""

from __future__ import annotations

from rewardzoo.registration import register_env

register_env(
    "rewardzoo/TomatoWatering-v0",
    "rewardzoo.envs.tomato.dynamics:TomatoWatering",
    max_episode_steps=100,
)
