"""Divergences of action distributions as costs of actions (Laidlaw, Singhal, Dragan 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

ACTION_DIVERGENCES = ("action_kl", "action_chi2", "action_sqrt_chi2")
_LEAST = 1e-4  # of a chi2 whose root is taken: at 0 its slope is infinite


def action_cost(divergence: str, log_pi: Tensor, base: Tensor, action: Tensor) -> Tensor:
    """What an action costs, (B,).

    At every state the policy's mean of it is the divergence there, and its mean times ``grad log
    pi`` the divergence's gradient, so that paid as a reward it descends the sum over an episode.
    With ``chi2 = sum pi^2 / base - 1`` and ``ratio = pi / base``, both of a state::

        action_kl          log ratio
        action_chi2        2 (ratio - 1 - chi2) + chi2
        action_sqrt_chi2   (ratio - 1 - chi2) / sqrt(chi2) + sqrt(chi2)

    Where chi2 is no finite number it is KL's.

    Args:
        divergence: one of ``ACTION_DIVERGENCES``.
        log_pi: (B, A), normalised.
        base: (B, A), action probabilities.
        action: (B,) int64, from 0.
    """
    log_ratio = log_pi - base.log()
    kl = _of(log_ratio, action)
    if divergence == "action_kl":
        return kl
    ratios = log_ratio.exp()
    # An action that neither policy takes has no ratio, and no part in the sum.
    chi2 = torch.where(log_pi.exp() > 0, log_pi.exp() * ratios, 0.0).sum(1) - 1.0
    beyond = _of(ratios, action) - 1.0 - chi2
    if divergence == "action_chi2":
        cost = 2.0 * beyond + chi2
    else:
        root = chi2.clamp(min=_LEAST).sqrt()
        cost = beyond / root + root
    return torch.where(torch.isfinite(cost), cost, kl)


def _of(x: Tensor, action: Tensor) -> Tensor:
    """Those of the actions taken, (B, A) to (B,)."""
    return x.gather(1, action.unsqueeze(1)).squeeze(1)
