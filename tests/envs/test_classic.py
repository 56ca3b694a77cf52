"""The classic problems equal Gymnasium's over whole random episodes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401


def state_of(theirs: Any) -> np.ndarray:
    return np.array(theirs.unwrapped.state, dtype=np.float64)


PAIRS = [
    ("rewardzoo/CartPole-v0", "CartPole-v1"),
    ("rewardzoo/MountainCar-v0", "MountainCar-v0"),
    ("rewardzoo/MountainCarContinuous-v0", "MountainCarContinuous-v0"),
    ("rewardzoo/Pendulum-v0", "Pendulum-v1"),
]


def starting_like(ours: Any, theirs: Any, seed: int) -> np.ndarray:
    """Both at the start state that Gymnasium draws for ``seed``."""
    ours.reset(seed=seed)
    obs, _ = theirs.reset(seed=seed)
    ours.unwrapped.state = type(ours.unwrapped.state)(
        *(
            torch.tensor([x], dtype=old.dtype)
            for x, old in zip(state_of(theirs), ours.unwrapped.state, strict=True)
        )
    )
    if ours.unwrapped.state[0].dtype == torch.float32:  # Gymnasium's start alone is in float64
        theirs.unwrapped.state = np.concatenate([x.numpy() for x in ours.unwrapped.state])
    return obs


def assert_same_episode(ours: Any, theirs: Any, policy: Any, seed: int) -> bool:
    """Steps both to the episode's end; whether it was a termination."""
    obs = starting_like(ours, theirs, seed)
    while True:
        action = policy(obs)
        a, b = ours.step(action), theirs.step(action)
        np.testing.assert_allclose(a[0], b[0], rtol=0, atol=1e-6)
        assert a[1] == pytest.approx(b[1], abs=1e-6)
        assert a[2:4] == b[2:4]
        obs = b[0]
        if a[2] or a[3]:
            return bool(a[2])


@pytest.mark.parametrize(("ours_id", "theirs_id"), PAIRS)
def test_equals_gymnasium_over_random_episodes(ours_id: str, theirs_id: str) -> None:
    ours, theirs = gymnasium.make(ours_id), gymnasium.make(theirs_id)
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    theirs.action_space.seed(0)
    for seed in range(12):
        assert_same_episode(ours, theirs, lambda _: theirs.action_space.sample(), seed)


@pytest.mark.parametrize(
    ("ours_id", "theirs_id", "policy"),
    [
        ("rewardzoo/CartPole-v0", "CartPole-v1", lambda obs: 1),
        ("rewardzoo/MountainCar-v0", "MountainCar-v0", lambda obs: 2 if obs[1] >= 0 else 0),
        (
            "rewardzoo/MountainCarContinuous-v0",
            "MountainCarContinuous-v0",
            # 1.5 is outside the space: the push is clipped, its cost is not.
            lambda obs: np.array([1.5 if obs[1] >= 0 else -1.5], dtype=np.float32),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_terminates_where_gymnasium_does(ours_id: str, theirs_id: str, policy: Any) -> None:
    ours, theirs = gymnasium.make(ours_id), gymnasium.make(theirs_id)
    for seed in range(5):
        assert assert_same_episode(ours, theirs, policy, seed)


def test_the_left_end_stops_the_car_as_gymnasiums_does() -> None:
    for ours_id, theirs_id in PAIRS[1:3]:
        ours, theirs = gymnasium.make(ours_id), gymnasium.make(theirs_id)
        starting_like(ours, theirs, 0)
        state = np.array([-1.19, -0.06], dtype=np.float32)
        theirs.unwrapped.state = state if "Cont" in theirs_id else tuple(state.astype(float))
        kind = type(ours.unwrapped.state)
        old = ours.unwrapped.state.position.dtype
        ours.unwrapped.state = kind(*(torch.tensor([x]).to(old) for x in state.astype(float)))
        action = np.array([-1.0], dtype=np.float32) if "Cont" in theirs_id else 0
        for _ in range(5):
            a, b = ours.step(action)[0], theirs.step(action)[0]
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_start_states_have_gymnasiums_law() -> None:
    """Means and spreads of 20,000 starts, within five standard errors."""
    for id, low, high in [
        ("rewardzoo/CartPole-v0", [-0.05] * 4, [0.05] * 4),
        ("rewardzoo/MountainCar-v0", [-0.6, 0.0], [-0.4, 0.0]),
        ("rewardzoo/MountainCarContinuous-v0", [-0.6, 0.0], [-0.4, 0.0]),
        ("rewardzoo/Pendulum-v0", [-np.pi, -1.0], [np.pi, 1.0]),
    ]:
        envs = gymnasium.make_vec(id, num_envs=20_000)
        envs.reset(seed=0)
        state = torch.stack(tuple(envs.state), 1).numpy()
        low_, high_ = np.array(low), np.array(high)
        spread = (high_ - low_) / np.sqrt(12)
        assert (np.abs(state.mean(0) - (low_ + high_) / 2) <= 5 * spread / np.sqrt(20_000)).all()
        assert (state >= low_ - 1e-6).all() and (state <= high_ + 1e-6).all()
        np.testing.assert_allclose(state.std(0), spread, rtol=0.05)


def first_returns(id: str, policy: Any, count: int) -> torch.Tensor:
    """(count,) float32, the first episode's return of each row."""
    envs = gymnasium.make_vec(id, num_envs=count)
    obs, _ = envs.reset(seed=0)
    envs.action_space.seed(0)
    first, open_ = torch.zeros(count), torch.ones(count, dtype=torch.bool)
    while bool(open_.any()):
        obs, _, terminated, truncated, info = envs.step(policy(envs, obs))
        done = terminated | truncated
        first = torch.where(open_ & done, info["episode"]["r"], first)
        open_ &= ~done
    return first


def uniform(envs: Any, obs: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(envs.action_space.sample())


def towards_the_fall(envs: Any, obs: torch.Tensor) -> torch.Tensor:
    return (obs @ torch.tensor([0.1, 0.3, 1.0, 1.0]) > 0).long()


def along_the_velocity(envs: Any, obs: torch.Tensor) -> torch.Tensor:
    forward = obs[:, 1] >= 0
    if envs.single_action_space.shape == ():
        return forward.long() * 2
    return torch.where(forward, 1.0, -1.0).unsqueeze(1)


def pump_and_hold(envs: Any, obs: torch.Tensor) -> torch.Tensor:
    cos, sin, velocity = obs.unbind(1)
    energy = velocity**2 / 6 + 5 * (cos - 1)
    pump = torch.where(velocity * energy < 0, 2.0, -2.0)
    hold = (-10 * torch.atan2(sin, cos) - 2 * velocity).clamp(-2, 2)
    return torch.where(cos > 0.9, hold, pump).unsqueeze(1)


@pytest.mark.parametrize(
    ("id", "policy", "want", "spread", "count"),
    [
        # The docstrings' figures: mean, and standard deviation of an episode.
        ("rewardzoo/CartPole-v0", uniform, 22.26, 11.94, 2000),
        ("rewardzoo/CartPole-v0", towards_the_fall, 500.0, 0.0, 100),
        ("rewardzoo/MountainCar-v0", uniform, -200.0, 0.0, 500),
        ("rewardzoo/MountainCar-v0", along_the_velocity, -119.35, 3.71, 2000),
        ("rewardzoo/MountainCarContinuous-v0", uniform, -33.1, 4.7, 100),
        ("rewardzoo/MountainCarContinuous-v0", along_the_velocity, 89.35, 0.15, 1000),
        ("rewardzoo/Pendulum-v0", uniform, -1227.6, 286.0, 1000),
        ("rewardzoo/Pendulum-v0", pump_and_hold, -150.9, 91.5, 1000),
    ],
)
def test_reference_returns(id: str, policy: Any, want: float, spread: float, count: int) -> None:
    """Within five standard errors of the mean."""
    mean = float(first_returns(id, policy, count).mean())
    assert abs(mean - want) <= 5 * spread / np.sqrt(count) + 0.01


@pytest.mark.parametrize(
    ("id", "kwargs", "message"),
    [
        ("CartPole", {"half_length": -1.0}, "half_length=-1.0: expected a finite number > 0"),
        ("CartPole", {"gravity": float("nan")}, "gravity=nan: expected a finite number"),
        ("CartPole", {"reset_bound": -0.1}, "reset_bound=-0.1: expected a finite number >= 0"),
        ("CartPole", {"tau": "fast"}, "tau='fast': expected a finite number > 0"),
        ("MountainCar", {"goal_position": 0.7}, "goal_position=0.7"),
        ("MountainCar", {"power": 0.1}, "no parameter 'power'"),
        ("MountainCarContinuous", {"power": 0.0}, "power=0.0: expected a finite number > 0"),
        ("MountainCarContinuous", {"action_cost": -1.0}, "action_cost=-1.0"),
        ("Pendulum", {"g": float("inf")}, "g=inf: expected a finite number"),
        ("Pendulum", {"max_torque": 0}, "max_torque=0: expected a finite number > 0"),
    ],
)
def test_bad_parameters_are_named(id: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        gymnasium.make(f"rewardzoo/{id}-v0", **kwargs)


def test_parameters_change_the_dynamics() -> None:
    heavy = gymnasium.make("rewardzoo/CartPole-v0", mass_pole=1.0)
    theirs = gymnasium.make("CartPole-v1")
    theirs.unwrapped.masspole = 1.0
    theirs.unwrapped.total_mass = theirs.unwrapped.masscart + 1.0
    theirs.unwrapped.polemass_length = theirs.unwrapped.length
    theirs.action_space.seed(0)
    for seed in range(5):
        assert_same_episode(heavy, theirs, lambda _: theirs.action_space.sample(), seed)
