"""Mirror: what worker processes wrote into shared memory, as tensors on the caller's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from .engines import leaves, tree

_NUMBERS = ("flags", "floats", "ints")


@dataclass(slots=True)
class Copy:
    """Room for what one step returns: arrays on the host, and the tensors that show them.

    Args:
        obs: the tensors of the observation.
        numbers: flags (3, N), floats and ints.
        rows: the tensors (N,) of each of these.
        hosts: all arrays, in the order of the mirror's sources.
        moves: on a device: its tensor and the host's, for each array.
    """

    obs: Any
    numbers: list[NDArray[Any]]
    rows: list[tuple[Tensor, ...]]
    hosts: list[NDArray[Any]]
    moves: list[tuple[Tensor, Tensor]]


class Mirror:
    """Copies the shared arrays into new tensors.

    A step of fast worlds takes no longer than making a dozen tensors. So they are made empty while
    the workers step (``blank``), and filled afterwards (``fill``), which is but a copy.

    Args:
        device: where the tensors live.
        space: the observation space of one world.
        arrays: the shared arrays, by the names of ``board_layout``.
    """

    def __init__(
        self, device: torch.device, space: spaces.Space[Any], arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        self.device, self.space = device, space
        self._on_cpu = device.type == "cpu"
        self.obs = {k: arrays[f"obs.{k}"] for k in leaves(space)}
        self.final = {k: arrays[f"final.obs.{k}"] for k in leaves(space)}
        self.numbers = [arrays[k] for k in _NUMBERS]
        self.final_numbers = [arrays[f"final.{k}"] for k in _NUMBERS[1:]]
        self._sources = [*self.obs.values(), *self.numbers]
        flat = isinstance(space, spaces.Dict) and set(self.obs) == set(space.keys())
        self._tree: Callable[[Any], Any] = (lambda x: x) if flat else partial(tree, space)

    def blank(self) -> Copy:
        """New arrays and tensors, with nothing in them yet."""
        if self._on_cpu:
            hosts = [np.empty_like(source) for source in self._sources]
            tensors, moves = [torch.from_numpy(host) for host in hosts], []
        else:
            # Page-locked memory, so that the copy does not wait for the device.
            locked = [torch.from_numpy(source).pin_memory() for source in self._sources]
            hosts = [x.numpy() for x in locked]
            tensors = [torch.empty_like(x, device=self.device) for x in locked]
            moves = list(zip(tensors, locked, strict=True))
        obs = self._tree(dict(zip(self.obs, tensors, strict=False)))
        return Copy(obs, hosts[-3:], [x.unbind() for x in tensors[-3:]], hosts, moves)

    def fill(self, copy: Copy) -> Copy:
        """Copy what the shared arrays hold now."""
        for host, source in zip(copy.hosts, self._sources, strict=True):
            host[...] = source
        for there, here in copy.moves:
            there.copy_(here, non_blocking=True)
        return copy

    def take(self) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Observation as tensors; flags, floats and ints as arrays; all new."""
        copy = self.fill(self.blank())
        return (copy.obs, *copy.numbers)

    def ended(self, copy: Copy) -> Copy:
        """The same, new, with what the last step of ended episodes said in their rows."""
        ended = copy.numbers[0][2]
        index = torch.from_numpy(ended.nonzero()[0]).to(self.device)
        arrays = {}
        for key, now in self._leaves(copy.obs).items():
            last = torch.from_numpy(self.final[key][ended]).to(self.device)
            arrays[key] = now.index_copy(0, index, last)
        numbers = [
            np.where(ended, final, now)
            for now, final in zip(copy.numbers[1:], self.final_numbers, strict=True)
        ]
        rows = [torch.from_numpy(x).to(self.device).unbind() for x in numbers]
        return Copy(self._tree(arrays), [copy.numbers[0], *numbers], [copy.rows[0], *rows], [], [])

    def put(self, obs: Any, rows: slice) -> None:
        """Write rows of an observation that was taken back into the shared arrays."""
        for key, value in self._leaves(obs).items():
            self.obs[key][rows] = value[rows].numpy(force=True)

    def keep(self, rows: slice) -> None:
        """Copy rows to where an ended row's last observation belongs."""
        for key, now in self.obs.items():
            self.final[key][rows] = now[rows]
        for now, final in zip(self.numbers[1:], self.final_numbers, strict=True):
            final[:, rows] = now[:, rows]

    def _leaves(self, obs: Any, name: str = "") -> dict[str, Tensor]:
        if not isinstance(obs, dict):
            return {name: obs}
        out = {}
        for key, value in obs.items():
            out.update(self._leaves(value, f"{name}.{key}" if name else key))
        return out
