"""Base policies: what a policy is kept near or compared with, as functions of observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .random import Rng

BasePolicy = Callable[[Any], Tensor]
"""From observations (N, ...) to action probabilities (N, A) where actions are Discrete, and to the
actions themselves, (N, ...) within bounds, where they are a Box: those it may draw with torch's
generator, which whoever plays it seeds."""


def check_actions(space: spaces.Space[Any]) -> None:
    """Raise ValueError unless a base policy can be written for an action space."""
    if isinstance(space, spaces.Discrete):
        return
    if not (isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)):
        raise ValueError(
            f"action_space={space}: a base policy gives probabilities of Discrete actions or the "
            "actions of a float Box; wrap the environment to have one of these"
        )


def probabilities(base: BasePolicy, obs: Any, space: spaces.Space[Any]) -> Tensor:
    """What ``base`` gives for Discrete actions, (N, A).

    Raises:
        ValueError: naming both sides, if that has another shape, or if actions are none such.
    """
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"action_space={space}: only Discrete actions have probabilities")
    return _checked(base(obs), (_rows(obs), int(space.n)), "action probabilities", space)


def base_actions(base: BasePolicy, obs: Any, space: spaces.Space[Any], rng: Rng) -> Tensor:
    """What ``base`` does: drawn by ``rng`` where it gives probabilities.

    Raises:
        ValueError: naming both sides, if it gives something of another shape.
    """
    if isinstance(space, spaces.Discrete):
        action = rng.categorical(probabilities(base, obs, space))
        return action + int(space.start) if space.start else action
    action = _checked(base(obs), (_rows(obs), *(space.shape or ())), "actions", space)
    return action.to(torch.float32)


def _checked(found: Any, expected: tuple[int, ...], what: str, space: Any) -> Tensor:
    if not isinstance(found, Tensor) or tuple(found.shape) != expected:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"base policy: it gave {shape}, expected {what} of shape {expected} for the "
            f"environment's action_space {space}"
        )
    return found


def _rows(obs: Any) -> int:
    return _rows(next(iter(obs.values()))) if isinstance(obs, dict) else len(obs)
