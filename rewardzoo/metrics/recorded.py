"""EPIC distances from recorded steps, for simulators that can only be reset and stepped.

A stock environment's states cannot be gone on from twice, so there are no advantages to sample
(``sampled.py``), and no second successor to tell a reward from its expectation. EPIC needs neither:
it asks the reward functions, not the simulator, about transitions, most of which never happened,

    C(s, a, s') = R(s, a, s') + E[gamma R(s', A, S') - R(s, A, S') - gamma R(S, A, S')].

Here (s, a, s') are steps that a policy made, and S, S' and A are drawn apart from each other from
the states it arrived at and the actions it took. So a reward function must be a rule of state,
action and successor: what the simulator paid, and what it said in ``info``, is known only of steps
that were made.

What is biased, and what is not:

- Each expectation is a mean over few draws, whose noise would lengthen every canonical reward and
  so push different ones apart. As in ``sampled.py``, covariances are taken between two means of
  independent draws, whose noise has no part in them. Their ratio and its root are not linear, so
  that a distance is still off by the order of 1 / N.
- The distance is of what the policy covers. The drawn states are those of the recording, taken as
  they are: how far they are from all that the policy would visit is not in the intervals.
- EPIC's own: it sees transitions that cannot happen, so two rewards with opposite optima may be
  near; a reward that is moved between successors counts as another; and as a terminal state pays
  nothing, whatever follows, shaping shows where episodes terminate.

Paper: Gleave, Dennis, Legg, Russell, Leike (2021), "Quantifying differences in reward functions",
definitions 4.1 and 4.7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from ..rewards.base import RewardFunction, Spaces
from ..rewards.wrappers import VectorRewardWrapper
from ..transition import Obs, Transition
from .planning import Array
from .sampled import SampledDistances, take

_EVALUATED = 1 << 16  # transitions asked about at once
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Recording:
    """M steps, of several rows that know nothing of each other.

    Args:
        obs: (M, ...) or a dict of them.
        action: (M, ...).
        next_obs: like ``obs``, the true successors.
        terminated: (M,) bool, whether the successor is terminal.
        episode_step: (M,) int64.
        row: (M,) int64, of the vector environment.
        spaces: of one environment.
    """

    obs: Obs
    action: Tensor
    next_obs: Obs
    terminated: Tensor
    episode_step: Tensor
    row: Tensor
    spaces: Spaces


def record(
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    steps: int,
    policy: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> Recording:
    """Play, and keep what happened.

    Args:
        envs: any vector environment, in any autoreset mode but ``DISABLED``.
        steps: of every row.
        policy: from the batch of observations to that of actions; default: uniformly random.
        seed: of environments and actions.
    """
    wrapped = VectorRewardWrapper(envs, _Nothing(), device="cpu")
    envs.action_space.seed(seed)
    obs, _ = wrapped.reset(seed=seed)
    kept = []
    for _ in range(steps):
        obs = wrapped.step(envs.action_space.sample() if policy is None else policy(obs))[0]
        assert wrapped.transition is not None
        kept.append(wrapped.transition)
    valid = torch.cat([t.valid for t in kept]).nonzero().flatten()

    def joined(name: str) -> Any:
        return take(_cat([getattr(t, name) for t in kept]), valid)

    return Recording(
        obs=joined("obs"),
        action=joined("action"),
        next_obs=joined("next_obs"),
        terminated=joined("terminated"),
        episode_step=joined("episode_step"),
        row=torch.arange(envs.num_envs).repeat(steps)[valid],
        spaces=Spaces(envs.single_observation_space, envs.single_action_space, envs),
    )


def recorded_distances(
    recording: Recording,
    rewards: Sequence[RewardFunction],
    gamma: float,
    num_samples: int = 512,
    draws: int = 4,
    seed: int = 0,
    confidence: float = 0.95,
) -> SampledDistances:
    """Estimated EPIC distances, in [0, 1], with bootstrap intervals.

    Args:
        recording: of a policy; its steps are the coverage distribution.
        rewards: K reward functions without memory.
        gamma: discount in [0, 1).
        num_samples: steps that are looked at, N, drawn from the recording; at most all.
        draws: of each estimate of an expectation; there are two estimates.
        seed: of the draws.
        confidence: of the intervals.

    Raises:
        ValueError: for a reward function with memory, or one that asks for more than the state,
            the action and the successor.
    """
    first, second, row = canonical_rewards(recording, rewards, gamma, num_samples, draws, seed)
    return distances_from_canonical(first, second, row, confidence, seed)


@torch.no_grad()
def canonical_rewards(
    recording: Recording,
    rewards: Sequence[RewardFunction],
    gamma: float,
    num_samples: int,
    draws: int = 4,
    seed: int = 0,
) -> tuple[Array, Array, Array]:
    """Two estimates (N, K) of the canonical rewards, each unbiased, and the rows (N,) they are of.

    The draws are a sample's own, and the same for every reward function and for each of the three
    means, so that what shaping adds cancels in every sample, not only on average: potential
    shaping changes the estimates by one constant.
    """
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"gamma={gamma}: expected a number in [0, 1)")
    for name, number, low in (("num_samples", num_samples, 2), ("draws", draws, 1)):
        if number < low:
            raise ValueError(f"{name}={number}: expected an integer >= {low}")
    for fn in rewards:
        if not fn.markov:
            raise ValueError(
                f"reward function {fn.name}: has memory, so it has no answer to single transitions"
            )
    total = len(recording.row)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(total, generator=generator)[:num_samples]
    parts = [
        _canonical(recording, rewards, gamma, part, draws, generator)
        for part in torch.split(chosen, max(1, _EVALUATED // (2 * draws)))
    ]
    estimates = torch.cat([estimate for estimate, _ in parts])
    largest = torch.stack([size for _, size in parts]).amax(0)
    first, second = without_rounding(estimates, largest).numpy().swapaxes(0, 1)
    return first, second, recording.row[chosen].numpy()


def without_rounding(estimates: Tensor, largest: Tensor) -> Tensor:
    """(N, 2, K): 0 for a reward that is nothing but shaping: what rounding leaves has no direction.

    Args:
        estimates: (N, 2, K) of canonical rewards.
        largest: (K,), of the rewards that they were made of.
    """
    moves = (estimates - estimates.mean((0, 1))).abs().amax((0, 1))
    return torch.where(moves <= 1e-5 * largest, 0.0, estimates)


def distances_from_canonical(
    first: Array, second: Array, row: Array, confidence: float = 0.95, seed: int = 0
) -> SampledDistances:
    """``sqrt((1 - rho) / 2)``, with intervals by the bootstrap over rows.

    Steps of a row follow each other, so whole rows are drawn again.

    Args:
        first: (N, K) estimates of the canonical rewards of K reward functions.
        second: (N, K), independent ones at the same steps.
        row: (N,), of each step; at least two different ones.
        confidence: of the intervals.
        seed: of the bootstrap.
    """
    rows, inverse = np.unique(row, return_inverse=True)
    if first.shape != second.shape or first.ndim != 2 or len(rows) < 2:
        raise ValueError(
            f"first {first.shape}, second {second.shape}, {len(rows)} rows: expected (N, K) both, "
            "and at least 2 rows"
        )
    x, y = first - first.mean(0), second - second.mean(0)
    member = (inverse == np.arange(len(rows))[:, None]).astype(np.float64)
    count, x_sum, y_sum = member.sum(1), member @ x, member @ y
    products = (x[:, :, None] * y[:, None] + y[:, :, None] * x[:, None]) / 2.0
    product_sum = np.einsum("rn,nkl->rkl", member, products)

    def distance(weights: Array) -> Array:
        """(B, K, K), of rows counted (B, R) times."""
        n = (weights @ count)[:, None, None]
        a, b = ((weights @ v)[:, :, None] / n for v in (x_sum, y_sum))
        means = (a * b.swapaxes(1, 2) + b * a.swapaxes(1, 2)) / 2.0
        gram = np.einsum("br,rkl->bkl", weights, product_sum) / n - means
        squares = np.diagonal(gram, axis1=1, axis2=2)
        lengths = np.sqrt(np.where(squares > 0.0, squares, np.nan))
        return _distance(gram / (lengths[:, :, None] * lengths[:, None]))

    found = distance(np.ones((1, len(rows))))[0]
    drawn = np.random.default_rng(seed).multinomial(
        len(rows), np.full(len(rows), 1.0 / len(rows)), _RESAMPLES
    )
    tail = (1.0 - confidence) / 2.0
    again = distance(drawn.astype(np.float64))
    # Where noise swamps a reward anything is possible.
    low, high = (
        np.quantile(np.where(np.isnan(again), unknown, again), share, axis=0)
        for unknown, share in ((0.0, tail), (1.0, 1.0 - tail))
    )
    spread = np.sqrt((x * x).mean(0) * (y * y).mean(0))
    noise = _distance((x * y).mean(0) / np.where(spread > 0.0, spread, np.nan))
    return SampledDistances(
        found, low, high, np.where(np.isnan(noise), 0.0, noise), len(first), confidence
    )


def _canonical(
    recording: Recording,
    rewards: Sequence[RewardFunction],
    gamma: float,
    chosen: Tensor,
    draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(n, 2, K) float64 of the chosen steps, and the largest reward that was met, (K,)."""
    r, n = recording, len(chosen)
    drawn, acted = torch.randint(len(r.row), (2, n, 2, draws), generator=generator)
    before = chosen[:, None, None].expand(n, 2, draws)
    # As many origins as successors, and the same ones, but never together.
    origin = drawn.roll(1, -1)
    never = torch.zeros_like(r.terminated)
    begin, arrive = (r.obs, never, r.episode_step), (r.next_obs, r.terminated, r.episode_step + 1)
    asked = (
        (begin, chosen[:, None, None], chosen[:, None, None], chosen[:, None, None]),
        (arrive, before, acted, drawn),
        (begin, before, acted, drawn),
        (arrive, origin, acted, drawn),
    )
    found = []
    for (states, terminal, clock), s, a, t in asked:
        at, do, to = s.flatten(), a.flatten(), t.flatten()
        step = Transition(
            obs=take(states, at),
            action=take(r.action, do),
            next_obs=take(r.next_obs, to),
            reward=torch.full((len(at),), torch.nan),  # unknown
            terminated=r.terminated[to],
            truncated=never[to],
            valid=~never[to],
            episode_step=clock[at],
        )
        paid = torch.stack([_paid(fn, step, r.spaces, gamma) for fn in rewards], -1)
        # A terminal state pays nothing.
        found.append(paid.masked_fill(terminal[at].unsqueeze(1), 0.0).reshape(*s.shape, -1))
    made, later, now, apart = (x.mean(2) for x in found)
    largest = torch.stack([x.abs().amax((0, 1, 2)) for x in found]).amax(0)
    return made + gamma * later - now - gamma * apart, largest


def _paid(fn: RewardFunction, step: Transition, spaces: Spaces, gamma: float) -> Tensor:
    """(n,) float64."""
    fn.bind(len(step.valid), torch.device("cpu"), spaces)
    fn.match_gamma(gamma)
    wanted = (
        "EPIC asks about transitions that never happened, so it must be a rule of obs, action, "
        "next_obs and terminated"
    )
    try:
        paid = fn.relabel(step)
    except KeyError as error:
        raise ValueError(f"reward function {fn.name}: it reads {error} of info: {wanted}") from None
    if paid.shape != step.valid.shape:
        raise ValueError(
            f"reward function {fn.name}: returned shape {tuple(paid.shape)}, expected "
            f"{tuple(step.valid.shape)}, one number a row"
        )
    if not torch.isfinite(paid).all():
        raise ValueError(
            f"reward function {fn.name}: it pays no finite number where it is not told what the "
            f"environment paid: {wanted}"
        )
    return paid.double()


class _Nothing(RewardFunction):
    """Pays nothing."""

    def __call__(self, t: Transition) -> Tensor:
        return torch.zeros_like(t.reward)


def _cat(parts: list[Any]) -> Any:
    """Batches, one after the other."""
    first = parts[0]
    if isinstance(first, dict):
        return {k: _cat([part[k] for part in parts]) for k in first}
    if isinstance(first, tuple):
        return tuple(_cat(list(x)) for x in zip(*parts, strict=True))
    return torch.cat(parts)


def _distance(rho: Array) -> Array:
    found: Array = np.sqrt(np.clip(1.0 - rho, 0.0, 2.0) / 2.0)
    return found
