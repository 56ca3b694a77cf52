"""The value of a policy from another's logged episodes: importance sampling (Precup et al. 2000).

An episode's ratio is ``rho = prod_t pi_e(a_t|s_t) / pi_b(a_t|s_t)``, computed as a sum of
logarithms. Ordinary importance sampling, ``mean(rho * G)``, is unbiased; weighted importance
sampling, ``sum(rho * G) / sum(rho)``, is consistent with far less variance; clamping the ratios
buys less variance for bias. How much any of them can be trusted is the effective sample size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OffPolicyEstimate:
    """What logged episodes say about a policy.

    Args:
        weighted: weighted importance sampling.
        weighted_error: its standard error, to first order.
        ordinary: ordinary importance sampling.
        ordinary_error: its standard error.
        effective_sample_size: ``(sum rho)^2 / sum rho^2``, 1 to n; of n episodes so many count.
        clamped: the share of episodes whose ratio was clamped.
        n: episodes.
    """

    weighted: float
    weighted_error: float
    ordinary: float
    ordinary_error: float
    effective_sample_size: float
    clamped: float
    n: int


def log_ratios(
    evaluated: Tensor, behaviour: Tensor, valid: Tensor, floor: float | None = None
) -> Tensor:
    """The logarithm of each episode's ratio, (N,) float64.

    Args:
        evaluated: (N, T) probabilities of the logged actions under the policy to evaluate.
        behaviour: (N, T) those under the policy that acted.
        valid: (N, T) bool, False on padding, which counts as ratio 1.
        floor: takes the place of a behaviour probability of 0 (the paper's is .1); None raises,
            since no such action can have been logged.

    Raises:
        ValueError: naming the episode and the step whose behaviour probability is 0, or that
            is no probability.
    """
    for name, probs in (("evaluated", evaluated), ("behaviour", behaviour)):
        wrong = valid & ((probs >= 0) & (probs <= 1 + 1e-6)).logical_not()
        if bool(wrong.any()):
            row, step = wrong.nonzero()[0].tolist()
            raise ValueError(f"{name}[{row}, {step}]: expected a probability")
    never = valid & (behaviour == 0)
    if floor is not None:
        behaviour = torch.where(never, floor, behaviour)
    elif bool(never.any()):
        row, step = never.nonzero()[0].tolist()
        raise ValueError(
            f"behaviour[{row}, {step}]: 0 for an action that was taken; estimate the behaviour "
            "with a floor"
        )
    steps = evaluated.to(torch.float64).log() - behaviour.to(torch.float64).log()
    return torch.where(valid, steps, 0.0).sum(1)


def returns(reward: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Discounted returns (N,) float64 of (N, T) rewards."""
    powers = gamma ** torch.arange(reward.shape[1], dtype=torch.float64)
    return torch.where(valid, reward.to(torch.float64), 0.0) @ powers


def estimate(
    log_ratio: Tensor, episode_return: Tensor, clamp: tuple[float, float] | None = None
) -> OffPolicyEstimate:
    """Ordinary and weighted importance sampling with their errors.

    Args:
        log_ratio: (N,), of ``log_ratios``.
        episode_return: (N,), of ``returns``.
        clamp: lowest and highest ratio (the paper's are 1e-8 and 1e2); None clamps nothing.
    """
    count = len(log_ratio)
    if count < 2 or episode_return.shape != log_ratio.shape:
        raise ValueError(
            f"log_ratio {tuple(log_ratio.shape)} and episode_return "
            f"{tuple(episode_return.shape)}: expected two (N,) of at least 2 episodes"
        )
    log_ratio, episode_return = log_ratio.to(torch.float64), episode_return.to(torch.float64)
    clamped = 0.0
    if clamp is not None:
        low, high = (math.log(x) for x in clamp)
        clamped = float(((log_ratio < low) | (log_ratio > high)).to(torch.float64).mean())
        log_ratio = log_ratio.clamp(low, high)
    # Weights are known up to a factor: subtracting the largest keeps them from overflowing.
    shift = log_ratio.max()
    rho = (log_ratio - shift).exp()
    total = rho.sum()
    weighted = rho @ episode_return / total
    residual = rho * (episode_return - weighted)
    plain = rho * episode_return * shift.exp()
    return OffPolicyEstimate(
        weighted=float(weighted),
        weighted_error=float((residual @ residual).sqrt() / total),
        ordinary=float(plain.mean()),
        ordinary_error=float(plain.std() / math.sqrt(count)),
        effective_sample_size=float(total * total / (rho @ rho)),
        clamped=clamped,
        n=count,
    )
