"""What a visit is worth: the reward of active sensing of knee osteoarthritis (Nguyen et al. 2024).

``visit_reward`` is the formula. ``rewardzoo/KneeOA-v0`` pays it as its objective; ``ActiveSensing``
pays it with other prices, from what every step of that environment reports.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..registration import register_reward
from ..transition import Transition
from .base import RewardError, RewardFunction, number

EVENTS = ("true_dismiss", "false_dismiss", "early_follow", "true_follow", "late_follow")
"""What a decision was, by its code: a skipped visit without and with an unseen progression; a
visit before the next progression, at it, and after it."""
QALY = 0.02


class Prices(NamedTuple):
    """The constants of the reward."""

    conversion: float  # money for a millimetre of loss that is found
    visit_cost: float
    th: float  # mm; a smaller loss that is found is worth nothing
    ad: float  # what a skipped visit without progression earns, in conversions; "qaly": in visits
    late_coef: float  # what a late visit loses, in conversions; "qaly": what it earns, in true ones
    reward_mode: str = "jsw"  # or "qaly": every progression is worth the same
    per_knee: bool = False  # the variant for one knee at a time


def visit_reward(
    event: Tensor,
    found: Tensor,
    missed: Tensor,
    growth: Tensor,
    decay: Tensor,
    pending: Tensor,
    prices: Prices,
) -> Tensor:
    """The reward of a decision, (N,) in the type of ``found``.

    With ``s`` the distance to the next progression as a share of the horizon, ``C`` the
    conversion, ``h`` the cost of a visit, ``dA`` the loss found and ``dB`` the loss missed:
    true dismiss ``ad C``; false dismiss ``-exp(s) dB C``; early follow
    ``C exp(-s) dA [dA >= th] - h``; true follow ``C dA [dA >= th] - h``; late follow
    ``-C late exp(s) dB - h``.

    With ``reward_mode="qaly"`` every progression is worth ``q = .02 C``: true dismiss ``ad h``;
    false dismiss ``-exp(s) q``; early follow ``-h``; true follow ``q``; late follow
    ``late exp(-s) q``. For one knee at a time (``per_knee``) a true dismiss with a progression
    pending pays ``ad h``, and a true follow any loss, however small.

    Args:
        event: (N,) int64, a code of ``EVENTS``.
        found: (N,) mm, the greatest loss since the last visit.
        missed: (N,) mm, the greatest loss at the next progression.
        growth: (N,), ``exp(s)``.
        decay: (N,), ``exp(-s)``.
        pending: (N,) bool, whether a progression is still ahead or unseen.
        prices: constants.

    Paper: Nguyen, Nguyen, Panfilov, Tiulpin (2024), "Active sensing of knee osteoarthritis
    progression with reinforcement learning".
    """
    c, h, th, ad, late, mode, per_knee = prices
    if mode == "qaly":
        worth = QALY * c
        true_dismiss = torch.full_like(found, ad * h)
        false_dismiss = -growth * worth
        early = torch.full_like(found, -h)
        true_follow = torch.full_like(found, worth)
        late_follow = late * decay * worth
    else:
        gated = torch.where(found >= th, found, 0.0)
        true_dismiss = torch.full_like(found, ad * c)
        if per_knee:
            true_dismiss = torch.where(pending, ad * h, true_dismiss)
        false_dismiss = -growth * missed * c
        early = c * decay * gated - h
        true_follow = c * (found if per_knee else gated) - h
        late_follow = -c * late * growth * missed - h
    visited = torch.where(event == 3, true_follow, torch.where(event == 2, early, late_follow))
    skipped = torch.where(event == 0, true_dismiss, false_dismiss)
    return torch.where(event >= 2, visited, skipped)


@register_reward("active_sensing")
class ActiveSensing(RewardFunction):
    """Pays the decisions of ``rewardzoo/KneeOA-v0`` at prices of its own.

    Args:
        conversion: money for a millimetre of loss that is found, >= 0.
        visit_cost: money for a visit, >= 0.
        th: millimetres below which a loss that is found is worth nothing, >= 0.
        ad: what a skipped visit without progression earns, in units of ``conversion``, >= 0; with
            ``qaly`` in units of ``visit_cost``.
        late_coef: what a late visit loses, in units of ``conversion`` and of the loss missed, >= 0;
            with ``qaly`` what it earns, as a share of a visit in time.
        mode: ``jsw``, or ``qaly``, where every progression is worth the same.

    Paper: Nguyen, Nguyen, Panfilov, Tiulpin (2024), "Active sensing of knee osteoarthritis
    progression with reinforcement learning".
    """

    def __init__(
        self,
        conversion: float = 2.0,
        visit_cost: float = 0.5,
        th: float = 0.7,
        ad: float = 0.3,
        late_coef: float = 0.5,
        mode: str = "jsw",
    ) -> None:
        if mode not in ("jsw", "qaly"):
            raise ValueError(f"mode={mode!r}: expected 'jsw' or 'qaly'")
        self.prices = Prices(
            number("conversion", conversion, 0.0),
            number("visit_cost", visit_cost, 0.0),
            number("th", th, 0.0),
            number("ad", ad, 0.0),
            number("late_coef", late_coef, 0.0),
            reward_mode=mode,
        )

    def __call__(self, t: Transition) -> Tensor:
        """The reward of each row, (N,) float32."""
        info = t.info
        if "privileged/found" not in info:
            raise RewardError(
                "reward function active_sensing: info has no 'privileged/found'; it pays steps of "
                "rewardzoo/KneeOA-v0 only"
            )
        delay = torch.as_tensor(info["privileged/delay"])
        event = torch.as_tensor(info["event"])
        reward = visit_reward(
            event,
            torch.as_tensor(info["privileged/found"]),
            torch.as_tensor(info["privileged/missed"]),
            torch.exp(delay),
            torch.exp(-delay),
            torch.ones_like(event, dtype=torch.bool),
            self.prices,
        )
        return reward.to(torch.float32)
