"""CartPole: balance a pole on a cart."""

from __future__ import annotations

from rewardzoo.registration import register_env

register_env(
    "rewardzoo/CartPole-v0", "rewardzoo.envs.cart_pole.dynamics:CartPole", max_episode_steps=500
)
