"""DARD distances from samples, with confidence intervals, on any functional environment.

    C(s, a, s') = R(s, a, s') + E[gamma R(s', A, S'') - R(s, A, S') - gamma R(S', A, S'')],

with A uniform, S' a successor of s and S'' one of s': the dynamics give as many of both as are
wanted. As in ``recorded.py`` each expectation is a mean over few draws, taken twice and apart, and
covariances are of the two. A terminal state pays nothing and is never left.

Paper: Wulfe et al. (2022), "Dynamics-aware comparison of learned reward functions", eq. 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base_policy import BasePolicy
from ..functional import FuncEnv
from ..random import Rng
from ..rewards.base import RewardFunction, Spaces
from ..transition import Transition, select
from .planning import Array
from .recorded import distances_from_canonical, without_rounding
from .sampled import SampledDistances, covered, reach, take, uniform

_ACTION_STREAM = 5  # the policy's, as in ``sampled.py``
_GROUPS = 256  # of samples, which are drawn again together


def sampled_dard_distances(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    gamma: float,
    num_samples: int = 512,
    draws: int = 4,
    seed: int = 0,
    confidence: float = 0.95,
    policy: BasePolicy | None = None,
    share: float = 0.5,
) -> SampledDistances:
    """Estimated DARD distances, in [0, 1], with bootstrap intervals.

    Covered are states and actions as by ``sampled_distances``, and what follows them.

    Args:
        func: the dynamics.
        rewards: K reward functions without memory.
        gamma: discount in [0, 1).
        num_samples: states, actions and successors, N.
        draws: of each estimate of the expectations; there are two estimates.
        seed: of everything.
        confidence: of the intervals.
        policy: whose states are covered too.
        share: of the states that are the policy's.

    Raises:
        ValueError: for a reward function with memory.
    """
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"gamma={gamma}: expected a number in [0, 1)")
    first, second = dard_samples(func, rewards, gamma, num_samples, draws, seed, policy, share)
    # Samples are independent: how they are grouped does not matter.
    group: Array = np.arange(num_samples, dtype=np.float64) % _GROUPS
    return distances_from_canonical(first, second, group, confidence, seed)


@torch.no_grad()
def dard_samples(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    gamma: float,
    num_samples: int,
    draws: int = 4,
    seed: int = 0,
    policy: BasePolicy | None = None,
    share: float = 0.5,
) -> tuple[Array, Array]:
    """Two estimates (N, K) of the canonical rewards, each unbiased.

    Their draws are a sample's own and the same for every reward function, so that what shaping
    adds cancels in every sample.
    """
    for fn in rewards:
        if not fn.markov:
            raise ValueError(f"reward function {fn.name}: has memory, so states cannot be branched")
    seeds = torch.arange(num_samples, device=func.device) + seed * 1_000_003
    state, action = covered(func, gamma, seeds, reach(gamma), policy, share)
    following = _following(func, state, action, _rng(seeds, 1))
    made = _paid(func, rewards, gamma, state, action, following, _rng(seeds, 8))
    rows = torch.arange(num_samples, device=func.device).repeat_interleave(2 * draws)
    seeds = torch.arange(len(rows), device=func.device) + seed * 1_000_003
    before, arrived = take(state, rows), take(following, rows)
    acts = [uniform(func.action_space, _rng(seeds, t, _ACTION_STREAM)) for t in (2, 3, 4)]
    other = _following(func, before, acts[0], _rng(seeds, 2))
    later = _following(func, arrived, acts[1], _rng(seeds, 3))
    asked = (
        (gamma, arrived, acts[1], later),
        (-1.0, before, acts[0], other),
        (-gamma, other, acts[2], later),
    )
    shape = (num_samples, 2, draws, len(rewards))
    total, largest = made[:, None].expand(-1, 2, -1), made.abs().amax(0)
    for t, (weight, s, a, to) in enumerate(asked, 5):
        paid = _paid(func, rewards, gamma, s, a, to, _rng(seeds, t)).reshape(shape)
        total = total + weight * paid.mean(2)
        largest = torch.maximum(largest, paid.abs().amax((0, 1, 2)))
    first, second = without_rounding(total, largest).cpu().numpy().swapaxes(0, 1)
    return first, second


def _following(func: FuncEnv, state: Any, action: Tensor, rng: Rng) -> Any:
    """A successor of each row; a terminal state's is itself."""
    over = func.terminal(state, rng)
    return select(over, state, func.transition(state, action, rng))


def _paid(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    gamma: float,
    state: Any,
    action: Tensor,
    following: Any,
    rng: Rng,
) -> Tensor:
    """(n, K) float64, whether the successor is possible or not; terminal states pay nothing."""
    over, count = func.terminal(state, rng), len(action)
    no = torch.zeros_like(over)
    step = Transition(
        obs=func.observation(state, rng),
        action=action,
        next_obs=func.observation(following, rng),
        reward=func.reward(state, action, following, rng).to(torch.float32),
        terminated=func.terminal(following, rng),
        truncated=no,
        valid=~no,
        episode_step=torch.zeros(count, dtype=torch.int64, device=over.device),
    )
    paid = []
    for fn in rewards:
        fn.bind(count, func.device, Spaces(func.observation_space, func.action_space, func))
        fn.match_gamma(gamma)
        paid.append(fn.relabel(step).double())
    return torch.stack(paid, 1).masked_fill(over.unsqueeze(1), 0.0)


def _rng(seeds: Tensor, step: int, stream: int = 0) -> Rng:
    """Of episode 2: states were covered in episode 0."""
    return Rng(seeds, torch.full_like(seeds, 2), step, stream)
