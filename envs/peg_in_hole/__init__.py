"""PegInHole: trial and error as random events, with a predictor of failures."""

from __future__ import annotations

from rewardzoo.registration import register_env

register_env(
    "rewardzoo/PegInHole-v0",
    "rewardzoo.envs.peg_in_hole.dynamics:PegInHole",
    max_episode_steps=1000,
)
