"""What asking a judge in the background costs training: PPO on NetHackScore with ONI's rewards."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from rewardzoo.agents.ppo import PPO
from rewardzoo.llm import AnnotationQueue, Judge, RuleJudge
from rewardzoo.rewards.base import env_reward
from rewardzoo.rewards.oni import OniRetrieval
from rewardzoo.rewards.wrappers import VectorRewardWrapper

from .timing import Row, interleave, missing, one_thread, ratio

ENVS, STEPS, RATE, BAR = 8, 128, 20.0, 0.9
ON, OFF = "annotated at 20 strings/s", "the same reward, nobody asked"


class Stub(Judge):
    """Says what the rules say, 20 messages a second."""

    name, version, instant = "stub", "1", False

    def __init__(self) -> None:
        self.rules, self.asked = RuleJudge(), 0

    def judge(self, messages: Sequence[str]) -> Iterator[tuple[str, float | None]]:
        """One after the other."""
        for message in messages:
            time.sleep(1.0 / RATE)
            self.asked += 1
            yield message, self.rules.score(message)


class Unasked(OniRetrieval):
    """Counts and looks up as ``OniRetrieval``, and collects nothing."""

    def observe(self, transition: Any) -> None:
        """Nothing."""

    def update(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class Numbers(gymnasium.vector.VectorWrapper):
    """The policy sees the hero's numbers only; the message is for the reward."""

    def __init__(self, envs: VectorRewardWrapper) -> None:
        super().__init__(envs)
        self.device = envs.device
        self.single_observation_space = gymnasium.spaces.Box(-1e9, 1e9, (27,), np.float32)
        shape = (envs.num_envs, 27)
        self.observation_space = gymnasium.spaces.Box(-1e9, 1e9, shape, np.float32)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As inside."""
        obs, info = self.env.reset(**kwargs)
        return _numbers(obs), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As inside."""
        obs, *rest, info = self.env.step(actions)
        if "final_obs" in info:
            info = {**info, "final_obs": _numbers(info["final_obs"])}
        return (_numbers(obs), *rest, info)


def run(say: Callable[[str], None]) -> list[Row]:
    """The bar: at least .9 of the steps a second."""
    name = f"PPO steps/s with ONI annotated vs not annotated, {ENVS} NetHackScore"
    try:
        gymnasium.make_vec("rewardzoo/NetHackScore-v0", num_envs=1).close()
    except ModuleNotFoundError as error:
        return [missing(name, str(error))]
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        stub = Stub()
        fn = OniRetrieval(stub, cache=Path(folder, "c.sqlite"))
        on, off = _iteration(fn), _iteration(Unasked("rules"))
        readings = interleave({ON: on, OFF: off}, 9)
        assert isinstance(fn.queue, AnnotationQueue)
        stats = fn.queue.stats()
        fn.queue.close()
    note = (
        f"{len(fn.seen)} distinct messages, {stub.asked} asked about, {stats['labelled']:.0f} "
        f"labelled, {stats['latency']:.1f} s from sight to label"
    )
    say(note)
    return [ratio(name, readings, "steps/s", ON, OFF, bar=BAR, note=note)]


def _iteration(fn: OniRetrieval) -> Callable[[], float]:
    envs = gymnasium.make_vec(
        "rewardzoo/NetHackScore-v0",
        num_envs=ENVS,
        observation_keys=("blstats", "message"),
        num_workers=1,
    )
    agent = PPO(
        Numbers(VectorRewardWrapper(envs, env_reward + 0.4 * fn)), num_steps=STEPS,
        normalize_observations=True,
    )  # fmt: skip
    agent.learn(4 * STEPS * ENVS)  # warm-up; most messages are new at first

    def read() -> float:
        start = time.perf_counter()
        agent.learn(4 * STEPS * ENVS, reset_num_timesteps=False)
        return 4 * STEPS * ENVS / (time.perf_counter() - start)

    return read


def _numbers(obs: Any) -> torch.Tensor:
    numbers: torch.Tensor = torch.as_tensor(obs["blstats"]).to(torch.float32)
    return numbers
