"""Reward functions: one file each; ``base`` says what one is, ``wrappers`` puts it on an env."""

from __future__ import annotations

from .advice import AsPotential, LookBackAdvice
from .append_state import AppendRewardState, VectorAppendRewardState
from .base import EnvReward, RewardError, RewardFunction, Spaces, env_reward
from .clip import Clip
from .compose import Scale, Sum
from .delay import Delay
from .dynamic_potential import DynamicPotential
from .expected import Constrained, OuterNonlinear
from .normalise import Normalise
from .novelty import Novelty
from .parse import RewardSyntaxError, make_reward
from .potential import Potential
from .reward_machine import LtlGoal, RewardMachine
from .schedule import Schedule
from .submodular import ModularSurrogate, SetFunction, SubmodularReward
from .trajectory import AverageReward, InnerNonlinear, TrajectoryReward
from .wrappers import RewardWrapper, VectorRewardWrapper

__all__ = [
    "AppendRewardState",
    "AsPotential",
    "AverageReward",
    "Clip",
    "Constrained",
    "Delay",
    "DynamicPotential",
    "EnvReward",
    "InnerNonlinear",
    "LtlGoal",
    "LookBackAdvice",
    "ModularSurrogate",
    "Normalise",
    "Novelty",
    "OuterNonlinear",
    "Potential",
    "RewardError",
    "RewardFunction",
    "RewardMachine",
    "RewardSyntaxError",
    "RewardWrapper",
    "Scale",
    "Schedule",
    "SetFunction",
    "Spaces",
    "SubmodularReward",
    "Sum",
    "TrajectoryReward",
    "VectorAppendRewardState",
    "VectorRewardWrapper",
    "env_reward",
    "make_reward",
]
