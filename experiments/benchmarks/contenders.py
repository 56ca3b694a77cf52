"""PPO implementations behind one face, each in a process of its own.

Thread pools and allocators of different libraries disturb each other, so each contender lives in
a spawned process; the benchmark asks them in turn, and no two work at the same time.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

NUM_STEPS = 128
Train = Callable[[int], list[tuple[float, float]]]  # iterations to (episodes, sum of returns) each


def rewardzoo(num_envs: int, seed: int, compile: bool = False) -> Train:
    """This project's PPO on its CartPole."""
    import gymnasium

    from rewardzoo.agents.ppo import PPO

    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=num_envs)
    agent = PPO(envs, seed=seed, compile=compile)

    def train(iterations: int) -> list[tuple[float, float]]:
        out: list[tuple[float, float]] = []

        def keep(_: Any, metrics: dict[str, float]) -> None:
            count = metrics["rollout/episodes"]
            out.append((count, count * metrics["rollout/ep_return"] if count else 0.0))

        agent.learn(iterations * NUM_STEPS * num_envs, callback=keep, reset_num_timesteps=False)
        return out

    return train


def rewardzoo_compiled(num_envs: int, seed: int) -> Train:
    """The same as compiled programs."""
    return rewardzoo(num_envs, seed, compile=True)


def stable_baselines3(num_envs: int, seed: int) -> Train:
    """Stable-Baselines3's PPO on Gymnasium's CartPole, its own vector environment and monitor."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    agent = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=num_envs, seed=seed),
        n_steps=NUM_STEPS,
        batch_size=NUM_STEPS * num_envs // 4,
        n_epochs=4,
        learning_rate=2.5e-4,
        ent_coef=0.0,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
        seed=seed,
    )

    class Episodes(BaseCallback):
        """Adds up what ended in each rollout."""

        def __init__(self) -> None:
            super().__init__()
            self.out: list[tuple[float, float]] = []

        def _on_rollout_start(self) -> None:
            self.count, self.total = 0, 0.0

        def _on_step(self) -> bool:
            for i in self.locals["dones"].nonzero()[0]:
                self.count += 1
                self.total += self.locals["infos"][i]["episode"]["r"]
            return True

        def _on_rollout_end(self) -> None:
            self.out.append((self.count, self.total))

    def train(iterations: int) -> list[tuple[float, float]]:
        episodes = Episodes()
        steps = iterations * NUM_STEPS * num_envs
        agent.learn(steps, callback=episodes, reset_num_timesteps=False)
        return episodes.out

    return train


def cleanrl_style(num_envs: int, seed: int) -> Train:
    """A CleanRL-style single file on Gymnasium's SyncVectorEnv."""
    from .peers.cleanrl_style import CleanRLStyle

    agent = CleanRLStyle(num_envs, seed)

    def train(iterations: int) -> list[tuple[float, float]]:
        return [(len(x), sum(x)) for x in agent.train(iterations)]

    return train


def jax_ppo(num_envs: int, seed: int) -> Train:
    """A whole-program-jitted JAX PPO on gymnax; compiled before it is timed."""
    import jax

    from .peers import jax_ppo

    carry = jax_ppo.start(num_envs, jax.random.key(seed))
    programs: dict[int, Any] = _programs.setdefault(num_envs, {})

    def train(iterations: int) -> list[tuple[float, float]]:
        nonlocal carry
        carry, sums = programs[iterations](carry)
        counts, totals = jax.block_until_ready(sums)
        return list(zip(counts.tolist(), totals.tolist(), strict=True))

    def compiled(iterations: int) -> None:
        if iterations not in programs:
            programs[iterations] = jax_ppo.train.lower(carry, iterations).compile()

    train.compile = compiled  # type: ignore[attr-defined]
    return train


_programs: dict[int, dict[int, Any]] = {}


class Contender:
    """A process that trains one implementation when asked.

    Args:
        make: one of the functions above.
        num_envs: N.
        threads: of torch; JAX takes what it wants.
    """

    def __init__(self, make: Callable[..., Train], num_envs: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, num_envs, threads), daemon=True
        )
        self._process.start()
        theirs.close()

    def train(self, seed: int, iterations: int) -> tuple[float, float]:
        """Train afresh: seconds of ``iterations`` after the first, mean return of the last quarter.

        Raises:
            RuntimeError: if the implementation failed.
        """
        self._pipe.send((seed, iterations))
        found = self._pipe.recv()
        if isinstance(found, str):
            raise RuntimeError(found)
        seconds, ep_return = found
        return seconds, ep_return

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()


def _serve(pipe: Connection, make: Callable[..., Train], num_envs: int, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    while True:
        try:
            seed, iterations = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_train(make(num_envs, seed), iterations))
        except Exception as error:  # whatever a peer raises, the benchmark goes on without it
            pipe.send(f"{make.__name__}: {type(error).__name__}: {error}")


def _train(train: Train, iterations: int) -> tuple[float, float]:
    if hasattr(train, "compile"):
        train.compile(1)
        train.compile(iterations)
    train(1)  # compiles and warms up
    begin = time.perf_counter()
    episodes = train(iterations)
    seconds = time.perf_counter() - begin
    last = episodes[-max(1, iterations // 4) :]
    count, total = (sum(column) for column in zip(*last, strict=True))
    return seconds, total / count if count else math.nan
