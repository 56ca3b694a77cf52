"""Generalised advantage estimation that tells termination from truncation."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Advantages (T, N).

    ``delta = reward + gamma * next_value * (1 - terminated) - value``,
    ``advantage[t] = delta[t] + gamma * gae_lambda * (1 - done[t]) * advantage[t + 1]``.

    A terminated step has no future; a truncated one has the future that ``next_value``, the value
    of its true successor, estimates; the sum is cut at both.

    Args:
        reward: (T, N) float32.
        value: (T, N), of the observation acted on.
        next_value: (T, N), of the true successor, never of an observation after an autoreset.
        terminated: (T, N) bool.
        done: (T, N) bool, terminated or truncated.
        gamma: discount in [0, 1].
        gae_lambda: in [0, 1].

    Paper: Schulman et al. (2016), "High-dimensional continuous control using generalized
    advantage estimation", eq. 16.
    """
    delta = reward + gamma * (next_value * terminated.logical_not()) - value
    decay = (gamma * gae_lambda) * done.logical_not()
    deltas, decays = delta.unbind(0), decay.unbind(0)
    advantage = deltas[-1]
    out = [advantage]
    for t in range(len(deltas) - 2, -1, -1):
        advantage = torch.addcmul(deltas[t], decays[t], advantage)
        out.append(advantage)
    return torch.stack(out[::-1])
