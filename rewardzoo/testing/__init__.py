"""Conformance suites for reward functions and vector environments: run them on your own.

``check_reward(MyReward)`` and ``check_vector_env("my/Env-v0")`` raise AssertionError with what is
wrong and what to do, and return what they found.
"""

from __future__ import annotations

from .envs import EnvReport, check_vector_env
from .recording import MODES, make_envs
from .rewards import RewardReport, check_reward
from .spawned import first_observation

__all__ = [
    "MODES",
    "EnvReport",
    "RewardReport",
    "check_reward",
    "check_vector_env",
    "first_observation",
    "make_envs",
]
