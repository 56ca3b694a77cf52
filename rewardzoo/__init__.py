"""RewardZoo: environments without rewards, reward functions as objects, and what comes of them.

Importing it registers every ``rewardzoo/…`` environment with Gymnasium and imports no simulator.
"""

from __future__ import annotations

from . import interrupts as interrupts  # first: Ctrl-C must not wait for the others
from . import registration
from .registration import load_plugin, register_agent, register_env, register_reward
from .rewards.base import RewardFunction
from .rewards.wrappers import RewardWrapper, VectorRewardWrapper
from .transition import Transition

__version__ = "0.1.0"

__all__ = [
    "RewardFunction",
    "RewardWrapper",
    "Transition",
    "VectorRewardWrapper",
    "__version__",
    "load_plugin",
    "register_agent",
    "register_env",
    "register_reward",
]

registration.import_modules("rewardzoo.envs")
