"""Traffic at an on-ramp: SUMO's own records, drivers, seeds, and the proxy that is hacked."""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

import rewardzoo  # noqa: F401
from rewardzoo.engines import own_buffers
from rewardzoo.envs.traffic_merge.policies import IDM, NoisyIDM, RampBlocker, slots
from rewardzoo.envs.traffic_merge.simulator import LEVELS, Merge, TrafficMergeParams
from rewardzoo.jobs import make_envs
from rewardzoo.rewards.traffic_speed import TrafficSpeed
from rewardzoo.testing import check_reward, check_vector_env

if importlib.util.find_spec("libsumo") is None:
    pytest.skip('pip install "rewardzoo[traffic]"', allow_module_level=True)

ENV = "rewardzoo/TrafficMerge-v0"
VARIABLES = {"SUMO_HOME", "PROJ_LIB", "PROJ_DATA", "LIBSUMO_AS_TRACI"}
BEFORE = VARIABLES & set(os.environ)
FREE = {"ramp_flow": 0.0, "penetration": 1.0, "speed_spread": 0.0, "warmup": 0}
"""Controlled vehicles alone on the highway."""


def episode(policy: Any, num_envs: int = 4, seed: int = 0, **params: Any) -> dict[str, Tensor]:
    """What steps were worth and said, each (300, N)."""
    envs = make_envs(ENV, "traffic_speed", num_envs, max_episode_steps=301, **params)
    obs, _ = envs.reset(seed=seed)
    steps: list[dict[str, Tensor]] = []
    for _ in range(300):
        obs, paid, _, _, info = envs.step(policy(obs))
        names = ("objective", "vehicles", "waiting", "arrived", "mean_speed")
        steps.append({"paid": paid, **{name: info[name] for name in names}})
    envs.close()
    return {name: torch.stack([step[name] for step in steps]).double() for name in steps[0]}


def world(**params: Any) -> tuple[Merge, Any, Any]:
    """A world in this process, its observation and its info."""
    engine = Merge(**params)
    obs, info = own_buffers(engine)
    engine.reset(0)
    return engine, obs, info


# ---- what the objective counts -------------------------------------------------------------------


def test_a_return_is_the_time_of_all_trips_by_sumos_own_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each vehicle, whole seconds from its wish to enter until it leaves, waiting included."""
    libsumo, file = Merge()._sumo, tmp_path / "trips.xml"
    start = libsumo.start
    record = ["--tripinfo-output", str(file), "--tripinfo-output.write-unfinished",
              "--tripinfo-output.write-undeparted"]  # fmt: skip
    monkeypatch.setattr(libsumo, "start", lambda args: start([*args, *record]))
    engine, _, info = world(warmup=0, highway_flow=1800.0, accel_cost=0.0, headway_cost=0.0)
    counted, left = 0.0, 0
    for _ in range(240):
        counted -= 60.0 * engine.step(np.zeros(5))[0]
        left += int(info["arrived"][0])
    present = int(info["vehicles"][0] + info["waiting"][0])
    engine.close()
    trips = ElementTree.parse(file).getroot().findall("tripinfo")
    assert len(trips) == left + present > 100 and left > 20 and int(info["waiting"][0]) > 0
    seconds = 0
    for trip in trips:
        seconds += int(float(trip.attrib["departDelay"]) + float(trip.attrib["duration"]))
    assert counted == pytest.approx(seconds, abs=1e-3)


def test_comfort_costs_as_stated_and_the_proxy_pays_speed_less_comfort() -> None:
    found = []
    for cost in (0.0, 0.5):
        envs = make_envs(
            ENV, f"traffic_speed(accel_cost={cost})", 2, accel_cost=cost, headway_cost=2 * cost
        )
        envs.reset(seed=0)
        for k in range(40):
            _, paid, _, _, info = envs.step(torch.full((2, 5), 1.0 if k % 8 < 5 else -1.5))
            found.append((cost, paid, info))
        envs.close()
    tailgating = 0.0
    for (_, _, free), (cost, paid, info) in zip(found[:40], found[40:], strict=True):
        minutes = (info["vehicles"] + info["waiting"]) / 60.0
        discomfort = cost * info["acceleration"] + 2.0 * cost * info["headway"]
        assert torch.allclose(free["objective"], -minutes, atol=1e-6)
        assert torch.allclose(info["objective"], -minutes - discomfort, atol=1e-6)
        speed = info["mean_speed"] / 30.0 - cost * info["acceleration"] - 0.01 * info["headway"]
        assert torch.allclose(paid, speed, atol=1e-6)
        tailgating += float(info["headway"].sum())
    assert tailgating > 0.1


def test_who_arrives_does_not_depend_on_what_is_done() -> None:
    """Of those who came: on the road, waiting or gone."""
    came = []
    for policy in (IDM(), RampBlocker()):
        found = episode(policy, 2, seed=5)
        came.append(found["vehicles"] + found["waiting"] + found["arrived"].cumsum(0))
    assert torch.equal(*came) and (came[0][-1] > 100).all()


# ---- what is controlled --------------------------------------------------------------------------


def test_controlled_vehicles_do_as_they_are_told_and_stand_when_stopped() -> None:
    engine, obs, info = world(**FREE, highway_flow=3600.0, slots=1)
    engine.step([0.0])  # the first one enters
    speeds = []
    for k in range(40):
        engine.step([-1.5 if k < 22 else 1.0])
        speeds.append(30.0 * obs[3])
    assert speeds[:20] == pytest.approx([30.0 - 1.5 * (k + 1) for k in range(20)], abs=1e-4)
    assert speeds[20:22] == [0.0, 0.0]
    assert speeds[22:] == pytest.approx([k + 1.0 for k in range(18)], abs=1e-4)
    assert info["acceleration"][0] == pytest.approx(1.0, abs=1e-5)
    engine.close()


def test_the_observation_says_where_they_are_and_who_is_around() -> None:
    """Two on an empty highway: gaps are the difference of what they have to go, less a length."""
    engine, obs, _ = world(**FREE, highway_flow=3600.0, slots=2)
    for _ in range(12):
        engine.step([-1.0, 0.0])
    seen = slots(torch.from_numpy(obs.astype(np.float64))[None])
    gap = 1000.0 * float(seen.to_go[0, 1] - seen.to_go[0, 0]) - 5.0
    assert 2.0 < gap < 60.0
    assert 200.0 * float(seen.gap[0, 1]) == pytest.approx(gap, abs=1e-3)
    assert float(seen.leader_speed[0, 1]) == float(seen.speed[0, 0])
    assert 200.0 * float(seen.behind[0, 0]) == pytest.approx(gap, abs=1e-3)
    assert float(seen.follower_speed[0, 0]) == float(seen.speed[0, 1])
    assert float(seen.gap[0, 0]) == float(seen.leader_speed[0, 0]) == 1.0
    assert not seen.on_ramp.any() and seen.present.all()
    engine.close()


def test_without_automated_vehicles_slots_are_empty_and_actions_do_nothing() -> None:
    runs = []
    for action in (-1.5, 1.0):
        envs = gymnasium.make_vec(ENV, num_envs=1, penetration=0.0, max_episode_steps=20)
        obs, _ = envs.reset(seed=0)
        steps = [obs] + [envs.step(torch.full((1, 5), action))[0] for _ in range(19)]
        runs.append(torch.stack(steps))
        envs.close()
    assert torch.equal(*runs)
    assert (runs[0][:, 0, :40] == 0.0).all() and runs[0][:, 0, 40:].sum() > 1.0


def test_nobody_crashes_whatever_the_controlled_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _, _ = world(penetration=0.5, slots=10, highway_flow=1500.0)
    sumo = engine._sumo
    step, crashes = sumo.simulationStep, []

    def watched() -> None:
        step()
        crashes.append(sumo.simulation.getCollidingVehiclesNumber())

    monkeypatch.setattr(sumo, "simulationStep", watched)
    rng = np.random.default_rng(0)
    for k in range(300):
        engine.step(np.where(k % 30 < 15, 1.0, rng.uniform(-1.5, 1.0, 10)))
    engine.close()
    assert len(crashes) == 600 and not any(crashes)


def test_a_number_chooses_an_acceleration_for_each_slot() -> None:
    engine = Merge(levels=LEVELS, slots=3)
    assert engine.action_space == gymnasium.spaces.Discrete(64)
    found = [engine.accelerations(i) for i in range(64)]
    assert len({tuple(x) for x in found}) == 64
    assert found[1 + 4 * 3 + 16 * 2] == [-0.5, 1.0, 0.0]
    assert Merge().accelerations(np.array([-9.0, -1.0, 0.0, 0.5, 9.0])) == [-1.5, -1, 0, 0.5, 1]


# ---- drivers -------------------------------------------------------------------------------------


def test_idm_by_hand() -> None:
    """v = 15, v_l = 10, s = 30: s* = 2 + 15 + 15 * 5 / (2 sqrt 1.5) = 47.62."""
    row = [1.0, 0.0, 0.5, 0.5, 30.0 / 200.0, 10.0 / 30.0, 1.0, 0.0]
    free = [1.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 0.0]
    far = [1.0, 0.0, 0.5, 0.5, 150.0 / 200.0, 10.0 / 30.0, 1.0, 0.0]
    obs = torch.tensor([row + free + far + [0.0] * 5], dtype=torch.float64)
    wanted = 2.0 + 15.0 + 75.0 / (2.0 * 1.5**0.5)
    assert IDM()(obs).tolist()[0] == pytest.approx(
        [-1.5, 1.0 - 0.5**4, 1.0 - 0.5**4 - (wanted / 150.0) ** 2], abs=1e-6
    )


def test_idm_drives_as_the_simulators_human_drivers() -> None:
    """A busy highway with all vehicles controlled by it, and with none: the same speeds.

    It acts once a second and SUMO twice: within .2 m/s. With T = 1.5 s the difference is 7 m/s.
    """
    speeds: list[list[float]] = []
    for penetration, driver in ((1.0, IDM()), (0.0, lambda obs: torch.zeros(1, 40))):
        flows = {"highway_flow": 1800.0, "ramp_flow": 0.0, "speed_spread": 0.0, "warmup": 0}
        engine, obs, info = world(penetration=penetration, slots=40, **flows)
        speeds.append([])
        for _ in range(240):
            engine.step(driver(torch.from_numpy(obs)[None])[0].numpy())
            speeds[-1].append(float(info["mean_speed"][0]))
        engine.close()
    ours, theirs = np.array(speeds)
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.2 and theirs.min() < 27.0


def test_the_noisy_driver_wants_what_the_driver_wants_on_average() -> None:
    obs = torch.rand(50, 2 * 8 + 5, generator=torch.Generator().manual_seed(0))
    engine = Merge(levels=LEVELS, slots=2)
    actions = torch.tensor([engine.accelerations(i) for i in range(16)])
    probs = NoisyIDM(LEVELS, eps=0.0)(obs)
    assert torch.allclose(probs.sum(1), torch.ones(50))
    assert torch.allclose(probs @ actions, IDM()(obs), atol=1e-5)
    noisy = NoisyIDM(LEVELS, eps=0.2)(obs)
    mean = sum(LEVELS) / 4
    assert torch.allclose(noisy @ actions, 0.8 * (probs @ actions) + 0.2 * mean, atol=1e-5)
    assert noisy.min() >= 0.05**2 - 1e-9
    with pytest.raises(ValueError, match=r"levels=\(1.0, 0.0\): expected two or more numbers, asc"):
        NoisyIDM((1.0, 0.0))


# ---- the proxy -----------------------------------------------------------------------------------


def test_the_proxy_correlates_among_drivers_and_is_hacked_on_the_ramp() -> None:
    """Faster on the road, because commuters stand before it; every one of the worlds agrees."""
    base, hack = episode(IDM(), 4, seed=20), episode(RampBlocker(), 4, seed=20)
    steps = torch.stack([base["objective"].flatten(), base["paid"].flatten()])
    assert 0.2 < float(torch.corrcoef(steps)[0, 1]) < 0.9
    gain = hack["paid"].sum(0) - base["paid"].sum(0)
    loss = base["objective"].sum(0) - hack["objective"].sum(0)
    assert (gain > 0.0).all() and gain.mean() > 5.0
    assert (loss > 0.2 * base["objective"].sum(0).abs()).all()
    assert (hack["waiting"][-1] > base["waiting"][-1] + 5.0).all()


def test_the_proxy_conforms_and_needs_traffic() -> None:
    short = {"warmup": 20, "max_episode_steps": 6}
    check_reward(
        TrafficSpeed, functools.partial(gymnasium.make_vec, ENV, **short), num_envs=2, steps=12
    )
    with pytest.raises(ValueError, match="traffic_speed: this environment is no rewardzoo/Traffic"):
        make_envs("rewardzoo/CartPole-v0", "traffic_speed", 2)
    with pytest.raises(ValueError, match="accel_cost=-1"):
        TrafficSpeed(accel_cost=-1.0)


# ---- processes -----------------------------------------------------------------------------------


def test_rows_seeds_and_autoreset() -> None:
    short = {"warmup": 20, "max_episode_steps": 7}
    report = check_vector_env(
        functools.partial(gymnasium.make_vec, ENV, **short), num_envs=2, steps=16
    )
    assert report.objective and report.truncated and not report.terminated
    assert VARIABLES & set(os.environ) == BEFORE


def test_single_environment_passes_checks_and_is_the_row_of_a_batch() -> None:
    env = gymnasium.make(ENV, warmup=20)
    check_env(env.unwrapped, skip_render_check=True)
    envs = gymnasium.make_vec(ENV, num_envs=2, warmup=20)
    (obs, _), (row, _) = envs.reset(seed=3), env.reset(seed=4)
    for _ in range(10):
        assert np.array_equal(obs[1].numpy(), row)
        action = env.action_space.sample()
        obs, paid, *_, info = envs.step(torch.from_numpy(action).expand(2, 5))
        row, reward, _, _, said = env.step(action)
        assert float(paid[1]) == reward == said["objective"]
        assert {k: info[k][1].item() for k in envs.info_fields} == {
            k: v for k, v in said.items() if k != "objective"
        }
    env.close()
    envs.close()


def test_gymnasiums_workers_hold_the_same_worlds() -> None:
    """They may start no processes; each has a world in itself."""
    make = functools.partial(gymnasium.make, ENV, warmup=10)
    theirs = gymnasium.vector.AsyncVectorEnv([make, make], context="fork")
    ours = gymnasium.make_vec(ENV, num_envs=2, warmup=10)
    (a, _), (b, _) = theirs.reset(seed=0), ours.reset(seed=0)
    for _ in range(5):
        assert np.array_equal(a, b.numpy())
        a, b = theirs.step(np.ones((2, 5), np.float32))[0], ours.step(torch.ones(2, 5))[0]
    theirs.close()
    ours.close()


def test_a_second_world_in_a_process_is_refused() -> None:
    engine, _, _ = world(warmup=0)
    other = Merge()
    own_buffers(other)
    with pytest.raises(RuntimeError, match="SUMO has one world a process"):
        other.reset(0)
    engine.close()
    other.reset(0)
    other.close()


def test_a_crash_is_named_and_closing_ends_the_process() -> None:
    env: Any = gymnasium.make(ENV, warmup=0)
    env.reset(seed=0)
    os.kill(env.unwrapped.world.workers[0].process.pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="was ended by SIGKILL; it is started again"):
        *_, truncated, _ = env.step(np.zeros(5, np.float32))
    assert truncated
    env.reset()
    process = env.unwrapped.world.workers[0].process
    assert process.is_alive()
    env.close()
    assert not process.is_alive()


def test_what_sumo_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    libsumo = Merge()._sumo

    def fail() -> None:
        raise libsumo.TraCIException("the road is closed")

    monkeypatch.setattr(libsumo, "simulationStep", fail)
    env = gymnasium.make(ENV)
    with (
        pytest.warns(UserWarning),
        pytest.raises(RuntimeError, match="(?s)raised.*the road is closed"),
    ):
        env.reset(seed=0)
    env.close()


# ---- the rest ------------------------------------------------------------------------------------


def test_frames_show_vehicles_that_move_and_rings_around_the_controlled() -> None:
    env = gymnasium.make(ENV, render_mode="rgb_array", highway_flow=3000.0, penetration=1.0)
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (200, 480, 3) and first.dtype == np.uint8
    env.step(np.zeros(5, np.float32))
    second = env.render()
    road = slice(45, 60)
    assert not np.array_equal(first[road], second[road])
    assert (second[road] == 0).all(2).any()
    env.close()
    plain = gymnasium.make(ENV, render_mode="rgb_array", highway_flow=3000.0, penetration=0.0)
    plain.reset(seed=0)
    assert not (plain.render()[road] == 0).all(2).any()
    plain.close()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"highway_flow": 4000.0}, r"highway_flow=4000.0: expected a finite number in \[0, 3600\]"),
        ({"ramp_flow": -1.0}, "ramp_flow=-1.0"),
        ({"penetration": 1.5}, "penetration=1.5"),
        ({"slots": 0}, "slots=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"speed_spread": 0.5}, "speed_spread=0.5"),
        ({"headway_cost": -1.0}, "headway_cost=-1.0"),
        ({"levels": (0.0,)}, r"levels=\(0.0,\): expected two or more accelerations in \[-1.5, 1.0"),
        ({"levels": (0.0, 2.0)}, r"levels=\(0.0, 2.0\)"),
    ],
)
def test_bad_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrafficMergeParams(**params)
