"""SubmodularAnt: MuJoCo's ant, paid for the ground that it covers."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.functional import positive
from rewardzoo.rewards.base import integer
from rewardzoo.rewards.submodular import Bins
from rewardzoo.rewards.submodular_coverage import Coverage


class SubmodularAnt(gymnasium.Env[Any, Any]):
    """A four-legged robot explores a square field: new ground pays, running alone does not.

    Dynamics: Gymnasium's ``Ant-v5`` (MuJoCo), without its own reward and its early end.

    Observation: Box(29), float32: position (x, y, height) and orientation of the torso, 8 joint
    angles, then the 14 velocities.

    Action: Box(8), torques in [-1, 1].

    Objective: a tenth for every new cell of a grid of ``cells x cells`` over the field, of the
    square of ``2 * stamp + 1`` cells a side around the torso.

    Start state: at the centre, with the ant's usual noise. Its own ground is covered and pays
    nothing; ``info["F"]`` counts it.

    End of episode: terminated where ``|x|`` or ``|y|`` exceeds ``half_side``; truncated after 400
    steps.

    Arguments: ``half_side`` (20 m), ``cells`` (100), ``stamp`` (2), ``render_mode`` ("rgb_array":
    the ground from above).

    Reference returns: random actions earn 5 to 15 in 400 steps (50 to 150 cells).

    Paper: Prajapat, Mutný, Zeilinger, Krause (2024), "Submodular reinforcement learning", ICLR.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        half_side: float = 20.0,
        cells: int = 100,
        stamp: int = 2,
        render_mode: str | None = None,
    ) -> None:
        positive("half_side", half_side)
        integer("cells", cells, 1)
        integer("stamp", stamp, 0)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r}: SubmodularAnt has ['rgb_array']")
        self.half_side, self.cells, self.render_mode = float(half_side), cells, render_mode
        self._ant = _ant()
        grid = (cells, cells)
        self.set_function = _coverage(cells, stamp)
        corner = (self.half_side, self.half_side)
        # Rows of the grid are x, columns y.
        self.element_of = Bins(grid, (-corner[0], -corner[1]), corner)
        size = self._ant.observation_space.shape
        self.observation_space = spaces.Box(-np.inf, np.inf, size, np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, self._ant.action_space.shape, np.float32)
        self._memory: Any = None
        self._value = 0.0
        self._path: list[tuple[float, float]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start at the centre."""
        super().reset(seed=seed)
        obs, _ = self._ant.reset(seed=seed)
        self._memory, self._value, self._path = self.set_function.empty(1), 0.0, []
        self._cover(obs)
        return obs.astype(np.float32), {"F": self._value}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the ant, paid by the ground that it adds."""
        if self._memory is None:
            raise gymnasium.error.ResetNeeded("call env.reset() before env.step(action)")
        obs, _, _, _, _ = self._ant.step(np.asarray(action, dtype=np.float64))
        gain = self._cover(obs)
        terminated = bool(np.abs(obs[:2]).max() > self.half_side)
        info = {"objective": gain, "F": self._value}
        return obs.astype(np.float32), gain, terminated, False, info

    def render(self) -> Any:
        """The ground from above, covered cells in blue, the path in orange."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode: gym.make(id, render_mode=...)")
            return None
        from .render import ground_frame

        covered = self.set_function.covered(self._memory)[0].reshape(self.cells, self.cells)
        return ground_frame(covered.numpy(), np.array(self._path), self.half_side)

    def close(self) -> None:
        """Close the simulator."""
        self._ant.close()

    def _cover(self, obs: np.ndarray) -> float:
        place: Tensor = torch.tensor(obs[None, :2], dtype=torch.float32)
        self._memory, gain = self.set_function.add(self._memory, self.element_of(place))
        self._value += float(gain)
        self._path.append((float(obs[0]), float(obs[1])))
        return float(gain.to(torch.float32))


@functools.lru_cache(maxsize=4)
def _coverage(cells: int, stamp: int) -> Coverage:
    """Made once: it has many cells, and nothing changes it."""
    return Coverage((cells, cells), "square", np.full((cells, cells), 0.1), stamp)


def _ant() -> Any:
    """Gymnasium's ant, with its position in the observation and without contact forces."""
    try:
        return gymnasium.make(
            "Ant-v5",
            exclude_current_positions_from_observation=False,
            include_cfrc_ext_in_observation=False,
            terminate_when_unhealthy=False,
        ).unwrapped
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise ImportError(
            'rewardzoo/SubmodularAnt-v0 needs MuJoCo: pip install "rewardzoo[mujoco]"'
        ) from error
