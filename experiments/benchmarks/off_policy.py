"""Gradient steps of TD3 and SAC against Stable-Baselines3's; MuJoCo steps against Gymnasium's.

Equal everywhere: Hopper's spaces, two hidden layers of 256, replays of random transitions, one
thread. A gradient step is the critics' and, of TD3, every other time the actor's. In processor
time, which is the clock's where nothing else runs: a busy machine must not decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import torch

import rewardzoo  # noqa: F401  (registers the environments)

from .timing import Row, interleave, missing, one_thread, ratio

STEPS, HIDDEN, TASK = 32, (256, 256), "Hopper"
BATCHES = (64, 256)
BAR = 1.2e-3  # seconds a gradient step of TD3 at a batch of 64


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: 1.2 ms a gradient step at a batch of 64; no slower than Gymnasium's vectoriser."""
    try:
        import mujoco  # noqa: F401
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        return [missing("gradient steps of TD3 and SAC", f"needs {error.name}")]
    with one_thread():
        rows = []
        for kind in ("TD3", "SAC"):
            for batch in BATCHES:
                say(f"{kind}, batch {batch}")
                rows += _updates(kind, batch)
        return [*rows, *_steps()]


def _updates(kind: str, batch: int) -> list[Row]:
    readings = interleave(
        {
            "plain": _ours(kind, batch, compile=False),
            "compiled": _ours(kind, batch, compile=True),
            "stable_baselines3": _theirs(kind, batch),
        }
    )
    name = f"{kind} gradient step, batch {batch}"
    rows = [
        ratio(f"{name}, {ours}, speed-up", readings, "s", "stable_baselines3", ours, bar=1.0)
        for ours in ("plain", "compiled")
    ]
    if kind == "TD3" and batch == BATCHES[0]:
        read = {"compiled": readings["compiled"]}
        rows.append(Row(name, read, "s", read["compiled"], bar=BAR, at_most=True, times=False))
    return rows


def _ours(kind: str, batch: int, compile: bool) -> Callable[[], float]:
    from rewardzoo.registration import AGENTS

    agent = AGENTS[kind.lower()](
        gymnasium.make_vec(f"rewardzoo/{TASK}-v0", num_envs=1), compile=compile, num_steps=STEPS,
        batch_size=batch, learning_starts=1 << 40, learning_rate=3e-4, buffer_size=10_000,
        actor_hidden=HIDDEN, critic_hidden=HIDDEN,
    )  # fmt: skip
    agent.learn(1024)  # random play
    return _rate(lambda: agent.update(*agent.batches()))


def _theirs(kind: str, batch: int) -> Callable[[], float]:
    import stable_baselines3
    from stable_baselines3.common.logger import configure

    model = getattr(stable_baselines3, kind)(
        "MlpPolicy", gymnasium.make(f"{TASK}-v5"), batch_size=batch, learning_starts=1 << 40,
        learning_rate=3e-4, buffer_size=10_000, policy_kwargs={"net_arch": list(HIDDEN)},
    )  # fmt: skip
    model.set_logger(configure(format_strings=[]))
    model.learn(1024)
    return _rate(lambda: model.train(STEPS, batch))


def _rate(call: Callable[[], Any]) -> Callable[[], float]:
    """Processor seconds a gradient step."""
    for _ in range(2):
        call()

    def read() -> float:
        start = time.process_time()
        for _ in range(4):
            call()
        return (time.process_time() - start) / (4 * STEPS)

    return read


def _steps() -> list[Row]:
    rows = []
    same = gymnasium.vector.AutoresetMode.SAME_STEP
    for num_envs in (1, 4):
        sync = gymnasium.make_vec(
            f"{TASK}-v5", num_envs=num_envs, vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": same},
        )  # fmt: skip
        ours = gymnasium.make_vec(f"rewardzoo/{TASK}-v0", num_envs=num_envs)
        readings = interleave({"rewardzoo": _played(ours, True), "gymnasium": _played(sync, False)})
        name = f"{TASK}, {num_envs} in one process, steps/s vs SyncVectorEnv"
        rows.append(ratio(name, readings, "steps/s", "rewardzoo", "gymnasium", bar=1.0))
    return rows


def _played(envs: Any, tensors: bool) -> Callable[[], float]:
    """Environment steps a second of processor time, of small random actions."""
    envs.reset(seed=0)
    action = envs.action_space.sample() * 0.1
    action = torch.from_numpy(action) if tensors else action

    def read() -> float:
        start = time.process_time()
        for _ in range(500):
            envs.step(action)
        return 500 * envs.num_envs / (time.process_time() - start)

    return read
