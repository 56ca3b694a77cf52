"""Runs of ``barfi``: tasks, good and bad advice, all arms and seeds of a task as one batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.agents.barfi import BARFI
from rewardzoo.agents.reinforce import Reinforce
from rewardzoo.random import Rng
from rewardzoo.rewards import Potential, RewardFunction, VectorRewardWrapper, env_reward
from rewardzoo.rewards.alignment import AlignmentReward
from rewardzoo.rewards.base import Spaces
from rewardzoo.rewards.heuristics import (
    ActionCost,
    MazeGoalDistance,
    MazeLure,
    PoleRule,
    PushRight,
    VelocityPush,
)
from rewardzoo.transition import Obs, Transition

Advice = Callable[[], RewardFunction]
EPISODES = 3  # of a run and round
WEIGHTS = (0.01, 0.03, 0.1, 0.3)
GOOD, BAD, NONE = "good", "bad", "no"
# Seeds 100 to 179 reported earlier, with other settings and an entropy that was averaged over the
# padding of episodes too; nobody has seen these.
FRESH = tuple(range(180, 200))


class Nothing(RewardFunction):
    """Pays nothing."""

    def __call__(self, t: Transition) -> Tensor:
        """Zeros."""
        return torch.zeros_like(t.reward)


class Blocks(RewardFunction):
    """Pays each block of equally many rows by a reward function of its own.

    Args:
        *blocks: one a block.
    """

    def __init__(self, *blocks: RewardFunction) -> None:
        self.blocks = blocks

    @property
    def markov(self) -> bool:  # type: ignore[override]
        """Whether all are."""
        return all(fn.markov for fn in self.blocks)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Every block's memory is its rows'."""
        self._rows = num_envs // len(self.blocks)
        for fn in self.blocks:
            fn.bind(self._rows, device, spaces)

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Block by block."""
        parts = zip(self.blocks, mask.split(self._rows), obs.split(self._rows), strict=True)
        for fn, rows, first in parts:
            fn.reset(rows, first)

    def __call__(self, t: Transition) -> Tensor:
        """Block by block."""
        names = ("obs", "action", "next_obs", "reward", "terminated", "truncated", "valid")
        columns = [getattr(t, name).split(self._rows) for name in (*names, "episode_step")]
        return torch.cat(
            [fn(Transition(*row)) for fn, *row in zip(self.blocks, *columns, strict=True)]
        )


@dataclass(frozen=True)
class Task:
    """An environment, its advice and how it is learned.

    Args:
        env: id.
        optimum: of the objective's sum over an episode; None where it is not known: then shares are
            of what the same learner reaches, in the mean, on the primary reward alone.
        advice: good and bad.
        potential: over states, of the same spirit.
        episodes: of a run, by budget.
        barfi: hyperparameters, chosen on tuning seeds.
        fixed: the same of REINFORCE on rewards that are not learned.
        options: of the environment.
        alignment: of the reward that is learned.
        seeds: for reporting.
    """

    env: str
    optimum: float | None
    advice: dict[str, Advice]
    potential: dict[str, Callable[[Tensor], Tensor]]
    episodes: dict[str, int]
    barfi: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    alignment: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = tuple(range(100, 120))


TASKS = {
    "maze": Task(
        env="rewardzoo/AlignmentMaze-v0",
        optimum=99.1,
        advice={GOOD: MazeGoalDistance, BAD: MazeLure},
        potential={
            GOOD: lambda obs: -(obs - 0.87).square().sum(1),
            BAD: lambda obs: 50.0 * ((obs >= 0.4) & (obs <= 0.6)).all(1).float(),
        },
        episodes={"smoke": 60, "quick": 2000, "full": 2000},
        # Chosen on twenty tuning seeds, all of which reach .96 and more, misled; with 1,000 old
        # episodes, the paper's number, some end at .74 to .9.
        barfi={"learning_rate": 5e-4, "reward_learning_rate": 5e-2, "buffer": 300},
        fixed={"learning_rate": 5e-3},
        seeds=FRESH,
    ),
    "cart pole": Task(
        env="rewardzoo/AlignmentCartPole-v0",
        optimum=500.0,
        advice={GOOD: lambda: PoleRule(5.0, -1.0), BAD: lambda: PoleRule(-5.0, 1.0)},
        potential={
            GOOD: lambda obs: -10.0 * obs[:, 2].abs(),
            BAD: lambda obs: 10.0 * obs[:, 2].abs(),
        },
        episodes={"smoke": 30, "quick": 1000, "full": 1000},
        # Chosen on twenty tuning seeds, of which 19 balance, misled, at .96. (A reward that
        # learns at twice this rate: 19, at .93; a learner at one and a half times its: 18.)
        barfi={
            "learning_rate": 1e-3,
            "reward_learning_rate": 0.01,
            "order": 1,
            "first": 60,
            "buffer": 60,
            "outer_episodes": 3,
        },
        fixed={"learning_rate": 5e-3, "order": 1},
        seeds=FRESH,
    ),
    "mountain car": Task(
        env="rewardzoo/AlignmentMountainCar-v0",
        optimum=1.0,
        advice={GOOD: VelocityPush, BAD: PushRight},
        potential={
            GOOD: lambda obs: 100.0 * obs[:, 1].abs(),
            BAD: lambda obs: 5.0 * (obs[:, 1] > 0).float(),
        },
        episodes={"smoke": 6, "quick": 240, "full": 500},
        # All twenty tuning seeds arrive, misled; with a reward that learns 2.5 times as fast, 15.
        barfi={
            "learning_rate": 5e-4,
            "reward_learning_rate": 2e-2,
            "first": 60,
            "buffer": 51,
            "outer_episodes": 3,
        },
        # Chosen by the primary reward alone, on twenty tuning seeds: .29 of the optimum; .25 with
        # 6.25e-2, .27 with 5e-1.
        fixed={"learning_rate": 2e-1},
        seeds=FRESH,
    ),
    "half cheetah": Task(
        env="rewardzoo/AlignmentHalfCheetah-v0",
        optimum=None,
        advice={GOOD: lambda: ActionCost(1.0), BAD: lambda: ActionCost(4.0)},
        potential={
            GOOD: lambda obs: obs[:, 8],  # the speed forward
            BAD: lambda obs: -10.0 * obs[:, 8].abs(),
        },
        episodes={"smoke": 6, "quick": 600, "full": 10_000},
        barfi={
            "learning_rate": 1e-3,
            "reward_learning_rate": 2.5e-3,
            "features": "plain",
            "std": 0.3,
            "ent_coef": 0.0,
            "num_steps": 100,
            "first": 60,
            "buffer": 300,
            "outer_episodes": 3,
        },
        fixed={
            "learning_rate": 1e-3,
            "features": "plain",
            "std": 0.3,
            "ent_coef": 0.0,
            "num_steps": 100,
        },
        options={"max_episode_steps": 100, "num_workers": 0},
        alignment={"parametrisation": "scalar", "learn_primary": False, "learn_gamma": False},
    ),
}


@functools.lru_cache(maxsize=4)
def study(name: str, seeds: tuple[int, ...], episodes: int) -> dict[str, dict[str, np.ndarray]]:
    """Everything of a task: arrays (seeds, ...) by arm and by name.

    All seeds and arms of a kind are one batch, in which a run is what it would be alone. So the
    first job of a task plays them all, and the others of the same process find them here.
    """
    task = TASKS[name]
    rounds = episodes // EPISODES
    return {
        **learned(task, seeds, rounds),
        **fixed(task, seeds, rounds),
        **subtracted(task, seeds, rounds),
    }


def learned(task: Task, seeds: Sequence[int], rounds: int) -> dict[str, dict[str, np.ndarray]]:
    """The arms that learn from old episodes: BARFI, and the same learner on a fixed reward."""
    good, bad = task.advice[GOOD], task.advice[BAD]
    arms: dict[str, tuple[Advice, str, bool]] = {
        f"barfi {GOOD}": (good, "naive", True),
        f"barfi {BAD}": (bad, "naive", True),
        f"barfi {NONE}": (Nothing, "primary", True),
        "old primary": (Nothing, "primary", False),
        f"old naive {GOOD}": (good, "naive", False),
        f"old naive {BAD}": (bad, "naive", False),
    }
    reward = AlignmentReward(
        Blocks(*(make() for make, _, _ in arms.values())),
        init=[init for _, init, _ in arms.values() for _ in seeds],
        order=task.barfi.get("order", 3),
        **task.alignment,
        runs=len(arms) * len(seeds),
    )
    agent = BARFI(
        _envs(task, len(arms) * len(seeds), reward),
        seeds=list(seeds) * len(arms),
        learns=[learns for *_, learns in arms.values() for _ in seeds],
        **task.barfi,
    )
    objective, gamma = _train(agent, rounds, lambda: reward.discount(reward.weights.c.detach()))
    found = {
        "objective": objective,
        "gamma_phi": gamma,
        "phi_3": _mean_phi_3(agent, reward),
        **_maps(reward, agent),
    }
    return _by_arm(found, list(arms), len(seeds))


def fixed(task: Task, seeds: Sequence[int], rounds: int) -> dict[str, dict[str, np.ndarray]]:
    """The arms on a fixed reward, by REINFORCE from new episodes."""
    arms: dict[str, RewardFunction] = {"primary": env_reward}
    for kind, advice in task.advice.items():
        arms[f"naive {kind}"] = env_reward + advice()
        for weight in WEIGHTS:
            arms[f"{weight} {kind}"] = env_reward + weight * advice()
        arms[f"shaping {kind}"] = env_reward + Potential(task.potential[kind], gamma=0.99)
    envs = _envs(task, len(arms) * len(seeds), Blocks(*arms.values()))
    agent = Reinforce(envs, seeds=list(seeds) * len(arms), **task.fixed)
    objective, _ = _train(agent, rounds, lambda: torch.zeros(1))
    return _by_arm({"objective": objective}, list(arms), len(seeds))


def subtracted(task: Task, seeds: Sequence[int], rounds: int) -> dict[str, dict[str, np.ndarray]]:
    """The authors' shaping: REINFORCE on the primary reward's return minus the advice of the step.

    Their advice sees actions, so it is no baseline: it biases the gradient.
    """
    arms = {f"authors' shaping {kind}": advice for kind, advice in task.advice.items()}
    runs = len(arms) * len(seeds)
    blocks = Blocks(*(advice() for advice in arms.values()))
    reward = AlignmentReward(blocks, parametrisation="scalar", runs=runs)  # which is not learned
    agent = BARFI(
        _envs(task, runs, reward),
        seeds=list(seeds) * len(arms),
        learns=[False] * runs,
        auxiliary="baseline",
        **{**task.fixed, "off_policy": False},
    )
    objective, _ = _train(agent, rounds, lambda: torch.zeros(1))
    return _by_arm({"objective": objective}, list(arms), len(seeds))


def _envs(task: Task, runs: int, reward: RewardFunction) -> VectorRewardWrapper:
    envs = gymnasium.make_vec(task.env, num_envs=runs * EPISODES, **task.options)
    return VectorRewardWrapper(envs, reward)


def _train(agent: Reinforce, rounds: int, also: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """The objective of every run and round, (R, rounds), and another number of theirs."""
    objective: list[Tensor] = []
    other: list[Tensor] = []

    def after(agent: Reinforce, metrics: dict[str, float]) -> bool:
        objective.append(agent.played["objective"].mean(1))
        other.append(also().clone())
        return len(objective) < rounds

    agent.learn(10**12, callback=after)
    return torch.stack(objective, 1), torch.stack(other, 1)


@torch.no_grad()
def _mean_phi_3(agent: BARFI, reward: AlignmentReward) -> Tensor:
    """(R,): over states of old episodes."""
    zero = torch.zeros(reward.runs, dtype=torch.int64)
    old = agent.buffer.draw(Rng(zero, zero, 0), 9)
    x = reward.features(old.obs).flatten(1, 2)
    live = old.live.flatten(1)
    phi_3 = reward.coefficients(reward.weights.phi, x)[..., 2]
    return (phi_3 * live).sum(1) / live.sum(1)


@torch.no_grad()
def _maps(reward: AlignmentReward, agent: BARFI) -> dict[str, Tensor]:
    """phi_1 and phi_3 over a grid of two-dimensional observations, (R, 21, 21) each."""
    space = agent.envs.single_observation_space
    if space.shape != (2,):
        return {}
    axes = [
        torch.linspace(float(a), float(b), 21) for a, b in zip(space.low, space.high, strict=True)
    ]
    grid = reward.features(torch.cartesian_prod(*axes)).expand(reward.runs, -1, -1)
    phi = reward.coefficients(reward.weights.phi, grid).reshape(reward.runs, 21, 21, 3)
    return {"map_1": phi[..., 0], "map_3": phi[..., 2]}


def _by_arm(
    found: dict[str, Tensor], arms: list[str], seeds: int
) -> dict[str, dict[str, np.ndarray]]:
    split = {k: v.reshape(len(arms), seeds, *v.shape[1:]).numpy() for k, v in found.items()}
    return {arm: {k: v[i] for k, v in split.items()} for i, arm in enumerate(arms)}


def last_tenth(curves: np.ndarray) -> np.ndarray:
    """(seeds,) means over the last tenth of (seeds, rounds)."""
    return np.asarray(curves[:, -max(1, curves.shape[1] // 10) :].mean(1))
