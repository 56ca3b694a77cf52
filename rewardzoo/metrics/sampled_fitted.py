"""STARC distances (L2) from samples, with a fitted potential in place of rollouts.

    C(s, a) = E_{s'}[R + gamma phi(s') - phi(s)],    phi = w . features

is VAL if phi is the value of the uniform policy, and MIN if it leaves the least squares. Both ask
that what is left be orthogonal to something, and so are one linear system:

    sum z (R + w . x) = 0,    x = gamma features(s') - features(s),

with z the features of s for VAL (least-squares temporal differences, Bradtke and Barto 1996) and
the mean of x for MIN. All rewards get the same features, and as w is linear in R, a shaping whose
potential is in their span cancels exactly, however well or badly the value is fitted; a value that
is not in it biases the distance.

Samples are in three parts. Of a canonical reward two estimates are made, from other successors and
with a potential that was fitted on another part each (cross-fitting), so that no noise is in both:
lengths and angles are of products of the two, as in ``sampled.py``. Absolute values have no such
way out, fitted or not: what few successors leave of noise lengthens every L1 norm. (On a random
chain with four successors, nominal 95 % intervals of L1 distances, extrapolated to no noise, held
the exact one in a fifth of runs; with signs from the other estimate, in four fifths.)

Intervals are by the bootstrap: samples are drawn again and potentials fitted again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..base_policy import BasePolicy
from ..functional import FuncEnv
from ..random import Rng
from ..rewards.base import RewardFunction, Spaces
from ..rewards.row_memory import Encoding
from ..transition import Obs, Transition
from .planning import Array
from .sampled import SampledDistances, covered, reach, take

FITTED_CANONICAL = ("val", "minimal")
"""The canonical rewards that are what a potential leaves."""

_PARTS = 3  # fitted on one, on another, evaluated on the third
_GROUPS = 64  # of the samples of a part, which are drawn again together
_CHUNK = 16  # of draws, in memory at once
_FEATURES = 256  # more take minutes to fit again and again
_EACH = 12  # samples of a feature, at least
_RIDGE = 1e-9  # of what the samples say nothing of
_NEGLIGIBLE = 1e-5  # of a reward; what rounding leaves of a shaping

Features = Callable[[Obs], Tensor]


def fitted_distances(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    gamma: float,
    num_samples: int = 1024,
    successors: int = 4,
    seed: int = 0,
    confidence: float = 0.95,
    canonical: str = "val",
    policy: BasePolicy | None = None,
    share: float = 0.5,
    features: Features | None = None,
    resamples: int = 1000,
) -> SampledDistances:
    """Estimated STARC distances between reward functions on an environment's dynamics.

    Covered are states and actions as by ``sampled_distances``.

    Args:
        func: the dynamics.
        rewards: K reward functions without memory.
        gamma: discount in [0, 1).
        num_samples: states and actions, N; a multiple of 3 is taken, from below.
        successors: of each of the two estimates.
        seed: of everything.
        confidence: of the intervals.
        canonical: "val" or "minimal".
        policy: whose states are covered too.
        share: of the states that are the policy's, in [0, 1].
        features: observations (B, ...) to (B, D) float, the same for all rewards; default:
            ``fourier_features``.
        resamples: of the bootstrap.

    Raises:
        ValueError: for a reward function with memory, an unknown name, more features than 256, or
            fewer than 12 samples of each.

    Paper: Skalse et al. (2024), "STARC: a general framework for quantifying differences between
    reward functions".
    """
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"gamma={gamma}: expected a number in [0, 1)")
    if canonical not in FITTED_CANONICAL:
        raise ValueError(f"canonical={canonical!r}: expected one of {', '.join(FITTED_CANONICAL)}")
    num_samples -= num_samples % _PARTS
    made = features or fourier_features(func.observation_space, num_samples // (2 * _EACH))
    drawn = _draw(func, rewards, gamma, num_samples, successors, seed, policy, share, made)
    return _Fit(*drawn, canonical).distances(confidence, resamples, seed)


def fourier_features(space: spaces.Space[Any], count: int) -> Features:
    """One of n for Discrete observations; for Box ones 1, the numbers and waves of them.

    Args:
        space: of observations.
        count: of features wanted, for Box observations; at least 1 and all numbers are among them.

    Raises:
        ValueError: for another space.

    Paper: Rahimi, Recht (2007), "Random features for large-scale kernel machines".
    """
    rows = Encoding(space, "observation", bounded=True)
    if rows.discrete:
        return rows
    waves = max(0, count - 1 - rows.width)
    draw = np.random.default_rng(0)
    frequency = torch.tensor(draw.normal(size=(rows.width, waves)), dtype=torch.float32)
    phase = torch.tensor(draw.uniform(0.0, 2.0 * np.pi, waves), dtype=torch.float32)

    def found(obs: Obs) -> Tensor:
        x = rows.to(obs.device)(obs)
        wave = torch.cos(x @ frequency.to(x.device) + phase.to(x.device))
        return torch.cat((torch.ones_like(x[:, :1]), x, wave), 1)

    return found


@torch.no_grad()
def _draw(
    func: FuncEnv,
    rewards: Sequence[RewardFunction],
    gamma: float,
    num_samples: int,
    successors: int,
    seed: int,
    policy: BasePolicy | None,
    share: float,
    features: Features,
) -> tuple[Array, Array, Array]:
    """``features`` (N, D), ``x`` (N, 2, D) and rewards (N, 2, K) by state and estimate."""
    for fn in rewards:
        if not fn.markov:
            raise ValueError(f"reward function {fn.name}: has memory, so states cannot be branched")
    _check_features(func, features, num_samples)
    seeds = torch.arange(num_samples, device=func.device) + seed * 1_000_003
    state, action = covered(func, gamma, seeds, reach(gamma), policy, share)
    copies = 2 * successors
    rows = torch.arange(num_samples, device=func.device).repeat_interleave(copies)
    before, act = take(state, rows), action[rows]
    seeds = torch.arange(len(rows), device=func.device) + seed * 1_000_003
    rng = Rng(seeds, torch.ones_like(seeds), 1)
    following = func.transition(before, act, rng)
    terminated = func.terminal(following, rng)
    every = torch.ones_like(terminated)
    obs, seen = func.observation(before, rng), func.observation(following, rng)
    step = Transition(
        obs=obs,
        action=act,
        next_obs=seen,
        reward=func.reward(before, act, following, rng).to(torch.float32),
        terminated=terminated,
        truncated=~every,
        valid=every,
        episode_step=torch.zeros_like(seeds),
    )
    paid = []
    for fn in rewards:
        fn.bind(len(rows), func.device, Spaces(func.observation_space, func.action_space, func))
        fn.match_gamma(gamma)
        paid.append(fn.relabel(step).double())
    own = features(obs).double()
    then = features(seen).double().masked_fill(terminated.unsqueeze(1), 0.0)

    def halves(values: Tensor) -> Array:
        found: Array = values.reshape(num_samples, 2, successors, -1).mean(2).cpu().numpy()
        return found

    return halves(own)[:, 0], halves(gamma * then - own), halves(torch.stack(paid, 1))


def _check_features(func: FuncEnv, features: Features, num_samples: int) -> None:
    """Whether there are samples enough to fit them."""
    one = torch.zeros(1, dtype=torch.int64, device=func.device)
    rng = Rng(one, one, 0)
    count = features(func.observation(func.initial(rng), rng)).shape[1]
    if count > _FEATURES:
        raise ValueError(
            f"features: {count} of each observation, expected at most {_FEATURES}; give features= "
            "of fewer numbers, or sample with rollouts"
        )
    if num_samples < _EACH * count:
        raise ValueError(
            f"num_samples={num_samples}: expected at least {_EACH * count} to fit {count} features"
        )


class _Fit:
    """The distances of samples, and of samples drawn again.

    Args:
        own: (N, D), features of the states.
        shaping: (N, 2, D), of the two estimates.
        paid: (N, 2, K).
        canonical: see ``fitted_distances``.
    """

    def __init__(self, own: Array, shaping: Array, paid: Array, canonical: str) -> None:
        def parts(v: Array) -> Array:
            """(3, n, ...); part p has the samples p, p + 3, ..."""
            return v.reshape(-1, _PARTS, *v.shape[1:]).swapaxes(0, 1)

        self.x, self.r = parts(shaping), parts(paid)
        n = self.x.shape[1]
        self.groups = min(_GROUPS, n)
        self.group = np.arange(n) % self.groups
        self.scale = np.sqrt((paid * paid).mean((0, 1)))
        # MIN's is the other estimate's, whose noise is another.
        z = parts(np.stack((own, own), 1)) if canonical == "val" else self.x[:, :, ::-1]
        self.left, self.right = (
            np.array(
                [[self._sums(z[p], v[p], g) for g in range(self.groups)] for p in range(_PARTS)]
            )
            for v in (self.x, self.r)
        )  # (3, G, D, D), (3, G, D, K)

    def _sums(self, z: Array, v: Array, g: int) -> Array:
        """Over a group's samples and both estimates, of z times v."""
        a, b = (y[self.group == g].reshape(-1, y.shape[-1]) for y in (z, v))
        total: Array = a.T @ b
        return total

    def distances(self, confidence: float, resamples: int, seed: int) -> SampledDistances:
        """With intervals."""
        found, noise = self.of(np.ones((1, _PARTS, self.groups)))
        draw, chance = np.random.default_rng(seed), np.full(self.groups, 1.0 / self.groups)
        again = []
        for begin in range(0, resamples, _CHUNK):
            shape = (min(_CHUNK, resamples - begin), _PARTS)
            counts = draw.multinomial(self.groups, chance, shape)
            again.append(self.of(counts.astype(np.float64))[0])
        drawn, tail = np.concatenate(again), (1.0 - confidence) / 2.0
        # Where noise swamps a reward anything is possible.
        low, high = (
            np.quantile(np.where(np.isnan(drawn), unknown, drawn), q, axis=0)
            for unknown, q in ((0.0, tail), (2.0, 1.0 - tail))
        )
        total = _PARTS * self.x.shape[1]
        return SampledDistances(found[0], low, high, noise[0], total, confidence)

    def of(self, weights: Array) -> tuple[Array, Array]:
        """(B, K, K) distances and (B, K) noise, of groups counted ``weights`` (B, 3, G) times."""
        first, second = self._canonical(weights)
        each = weights[:, :, self.group].reshape(len(weights), -1, 1)
        each = each / each.sum(1, keepdims=True)
        gram = (first * each).swapaxes(1, 2) @ second
        gram = (gram + gram.swapaxes(1, 2)) / 2.0
        square = np.diagonal(gram, axis1=1, axis2=2)
        spread = np.sqrt((each * first * first).sum(1) * (each * second * second).sum(1))
        noise = _apart(1.0, 1.0, square / np.where(spread > 0.0, spread, np.inf))
        # A reward under which all policies are equal has no direction, and length 0.
        one = np.where(spread > 0.0, 1.0, 0.0)
        square = np.where(spread > 0.0, np.where(square > 0.0, square, np.nan), 1.0)
        cosine = gram / np.sqrt(square[:, :, None] * square[:, None])
        return _apart(one[:, :, None], one[:, None], cosine), np.where(spread > 0.0, noise, 0.0)

    def _canonical(self, weights: Array) -> tuple[Array, Array]:
        """The two estimates, (B, N, K) each."""
        w = self._potentials(weights)
        found = []
        for half in range(2):
            left = [
                self.r[p, :, half] + self.x[p, :, half] @ w[:, (p + 1 + half) % _PARTS]
                for p in range(_PARTS)
            ]
            found.append(np.concatenate(left, 1))
        largest = np.maximum(np.abs(found[0]), np.abs(found[1])).max(1, keepdims=True)
        nothing = largest <= _NEGLIGIBLE * self.scale
        return np.where(nothing, 0.0, found[0]), np.where(nothing, 0.0, found[1])

    def _potentials(self, weights: Array) -> Array:
        """(B, 3, D, K), fitted on each part."""
        left = np.einsum("bpg,pgij->bpij", weights, self.left, optimize=True)
        right = np.einsum("bpg,pgik->bpik", weights, self.right, optimize=True)
        # VAL's matrix is negative (features times shaping), MIN's positive.
        mean = np.trace(left, axis1=2, axis2=3)[..., None, None] / left.shape[-1]
        found: Array = np.linalg.solve(left + _RIDGE * mean * np.eye(left.shape[-1]), -right)
        return found


def _apart(a: Array | float, b: Array | float, product: Array) -> Array:
    """Of vectors of squared lengths a and b."""
    found: Array = np.sqrt(np.clip(a + b - 2.0 * product, 0.0, 4.0))
    return found
