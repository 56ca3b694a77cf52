"""FuncEnv: dynamics written once in batched torch, behind two faces for Gymnasium.

``FunctionalEnv`` (``functional_single.py``) is the batch of one with NumPy at its edge, for
``gymnasium.make``; ``FunctionalVectorEnv`` (``functional_vector.py``) is the batch of N with
tensors that stay on the device, for ``gymnasium.make_vec``. Both draw from counter-based random
numbers (``random.py``), so row ``i`` of a batch seeded with ``s`` is the single environment seeded
with ``s + i``.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .random import Rng


@dataclasses.dataclass(frozen=True)
class NoParams:
    """The parameters of dynamics without constants."""


class FuncEnv:
    """Dynamics of a batch of N environments, as functions of state, action and random numbers.

    A subclass sets ``Params`` (a frozen dataclass of documented constants), builds
    ``observation_space`` and ``action_space`` (of one environment) in its constructor, and writes
    the five functions below. A state is a NamedTuple of tensors with leading axis N. Nothing may
    depend on other rows, copy to the host, or branch on a tensor's value.

    Args:
        device: where tables and states live.
        **params: overrides of fields of ``Params``.

    Raises:
        TypeError: for a name that ``Params`` does not have.
    """

    Params: type[Any] = NoParams
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    render_modes: tuple[str, ...] = ()
    render_fps: int = 30

    def __init__(self, device: torch.device | str = "cpu", **params: Any) -> None:
        self.device = check_device(device)
        names = [f.name for f in dataclasses.fields(self.Params)]
        for name in params:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}: {hint}")
        self.params: Any = self.Params(**params)

    def initial(self, rng: Rng, params: Any = None) -> Any:
        """States at the start of an episode, one for each row of ``rng``."""
        raise NotImplementedError

    def transition(self, state: Any, action: Tensor, rng: Rng, params: Any = None) -> Any:
        """The successor states."""
        raise NotImplementedError

    def observation(self, state: Any, rng: Rng, params: Any = None) -> Any:
        """What the agent sees: a tensor (N, ...) or a dict of them."""
        raise NotImplementedError

    def reward(
        self, state: Any, action: Tensor, next_state: Any, rng: Rng, params: Any = None
    ) -> Tensor:
        """(N,) the objective: what the designer truly meant."""
        raise NotImplementedError

    def terminal(self, state: Any, rng: Rng, params: Any = None) -> Tensor:
        """(N,) bool, whether the task is over in ``state``."""
        raise NotImplementedError

    def state_info(self, state: Any, params: Any = None) -> dict[str, Tensor]:
        """Extra (N, ...) tensors about ``state`` for ``info``."""
        return {}

    def transition_info(
        self, state: Any, action: Tensor, next_state: Any, params: Any = None
    ) -> dict[str, Tensor]:
        """Extra (N, ...) tensors about a step for ``info``."""
        return {}

    def render_image(self, state: Any, i: int) -> np.ndarray[Any, Any]:
        """Row ``i`` as a picture, (H, W, 3) uint8."""
        raise NotImplementedError

    def render_text(self, state: Any, i: int) -> str:
        """Row ``i`` as text."""
        raise NotImplementedError

    def render(self, state: Any, i: int, mode: str) -> Any:
        """Row ``i`` in one of ``render_modes``."""
        return self.render_text(state, i) if mode == "ansi" else self.render_image(state, i)


def check_device(device: torch.device | str) -> torch.device:
    """The device, or a ValueError that says why it cannot be used."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r}: expected 'cpu', 'cuda' or 'cuda:0'") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={str(device)!r}: this PyTorch sees no CUDA device; use device='cpu'"
        )
    return found


def load(dynamics: str | type[FuncEnv]) -> type[FuncEnv]:
    """The FuncEnv class from ``"module:Class"``."""
    if not isinstance(dynamics, str):
        return dynamics
    module, _, name = dynamics.partition(":")
    return cast("type[FuncEnv]", getattr(importlib.import_module(module), name))


def overrides(func: FuncEnv, method: str) -> bool:
    """Whether the dynamics write their own ``method``."""
    return getattr(type(func), method) is not getattr(FuncEnv, method)


def check_render_mode(func: FuncEnv, render_mode: str | None) -> None:
    """Raise ValueError for a mode that the dynamics do not have."""
    if render_mode is not None and render_mode not in func.render_modes:
        raise ValueError(
            f"render_mode={render_mode!r}: {type(func).__name__} has {list(func.render_modes)}"
        )


def box(low: float, high: float, shape: tuple[int, ...]) -> spaces.Box:
    """A float32 Box with scalar bounds."""
    return spaces.Box(np.float32(low), np.float32(high), shape, np.float32)


def positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above 0; for ``Params.__post_init__``."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r}: expected a finite number > 0")
