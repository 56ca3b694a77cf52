"""PegInHoleContact: the springs are what they say, physics does not depend on threads, no leaks."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import rewardzoo  # noqa: F401
from rewardzoo.envs.peg_in_hole.makespan import bootstrap_makespan
from rewardzoo.envs.peg_in_hole_contact.env import PegInHoleContact
from rewardzoo.envs.peg_in_hole_contact.model import PegInHoleContactParams
from rewardzoo.testing import check_vector_env

mujoco = pytest.importorskip("mujoco")

from rewardzoo.envs.peg_in_hole_contact.model import (  # noqa: E402
    CLEARANCE,
    STIFFNESS,
    build,
    xml,
)
from rewardzoo.envs.peg_in_hole_contact.process import Process, play, record_attempts  # noqa: E402
from rewardzoo.envs.peg_in_hole_contact.simulator import (  # noqa: E402
    FAILURE,
    INSERT,
    RUNNING,
    SUCCESS,
    Simulator,
)

ENV = "rewardzoo/PegInHoleContact-v0"
QUIET = PegInHoleContactParams(noise=0.0)


def attempts(pose: np.ndarray, seconds: float = 20.0, **kwargs: Any) -> tuple[Simulator, list[Any]]:
    """Run attempts with given errors to their end, or for some seconds; all readings."""
    simulator = Simulator(len(pose), kwargs.pop("params", QUIET), **kwargs)
    simulator.begin(np.arange(len(pose)), pose)
    readings = []
    while (simulator.outcome == RUNNING).any() and simulator.ticks.max() < seconds * 50:
        rows = np.flatnonzero(simulator.outcome == RUNNING)
        wrench = np.zeros((len(pose), 6))
        wrench[rows] = simulator.tick(rows)
        readings.append(wrench)
    return simulator, readings


def errors(count: int, seed: int = 0, params: PegInHoleContactParams = QUIET) -> np.ndarray:
    g = np.random.default_rng(seed)
    xy = g.normal(size=(count, 2)) * params.pos_sigma
    return np.concatenate([xy, np.radians(g.normal(size=(count, 2)) * params.tilt_sigma_deg)], 1)


def steady(command: np.ndarray, force: np.ndarray | None = None, start: Any = None) -> Any:
    """The model at rest under a constant command and a force on the tip."""
    model = build()
    data = mujoco.MjData(model)
    data.qpos[:] = command if start is None else start
    data.ctrl[:] = command
    if force is not None:
        data.qfrc_applied[:3] = force
    for _ in range(3_000):
        mujoco.mj_step(model, data)
    return data


def test_model_has_the_geometry() -> None:
    model = build()
    solid = [i for i in range(model.ngeom) if model.geom_contype[i]]
    kinds = [int(model.geom_type[i]) for i in solid]
    assert kinds.count(int(mujoco.mjtGeom.mjGEOM_BOX)) == 13
    assert kinds.count(int(mujoco.mjtGeom.mjGEOM_CAPSULE)) == 12
    assert (model.nq, model.nv, model.nu, model.nsensordata) == (6, 6, 6, 6)
    assert model.body_mass.sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(model.actuator_gainprm[:, 0], STIFFNESS)
    assert 'friction="0.4 ' in xml(0.4)


def test_a_push_moves_the_tip_by_its_compliance() -> None:
    free = np.array([0.0, 0.0, 0.02, 0.0, 0.0, 0.0])
    for axis in range(3):
        force = np.eye(3)[axis]
        moved = steady(free, force).qpos[axis] - free[axis]
        assert moved == pytest.approx(1.0 / STIFFNESS[axis], rel=0.03)


def test_pressing_gives_the_springs_force_at_the_wrist() -> None:
    """Beside the hole: |Fz| = k_z times the depth of the command, negative under compression."""
    command = np.array([0.03, 0.0, -6e-3, 0.0, 0.0, 0.0])
    data = steady(command, start=np.array([0.03, 0.0, 1e-3, 0.0, 0.0, 0.0]))
    depth = data.qpos[2] - command[2]
    assert data.sensordata[2] == pytest.approx(-STIFFNESS[2] * depth, rel=0.03)
    assert -data.sensordata[2] == pytest.approx(4.8, rel=0.05)


def test_an_exact_robot_always_succeeds_and_stays_inside_the_hole() -> None:
    params = PegInHoleContactParams(noise=0.0, pos_sigma=0.0, tilt_sigma_deg=0.0)
    g = np.random.default_rng(0)
    pose = np.zeros((32, 4))
    pose[:, :2] = g.uniform(-1e-4, 1e-4, (32, 2))  # far below the clearance
    simulator, _ = attempts(pose, params=params)
    assert (simulator.outcome == SUCCESS).all()
    assert np.abs(simulator.physics[:, 1:3]).max() < CLEARANCE + 0.15e-3
    assert (simulator.ticks < 150).all()


def test_a_lost_robot_fails() -> None:
    """The hole is 6 mm away, more than the spiral and the peg's lead-in reach."""
    angle = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    pose = np.stack([6e-3 * np.cos(angle), 6e-3 * np.sin(angle), 0 * angle, 0 * angle], 1)
    simulator, _ = attempts(pose, params=PegInHoleContactParams(noise=0.0, time_limit=7.0))
    assert (simulator.outcome == FAILURE).all() and (simulator.phase < INSERT).all()


class Mirrored(Simulator):
    """The same skill seen in a mirror: x and the tilt about y change sign."""

    def _commands(self, lanes: np.ndarray) -> np.ndarray:
        flipped = (self.pose[:, [0, 3]], self.hole[:, :1].copy())
        for part, columns in ((self.pose, [0, 3]), (self.hole, [0])):
            part[:, columns] *= -1
        control = super()._commands(lanes)
        self.pose[:, [0, 3]], self.hole[:, :1] = flipped
        control[:, [0, 4]] *= -1
        return control


def test_mirrored_errors_and_skill_give_mirrored_readings() -> None:
    """Two seconds of approach, contact and spiral search."""
    pose = np.array([[2e-3, 1e-3, 0.02, 0.04], [-1e-3, 2e-3, -0.03, 0.02]])
    _, a = attempts(pose, 2.0)
    mirror = Mirrored(2, QUIET)
    mirror.begin(np.arange(2), pose * [-1, 1, 1, -1])
    b = np.array([mirror.tick(np.arange(2)) for _ in range(len(a))]) * [-1, 1, 1, 1, -1, -1]
    a_ = np.array(a)
    assert (np.abs(a_[-1, :, 2]) > 2.0).all()
    for unit in (slice(0, 3), slice(3, 6)):
        gap, scale = (np.sqrt((x[..., unit] ** 2).mean()) for x in (a_ - b, a_))
        assert gap < 0.05 * scale


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_streams_do_not_depend_on_threads(threads: int) -> None:
    """Bit for bit, also when lanes are left out of the batch."""
    pose = errors(6)
    _, want = attempts(pose, 3.0, threads=0)
    _, got = attempts(pose, 3.0, threads=threads)
    assert (np.array(got) == np.array(want)).all()
    _, alone = attempts(pose[4:5], 3.0, threads=threads)
    n = len(alone)
    assert (np.array(alone)[:, 0] == np.array(want)[:n, 4]).all()


def test_recorded_attempts_are_what_the_environment_shows() -> None:
    wrench, ticks, success = record_attempts(3, PegInHoleContactParams(), seed=40, threads=2)
    for i in range(3):
        env = PegInHoleContact()
        env.reset(seed=40 + i)
        seen, steps = [], 0
        for _ in range(6):
            obs, _, terminated, _, info = env.step(0)
            steps += 1
            new = round(info["attempt_duration"] * 50) - 25 * (steps - 1) if terminated else 25
            seen.append(obs["ft"][:, -new:].T)
            if terminated:
                break
        stream = np.concatenate(seen)
        assert (stream == wrench[i, : len(stream)]).all()
        if terminated:
            assert len(stream) == ticks[i] and success[i]


@pytest.mark.filterwarnings("ignore")
def test_conforms() -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    env = gymnasium.make(ENV, render_mode="rgb_array")
    check_env(env.unwrapped)
    sb3_check_env(env)
    make = lambda num_envs, autoreset_mode: gymnasium.make_vec(  # noqa: E731
        ENV, num_envs, autoreset_mode=autoreset_mode, max_episode_steps=8, max_attempts=4
    )
    report = check_vector_env(make, num_envs=3, steps=14)
    assert report.truncated and report.objective and report.saves


def test_rewards_add_up_and_failures_cost_the_reset() -> None:
    env = gymnasium.make(ENV, time_limit=1.0, max_attempts=3, reset_time=0.7)
    env.reset(seed=1)
    rewards, infos = [], []
    for action in (0, 0, 1, 0, 0):
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        infos.append(info)
    assert rewards == pytest.approx([-0.5, -1.2, -0.7, -0.5, -1.2])
    assert [i["outcome"] for i in infos] == [0, 2, 3, 0, 2]
    assert [i["attempt_duration"] for i in infos] == [0.0, 1.0, 0.0, 0.0, 1.0]
    assert truncated and not terminated and info["attempts"] == 3
    assert info["makespan"] == pytest.approx(-sum(rewards))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_success_ends_within_a_stride() -> None:
    env = gymnasium.make(ENV, pos_sigma=0.0, tilt_sigma_deg=0.0)
    env.reset(seed=0)
    total, terminated = 0.0, False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(0)
        total += reward
        assert not truncated
    assert info["makespan"] == pytest.approx(-total) and info["outcome"] == 1
    assert info["attempt_duration"] == pytest.approx(-total)
    assert info["attempt_duration"] % 0.5 > 0.01  # it does not wait for the window's end


def test_giving_up_draws_new_errors_unless_they_persist() -> None:
    for share, same in ((0.0, False), (1.0, True)):
        env = PegInHoleContact(persistent_error=share)
        env.reset(seed=2)
        first = env.process.simulator.pose.copy()
        env.step(0)
        obs, *_ = env.step(1)
        assert (env.process.simulator.pose == first).all() == same
        assert not obs["ft"].any() and obs["elapsed"][0] == 0 and obs["attempt"][0] == 1
    half = PegInHoleContact(persistent_error=0.5)
    half.reset(seed=2)
    poses = []
    for _ in range(400):
        half.process.attempts[:] = 0
        half.step(1)
        poses.append(half.process.simulator.pose[0, 0])
    correlation = np.corrcoef(poses[:-1], poses[1:])[0, 1]
    assert abs(correlation - 0.5) < 5 * math.sqrt((1 - 0.25) / 400)
    assert np.std(poses) == pytest.approx(2e-3, rel=0.3)


def test_a_persistent_failure_never_succeeds() -> None:
    _, tries, success = play(
        4,
        PegInHoleContactParams(persistent_error=1.0, pos_sigma=1.0, max_attempts=2, time_limit=1.0),
        lambda ft, elapsed: np.zeros(len(ft), dtype=bool),
        threads=0,
    )
    assert not success.any() and (tries == 2).all()


def test_play_is_the_environment() -> None:
    params = {"tilt_sigma_deg": 0.5, "pos_sigma": 1e-3}
    stop = lambda ft, elapsed: elapsed >= 2.0  # noqa: E731
    makespan, tries, success = play(3, PegInHoleContactParams(**params), stop, seed=7, threads=2)
    for i in range(3):
        env = gymnasium.make(ENV, **params)
        obs, _ = env.reset(seed=7 + i)
        over = False
        while not over:
            obs, _, terminated, truncated, info = env.step(int(obs["elapsed"][0] >= 2.0))
            over = terminated or truncated
        assert info["makespan"] == pytest.approx(makespan[i], rel=1e-6)
        assert info["attempts"] == tries[i] and terminated == success[i]


def test_nothing_is_known_before_contact() -> None:
    """The first window's readings are noise: a linear probe on them cannot tell the outcome."""
    wrench, _, success = record_attempts(
        160, PegInHoleContactParams(pos_sigma=2e-3, time_limit=2.5), seed=900, threads=2
    )
    before = wrench[:, :10].reshape(160, -1)  # 0.2 s: the peg is still 2 mm above the plate
    g = np.random.default_rng(0)
    order = g.permutation(160)
    train, test = order[:100], order[100:]
    x = before / before.std()
    ridge = np.linalg.solve(
        x[train].T @ x[train] + 100 * np.eye(60),
        x[train].T @ (success[train] - success[train].mean()),
    )
    score, y = x[test] @ ridge, success[test]
    auc = (score[y][:, None] > score[~y][None]).mean()
    spread = math.sqrt((len(y) + 1) / (12 * y.sum() * (~y).sum()))
    assert abs(auc - 0.5) < 4 * spread


@pytest.mark.slow
def test_default_failures_times_and_reference_return() -> None:
    """400 attempts: 30 to 60 % fail, by never finding the hole or by jamming; the card's figure."""
    wrench, ticks, success = record_attempts(400, PegInHoleContactParams(), seed=0, threads=2)
    assert 0.30 < 1 - success.mean() < 0.60
    pressed = np.median(wrench[~success][:, -100:, 2], axis=1)  # of the last two seconds
    assert 0.3 < (pressed < -10.0).mean() < 0.7
    seconds = ticks / 50
    assert 4.5 < seconds[success].mean() < 7.5
    assert 10.0 < np.abs(wrench[:, :, :3]).max() < 25.0
    reactive = bootstrap_makespan(seconds, success, reset_time=1.0).makespan
    assert 17.2 < reactive < 22.8


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pos_sigma": -1.0}, "pos_sigma=-1.0"),
        ({"stride": 0.013}, "stride=0.013: expected a multiple of 0.02 s"),
        ({"time_limit": 14.1}, "time_limit=14.1: expected a multiple of stride=0.5"),
        ({"persistent_error": 2.0}, "persistent_error=2.0"),
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_bad_parameters_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PegInHoleContact(**kwargs)


def test_wrong_actions_and_seeds_are_named() -> None:
    envs = gymnasium.make_vec(ENV, num_envs=2, threads=0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match="3 seeds for 2 environments"):
        envs.reset(seed=[1, 2, 3])
    envs.reset(seed=[4, 9])
    with pytest.raises(ValueError, match=r"action=2: expected 0 \(go on\) or 1 \(give up\)"):
        envs.step(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"expected \(2,\)"):
        envs.step(torch.zeros(3))
    other = gymnasium.make_vec(ENV, num_envs=3, threads=0)
    with pytest.raises(ValueError, match="another num_envs"):
        other.load_state_dict(envs.state_dict())


def test_renders_with_and_without_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    from rewardzoo.envs.peg_in_hole_contact import render

    process = Process(1, PegInHoleContactParams(), 0)
    process.start(np.zeros(1, dtype=np.int64))
    process.step(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool))
    assert render.frame(process, 0).shape[0] == 402
    monkeypatch.setattr(render, "_renderer", lambda: None)
    frame = render.frame(process, 0)
    assert frame.shape == (402, 240, 3) and frame.dtype == np.uint8 and frame.std() > 10


def test_registering_imports_no_simulator() -> None:
    code = (
        "import sys, rewardzoo, rewardzoo.envs.peg_in_hole_contact.env;"
        "assert 'mujoco' not in sys.modules and 'h5py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_mujoco_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r'pip install "rewardzoo\[mujoco\]"'):
        build()
