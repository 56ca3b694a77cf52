"""What a reward function returns is checked before it is paid; what is wrong is told in a line."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..transition import Transition
from .base import RewardError, RewardFunction

_FLOAT32 = np.dtype(np.float32)


def pay(fn: RewardFunction, transition: Transition, all_valid: bool = False) -> Any:
    """Call ``fn`` and check what it returns; dead rows are paid 0.

    Args:
        fn: the reward function.
        transition: the step.
        all_valid: it is known that no row is dead.

    Raises:
        RewardError: for an error of ``fn``'s own, with its line; for a wrong type, shape or device,
            or, on the CPU, a non-finite number, with the term's name and the row. (On other devices
            ``unpayable`` finds non-finite numbers without waiting for the device.)
    """
    try:
        reward: Any = fn(transition)
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(_failure(fn, error, transition)) from error
    valid: Any = transition.valid
    kind = type(valid)
    if not isinstance(reward, kind):
        raise RewardError(
            f"reward function {fn.name}: returned {type(reward).__name__}, expected "
            f"{'an array' if kind is np.ndarray else 'a tensor'} of one number a row"
        )
    if reward.shape != valid.shape:
        raise RewardError(
            f"reward function {fn.name}: returned shape {tuple(reward.shape)}, "
            f"expected {tuple(valid.shape)}, one number a row"
        )
    if kind is np.ndarray:
        if reward.dtype is not _FLOAT32:
            reward = reward.astype(np.float32)
    else:
        if reward.device != valid.device:
            raise RewardError(
                f"reward function {fn.name}: returned a tensor on {reward.device}, "
                f"expected {valid.device}; create tensors with device=transition.reward.device"
            )
        if reward.dtype is not torch.float32:
            reward = reward.to(torch.float32)
    if not all_valid:
        where: Any = np.where if kind is np.ndarray else torch.where
        reward = where(valid, reward, 0.0)
    # The sum of squares is finite unless a row is not, or it overflows: one look for all rows.
    if kind is np.ndarray or valid.device.type == "cpu":
        if not math.isfinite(reward.dot(reward)):
            bad = unpayable(torch.as_tensor(reward))
            if bool(bad.any()):
                raise RewardError(_describe(fn, reward, bad, transition.episode_step))
    return reward


def unpayable(reward: Tensor) -> Tensor:
    """(N,) bool, rows whose reward is not finite."""
    return torch.isfinite(reward).logical_not()


def _failure(fn: RewardFunction, error: Exception, transition: Transition) -> str:
    """What happened, where, and what there is to read: a misspelt name is the usual cause."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    text = (
        f"reward function {fn.name}: {type(error).__name__}: {' '.join(str(error).split())} "
        f"({Path(own[-1].filename).name}, line {own[-1].lineno})"
    )
    if isinstance(error, KeyError):
        text += f"; info has {_names(transition.info)}"
        if isinstance(transition.obs, Mapping):
            text += f"; obs has {_names(transition.obs)}"
    return text


def _names(of: Mapping[str, Any]) -> str:
    """What a reward function may read: no masks, and never the objective."""
    names = sorted(name for name in of if not name.startswith("_") and name != "objective")
    return ", ".join(names) or "nothing"


def _describe(fn: RewardFunction, reward: Any, bad: Tensor, episode_step: Any) -> str:
    row = int(bad.nonzero()[0, 0])
    name, value = fn.name, reward
    for term, paid in fn.terms().items():
        if not math.isfinite(float(paid[row])):
            name, value = term, paid
            break
    amount = float(value[row])
    return (
        f"reward function {name}: paid {amount} in row {row}, expected a finite number (at step "
        f"{int(episode_step[row])} of its episode, counted from 0)"
    )
