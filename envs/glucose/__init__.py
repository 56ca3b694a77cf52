"""Blood glucose: virtual patients with type-1 diabetes and an insulin pump."""

from __future__ import annotations

from rewardzoo.registration import register_env

# 288 steps of five minutes: a day.
register_env(
    "rewardzoo/Glucose-v0", "rewardzoo.envs.glucose.dynamics:Glucose", max_episode_steps=288
)
