"""Observations and batches are tensors or dicts of them: what is done to every leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def mapped(x: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """``f`` of every leaf."""
    return {k: mapped(v, f) for k, v in x.items()} if isinstance(x, dict) else f(x)


def first(x: Any) -> Any:
    """The first leaf."""
    return first(next(iter(x.values()))) if isinstance(x, dict) else x


def flat(x: Any) -> Any:
    """(T, N, ...) to (T * N, ...)."""
    return mapped(x, lambda v: v.reshape(-1, *v.shape[2:]))


def rows(x: Any, index: Any) -> Any:
    """``x[index]``; None stays None."""
    return None if x is None else mapped(x, lambda v: v[index])


def split(x: Any, sizes: list[int]) -> list[Any]:
    """Parts of ``sizes`` rows each; None gives Nones."""
    if x is None:
        return [None] * len(sizes)
    if isinstance(x, dict):
        parts = {k: split(v, sizes) for k, v in x.items()}
        return [{k: v[i] for k, v in parts.items()} for i in range(len(sizes))]
    return list(x.split(sizes))


def stack(items: list[Any]) -> Any:
    """Along a new first axis."""
    if isinstance(items[0], dict):
        return {k: stack([item[k] for item in items]) for k in items[0]}
    return torch.stack(items)
