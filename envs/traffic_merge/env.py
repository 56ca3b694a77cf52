"""The two faces of the on-ramp for Gymnasium. Importing this module imports no simulator."""

from __future__ import annotations

import multiprocessing
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from rewardzoo.simulator import SimulatorVectorEnv

_ENGINE = "rewardzoo.envs.traffic_merge.simulator:Merge"


class TrafficMergeVector(SimulatorVectorEnv):
    """Many worlds of traffic, each in a process of its own; see ``TrafficMerge``.

    libsumo has one world a process: N worlds are N processes, of some 20 MB each. In a process that
    may start none, such as a worker of Gymnasium's ``AsyncVectorEnv``, a single world is in it.

    Args:
        num_envs: N.
        **arguments: of ``SimulatorVectorEnv``, ``num_workers`` apart, and of ``TrafficMerge``.
    """

    def __init__(self, num_envs: int, **arguments: Any) -> None:
        alone = num_envs == 1 and multiprocessing.current_process().daemon
        super().__init__(num_envs, _ENGINE, num_workers=0 if alone else num_envs, **arguments)
        self.metadata["render_fps"] = 10


class TrafficMerge(gymnasium.Env[Any, Any]):
    """Drive some vehicles of many so that all get home soon, where an on-ramp joins a highway.

    Dynamics: SUMO's microscopic traffic, half-second steps. A highway of 600 m and a ramp of 400 m,
    one lane each, 30 m/s, merge into an exit of 300 m as a zipper: neither has priority, and where
    many come at once both break down. In each second a vehicle arrives with probability 900/3600
    on the highway and 800/3600 on the ramp, and waits outside while there is no room. Humans drive
    by the intelligent driver model (a = 1, b = 1.5 m/s², T = 1 s, s0 = 2 m), with desired speeds
    10 % around the limit. One vehicle in five is automated. The first five automated ones on the
    road are controlled until they leave, the others drive as humans do; SUMO keeps the controlled
    from crashes, not from tailgating. A step is a second. Modelled on Flow's merge benchmark,
    with a longer ramp and denser traffic on it; its details are from memory.

    Observation: Box (45,) float32, from 0 on. For each of the five slots, zeros where it is empty:
    1; whether it is on the ramp; kilometres to go; speed / 30 m/s; gap to the vehicle ahead / 200 m
    and its speed, both 1 without one; gap to the vehicle behind / 200 m, 1 without one, and its
    speed. Then vehicles / 20 on the highway, on the ramp, on the exit, waiting for the highway and
    for the ramp.

    Action: Box (5,) float32 in [-1.5, 1]: each slot's acceleration in m/s² for the second. With
    ``levels=LEVELS``, Discrete(4**5): number ``sum_i k_i 4^i`` gives slot i the k_i-th of -1.5,
    -.5, 0 and 1.

    Objective: minus the minutes that all vehicles spend in the second, on the road or waiting, less
    .01 for each m/s² of mean absolute acceleration of the controlled ones and for each second that
    their mean headway falls short of 1 s. So a return is minus the commuters' total time in
    minutes, comfort apart. Who arrives when does not depend on what anybody does.

    Reward functions: ``traffic_speed`` pays the mean speed on the road: it correlates with the
    objective among humans, and rises when an automated vehicle stops where the ramp begins.

    Start state: a minute of human traffic on an empty road.

    End of episode: never terminated; truncated after 300 steps.

    Info: ``mean_speed`` (m/s) of the ``vehicles`` on the road, the limit on an empty one;
    ``waiting`` outside; ``arrived``, who left in the second; ``acceleration`` (m/s²) and
    ``headway`` (s short) of the controlled.

    Arguments: ``highway_flow`` (900) and ``ramp_flow`` (800), vehicles an hour; ``penetration``
    (.2), the automated share; ``slots`` (5); ``levels`` (None); ``warmup`` (60), seconds of human
    traffic at first; ``speed_spread`` (.1), standard deviation of desired speeds over the limit;
    ``accel_cost`` and ``headway_cost`` (.01), minutes for each m/s² and each second.

    Reference returns: of 96 episodes, random actions -264, driving as humans do (``IDM``) -85,
    stopping where the ramp begins (``RampBlocker``) -196; ``traffic_speed`` pays them 85, 226 and
    240. The best is unknown.

    Processes: libsumo has one world a process, so each world, this one too, has a process of its
    own; many come as ``gymnasium.make_vec(id, num_envs=...)``.

    Paper: Vinitsky et al. (2018), "Benchmarks for reinforcement learning in mixed-autonomy
    traffic"; Lopez et al. (2018), "Microscopic traffic simulation using SUMO"; Laidlaw, Singhal,
    Dragan (2024), "Correlated proxies".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None, **params: Any) -> None:
        self.world = TrafficMergeVector(
            1, render_mode=render_mode, autoreset_mode=AutoresetMode.DISABLED, **params
        )
        self.render_mode = render_mode
        self.info_fields = self.world.info_fields
        self.observation_space = self.world.single_observation_space
        self.action_space = self.world.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the next episode; ``seed`` starts the sequence of episodes anew."""
        super().reset(seed=seed)
        obs, info = self.world.reset(seed=seed)
        return obs[0].numpy(), self._numbers(info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """A second; ``info["objective"]`` repeats the reward, and survives reward wrappers."""
        obs, reward, terminated, truncated, info = self.world.step(np.asarray(action)[None])
        objective = float(reward[0])
        info = {"objective": objective, **self._numbers(info)}
        return obs[0].numpy(), objective, bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Any:
        """The roads from above, (200, 480, 3) uint8."""
        frames = self.world.render()
        if frames is None:
            gymnasium.logger.warn("render() needs render_mode='rgb_array'")
            return None
        return frames[0]

    def close(self) -> None:
        """End the simulation and its process."""
        if hasattr(self, "world"):  # Gymnasium closes what was never made, too
            self.world.close()

    def _numbers(self, info: dict[str, Any]) -> dict[str, Any]:
        return {name: info[name][0].item() for name in self.info_fields}
