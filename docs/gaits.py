"""Gaits of MuJoCo's robots for the gallery: joints that follow sines, found by random search.

The torque at a joint is ``kp (offset + amplitude sin(2 pi (f t + phase)) - angle) - kd speed +
lean_gain lean``; ``t`` is in seconds, the lean is that of the torso, and symmetric legs share
their numbers. ``python docs/gaits.py Walker2d 30 500`` searches for 30 rounds of episodes of 500
steps (minutes), by the cross-entropy method (Rubinstein, 1999), and keeps the best gait in
``gaits.json``, beside what was given and what it was paid, for the films.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import rewardzoo  # noqa: F401  (registers the environments)

STORE = Path(__file__).with_name("gaits.json")
LEGS: dict[str, tuple[list[int], list[float]]] = {
    # For each actuator, whose numbers it shares, and its leg's part of a period.
    "HalfCheetah": ([0, 1, 2, 3, 4, 5], [0.0] * 6),
    "Walker2d": ([0, 1, 2, 0, 1, 2], [0.0] * 3 + [0.5] * 3),
    "Ant": ([0, 1, 2, 3, 4, 5, 6, 7], [0.0] * 8),
}


class Gait:
    """A player of an environment of MuJoCo that is begun.

    Args:
        robot: of ``LEGS``.
        numbers: (4 + 4 J,) of a gait with J different joints: frequency (Hz), kp, kd, the gain of
            the torso's turning, then offsets, amplitudes, phases and gains of the lean.
        engine: Gymnasium's environment of the robot.
    """

    def __init__(self, robot: str, numbers: Any, engine: Any) -> None:
        shared, shift = LEGS[robot]
        self.frequency, self.kp, self.kd, self.turning = np.asarray(numbers[:4])
        joints = np.reshape(numbers[4:], (4, -1))[:, shared]
        self.offset, self.amplitude, self.phase, self.gain = joints
        self.phase = self.phase + shift
        self.data, self.seconds, self.planar = engine.data, engine.dt, robot != "Ant"
        driven = engine.model.actuator_trnid[:, 0]
        self.angles = engine.model.jnt_qposadr[driven]
        self.speeds = engine.model.jnt_dofadr[driven]
        self.steps = 0

    def __call__(self, obs: Any) -> Any:
        """Torques (A,) float32 in [-1, 1]."""
        turn = 2 * np.pi * (self.frequency * self.steps * self.seconds + self.phase)
        self.steps += 1
        target = self.offset + self.amplitude * np.sin(turn)
        torque = self.kp * (target - self.data.qpos[self.angles])
        torque -= self.kd * self.data.qvel[self.speeds]
        if self.planar:
            torque += self.gain * (self.data.qpos[2] + self.turning * self.data.qvel[2])
        return np.clip(torque, -1, 1).astype(np.float32)


def stored(robot: str) -> list[float]:
    """The numbers of a robot's gait."""
    numbers: list[float] = json.loads(STORE.read_text())[robot]["numbers"]
    return numbers


def played(env: Any, robot: str, numbers: Any, steps: int, seed: int) -> float:
    """What the first steps of an episode pay."""
    obs, _ = env.reset(seed=seed)
    gait, total = Gait(robot, numbers, env.unwrapped.engine), 0.0
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(gait(obs))
        total += float(reward)
        if terminated or truncated:
            break
    return total


def search(
    robot: str, rounds: int, steps: int, size: int = 40, elite: int = 8
) -> tuple[list[float], float]:
    """The best gait of a cross-entropy search, and what it is paid on seeds that are new to it."""
    rng = np.random.default_rng(0)
    env: Any = gymnasium.make(f"rewardzoo/{robot}-v0")
    joints = 1 + max(LEGS[robot][0])
    mean = np.concatenate([[2.0, 1.0, 0.1, 0.1], np.repeat([0.0, 0.4, 0.0, 0.0], joints)])
    wide = np.concatenate([[0.7, 0.5, 0.05, 0.1], np.repeat([0.4, 0.3, 0.4, 0.5], joints)])
    std = wide
    best, most = mean, -np.inf
    for i in range(rounds):
        tried = rng.normal(mean, std, (size, len(mean)))
        tried[0] = mean
        paid = np.array(
            [np.mean([played(env, robot, x, steps, s) for s in range(2)]) for x in tried]
        )
        first = tried[np.argsort(-paid)[:elite]]
        mean, std = first.mean(0), first.std(0) + 0.1 * (1 - i / rounds) * wide
        if paid.max() > most:
            best, most = tried[paid.argmax()], float(paid.max())
        print(f"{robot} round {i}: best {paid.max():.1f}, median {np.median(paid):.1f}", flush=True)
    fresh = float(np.mean([played(env, robot, best, steps, seed) for seed in range(100, 110)]))
    return [round(float(x), 4) for x in best], fresh


if __name__ == "__main__":
    name, (rounds, steps) = sys.argv[1], map(int, sys.argv[2:])
    found, score = search(name, rounds, steps)
    kept = json.loads(STORE.read_text()) if STORE.exists() else {}
    kept[name] = {"numbers": found, "rounds": rounds, "steps": steps, "paid": round(score, 1)}
    STORE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
