"""What the submodular experiments share: methods, tasks, ratios with intervals, maps of paths."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.agents.submodular_solvers import greedy_path, greedy_value, random_value
from rewardzoo.agents.subpo import SubPO
from rewardzoo.checkpoint import resume, save_keeping_previous
from rewardzoo.experiment import Claim, Measure
from rewardzoo.random import Rng
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.parse import make_reward
from rewardzoo.rewards.submodular_items import Items
from rewardzoo.rewards.wrappers import VectorRewardWrapper

MARKOV, HISTORY, MODULAR, GREEDY, GREEDY_BEST, RANDOM = (
    "SubPO-M",
    "SubPO-NM",
    "MODPO",
    "greedy",
    "greedy, best of 64",
    "random",
)
SEEDS = tuple(range(100, 110))
TUNING_SEEDS = tuple(range(5))
_PLAY_STREAM = 4
# Pale, so that a path can be seen on them.
_KINDS = np.array(
    [
        [0.70, 0.85, 0.95],
        [0.98, 0.85, 0.65],
        [0.72, 0.90, 0.80],
        [0.95, 0.80, 0.88],
        [0.97, 0.95, 0.70],
        [0.82, 0.80, 0.93],
    ]
)


@dataclass(frozen=True)
class Task:
    """An environment and how a policy is trained on it.

    Args:
        name: its key among final numbers.
        env: id.
        env_kwargs: its parameters.
        agent_kwargs: hyperparameters, the same for every method.
        instances: how many random instances there are; seed ``s`` meets instance ``s % instances``.
        share: of the budget's steps.
    """

    name: str
    env: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    agent_kwargs: Mapping[str, Any] = field(default_factory=dict)
    instances: int = 1
    share: float = 1.0

    def kwargs(self, seed: int) -> dict[str, Any]:
        """The parameters that a seed meets."""
        random = {"instance": seed % self.instances} if self.instances > 1 else {}
        return {**self.env_kwargs, **random}

    def walk(self, seed: int) -> Any:
        """The dynamics that a seed meets."""
        return gymnasium.make_vec(self.env, num_envs=1, **self.kwargs(seed)).unwrapped.func


def methods(tasks: Sequence[Task]) -> list[Measure]:
    """SubPO with and without history, MODPO, greedy and random, on all tasks."""
    learned = {
        MARKOV: {"reward": "objective", "obs": "markov"},
        HISTORY: {"reward": "objective", "obs": "history"},
        MODULAR: {"reward": "modular_surrogate", "obs": "markov"},
    }
    given = tuple(tasks)
    return [
        *(Measure(k, functools.partial(train_all, tasks=given, **v)) for k, v in learned.items()),
        Measure(GREEDY, functools.partial(play_greedy, tasks=given)),
        Measure(GREEDY_BEST, functools.partial(best_greedy, tasks=given)),
        Measure(RANDOM, functools.partial(play_random, tasks=given)),
    ]


def train_all(trial: Any, tasks: Sequence[Task], reward: str, obs: str) -> dict[str, float]:
    """SubPO, trained on one task after the other."""
    total = sum(task.share for task in tasks)
    final: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for task in tasks:
        steps = int(trial.budget.total_timesteps * task.share / total)
        values, paths = train(trial, task, reward, obs, start, steps)
        start += steps
        final[task.name] = float(values.mean())
        # The episode in the middle, for a picture: neither the best nor the worst.
        middle = int(values.argsort()[len(values) // 2])
        arrays[task.name] = paths[middle].numpy()
    trial.save_arrays(**arrays)
    return final


def train(
    trial: Any, task: Task, reward: str, obs: str, start: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Train on one task: F of fresh episodes of the stochastic policy (E,), and their paths."""

    def make(num_envs: int) -> Any:
        kwargs = {**task.kwargs(trial.seed), "obs": obs, "device": trial.device}
        return gymnasium.make_vec(task.env, num_envs=num_envs, **kwargs)

    envs = make(trial.budget.num_envs)
    first = float(envs.reset(seed=trial.seed)[1]["F"].mean())
    wrapped = VectorRewardWrapper(envs, make_reward(reward))
    checkpoint = trial.folder / f"{task.name}.pt"
    agent = resume(
        checkpoint,
        lambda path: SubPO.load(path, env=wrapped),
        lambda: SubPO(wrapped, seed=trial.seed, **task.agent_kwargs),
    )
    saved = time.monotonic()

    def after(agent: SubPO, metrics: dict[str, float]) -> None:
        nonlocal saved
        if time.monotonic() - saved > 5.0:
            save_keeping_previous(agent.save, checkpoint)
            saved = time.monotonic()
        # ``log`` may raise, if the user asked to stop: what was saved last is gone on from.
        done = agent.num_timesteps
        trial.log(start + done, **{task.name: metrics["rollout/ep_objective"] + first})

    agent.learn(max(0, steps - agent.num_timesteps), after, reset_num_timesteps=False)
    save_keeping_previous(agent.save, checkpoint)
    return play(agent, make(trial.budget.eval_episodes))


@torch.no_grad()
def play(agent: SubPO, envs: Any, seed: int = 1_000_000) -> tuple[Tensor, Tensor]:
    """One episode in every environment: F (N,) and the cells visited (N, horizon)."""
    obs, _ = envs.reset(seed=seed)
    rows = torch.arange(envs.num_envs, device=agent.device)
    memory = torch.zeros(envs.num_envs, agent.network.memory_size, device=agent.device)
    steps = envs.func.episode_steps
    noise = agent.distribution.noise(Rng(rows + seed, 0 * rows, 0, _PLAY_STREAM), steps)
    path, info = [envs.state.cell], {}
    for t in range(steps):
        began = torch.full(rows.shape, t == 0, device=agent.device)
        action, memory = agent.act(obs, memory, began, noise[t])
        obs, _, _, _, info = envs.step(action)
        path.append(envs.func.element_of(info["final_obs"]))
    return info["final_info"]["F"].cpu(), torch.stack(path, 1).cpu()


def play_greedy(trial: Any, tasks: Sequence[Task]) -> dict[str, float]:
    """The best immediate gain at every step, at random among equals: mean of 256 episodes."""
    return _baseline(trial, tasks, lambda walk: greedy_value(walk, 256, trial.seed))


def best_greedy(trial: Any, tasks: Sequence[Task]) -> dict[str, float]:
    """The best of 64 greedy paths, which differ in how they break ties."""
    arrays = {}

    def value(task: Task) -> float:
        path, found = greedy_path(task.walk(trial.seed), 64, trial.seed)
        arrays[task.name] = np.array(path)
        return found

    # Where actions slip, the best of 64 would be luck.
    final = {task.name: value(task) for task in tasks if not task.env_kwargs.get("slip")}
    trial.save_arrays(**arrays)
    trial.log(trial.budget.total_timesteps, **final)
    return final


def play_random(trial: Any, tasks: Sequence[Task]) -> dict[str, float]:
    """The uniform policy: mean of 1,024 episodes."""
    return _baseline(trial, tasks, lambda walk: random_value(walk, 1024, trial.seed))


def _baseline(trial: Any, tasks: Sequence[Task], value: Callable[[Any], float]) -> dict[str, float]:
    final = {task.name: value(task.walk(trial.seed)) for task in tasks}
    trial.log(trial.budget.total_timesteps, **final)
    return final


# ---- claims --------------------------------------------------------------------------------------


def ratio_of_means(x: Any, y: Any, reps: int = 4000) -> tuple[float, float, float]:
    """``mean(x) / mean(y)`` of runs paired by seed, with a 95 % bootstrap interval over seeds."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    rows = np.random.default_rng(0).integers(len(x), size=(reps, len(x)))
    ratios = x[rows].mean(1) / y[rows].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(x.mean() / y.mean()), float(low), float(high)


def at_least(
    sentence: str, label: str, task: str, bar: float, than: str | float | Mapping[str, float]
) -> Callable[[Results], Verdict]:
    """A check that an arm's F is at least ``bar`` times another's, or times a known number."""

    def check(results: Results) -> Verdict:
        x = results[label].final[task]
        other = results[than].final[task] if isinstance(than, str) else np.full_like(x, than)
        point, low, high = ratio_of_means(x, other)
        outcome = "holds" if low >= bar else "fails" if high < bar else "inconclusive"
        name = than if isinstance(than, str) else f"the known {than:g}"
        return Verdict(
            claim=sentence,
            outcome=outcome,
            effect=point,
            low=low,
            high=high,
            n=len(x),
            detail=f"mean F of {label} over that of {name} on {task}; the interval must lie at or "
            f"above {bar:g}",
        )

    return check


def usual_claims(tasks: Sequence[Task]) -> list[Claim]:
    """That the history costs little, and that greedy is matched: the same of every experiment."""
    start = "On every task " if len(tasks) > 1 else ""
    return [
        Claim(
            "History costs little",
            everywhere(
                f"{start}SubPO-NM, which sees the history, ends at .85 of SubPO-M or more.",
                HISTORY,
                MARKOV,
                tasks,
                0.85,
            ),
        ),
        Claim(
            "SubPO-M keeps up with greedy",
            everywhere(f"{start}SubPO-M ends at .9 of greedy or more.", MARKOV, GREEDY, tasks, 0.9),
        ),
    ]


def everywhere(
    sentence: str, label: str, than: str, tasks: Sequence[Task], bar: float
) -> Callable[[Results], Verdict]:
    """A check that an arm's F is at least ``bar`` times another's on every task."""

    def check(results: Results) -> Verdict:
        found = {
            task.name: ratio_of_means(
                results[label].final[task.name], results[than].final[task.name]
            )
            for task in tasks
        }
        worst = min(found, key=lambda name: found[name][0])
        point, low, high = found[worst]
        reached = all(r[1] >= bar for r in found.values())
        missed = any(r[2] < bar for r in found.values())
        return Verdict(
            claim=sentence,
            outcome="holds" if reached else "fails" if missed else "inconclusive",
            effect=point,
            low=low,
            high=high,
            n=len(results[label].seeds),
            detail=f"mean F of {label} over that of {than}, on the task where it is least "
            f"({worst}); all intervals must lie at or above {bar:g}",
        )

    return check


# ---- pictures ------------------------------------------------------------------------------------


def draw_curves(tasks: Sequence[Task], labels: Sequence[str]) -> Callable[[Any, Results], None]:
    """F over training steps, a panel a task: mean and range of seeds."""

    def draw(figure: Any, results: Results) -> None:
        axes = np.atleast_1d(figure.subplots(1, len(tasks)))
        for ax, task in zip(axes, tasks, strict=True):
            for i, arm in enumerate(results.arms):
                if arm.label not in labels or task.name not in arm.curves:
                    continue
                y, x = arm.curves[task.name], arm.curves["step"][0]
                shown = np.isfinite(y).all(0)
                y, x = y[:, shown], x[shown] - x[shown][0]
                ax.plot(x / 1e3, y.mean(0), color=colour(i), label=arm.label)
                ax.fill_between(x / 1e3, y.min(0), y.max(0), color=colour(i), alpha=0.16, lw=0)
            for i, arm in enumerate(results.arms):
                if arm.label in (GREEDY, RANDOM):
                    ax.axhline(arm.final[task.name].mean(), color=colour(i), ls=":", lw=1)
                    ax.plot([], [], color=colour(i), ls=":", label=arm.label)
            ax.set_title(task.name)
            ax.set_xlabel("1,000 steps")
        axes[0].set_ylabel("F of the visited set")
        axes[0].legend(fontsize=7)

    return draw


def draw_paths(tasks: Sequence[Task], labels: Sequence[str]) -> Callable[[Any, Results], None]:
    """Maps: a row a method, a column a task; the path of a middling episode of the first seed."""

    def draw(figure: Any, results: Results) -> None:
        axes = figure.subplots(len(labels), len(tasks), squeeze=False)
        for i, (row, label) in enumerate(zip(axes, labels, strict=True)):
            saved, seed = results.arrays(label)[0], results[label].seeds[0]
            for ax, task in zip(row, tasks, strict=True):
                if task.name not in saved:
                    ax.set_axis_off()
                    continue
                value = draw_map(ax, task.walk(seed), saved[task.name])
                name = f"{task.name}\n" if i == 0 else ""
                ax.set_title(f"{name}{label}: F = {value:.4g}", fontsize=8)

    return draw


def draw_map(ax: Any, walk: Any, path: Sequence[int]) -> float:
    """A grid with what a path took of it, and the path; returns its F."""
    from rewardzoo.envs.submodular.render import worth

    function = walk.set_function
    memory, gains = function.empty(1), []
    for cell in path:
        memory, gain = function.add(memory, torch.tensor([int(cell)]))
        gains.append(float(gain))
    y, x = np.divmod(np.asarray(path), walk.shape[1])
    if isinstance(function, Items):
        picture = _KINDS[function.kinds.numpy() % len(_KINDS)].reshape(*walk.shape, 3)
        picture[function.kinds.reshape(walk.shape).numpy() == function.num_kinds] = 1.0
        counted = np.array(gains) > 0
        ax.plot(x[counted], y[counted], "ko", ms=3)
    else:
        alone, taken = (v.reshape(walk.shape) for v in worth(walk, _Seen(memory), 0))
        picture = np.ones((*walk.shape, 3)) * (1.0 - 0.35 * alone[..., None])
        blue = np.array([0.25, 0.59, 0.77])
        picture += (blue - picture) * (0.75 * taken * (alone > 0))[..., None]
    if getattr(walk, "walls", None) is not None:
        picture[walk.walls] = 0.2
    ax.imshow(picture, interpolation="nearest")
    # A little apart, so that a place passed twice can be told.
    shift = np.linspace(-0.12, 0.12, len(path))
    ax.plot(x + shift, y + shift, color="#d55e00", lw=1.2)
    ax.plot(x[0] + shift[0], y[0] + shift[0], "o", color="#d55e00", ms=4)
    ax.plot(x[-1] + shift[-1], y[-1] + shift[-1], "s", color="#d55e00", ms=4)
    ax.set_xticks([])
    ax.set_yticks([])
    return sum(gains)


@dataclass(frozen=True)
class _Seen:
    """A state of one row, as ``worth`` wants it."""

    memory: Any
