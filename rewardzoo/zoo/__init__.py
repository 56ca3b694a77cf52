"""Trained agents: found by name, read without executing code, trained again by one command.

>>> import rewardzoo.zoo
>>> agent = rewardzoo.zoo.load("ppo-gridworld")
>>> agent.registered_name
'ppo'
"""

from __future__ import annotations

from .manifest import load, names, recipe, train
from .policies import Recipe, load_agent, load_policy, read_policy, save_policy, score

__all__ = [
    "Recipe",
    "load",
    "load_agent",
    "load_policy",
    "names",
    "read_policy",
    "recipe",
    "save_policy",
    "score",
    "train",
]
