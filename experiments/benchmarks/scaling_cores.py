"""What work costs, as it may use more cores: NetHack's workers, a grid of jobs, threads in PPO.

One core, two, four and so on, up to what the process may use. Ideal is a cost that halves each
time; what is shared, started or waited for stands in its way.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import torch
from rich.console import Console

from rewardzoo.agents.ppo import PPO
from rewardzoo.experiment import Budget
from rewardzoo.jobs import jobs_of
from rewardzoo.launch import run_jobs
from rewardzoo.registration import EXPERIMENTS

from . import env_step, nethack_step
from .timing import (
    REPEATS,
    Point,
    Row,
    cheaper,
    cores,
    interleave,
    inverse,
    missing,
    one_thread,
    seconds_per_call,
)

NUM_ENVS = 256  # of PPO
SEEDS = 2  # of each of quickstart's four arms
JOB = Budget(total_timesteps=262_144, num_envs=512, eval_episodes=512, seeds=SEEDS)


def run(say: Callable[[str], None]) -> list[Row]:
    """No bar: three curves."""
    counts = [2**i for i in range(cores().bit_length())]
    return [*_workers(counts, say), *_threads(counts, say), *_jobs(counts, say)]


def _workers(counts: list[int], say: Callable[[str], None]) -> list[Row]:
    """Games of NetHack, stepped by so many worker processes."""
    try:
        import nle  # noqa: F401
    except ModuleNotFoundError:
        return [missing("A step of one game of NetHack", 'needs pip install "rewardzoo[nethack]"')]
    games = nethack_step.GAMES
    counts = [count for count in counts if count <= games]
    say(f"{games} games of NetHack on {counts} worker processes")
    made = [gymnasium.make_vec(nethack_step.ID, games, num_workers=count) for count in counts]
    try:
        with one_thread():
            rates = [nethack_step.batch(envs, tensors=True) for envs in made]
            return _curve(
                "A step of one game of NetHack",
                "worker processes",
                {c: inverse(rate) for c, rate in zip(counts, rates, strict=True)},
                f"{games} games",
            )
    finally:
        for envs in made:
            envs.close()


def _threads(counts: list[int], say: Callable[[str], None]) -> list[Row]:
    """An update of PPO on so many of torch's threads."""
    say(f"PPO's update on {counts} threads")
    agent = PPO(gymnasium.make_vec(env_step.ID, num_envs=NUM_ENVS))
    with one_thread():
        batch = agent.prepare(agent.collect()[0])
        update = seconds_per_call(lambda: agent.update(batch), budget=0.1)

    def on(count: int) -> Callable[[], float]:
        def read() -> float:
            with one_thread():  # puts back what was
                torch.set_num_threads(count)
                return update() / len(batch.logp)

        return read

    return _curve(
        "Learning from a transition in PPO",
        "threads",
        {count: on(count) for count in counts},
        f"CartPole, {len(batch.logp):,} transitions in a rollout",
    )


def _jobs(counts: list[int], say: Callable[[str], None]) -> list[Row]:
    """Small jobs of ``quickstart``, run anew by so many workers, which must be started first."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = (Path(folder) / str(i) for i in range(REPEATS * len(counts)))

        def by(workers: int) -> Callable[[], float]:
            def read() -> float:
                jobs = jobs_of(EXPERIMENTS["quickstart"], "smoke", next(fresh), SEEDS)
                jobs = [replace(job, budget=JOB) for job in jobs]
                start = time.perf_counter()
                run_jobs(jobs, workers, Console(file=io.StringIO()))
                return (time.perf_counter() - start) / len(jobs)

            return read

        count = SEEDS * len(EXPERIMENTS["quickstart"].grid)
        say(f"{count} jobs on {counts} workers")
        return _curve(
            "A job of a grid",
            "workers",
            {workers: by(workers) for workers in counts if workers <= count},
            f"{count} jobs of {JOB.total_timesteps:,} steps, starting the workers included",
            repeats=3,
        )


def _curve(
    title: str,
    along: str,
    contenders: dict[int, Callable[[], float]],
    note: str,
    repeats: int = REPEATS,
) -> list[Row]:
    """A row a count; its result is how much cheaper than on one."""
    readings = interleave({str(count): read for count, read in contenders.items()}, repeats)
    return [
        cheaper(
            Point(title, along, count),
            {"rewardzoo": readings[str(count)]},
            readings["1"],
            f"against one; {note}",
        )
        for count in contenders
    ]
