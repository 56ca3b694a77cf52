"""Sepsis treatment: the ICU-Sepsis model of intensive-care patients."""

from __future__ import annotations

from rewardzoo.registration import register_env

register_env(
    "rewardzoo/SepsisICU-v0", "rewardzoo.envs.sepsis.dynamics:SepsisICU", max_episode_steps=500
)
