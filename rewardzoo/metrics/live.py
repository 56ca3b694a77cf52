"""How far the reward function of a training is from the objective, while it is being learned from.

A comparison binds the reward functions it is given to the rows that it asks about; that would take
the memory and the parameters of one that is at work. So it is asked as it stands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..functional import FuncEnv
from ..rewards.base import RewardFunction, Spaces, env_reward
from ..rewards.wrappers import VectorRewardWrapper
from ..transition import Transition
from .comparison import enumerable, expected_rewards
from .regret import worst_case_regret
from .sampled import sampled_distances
from .starc import starc_distance


class AsItStands(RewardFunction):
    """A reward function that is bound already, to be asked about other steps by ``relabel``."""

    def __init__(self, inner: RewardFunction) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        """The inner one's."""
        return self.inner.name

    @property
    def markov(self) -> bool:  # type: ignore[override]
        """Whether the inner one is."""
        return self.inner.markov

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Nothing: its rows are those of the training."""

    def match_gamma(self, gamma: float) -> None:
        """Nothing: it has the agent's."""

    def __call__(self, t: Transition) -> Tensor:
        """``relabel``, which changes nothing."""
        return self.inner.relabel(t)


def distance_to_objective(
    envs: Any,
    gamma: float,
    canonical: str = "val",
    num_samples: int = 512,
    rollouts: int = 4,
    seed: int = 0,
) -> dict[str, float]:
    """The STARC distance between what environments pay now and their objective.

    Args:
        envs: a vector environment with functional dynamics in one ``VectorRewardWrapper``.
        gamma: the agent's discount.
        canonical: "val" or "none", and, where states can be counted, "minimal".
        num_samples: see ``sampled_distances``.
        rollouts: see there.
        seed: see there.

    Returns:
        ``starc``; and ``regret``, of optimising what is paid, where states can be counted, else
        ``low`` and ``high``.

    Raises:
        ValueError: for other environments, and for a reward function with memory.
    """
    pair = [AsItStands(_paying(envs)), env_reward]
    func = getattr(envs.unwrapped, "func", None)
    if not isinstance(func, FuncEnv):
        raise ValueError(
            f"envs: {type(envs.unwrapped).__name__} has no functional dynamics to ask about states "
            "again; take an environment of `rewardzoo list envs` that has"
        )
    if not pair[0].markov:
        raise ValueError(
            f"reward function {pair[0].name}: it has memory, so that it has no distance to the "
            "objective on states and actions alone"
        )
    if enumerable(func):
        found = sampled_distances(
            func, pair, gamma, num_samples, rollouts, seed=seed, canonical=canonical
        )
        bounds = {"low": float(found.low[0, 1]), "high": float(found.high[0, 1])}
        return {"starc": float(found.distance[0, 1]), **bounds}
    moves, _, initial = func.transition_matrix()  # type: ignore[attr-defined]
    paid, meant = expected_rewards(func, pair, gamma)
    return {
        "starc": float(starc_distance(paid, meant, moves, gamma, canonical)),
        "regret": float(worst_case_regret(meant, paid, moves, initial, gamma)),
    }


def _paying(envs: Any) -> RewardFunction:
    """The one reward function that pays the environments."""
    found = []
    while envs is not None:
        if isinstance(envs, VectorRewardWrapper):
            found.append(envs.reward_function)
        envs = getattr(envs, "env", None)
    if len(found) != 1:
        raise ValueError(
            f"envs: {len(found)} reward functions pay them, expected one, in a VectorRewardWrapper "
            "(add reward functions up, do not wrap twice)"
        )
    return found[0]
