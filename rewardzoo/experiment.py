"""Experiments: environments × reward functions × agents × seeds, and claims about the outcome.

One arm with one seed is a job. A job writes a folder of its own::

    config.json     what was asked for; a folder is never continued with another configuration
    metrics.jsonl   one line an iteration
    checkpoint.pt   from which a cut-off job goes on, to the same result
    result.json     written last: its presence means that the job is finished
"""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from .metrics.statistics import holm
from .registration import AGENTS, EXPERIMENTS, check_env_id
from .results import ArmResult, Results, Verdict, write_atomic
from .rewards.base import RewardFunction
from .rewards.parse import make_reward
from .rewards.wrappers import VectorRewardWrapper

RewardSpec = str | Callable[[Any], RewardFunction]
_EVALUATION_SEED = 1_000_000  # far from every training seed; the same for all arms


class ExperimentError(ValueError):
    """An experiment cannot be run as asked."""


class Interrupted(Exception):
    """A job was asked to stop; its checkpoint is written."""


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    Args:
        label: its name in tables.
        env: environment id.
        reward: an expression for ``make_reward``, or a function from the vector environment to a
            reward function.
        agent: a registered agent.
        env_kwargs: passed to ``gymnasium.make_vec``.
        agent_kwargs: hyperparameters.
    """

    label: str
    env: str
    reward: RewardSpec
    agent: str = "ppo"
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    agent_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The label as a folder name."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")

    @property
    def reward_text(self) -> str:
        """The reward function in words."""
        if isinstance(self.reward, str):
            return self.reward
        return (self.reward.__doc__ or self.reward.__name__).strip().splitlines()[0]


@dataclass(frozen=True)
class Budget:
    """How much to spend on a job.

    Args:
        total_timesteps: environment steps of training.
        num_envs: environments in the batch.
        eval_episodes: fresh episodes of the final evaluation.
        seeds: how many of the experiment's seeds are run unless said otherwise.
    """

    total_timesteps: int
    num_envs: int
    eval_episodes: int
    seeds: int


@dataclass(frozen=True)
class Claim:
    """What the paper says, and how the results decide it.

    Args:
        sentence: the claim.
        check: results to verdict; it can come out false.
    """

    sentence: str
    check: Callable[[Results], Verdict]


@dataclass(frozen=True)
class Experiment:
    """A comparison that decides claims; creating one registers it.

    Args:
        name: its id on the command line.
        title: one line for the top of the report.
        paper: whose claim it is.
        grid: the arms; each differs from the first in one thing.
        budgets: ``smoke`` (seconds), ``quick``, ``full``.
        claims: decided over the results.
        seeds: for reporting.
        tuning_seeds: on which hyperparameters were chosen; disjoint from ``seeds``.
        references: known returns of the objective.
    """

    name: str
    title: str
    paper: str
    grid: Sequence[Arm]
    budgets: Mapping[str, Budget]
    claims: Sequence[Claim]
    seeds: Sequence[int]
    tuning_seeds: Sequence[int] = ()
    references: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check and register."""
        if both := set(self.seeds) & set(self.tuning_seeds):
            raise ValueError(f"seeds: {sorted(both)} were tuned on; report on others")
        slugs = [arm.slug for arm in self.grid]
        if len(set(slugs)) < len(slugs):
            raise ValueError(f"grid: labels {slugs} are not distinct")
        EXPERIMENTS.register(self.name)(self)


@dataclass(frozen=True)
class Job:
    """One arm with one seed."""

    experiment: str
    arm: int
    seed: int
    budget: Budget
    folder: Path
    device: str = "cpu"
    plugins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        return f"{EXPERIMENTS[self.experiment].grid[self.arm].label}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether its result is written."""
        return (self.folder / "result.json").is_file()


def jobs_of(
    experiment: Experiment,
    budget_name: str,
    out: Path,
    seeds: int | None = None,
    device: str = "cpu",
    plugins: tuple[str, ...] = (),
) -> list[Job]:
    """The jobs of an experiment, seed by seed, so that a cut-off run has whole comparisons.

    Raises:
        ExperimentError: for an unknown budget or too many seeds.
    """
    if budget_name not in experiment.budgets:
        raise ExperimentError(
            f"budget={budget_name!r}: {experiment.name} has {', '.join(experiment.budgets)}"
        )
    budget = experiment.budgets[budget_name]
    count = budget.seeds if seeds is None else seeds
    if not 1 <= count <= len(experiment.seeds):
        raise ExperimentError(f"seeds={count}: expected 1 to {len(experiment.seeds)}")
    root = out / experiment.name / budget_name
    return [
        Job(experiment.name, i, seed, budget, root / arm.slug / f"seed-{seed}", device, plugins)
        for seed in experiment.seeds[:count]
        for i, arm in enumerate(experiment.grid)
    ]


def make_envs(
    env: str, reward: RewardSpec, num_envs: int, device: str = "cpu", **env_kwargs: Any
) -> VectorRewardWrapper:
    """A vector environment that pays ``reward``.

    Raises:
        UnknownNameError: for an unknown environment or reward function, with the nearest known.
    """
    check_env_id(env)
    if env.startswith("rewardzoo/"):
        env_kwargs = {"device": device, **env_kwargs}
    envs = gymnasium.make_vec(env, num_envs=num_envs, **env_kwargs)
    fn = make_reward(reward) if isinstance(reward, str) else reward(envs)
    return VectorRewardWrapper(envs, fn, device)


def run_job(
    job: Job,
    report: Callable[[dict[str, float]], None] = lambda metrics: None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float = 10.0,
) -> None:
    """Train and evaluate; continues where an earlier attempt was cut off.

    Args:
        job: what to run.
        report: called after every iteration with its metrics.
        stop: asked after every iteration; True saves a checkpoint and raises ``Interrupted``.
        checkpoint_seconds: between checkpoints.

    Raises:
        ExperimentError: if the folder holds another configuration.
        Interrupted: when asked to stop.
    """
    if job.finished:
        return
    arm = EXPERIMENTS[job.experiment].grid[job.arm]
    job.folder.mkdir(parents=True, exist_ok=True)
    _claim_folder(job, arm)
    start = time.monotonic()

    def envs(num_envs: int, reward: RewardSpec) -> VectorRewardWrapper:
        return make_envs(arm.env, reward, num_envs, job.device, **arm.env_kwargs)

    kind = AGENTS[arm.agent]
    checkpoint, log = job.folder / "checkpoint.pt", job.folder / "metrics.jsonl"
    training = envs(job.budget.num_envs, arm.reward)
    if checkpoint.is_file():
        agent = kind.load(checkpoint, env=training)
        lines = [x for x in _read_lines(log) if x["time/total_timesteps"] <= agent.num_timesteps]
    else:
        agent = kind(training, seed=job.seed, **arm.agent_kwargs)
        lines = []
    write_atomic(log, "".join(json.dumps(x) + "\n" for x in lines))
    saved = time.monotonic()

    with log.open("a") as file:

        def after_iteration(agent: Any, metrics: dict[str, float]) -> bool:
            nonlocal saved
            file.write(json.dumps({k: _finite(v) for k, v in metrics.items()}) + "\n")
            report(metrics)
            stopping = stop()
            if stopping or time.monotonic() - saved > checkpoint_seconds:
                file.flush()
                agent.save(checkpoint)
                saved = time.monotonic()
            if stopping:
                raise Interrupted
            return True

        left = job.budget.total_timesteps - agent.num_timesteps
        agent.learn(max(left, 0), callback=after_iteration, reset_num_timesteps=False)
    agent.save(checkpoint)
    trained = copy.deepcopy(training.reward_function)
    evaluation = envs(min(512, job.budget.eval_episodes), lambda envs: trained)
    scores = agent.evaluate(evaluation, job.budget.eval_episodes, seed=_EVALUATION_SEED)
    result = {
        "final": {k: float(v.double().mean()) for k, v in scores.items()},
        "episodes": job.budget.eval_episodes,
        "seconds": time.monotonic() - start,
    }
    write_atomic(job.folder / "result.json", json.dumps(result, indent=1))


def collect_results(
    experiment: Experiment, jobs: Sequence[Job], command: str, budget_name: str
) -> Results:
    """Read what finished jobs wrote.

    Raises:
        ExperimentError: if an arm has no finished job.
    """
    arms = []
    seconds = 0.0
    for i, arm in enumerate(experiment.grid):
        done = [job for job in jobs if job.arm == i and job.finished]
        if not done:
            raise ExperimentError(f"arm {arm.label!r}: no finished run in {jobs[0].folder.parent}")
        finals = [json.loads((job.folder / "result.json").read_text()) for job in done]
        seconds += sum(f["seconds"] for f in finals)
        logs = [_read_lines(job.folder / "metrics.jsonl") for job in done]
        points = min(len(lines) for lines in logs)
        names = {
            "step": "time/total_timesteps",
            "return": "rollout/ep_return",
            "objective": "rollout/ep_objective",
        }
        curves = {
            key: np.array([[_number(x.get(name)) for x in lines[:points]] for lines in logs])
            for key, name in names.items()
        }
        keys = finals[0]["final"]
        arms.append(
            ArmResult(
                label=arm.label,
                env=arm.env,
                reward=arm.reward_text,
                agent=arm.agent,
                seeds=[job.seed for job in done],
                curves=curves,
                final={k: np.array([f["final"][k] for f in finals]) for k in keys},
            )
        )
    budget = jobs[0].budget
    return Results(
        name=experiment.name,
        paper=experiment.paper,
        title=experiment.title,
        arms=arms,
        budget=f"{budget_name} ({budget.total_timesteps:,} steps)",
        command=command,
        provenance={**provenance(jobs[0].device), "computing time": f"{seconds:.0f} s in all jobs"},
        references=dict(experiment.references),
    )


def judge(experiment: Experiment, results: Results) -> list[Verdict]:
    """The verdicts, with p values corrected for the number of claims (Holm)."""
    verdicts = [claim.check(results) for claim in experiment.claims]
    tested = [i for i, v in enumerate(verdicts) if v.p_value is not None]
    if tested:
        adjusted = holm([float(verdicts[i].p_value or 0.0) for i in tested])
        for i, p in zip(tested, adjusted, strict=True):
            verdicts[i] = replace(verdicts[i], p_adjusted=float(p))
    return verdicts


def provenance(device: str) -> dict[str, str]:
    """Versions, revision and hardware."""
    from . import __version__

    root = Path(__file__).resolve().parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        revision = ""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return {
        "rewardzoo": f"{__version__} {revision}".strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "numpy": np.__version__,
        "hardware": f"{name}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }


def remove(jobs: Sequence[Job]) -> None:
    """Delete what earlier runs of these jobs wrote."""
    for job in jobs:
        shutil.rmtree(job.folder, ignore_errors=True)


def _claim_folder(job: Job, arm: Arm) -> None:
    config = {
        "experiment": job.experiment,
        "arm": arm.label,
        "env": arm.env,
        "env_kwargs": dict(arm.env_kwargs),
        "reward": arm.reward_text,
        "agent": arm.agent,
        "agent_kwargs": dict(arm.agent_kwargs),
        "budget": asdict(job.budget),
        "seed": job.seed,
    }
    text = json.dumps(config, indent=1, default=str)
    path = job.folder / "config.json"
    if path.is_file() and path.read_text() != text:
        raise ExperimentError(
            f"out={str(job.folder)!r}: it holds a run with another configuration; "
            "use another --out, or --fresh to delete it"
        )
    write_atomic(path, text)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return list(_parse_lines(path.read_text())) if path.is_file() else []


def _parse_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the line during which the process was killed
            return


def _finite(x: float) -> float | None:
    return x if np.isfinite(x) else None


def _number(x: float | None) -> float:
    return float("nan") if x is None else float(x)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
