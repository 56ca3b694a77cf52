"""Transition: one step of a batch of environments, as reward functions and agents see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Obs = Any  # Tensor (N, ...), or a dict of them
MASK_KEY = "action_mask"  # of a dict: which actions are allowed, as PettingZoo has it


@dataclass(slots=True)  # not frozen: that takes a third of the time of paying a small batch
class Transition:
    """One environment step of N rows; tensors on one device.

    A reward function that says ``numpy = True`` gets NumPy arrays from NumPy environments. Read it,
    never write to it: others read the same one.

    Args:
        obs: (N, ...) or a dict of (N, ...): what the agent acted on.
        action: (N, ...).
        next_obs: like ``obs``: the true successor, never the observation after an autoreset.
        reward: (N,) float32, what the wrapped environment paid.
        terminated: (N,) bool, the task ended: there is no future.
        truncated: (N,) bool, the clock ran out: the future is cut off, bootstrap from ``next_obs``.
        valid: (N,) bool, False on the dead step of next-step autoreset.
        episode_step: (N,) int64, 0 on the first step after a reset.
        info: dict of batched arrays.
    """

    obs: Obs
    action: Tensor
    next_obs: Obs
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    episode_step: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> Tensor:
        """(N,) bool, the episode ended either way."""
        return self.terminated | self.truncated


def to_torch(x: Any, device: torch.device | str | None = None) -> Any:
    """Tensors from tensors, NumPy arrays or dicts and tuples of them; copies NumPy memory.

    Engines reuse their buffers, so an array that is kept must be a copy.
    """
    if type(x) is np.ndarray:  # first and apart: it happens five times a step
        copied = torch.from_numpy(x.copy())
        return copied if device is None or copied.device == device else copied.to(device)
    if isinstance(x, Tensor):
        return x if device is None or x.device == device else x.to(device)
    if isinstance(x, dict):
        return {k: to_torch(v, device) for k, v in x.items()}
    if isinstance(x, tuple):
        return tuple(to_torch(v, device) for v in x)
    return to_torch(np.array(x), device)


def copied(x: Any) -> Any:
    """NumPy arrays of their own from NumPy arrays, CPU tensors, numbers, dicts and tuples of them.

    Engines reuse their buffers, so an array that is kept must be a copy.
    """
    if type(x) is np.ndarray:  # first and apart: it happens four times a step
        return x.copy()
    if isinstance(x, dict):
        return {k: copied(v) for k, v in x.items()}
    if isinstance(x, tuple):
        return tuple(copied(v) for v in x)
    return np.array(x)


def to_numpy(x: Any) -> Any:
    """NumPy arrays from tensors or dicts and tuples of them; anything else is returned as it is."""
    if isinstance(x, Tensor):
        return x.numpy(force=True)
    if isinstance(x, dict):
        return {k: to_numpy(v) for k, v in x.items()}
    if isinstance(x, tuple):
        return tuple(to_numpy(v) for v in x)
    return x


def zeroed(x: Any, mask: Any) -> Any:
    """``x`` (N,) with 0 in the rows where ``mask`` (N,) is set."""
    if type(x) is np.ndarray:
        out = x.copy()
        out[mask] = _ZEROS.get(x.dtype, 0)
        return out
    return x.masked_fill(mask, 0)


# Written a fifth faster than a plain 0, which is made an array of the right type each time.
_ZEROS = {np.dtype(kind): np.zeros((), kind) for kind in (np.float32, np.float64, np.int64)}


def select(mask: Any, a: Any, b: Any) -> Any:
    """Rows of ``a`` where ``mask`` (N,) is set, else of ``b``: arrays, dicts, named tuples."""
    if isinstance(a, (Tensor, np.ndarray)):
        where: Any = torch.where if isinstance(a, Tensor) else np.where
        return where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b)
    if isinstance(a, dict):
        return {k: select(mask, v, b[k]) for k, v in a.items()}
    rows = [select(mask, u, v) for u, v in zip(a, b, strict=True)]
    return tuple(rows) if type(a) is tuple else type(a)(*rows)
