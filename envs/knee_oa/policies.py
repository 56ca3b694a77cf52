"""Policies that learn nothing: never, always, every so often, at random, by guideline; an oracle.

Each is a function of observations and state to actions and scores, as ``evaluate.follow`` wants
it; all but the oracle look at the observations alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rewardzoo.random import Rng

from .dynamics import SKIP, VISIT, KneeOA, KneeOAState
from .evaluate import Policy

_POLICY_STREAM = 5


def never(obs: Tensor, state: KneeOAState) -> tuple[Tensor, Tensor]:
    """Dismiss everybody."""
    action = torch.full((len(obs),), SKIP, device=obs.device)
    return action, action.double()


def always(obs: Tensor, state: KneeOAState) -> tuple[Tensor, Tensor]:
    """Follow everybody."""
    action = torch.full((len(obs),), VISIT, device=obs.device)
    return action, action.double()


def every(func: KneeOA, period: int) -> Policy:
    """Visit at the first decision and at every ``period``-th after it."""
    if not period >= 1:
        raise ValueError(f"period={period}: expected an integer >= 1")
    place = func.feature_names.index("decisions")

    def policy(obs: Tensor, state: KneeOAState) -> tuple[Tensor, Tensor]:
        action = (obs[:, place].long() % period == 0).long()
        return action, action.double()

    return policy


def at_random(func: KneeOA, share: float = 0.5, seed: int = 0) -> Policy:
    """Visit with probability ``share``."""
    place = func.feature_names.index("decisions")

    def policy(obs: Tensor, state: KneeOAState) -> tuple[Tensor, Tensor]:
        step = obs[:, place].long()
        rng = Rng(state.patient, torch.full_like(step, seed), step, _POLICY_STREAM)
        u = rng.uniform()
        return (u < share).long(), 1.0 - u

    return policy


def guideline(func: KneeOA) -> Policy:
    """Every visit while a knee was last seen at grade 3 or more, else every second one."""
    high = [i for i, name in enumerate(func.feature_names) if name.startswith(("kl3_", "kl4_"))]
    second = every(func, 2)

    def policy(obs: Tensor, state: KneeOAState) -> tuple[Tensor, Tensor]:
        severe = (obs[:, high] > 0.5).any(1)
        action = torch.where(severe, VISIT, second(obs, state)[0])
        return action, action.double()

    return policy


def oracle(obs: Tensor, state: KneeOAState) -> tuple[Tensor, Tensor]:
    """Visit once a progression has happened; knows the future, for reference only."""
    action = (state.visit + 1 >= state.upcoming).long()
    return action, action.double()
