"""PegInHoleContact's two faces: one environment, and N of them on a pool of threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from rewardzoo.autoreset import parse_autoreset_mode
from rewardzoo.functional import box, check_device
from rewardzoo.random import row_seeds
from rewardzoo.transition import to_numpy

from .model import CONTROL_HZ, PegInHoleContactParams
from .process import Process, Step
from .simulator import RUNNING, SUCCESS

_RENDER_MODES = ("rgb_array",)
_FPS = 4


class PegInHoleContact(gymnasium.Env[Any, Any]):
    """Give a failing peg insertion up in time, from force and torque alone.

    A robot inserts a round peg (10 mm radius, 0.2 mm clearance) into a hole whose position and
    tilt it knows badly, and tries until it works. Twice a second the agent decides whether to let
    the running attempt go on or to retract and start anew.

    Dynamics: MuJoCo, 2 ms steps: 12 capsules against 12 blocks, a tool with Cartesian springs
    (1500 N/m sideways, 800 N/m along the peg, 12 N m/rad) about the tip. The skill approaches
    until it feels 2 N, searches on an Archimedean spiral (0.4 mm a turn, 4 mm/s, at most
    ``search_radius`` wide) under 4.8 N, and pushes down once the peg has dropped by 0.8 mm. It
    fails by never finding the hole, or by jamming in it. Every attempt draws new errors.

    Observation: Dict of ``ft`` Box (6, 100) float32, force (N) in x, y, z and torque (N m) at the
    wrist, 60 mm above the tip, over the last 2 s at 50 Hz, oldest first, zero before the attempt
    began; ``elapsed`` Box (1,), s since it began; ``attempt`` Box (1,), attempts before it.

    Action: Discrete(2): 0 goes on for ``stride``, 1 gives up and starts the next attempt.

    Objective: minus the seconds that passed, ``reset_time`` after every attempt without success
    included. An episode's sum is minus the makespan.

    Start state: the peg 6 mm above the plate, errors of position normal with ``pos_sigma`` in x
    and y, tilt normal with ``tilt_sigma_deg`` about x and y.

    End of episode: terminated when the peg is 18 mm deep; truncated when ``max_attempts``
    attempts have not succeeded. An attempt fails after ``time_limit``.

    Info: ``makespan`` (s so far), ``attempts`` (ended so far), ``outcome`` of the attempt that
    ended in this step (0 none, 1 success, 2 failure, 3 given up), its ``attempt_duration`` (s).

    Arguments: ``pos_sigma``, ``tilt_sigma_deg``, ``persistent_error``, ``noise``, ``friction``,
    ``search_radius``, ``time_limit``, ``reset_time``, ``window``, ``stride``, ``max_attempts``:
    see ``PegInHoleContactParams``; ``threads`` of physics (of the batch; the numbers do not depend
    on it).

    Reference returns: letting every attempt run -19.8, with a 95 % interval from -22.8 to -17.2
    (400 attempts, of which 48 % fail, half of these jammed; success takes 6.1 s); the best timer,
    8.5 s, -18.7 on the same attempts; giving up at random in every other decision -32.8, and two
    of three episodes are truncated.

    Paper: Watson, Correll (2023), "Optimal decision making in robotic assembly and other
    trial-and-error tasks", arXiv 2301.10846.
    """

    metadata: dict[str, Any] = {"render_modes": list(_RENDER_MODES), "render_fps": _FPS}

    def __init__(self, render_mode: str | None = None, **params: Any) -> None:
        self.params = PegInHoleContactParams(**params)
        _check_render_mode(render_mode)
        self.render_mode = render_mode
        self.observation_space = observation_space(self.params)
        self.action_space = spaces.Discrete(2)
        self.process = Process(1, self.params, 0)
        self._row = np.zeros(1, dtype=np.int64)
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode; ``seed`` starts the sequence of episodes anew."""
        super().reset(seed=seed)
        if seed is not None or self.process.episode[0] < 0:
            start = seed if seed is not None else int(self.np_random.integers(2**31))
            self.process.seed[:], self.process.episode[:] = start, -1
        self.process.start(self._row)
        self._over = False
        return self._observation(), {"makespan": 0.0, "attempts": 0}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One decision."""
        if self._over:
            raise gymnasium.error.ResetNeeded("call env.reset() before env.step(action)")
        step = self.process.step(self._row, np.array([_abort(action)]))
        reward = -float(step.seconds[0])
        terminated = bool(step.ended[0] == SUCCESS)
        truncated = bool(step.exhausted[0])
        self._over = terminated or truncated
        info = {"objective": reward, **{k: v[0].item() for k, v in details(self.process, step)}}
        return self._observation(), reward, terminated, truncated, info

    def render(self) -> Any:
        """A frame (H, W, 3) uint8: the scene, a section through the hole, force and torque."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs render_mode='rgb_array'")
            return None
        from .render import frame

        return frame(self.process, 0)

    def _observation(self) -> dict[str, Any]:
        return {k: v[0] for k, v in observations(self.process).items()}


class PegInHoleContactVector(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """N of them; steps of all lanes run on a pool of threads, results do not depend on it.

    ``step`` returns tensors as ``rewardzoo.functional.FunctionalVectorEnv`` does, dense over rows.

    Args:
        num_envs: N.
        device: where the returned tensors live; the physics runs on the CPU.
        threads: of physics; None takes all that the process may use.
        max_episode_steps: truncate after so many decisions; None never does.
        autoreset_mode: one of Gymnasium's three modes, by value or by name.
        render_mode: None or "rgb_array"; frames come as a tuple of N.
        **params: see ``PegInHoleContactParams``.
    """

    def __init__(
        self,
        num_envs: int,
        device: torch.device | str = "cpu",
        threads: int | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        **params: Any,
    ) -> None:
        if not num_envs >= 1:
            raise ValueError(f"num_envs={num_envs}: expected an integer >= 1")
        _check_render_mode(render_mode)
        self.num_envs, self.device = num_envs, check_device(device)
        self.params = PegInHoleContactParams(**params)
        self.max_episode_steps, self.render_mode = max_episode_steps, render_mode
        self.autoreset_mode = parse_autoreset_mode(autoreset_mode)
        self.metadata = {**PegInHoleContact.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = observation_space(self.params)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.process = Process(num_envs, self.params, threads)
        self._over = np.zeros(num_envs, dtype=bool)
        self._started = False

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode of every row, or of the rows in ``options["reset_mask"]``."""
        mask = (options or {}).get("reset_mask")
        if mask is not None and not self._started:
            raise gymnasium.error.ResetNeeded("the first reset cannot have a reset_mask")
        rows = np.ones(self.num_envs, dtype=bool) if mask is None else np.asarray(to_numpy(mask))
        if rows.shape != (self.num_envs,) or rows.dtype != bool:
            raise ValueError(
                f"options['reset_mask']: {rows.shape} {rows.dtype}, expected "
                f"({self.num_envs},) bool"
            )
        if seed is not None or not self._started:
            self.process.seed[rows] = row_seeds(self, seed)[rows]
            self.process.episode[rows] = -1
        self._started = True
        self._restart(rows)
        return self._observations(), self._counts()

    def step(self, actions: Any) -> tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]:
        """One decision in every row."""
        if not self._started:
            raise gymnasium.error.ResetNeeded("call envs.reset() before anything else")
        abort = np.asarray(to_numpy(actions))
        if abort.shape != (self.num_envs,):
            raise ValueError(f"actions: shape {abort.shape}, expected ({self.num_envs},)")
        dead = self._over
        if self.autoreset_mode is AutoresetMode.DISABLED and dead.any():
            raise gymnasium.error.ResetNeeded(
                "autoreset is disabled and an episode is over: "
                'call reset(options={"reset_mask": terminated | truncated}) first'
            )
        live = np.flatnonzero(~dead)
        step = self.process.step(live, _aborts(abort)[live])
        terminated = step.ended == SUCCESS
        truncated = step.exhausted & ~dead
        if self.max_episode_steps is not None:
            late = ~dead & (self.process.time >= self.max_episode_steps)
            truncated = truncated | (late & ~terminated)
        done = terminated | truncated
        reward = self._tensor(-step.seconds.astype(np.float32))
        makespan = -self._tensor(self.process.makespan.astype(np.float32))
        info: dict[str, Any] = {k: self._tensor(v) for k, v in details(self.process, step)}
        info["objective"] = reward
        info["episode"] = {
            "r": makespan,
            "objective": makespan,
            "l": self._tensor(self.process.time.copy()),
        }
        info["_episode"] = self._tensor(done)
        observations = self._observations()
        self._over = done
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            info["final_obs"], info["_final_obs"] = observations, info["_episode"]
            self._restart(done)
            observations = self._observations() if done.any() else observations
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP and dead.any():
            self._restart(dead)
            self._over = done & ~dead
            observations = self._observations()
        return observations, reward, self._tensor(terminated), self._tensor(truncated), info

    def render(self) -> tuple[Any, ...] | None:
        """N frames."""
        if self.render_mode is None:
            return None
        from .render import frame

        return tuple(frame(self.process, i) for i in range(self.num_envs))

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on."""
        return {"over": torch.from_numpy(self._over.copy()), **self.process.state()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        state = dict(state_dict)
        self._over = state.pop("over").numpy().copy()
        self.process.restore(state)
        self._started = True

    def _restart(self, rows: Any) -> None:
        self.process.start(np.flatnonzero(rows))
        self._over = self._over & ~rows

    def _observations(self) -> dict[str, Tensor]:
        return {k: self._tensor(v) for k, v in observations(self.process).items()}

    def _counts(self) -> dict[str, Tensor]:
        return {
            "makespan": self._tensor(self.process.makespan.astype(np.float32)),
            "attempts": self._tensor(self.process.attempts.copy()),
        }

    def _tensor(self, x: Any) -> Tensor:
        return torch.from_numpy(x).to(self.device)


def observation_space(params: PegInHoleContactParams) -> spaces.Dict:
    """Of one environment."""
    return spaces.Dict(
        ft=box(-np.inf, np.inf, (6, round(params.window * CONTROL_HZ))),
        elapsed=box(0.0, params.time_limit, (1,)),
        attempt=box(0.0, params.max_attempts, (1,)),
    )


def observations(process: Process) -> dict[str, Any]:
    """New arrays, dense over lanes."""
    return {
        "ft": process.ft.copy(),
        "elapsed": process.elapsed[:, None],
        "attempt": process.attempts.astype(np.float32)[:, None],
    }


def details(process: Process, step: Step) -> list[tuple[str, Any]]:
    """What ``info`` says about a step, dense over lanes."""
    return [
        ("makespan", process.makespan.astype(np.float32)),
        ("attempts", process.attempts.copy()),
        ("attempt_end", step.ended != RUNNING),
        ("attempt_duration", step.duration.astype(np.float32)),
        ("outcome", step.ended.astype(np.int64)),
    ]


def _abort(action: Any) -> bool:
    return bool(_aborts(np.asarray(action)[None])[0])


def _aborts(actions: Any) -> Any:
    if not np.isin(actions, (0, 1)).all():
        wrong = actions[~np.isin(actions, (0, 1))][0]
        raise ValueError(f"action={wrong}: expected 0 (go on) or 1 (give up)")
    return actions == 1


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode is not None and render_mode not in _RENDER_MODES:
        raise ValueError(f"render_mode={render_mode!r}: PegInHoleContact has {list(_RENDER_MODES)}")
