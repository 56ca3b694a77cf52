"""Pendulum: swing up and hold."""

from __future__ import annotations

from rewardzoo.registration import register_env

register_env(
    "rewardzoo/Pendulum-v0", "rewardzoo.envs.pendulum.dynamics:Pendulum", max_episode_steps=200
)
