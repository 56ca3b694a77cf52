"""STARC distances (L2) from samples, with confidence intervals, on any functional environment.

Exact tables need the transition probabilities. Here a state is branched: the dynamics are pure
functions, so any state can be gone on from many times. An estimate of the canonical reward at a
state and action is the return of a rollout that begins with the action less that of one that begins
with the policy's own: an unbiased advantage. Its noise would lengthen every canonical reward and so
push equal rewards apart, but two independent estimates of the same advantage have the product of
the means as the mean of their product: lengths and angles are taken from such products alone.
That is why the norm is L2 and the canonical reward VAL, or the expected reward as it is: the noise
of an estimate does not cancel in absolute values or maxima (L1, Linf), and a difference of returns
over all policies is planned, not sampled. The least of all shapings (MIN), and VAL without
rollouts, are fitted: ``sampled_fitted.py``.
The intervals know only what was sampled: where a few states that are rarely visited carry most of a
reward, they are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..base_policy import BasePolicy, base_actions
from ..functional import FuncEnv
from ..random import Rng
from ..rewards.base import RewardFunction, Spaces
from ..transition import Transition, select
from .planning import Array

SAMPLED_CANONICAL = ("val", "none")
"""The canonical rewards of STARC distances that have unbiased estimates; see ``canonical.py``."""

_POLICY_STREAM = 5  # environments draw from stream 0
_COVERAGE_STREAM = 6  # of a policy whose states are covered too


@dataclass(frozen=True, eq=False)
class SampledDistances:
    """Estimated distances of K rewards.

    Args:
        distance: (K, K), STARC's in [0, 2], EPIC's in [0, 1]; nan where noise swamps a reward.
        low: (K, K), lower end of the intervals.
        high: (K, K), upper end.
        noise: (K,), how far two estimates of the same canonical reward lie apart: what a distance
            without the correction for noise would say of equal rewards.
        n: states and actions sampled.
        confidence: nominal coverage.
    """

    distance: Array
    low: Array
    high: Array
    noise: Array
    n: int
    confidence: float = 0.95


def distances_from_advantages(
    first: Array, second: Array, confidence: float = 0.95
) -> SampledDistances:
    """Distances, with intervals by the delta method over the sampled states and actions.

    Args:
        first: (N, K) estimates of the canonical rewards of K rewards at N states and actions.
        second: (N, K), independent ones at the same states and actions.
        confidence: of the intervals.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"first {first.shape}, second {second.shape}: expected (N, K) both, N > 1")
    n, k = first.shape
    products = (first[:, :, None] * second[:, None] + second[:, :, None] * first[:, None]) / 2.0
    gram = products.mean(0)
    squares = np.where(np.diagonal(gram) > 0, np.diagonal(gram), np.nan)
    lengths = np.sqrt(squares[:, None] * squares)
    cosine = gram / lengths
    # How much each sample moves the cosine: the derivative of gram / lengths along its products.
    own = np.diagonal(products, axis1=1, axis2=2) / squares
    moves = products / lengths - cosine * (own[:, :, None] + own[:, None]) / 2.0
    error = moves.std(0, ddof=1) / np.sqrt(n)
    reach = NormalDist().inv_cdf((1.0 + confidence) / 2.0) * error
    low, high = (_distance(cosine + sign * reach, outer) for sign, outer in ((1, 0.0), (-1, 2.0)))
    spread = np.sqrt((first * first).mean(0) * (second * second).mean(0))
    noise = _distance(np.diagonal(gram) / np.where(spread > 0, spread, np.nan), 0.0)
    return SampledDistances(_distance(cosine, np.nan), low, high, noise, n, confidence)


def sampled_distances(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    gamma: float,
    num_samples: int = 512,
    rollouts: int = 4,
    horizon: int | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    canonical: str = "val",
    policy: BasePolicy | None = None,
    share: float = 0.5,
) -> SampledDistances:
    """Estimated STARC distances between reward functions on an environment's dynamics.

    Covered are the states that the uniform policy visits, discounted, and, for a share of them,
    those that another policy visits; actions are uniform in all of them. The canonical reward is
    the uniform policy's advantage, whatever is covered.

    Args:
        func: the dynamics.
        rewards: K reward functions without memory.
        gamma: discount in [0, 1).
        num_samples: states and actions, N.
        rollouts: of each estimate; there are two estimates.
        horizon: steps of a rollout; default: until ``gamma ** horizon`` is .001.
        seed: of everything.
        confidence: of the intervals.
        canonical: "val", or "none", the expected reward as it is.
        policy: whose states are covered too, as an expert's; see ``rewardzoo.base_policy``.
        share: of the states that are the policy's, in [0, 1].

    Raises:
        ValueError: for a reward function with memory, which cannot be asked about a state alone,
            and for another canonical reward.
    """
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"gamma={gamma}: expected a number in [0, 1)")
    first, second = canonical_samples(
        func, rewards, gamma, num_samples, rollouts, horizon, seed, canonical, policy, share
    )
    return distances_from_advantages(first, second, confidence)


@torch.no_grad()
def canonical_samples(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    gamma: float,
    num_samples: int,
    rollouts: int = 4,
    horizon: int | None = None,
    seed: int = 0,
    canonical: str = "val",
    policy: BasePolicy | None = None,
    share: float = 0.5,
) -> tuple[Array, Array]:
    """Two independent unbiased estimates (N, K) of canonical rewards; see ``sampled_distances``."""
    if canonical not in SAMPLED_CANONICAL:
        raise ValueError(
            f"canonical={canonical!r}: expected one of {', '.join(SAMPLED_CANONICAL)}, which alone "
            "have unbiased estimates"
        )
    for fn in rewards:
        if not fn.markov:
            raise ValueError(f"reward function {fn.name}: has memory, so states cannot be branched")
    steps = horizon or reach(gamma)
    seeds = torch.arange(num_samples, device=func.device) + seed * 1_000_003
    state, action = covered(func, gamma, seeds, steps, policy, share)
    copies = 2 * rollouts
    rows = torch.arange(num_samples, device=func.device).repeat_interleave(copies)
    state = take(state, rows)
    fixed = action[rows]
    if canonical == "none":
        sums = _rollout(func, rewards, gamma, state, fixed, rows, seed, 1)
    else:
        first, own = (
            _rollout(func, rewards, gamma, state, begin, rows, seed, steps)
            for begin in (fixed, None)
        )
        sums = first - own
    found = sums.reshape(num_samples, 2, rollouts, len(rewards)).mean(2)
    return found[:, 0].double().cpu().numpy(), found[:, 1].double().cpu().numpy()


def reach(gamma: float) -> int:
    """Steps after which the discount's power is .001."""
    return 1 if gamma == 0.0 else max(1, math.ceil(math.log(1e-3) / math.log(gamma)))


def covered(
    func: FuncEnv,
    gamma: float,
    seeds: Tensor,
    steps: int,
    policy: BasePolicy | None = None,
    share: float = 0.5,
) -> tuple[Any, Tensor]:
    """States where a policy is at a geometric time, or before the end; and uniform actions.

    The policy is the uniform one, and in the first ``share`` of the rows ``policy`` if it is given.
    What it draws is by the seeds; with torch's generator, by the first of them.
    """
    if policy is None:
        return _visited(func, gamma, seeds, steps, lambda state, t, own: own)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share={share}: expected a number in [0, 1]")
    theirs = torch.arange(len(seeds), device=seeds.device) < round(share * len(seeds))

    def act(state: Any, t: int, own: Tensor) -> Tensor:
        rng = Rng(seeds, torch.zeros_like(seeds), t, _COVERAGE_STREAM)
        chosen = base_actions(policy, func.observation(state, rng), func.action_space, rng)
        return torch.where(theirs.reshape(-1, *(1,) * (own.ndim - 1)), chosen.to(own.dtype), own)

    with torch.random.fork_rng([func.device] if func.device.type == "cuda" else []):
        torch.manual_seed(int(seeds[0]))
        return _visited(func, gamma, seeds, steps, act)


def _visited(
    func: FuncEnv,
    gamma: float,
    seeds: Tensor,
    steps: int,
    act: Callable[[Any, int, Tensor], Tensor],
) -> tuple[Any, Tensor]:
    """``covered``, by what is done in a state before step t, given the uniform policy's action."""
    zero = torch.zeros_like(seeds)
    draw = Rng(seeds, zero, 0, _POLICY_STREAM)
    last = torch.log1p(-draw.uniform()) / math.log(gamma) if gamma > 0.0 else draw.uniform() * 0.0
    state = func.initial(Rng(seeds, zero, 0))
    for t in range(1, steps + 1):
        action = uniform(func.action_space, Rng(seeds, zero, t, _POLICY_STREAM))
        action = act(state, t, action)
        rng = Rng(seeds, zero, t)
        following = func.transition(state, action, rng)
        going = (t <= last) & func.terminal(following, rng).logical_not()
        last = torch.where(going, last, 0.0)
        state = select(going, following, state)
    return state, uniform(func.action_space, Rng(seeds, zero, steps + 1, _POLICY_STREAM))


def _rollout(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    gamma: float,
    state: Any,
    action: Tensor | None,
    rows: Tensor,
    seed: int,
    steps: int,
) -> Tensor:
    """Discounted returns (rows, K) from ``state``; the first action is given or the policy's."""
    # The same random numbers whatever the first action, which lessens the noise of differences.
    seeds = torch.arange(len(rows), device=rows.device) + seed * 1_000_003
    episode = torch.ones_like(seeds)
    for fn in rewards:
        fn.bind(len(rows), func.device, Spaces(func.observation_space, func.action_space, func))
        fn.match_gamma(gamma)
    total = torch.zeros(len(rows), len(rewards), dtype=torch.float64, device=rows.device)
    alive = torch.ones_like(rows, dtype=torch.bool)
    obs = func.observation(state, Rng(seeds, episode, 0))
    for t in range(1, steps + 1):
        own = uniform(func.action_space, Rng(seeds, episode, t, _POLICY_STREAM))
        act = own if action is None or t > 1 else action
        rng = Rng(seeds, episode, t)
        following = func.transition(state, act, rng)
        objective = func.reward(state, act, following, rng)
        terminated = func.terminal(following, rng)
        seen = func.observation(following, rng)
        no = torch.zeros_like(terminated)
        step = Transition(obs, act, seen, objective, terminated, no, alive, seeds * 0 + t - 1)
        paid = torch.stack([fn.relabel(step) for fn in rewards], 1)
        total += gamma ** (t - 1) * torch.where(alive.unsqueeze(1), paid, 0.0)
        alive = alive & terminated.logical_not()
        state, obs = following, seen
    return total


def uniform(space: spaces.Space[Any], rng: Rng) -> Tensor:
    """Uniform actions, one a row."""
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, int(space.n)) + int(space.start)
    if isinstance(space, spaces.Box) and np.isfinite([space.low, space.high]).all():
        unit = rng.uniform(*space.shape)
        low, high = (torch.as_tensor(x, device=unit.device) for x in (space.low, space.high))
        return low + (high - low) * unit
    raise ValueError(f"action space {space}: expected Discrete, or a bounded Box")


def take(x: Any, rows: Tensor) -> Any:
    """Rows of a state."""
    if isinstance(x, Tensor):
        return x[rows]
    if isinstance(x, dict):
        return {k: take(v, rows) for k, v in x.items()}
    parts = [take(v, rows) for v in x]
    return tuple(parts) if type(x) is tuple else type(x)(*parts)


def _distance(cosine: Array, unknown: float) -> Array:
    """Of unit vectors with that cosine; ``unknown`` where noise swamps a length."""
    found: Array = np.sqrt(np.clip(2.0 - 2.0 * cosine, 0.0, 4.0))
    return np.where(np.isnan(found), unknown, found)
