"""The family of preference losses, as pure functions of sequence log-probabilities.

Every function takes ``Scores`` of B pairs and returns B losses. ``delta`` is the difference of
log-ratios, ``(lp_w - ref_w) - (lp_l - ref_l)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Scores(NamedTuple):
    """What losses are made of, each (B,): sums of log-probabilities in nats, tokens, margins."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    n_chosen: Tensor
    n_rejected: Tensor
    strength: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        """``log pi / ref`` of the chosen."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """``log pi / ref`` of the rejected."""
        return self.rejected - self.ref_rejected

    @property
    def delta(self) -> Tensor:
        """The difference of log-ratios."""
        return self.chosen_ratio - self.rejected_ratio


def positive(name: str, value: float) -> float:
    """``value``, or a ValueError unless it is a finite number > 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value}: expected a finite number > 0")
    return value


def dpo(s: Scores, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """``-log sigmoid(beta * delta)``, smoothed.

    Paper: Rafailov et al. (2023), "Direct preference optimization", eq. 7.
    """
    z = positive("beta", beta) * s.delta
    return -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)


def chi_po(s: Scores, beta: float = 0.1, chi2: float = 1.0) -> Tensor:
    """DPO with ``phi(z) = chi2 * z + log z`` of z = pi / ref in the place of ``log z``.

    What it makes of all data maximises ``E r - beta * (chi2 * chi^2(pi || ref) / 2 + KL(pi ||
    ref))``. No response then becomes more likely than ``1 + (max r - min r) / (beta * chi2)`` times
    what it is under the reference, where KL alone bounds it by an exponential of the reward.
    ``chi2=0`` is DPO. Beyond a log-ratio of 10, z goes on linearly in it.

    Paper: Huang et al. (2025), "Correcting the mythos of KL-regularization: direct alignment
    without overoptimization via chi-squared preference optimization", algorithm 1.
    """
    ratio = torch.stack([s.chosen_ratio, s.rejected_ratio])
    near = ratio.clamp(max=10.0)
    z_w, z_l = near.exp() * (1 + ratio - near)
    return -F.logsigmoid(positive("beta", beta) * (s.delta + chi2 * (z_w - z_l)))


def ipo(s: Scores, tau: float = 0.1, length_normalised: bool = False) -> Tensor:
    """``(delta - 1 / (2 tau))**2``; TRL divides each log-ratio by its length, the paper does not.

    Paper: Azar et al. (2024), "A general theoretical paradigm to understand learning from human
    preferences", eq. 17.
    """
    delta = s.delta
    if length_normalised:
        delta = s.chosen_ratio / s.n_chosen - s.rejected_ratio / s.n_rejected
    return (delta - 1 / (2 * positive("tau", tau))) ** 2


def slic(s: Scores, beta: float = 0.1) -> Tensor:
    """``max(0, 1 - beta * delta)``.

    Paper: Zhao et al. (2023), "SLiC-HF"; in the form of Rafailov et al. (2024).
    """
    return torch.relu(1 - positive("beta", beta) * s.delta)


def simpo(s: Scores, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    """``-log sigmoid(beta * (lp_w / n_w - lp_l / n_l) - gamma)``; no reference.

    Paper: Meng, Xia, Chen (2024), "SimPO", eq. 6.
    """
    z = positive("beta", beta) * (s.chosen / s.n_chosen - s.rejected / s.n_rejected)
    return -F.logsigmoid(z - gamma)


def cpo(s: Scores, beta: float = 0.1) -> Tensor:
    """``-log sigmoid(beta * (lp_w - lp_l))``: sums without a reference, the ablation of SimPO.

    Paper: Xu et al. (2024), "Contrastive preference optimization", without its likelihood term.
    """
    return -F.logsigmoid(positive("beta", beta) * (s.chosen - s.rejected))


def rpo(s: Scores, beta: float = 0.1, eta: float = 0.005) -> Tensor:
    """DPO and ``- eta * beta * lp_w``, a sum over tokens.

    Paper: Liu et al. (2024), "Provably mitigating overoptimization in RLHF: your SFT loss is
    implicitly an adversarial regularizer".
    """
    return dpo(s, beta) - eta * beta * s.chosen


def vpo(
    s: Scores, beta: float = 0.1, alpha: float = 0.1, calibration: Tensor | None = None
) -> Tensor:
    """DPO, and ``alpha * beta`` times the mean of ``log pi / ref`` of calibration responses.

    Offline it is subtracted and they are the chosen ones, which the policy is held to. Online it is
    added and they are samples of the reference, which the policy is driven away from.

    Args:
        s: scores of the pairs.
        beta: of DPO.
        alpha: of the term, >= 0; 0 is DPO.
        calibration: (M,) log-ratios of samples of the reference, with their gradient; None is
            offline. ``OnlineVPO`` gives them.

    Paper: Cen et al. (2024), "Value-incentivized preference optimization".
    """
    if calibration is None:
        return dpo(s, beta) - alpha * beta * s.chosen_ratio
    return dpo(s, beta) + alpha * beta * calibration.mean()


def mmdpo(s: Scores, beta: float = 0.1, w: float = 0.5, k: float = 0.5) -> Tensor:
    """DPO with ``beta * (1 + w * (1 - exp(-k * strength)))``, detached.

    Paper: Zhang et al. (2025), "MM-RLHF", section 4.
    """
    scale = 1 + w * (1 - torch.exp(-k * s.strength.detach()))
    return -F.logsigmoid(positive("beta", beta) * scale * s.delta)


def dno(s: Scores, beta: float = 0.1) -> Tensor:
    """``-(p log sigmoid(z) + (1 - p) log sigmoid(-z))``, z = beta * delta, p = sigmoid(strength).

    ``strength`` is the difference of expected win rates against the last iterate, which is the
    reference too.

    Paper: Rosset et al. (2024), "Direct Nash optimization", algorithm 1.
    """
    z, p = positive("beta", beta) * s.delta, torch.sigmoid(s.strength)
    return -p * F.logsigmoid(z) - (1 - p) * F.logsigmoid(-z)


def sft(s: Scores) -> Tensor:
    """``-lp_w / n_w``: maximum likelihood of the chosen, nats a token."""
    return -s.chosen / s.n_chosen


def chi2_penalty(log_ratio: Tensor) -> Tensor:
    """``e**l + e**-l - 2`` of log-ratios l (B,), linear beyond |l| = 10.

    Under y ~ pi its mean is chi^2(pi || ref) and a term of mean 0.

    Paper: Laidlaw, Singhal, Dragan (2024), "Correlated proxies".
    """
    near = log_ratio.clamp(-10, 10)
    slope = near.exp() - (-near).exp()
    return torch.expm1(near) + torch.expm1(-near) + slope * (log_ratio - near)


LOSSES: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (dpo, chi_po, ipo, slic, simpo, cpo, rpo, vpo, mmdpo, dno, sft)
}
