"""Jobs: an experiment's arms, one seed each, run in folders of their own and collected.

A job writes::

    config.json     what was asked for; a folder is never continued with another configuration
    metrics.jsonl   one line an iteration
    checkpoint.pt   from which a cut-off job goes on, to the same result; while it trains, beside
                    checkpoint.previous.pt, which takes its place should it be damaged
    arrays.npz      what figures are drawn from, where an arm saves any
    result.json     written last: its presence means that the job is finished
"""

from __future__ import annotations

import copy
import io
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from filelock import FileLock
from gymnasium.vector import AutoresetMode

from .checkpoint import remove_previous, resume, save_keeping_previous
from .experiment import Arm, Budget, Experiment, ExperimentError, Measure, RewardSpec
from .files import write_atomic
from .registration import AGENTS, EXPERIMENTS, check_env_id
from .results import ArmResult, Results
from .rewards.parse import make_reward
from .rewards.terminate import VectorTerminateTask, ends_tasks
from .rewards.wrappers import VectorRewardWrapper

_TRAINING_CURVES = {
    "step": "time/total_timesteps",
    "return": "rollout/ep_return",
    "objective": "rollout/ep_objective",
}
_EVALUATION_SEED = 1_000_000  # far from every training seed; the same for all arms


class Interrupted(Exception):
    """A job was asked to stop; its checkpoint is written."""


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


class Trial:
    """One seed of a ``Measure``, as its function sees it.

    Attributes:
        seed: of everything random.
        budget: how much to spend.
        device: where to compute.
        folder: of this job, for checkpoints; it outlives a killed run.
    """

    def __init__(
        self,
        job: Job,
        report: Callable[[dict[str, float]], None],
        stop: Callable[[], bool],
    ) -> None:
        self.seed = job.seed
        self.budget = job.budget
        self.device = job.device
        self.folder = job.folder
        self._path = job.folder / "metrics.jsonl"
        self._report, self._stop = report, stop
        self._logged = False

    def log(self, step: int, **numbers: float) -> None:
        """Write one line of ``metrics.jsonl`` and show progress.

        Args:
            step: of ``budget.total_timesteps``.
            **numbers: curves by name.

        Raises:
            Interrupted: if the user asked to stop: save what is needed before logging.
        """
        if not self._logged:  # a run that goes on from its checkpoint writes again what came after
            kept = [line for line in _read_lines(self._path) if line["step"] < step]
            write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in kept))
            self._logged = True
        line = {"step": step, **{k: float(v) for k, v in numbers.items()}}
        with self._path.open("a") as file:
            file.write(json.dumps({k: _finite(v) for k, v in line.items()}) + "\n")
        self._report({"time/total_timesteps": step, **numbers})
        if self._stop():
            raise Interrupted

    def save_arrays(self, **arrays: Any) -> None:
        """Keep NumPy arrays or CPU tensors for figures, which read them by ``results.arrays``."""
        buffer = io.BytesIO()
        plain: dict[str, Any] = {k: np.asarray(v) for k, v in arrays.items()}
        np.savez_compressed(buffer, **plain)
        write_atomic(self.folder / "arrays.npz", buffer.getvalue())


def make_envs(
    env: str, reward: RewardSpec, num_envs: int, device: str = "cpu", **env_kwargs: Any
) -> VectorRewardWrapper | VectorTerminateTask:
    """A vector environment that pays ``reward``, and ends episodes where its machines say so.

    Raises:
        UnknownNameError: for an unknown environment or reward function, with the nearest known.
    """
    check_env_id(env)
    if env.startswith("rewardzoo/"):
        env_kwargs = {"device": device, **env_kwargs}
    envs = gymnasium.make_vec(env, num_envs=num_envs, **env_kwargs)
    fn = make_reward(reward) if isinstance(reward, str) else reward(envs)
    if not ends_tasks(fn):
        return VectorRewardWrapper(envs, fn, device)
    envs.close()  # the wrapper must reset rows itself
    mode = {"autoreset_mode": AutoresetMode.DISABLED}
    if env.startswith("rewardzoo/"):
        env_kwargs.update(mode)
    else:
        env_kwargs["vector_kwargs"] = {**env_kwargs.get("vector_kwargs", {}), **mode}
    envs = gymnasium.make_vec(env, num_envs=num_envs, **env_kwargs)
    return VectorTerminateTask(VectorRewardWrapper(envs, fn, device))


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
    if isinstance(arm, Measure):
        final = _measure(job, arm, report, stop)
    else:
        final = _train(job, arm, report, stop, checkpoint_seconds)
    result = {"final": final, "seconds": time.monotonic() - start}
    write_atomic(job.folder / "result.json", json.dumps(result, indent=1))
    for checkpoint in job.folder.glob("*.pt"):
        remove_previous(checkpoint)


def _measure(
    job: Job,
    arm: Measure,
    report: Callable[[dict[str, float]], None],
    stop: Callable[[], bool],
) -> dict[str, float]:
    final = arm.run(Trial(job, report, stop))
    return {k: float(v) for k, v in final.items()}


def _train(
    job: Job,
    arm: Arm,
    report: Callable[[dict[str, float]], None],
    stop: Callable[[], bool],
    checkpoint_seconds: float,
) -> dict[str, float]:
    """Train and evaluate an agent; the mean of every score of the evaluation."""

    def envs(num_envs: int, reward: RewardSpec) -> VectorRewardWrapper | VectorTerminateTask:
        return make_envs(arm.env, reward, num_envs, job.device, **arm.env_kwargs)

    kind = AGENTS[arm.agent]
    checkpoint, log = job.folder / "checkpoint.pt", job.folder / "metrics.jsonl"
    training = envs(job.budget.num_envs, arm.reward)
    agent = resume(
        checkpoint,
        lambda path: kind.load(path, env=training),
        lambda: kind(training, seed=job.seed, **arm.agent_kwargs),
    )
    lines = [x for x in _read_lines(log) if x["time/total_timesteps"] <= agent.num_timesteps]
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
                save_keeping_previous(agent.save, checkpoint)
                saved = time.monotonic()
            if stopping:
                raise Interrupted
            return True

        left = job.budget.total_timesteps - agent.num_timesteps
        agent.learn(max(left, 0), callback=after_iteration, reset_num_timesteps=False)
    save_keeping_previous(agent.save, checkpoint)
    trained = copy.deepcopy(training.reward_function)
    evaluation = envs(min(512, job.budget.eval_episodes), lambda envs: trained)
    scores = agent.evaluate(evaluation, job.budget.eval_episodes, seed=_EVALUATION_SEED)
    return {k: float(v.double().mean()) for k, v in scores.items()}


def collect_results(
    experiment: Experiment, jobs: Sequence[Job], command: str, budget_name: str
) -> Results:
    """Read what finished jobs wrote; what did not finish is named in the provenance.

    Raises:
        ExperimentError: if no job has finished, or a result is damaged.
    """
    root = jobs[0].folder.parent.parent
    missing = [job.name for job in jobs if not job.finished]
    if len(missing) == len(jobs):
        raise ExperimentError(f"no finished run in {root}")
    arms = []
    seconds = 0.0
    for i, arm in enumerate(experiment.grid):
        done = [job for job in jobs if job.arm == i and job.finished]
        if not done:
            continue
        finals = [_read_result(job.folder / "result.json") for job in done]
        seconds += sum(f["seconds"] for f in finals)
        logs = [_read_lines(job.folder / "metrics.jsonl") for job in done]
        points = min(len(lines) for lines in logs)
        if isinstance(arm, Measure):
            names = {key: key for lines in logs for line in lines for key in line}
        else:
            names = _TRAINING_CURVES
        curves = {
            key: np.array([[_number(x.get(name)) for x in lines[:points]] for lines in logs])
            for key, name in names.items()
        }
        keys = finals[0]["final"]
        arms.append(
            ArmResult(
                label=arm.label,
                env=arm.env,
                reward=arm.text,
                agent=arm.agent,
                seeds=[job.seed for job in done],
                curves=curves,
                final={k: np.array([f["final"][k] for f in finals]) for k in keys},
                folders=[str(job.folder.relative_to(root)) for job in done],
            )
        )
    budget = jobs[0].budget
    told = {"computing time": f"{seconds:.0f} s in all jobs"}
    if missing:
        told["not finished"] = "; ".join(missing)
    return Results(
        name=experiment.name,
        paper=experiment.paper,
        title=experiment.title,
        arms=arms,
        budget=f"{budget_name} ({budget.total_timesteps:,} steps)",
        command=command,
        provenance={**provenance(jobs[0].device), **told},
        references=dict(experiment.references),
        columns=dict(experiment.columns),
        root=root,
    )


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
    instructions = torch.backends.cpu.get_cpu_capability()  # they round differently: AVX2, AVX512
    return {
        "rewardzoo": f"{__version__} {revision}".strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "numpy": np.__version__,
        "hardware": f"{name}, {os.cpu_count()} cores, {instructions}",
        "date": time.strftime("%Y-%m-%d"),
    }


def remove(jobs: Sequence[Job]) -> None:
    """Delete what earlier runs of these jobs wrote, and what was reported of them."""
    for job in jobs:
        if job.folder.is_dir():
            with FileLock(job.folder / ".lock", timeout=60):
                pass  # a worker of a killed run has ended
            shutil.rmtree(job.folder)
    for name in ("results.json", "report.html"):
        (jobs[0].folder.parent.parent / name).unlink(missing_ok=True)


def _claim_folder(job: Job, arm: Arm | Measure) -> None:
    config = {
        "experiment": job.experiment,
        "arm": arm.label,
        **arm.config,
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


def _read_result(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        return {"final": dict(result["final"]), "seconds": float(result["seconds"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ExperimentError(
            f"result {str(path)!r}: it is damaged ({type(error).__name__}); delete it and run "
            "again: the job goes on from its checkpoint"
        ) from None


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
