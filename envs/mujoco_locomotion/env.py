"""Gymnasium's MuJoCo tasks: one environment with its card, and N of them in one process or many.

The dynamics, rewards and ends of episodes are Gymnasium's own, untouched; observations are
float32, and every step says its objective.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from rewardzoo.engines import GymnasiumEngine
from rewardzoo.extras import require
from rewardzoo.simulator import SimulatorVectorEnv

_RENDER_MODES = ("rgb_array",)
_IN_PROCESS = 4
"""Up to so many worlds step in the caller's process: waking another takes as long as a step."""


class Locomotion(gymnasium.Env[Any, Any]):
    """What the tasks have in common: Gymnasium's environment inside, its state to be saved.

    Args:
        render_mode: None or "rgb_array".
        **kwargs: of Gymnasium's environment, for instance ``forward_reward_weight``.
    """

    task: str
    """Gymnasium's id."""
    metadata: dict[str, Any] = {"render_modes": list(_RENDER_MODES), "render_fps": 25}

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        if render_mode is not None and render_mode not in _RENDER_MODES:
            raise ValueError(f"render_mode={render_mode!r}: expected None or 'rgb_array'")
        self.engine: Any = _engine(self.task, **kwargs)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": self.engine.metadata["render_fps"]}
        space = self.engine.observation_space
        self.observation_space = spaces.Box(-np.inf, np.inf, space.shape, np.float32)
        self.action_space = self.engine.action_space
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode; ``seed`` starts the sequence of episodes anew."""
        super().reset(seed=seed)
        obs, info = self.engine.reset(seed=seed)
        self._over = False
        return obs.astype(np.float32), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of Gymnasium's environment."""
        if self._over:
            raise gymnasium.error.ResetNeeded("call env.reset() before env.step(action)")
        obs, reward, terminated, _, info = self.engine.step(action)
        self._over = bool(terminated)
        reward = float(reward)
        return obs.astype(np.float32), reward, self._over, False, {**info, "objective": reward}

    def render(self) -> Any:
        """A frame (320, 480, 3) uint8: a side view."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs render_mode='rgb_array'")
            return None
        from .render import frame

        return frame(self.engine.model, self.engine.data)

    def close(self) -> None:
        """Free the simulator."""
        self.engine.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step and the next reset depend on."""
        import mujoco

        model, data = self.engine.model, self.engine.data
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, physics, kind)
        return {
            "physics": torch.from_numpy(physics),
            # Positions of bodies lag behind the state by a step, and rewards read them.
            "bodies": torch.from_numpy(data.xpos.copy()),
            "sites": torch.from_numpy(data.site_xpos.copy()),
            "random": dict(self.engine.np_random.bit_generator.state),
            "over": self._over,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        import mujoco

        model, data = self.engine.model, self.engine.data
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(model, data, state["physics"].numpy(), kind)
        data.xpos[:], data.site_xpos[:] = state["bodies"].numpy(), state["sites"].numpy()
        self.engine.np_random.bit_generator.state = state["random"]
        self._over = state["over"]


class InvertedPendulum(Locomotion):
    """Keep a pole upright on a cart that is pushed left and right.

    Dynamics: MuJoCo, 20 ms steps of Gymnasium's ``InvertedPendulum-v5``.

    Observation: Box (4,) float32: the cart's position (m), the pole's angle (rad), their
    velocities.

    Action: Box (1,) in [-3, 3]: force on the cart (N).

    Objective: 1 for every step upright.

    Start state: all four numbers uniform within .01.

    End of episode: terminated when the pole leans by more than .2 rad; truncated after 1,000 steps.

    Arguments: those of Gymnasium's environment.

    Reference returns: random 5; the best, which TD3 reaches in 20,000 steps, 1,000.

    Paper: Barto, Sutton, Anderson (1983), "Neuronlike adaptive elements that can solve difficult
    learning control problems"; Towers et al. (2024), "Gymnasium".
    """

    task = "InvertedPendulum-v5"


class InvertedDoublePendulum(Locomotion):
    """Keep two poles, one on top of the other, upright on a cart.

    Dynamics: MuJoCo, 50 ms steps of Gymnasium's ``InvertedDoublePendulum-v5``.

    Observation: Box (9,) float32: the cart's position (m), sines and cosines of the two angles,
    three velocities (within 10), the constraint force on the cart.

    Action: Box (1,) in [-1, 1]: force on the cart.

    Objective: 10 a step, less a penalty for the tip's distance from upright and for fast joints.

    Start state: positions uniform within .1, velocities normal with standard deviation .1.

    End of episode: terminated when the tip is not above 1 m; truncated after 1,000 steps.

    Arguments: those of Gymnasium's environment.

    Reference returns: random 47; TD3 after 57,000 steps, whose demonstrations are shipped, 9,360.

    Paper: Towers et al. (2024), "Gymnasium: a standard interface for reinforcement learning
    environments".
    """

    task = "InvertedDoublePendulum-v5"


class Hopper(Locomotion):
    """Hop forward on one leg without falling.

    Dynamics: MuJoCo, 8 ms steps of Gymnasium's ``Hopper-v5``.

    Observation: Box (11,) float32: height and angles of torso, thigh, leg and foot; six
    velocities, within 10. The place along the track is left out.

    Action: Box (3,) in [-1, 1]: torques at thigh, leg and foot.

    Objective: forward speed (m/s), plus 1 for not having fallen, less .001 of the torques' squares.

    Start state: standing, each number moved uniformly within .005.

    End of episode: terminated when it falls (lower than .7 m, leaning by more than .2 rad, or a
    state beyond 100); truncated after 1,000 steps.

    Arguments: those of Gymnasium's environment.

    Reference returns: random 18; TD3 after 390,000 steps, whose demonstrations are shipped, 2,698;
    after 1,000,000 steps of an earlier version 3,564 (Fujimoto et al. 2018).

    Paper: Erez, Tassa, Todorov (2011), "Infinite-horizon model predictive control for periodic
    tasks with contacts".
    """

    task = "Hopper-v5"


class HalfCheetah(Locomotion):
    """Run forward as fast as possible on two legs in a plane.

    Dynamics: MuJoCo, 50 ms steps of Gymnasium's ``HalfCheetah-v5``.

    Observation: Box (17,) float32: height, eight angles and nine velocities, less the place along
    the track.

    Action: Box (6,) in [-1, 1]: torques at the joints.

    Objective: forward speed (m/s), less .1 of the torques' squares.

    Start state: standing, positions moved uniformly within .1, velocities normal with standard
    deviation .1.

    End of episode: never terminated; truncated after 1,000 steps.

    Arguments: those of Gymnasium's environment.

    Reference returns: random -244; TD3 after 1,000,000 steps of an earlier version 9,637
    (Fujimoto et al. 2018).

    Paper: Wawrzynski (2009), "A cat-like robot real-time learning to run".
    """

    task = "HalfCheetah-v5"


class Walker2d(Locomotion):
    """Walk forward on two legs in a plane without falling.

    Dynamics: MuJoCo, 8 ms steps of Gymnasium's ``Walker2d-v5``.

    Observation: Box (17,) float32: height, seven angles and nine velocities, within 10.

    Action: Box (6,) in [-1, 1]: torques at the joints.

    Objective: forward speed (m/s), plus 1 for not having fallen, less .001 of the torques' squares.

    Start state: standing, each number moved uniformly within .005.

    End of episode: terminated when it falls (height outside [.8, 2] m, leaning by more than 1
    rad); truncated after 1,000 steps.

    Arguments: those of Gymnasium's environment.

    Reference returns: random 1; TD3 after 1,000,000 steps of an earlier version 4,683
    (Fujimoto et al. 2018).

    Paper: Erez, Tassa, Todorov (2011), "Infinite-horizon model predictive control for periodic
    tasks with contacts".
    """

    task = "Walker2d-v5"


class Ant(Locomotion):
    """Walk forward on four legs.

    Dynamics: MuJoCo, 50 ms steps of Gymnasium's ``Ant-v5``.

    Observation: Box (105,) float32: height, orientation, eight joint angles, 14 velocities and
    contact forces on 13 bodies, within 1.

    Action: Box (8,) in [-1, 1]: torques at the joints.

    Objective: forward speed (m/s), plus 1 for being healthy, less .5 of the torques' squares and
    .0005 of the contact forces'.

    Start state: standing, positions moved uniformly within .1, velocities normal with standard
    deviation .1.

    End of episode: terminated when the torso's height leaves [.2, 1] m or a number is not finite;
    truncated after 1,000 steps.

    Arguments: those of Gymnasium's environment.

    Reference returns: random -38; TD3 after 1,000,000 steps of an earlier version 4,372
    (Fujimoto et al. 2018).

    Paper: Schulman et al. (2016), "High-dimensional continuous control using generalized advantage
    estimation".
    """

    task = "Ant-v5"


class LocomotionEngine(GymnasiumEngine):
    """One world of a batch; what is not wanted of a step there is not made.

    Args:
        task: what to do.
        **kwargs: of ``task``.
    """

    def step(self, action: Any) -> tuple[float, bool, bool]:
        """See ``Engine``; a row whose episode is over is never stepped."""
        obs, reward, terminated, _, _ = self.env.engine.step(action)
        self._observation[...] = obs
        return float(reward), bool(terminated), False


class InProcessVector(SimulatorVectorEnv):
    """Worlds in the caller's process, whose state can be saved, so that training resumes exactly.

    Args:
        num_envs: N.
        engine: makes a ``LocomotionEngine``.
        **kwargs: of ``SimulatorVectorEnv``.
    """

    def __init__(self, num_envs: int, engine: Any, **kwargs: Any) -> None:
        super().__init__(num_envs, engine, num_workers=0, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        rows = self.workers[0].rows
        return {
            "worlds": [engine.env.state_dict() for engine in rows.engines],
            "arrays": {k: torch.from_numpy(v.copy()) for k, v in self._arrays.items()},
            "time": list(rows.time),
            "total": list(rows.total),
            "random": dict(self.np_random.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        rows = self.workers[0].rows
        for engine, saved in zip(rows.engines, state["worlds"], strict=True):
            engine.env.reset(seed=0)
            engine.env.load_state_dict(saved)
        for name, saved in state["arrays"].items():
            self._arrays[name][...] = saved.cpu().numpy()
        rows.time[:], rows.total[:] = state["time"], state["total"]
        self.np_random.bit_generator.state = state["random"]
        self._obs, *self._last = self._mirror.take()


def _engine(task: str, **kwargs: Any) -> Any:
    """Gymnasium's environment, without its wrappers."""
    mujoco = require("mujoco", "mujoco")
    # Some of Gymnasium's models use what MuJoCo calls deprecated, for which it would write a file
    # into the working folder.
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        return gymnasium.make(task, **kwargs).unwrapped
    finally:
        mujoco.set_mju_user_warning(None)


def make_vector(
    num_envs: int,
    task: type[Locomotion],
    num_workers: int | None = None,
    render_mode: str | None = None,
    device: torch.device | str = "cpu",
    max_episode_steps: int | None = None,
    autoreset_mode: Any = gymnasium.vector.AutoresetMode.SAME_STEP,
    copy: bool = True,
    **kwargs: Any,
) -> SimulatorVectorEnv:
    """N worlds of a task as one batch of tensors; see ``SimulatorVectorEnv``.

    Args:
        num_envs: N.
        task: what to do.
        num_workers: processes; 0 steps all worlds in this one, which is the default for few.
        render_mode: None or "rgb_array".
        device: where the tensors live.
        max_episode_steps: truncate after so many steps.
        autoreset_mode: one of Gymnasium's three modes.
        copy: whether the tensors of a step are new ones.
        **kwargs: of Gymnasium's environment.
    """
    engine = partial(LocomotionEngine, task, render_mode=render_mode, **kwargs)
    given: dict[str, Any] = {
        "render_mode": render_mode,
        "device": device,
        "max_episode_steps": max_episode_steps,
        "autoreset_mode": autoreset_mode,
        "copy": copy,
    }
    if num_workers == 0 or (num_workers is None and num_envs <= _IN_PROCESS):
        return InProcessVector(num_envs, engine, **given)
    return SimulatorVectorEnv(num_envs, engine, num_workers=num_workers, **given)


InvertedPendulumVector = partial(make_vector, task=InvertedPendulum)
InvertedDoublePendulumVector = partial(make_vector, task=InvertedDoublePendulum)
HopperVector = partial(make_vector, task=Hopper)
HalfCheetahVector = partial(make_vector, task=HalfCheetah)
Walker2dVector = partial(make_vector, task=Walker2d)
AntVector = partial(make_vector, task=Ant)
