"""The command line: list, train, run, report, play, bench, doctor."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import shlex
import signal
import sys
import traceback
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from . import interrupts
from .data.commands import app as data
from .data.demos_commands import app as demos
from .disk import check_writable
from .llm.commands import app as llm
from .metrics.commands import compare_rewards
from .rlhf.commands import app as rlhf
from .train_command import train
from .zoo.commands import app as zoo


class _Commands(TyperGroup):
    """All of them: what Ctrl-C ends without a word of its own says so in a line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Specify, learn, shape, compare and break rewards.",
    epilog="Example: rewardzoo run quickstart",
)
app.command()(train)
app.command("compare-rewards", context_settings={"ignore_unknown_options": True})(compare_rewards)
app.add_typer(data, name="data")
app.add_typer(demos, name="demos")
app.add_typer(llm, name="llm")
app.add_typer(rlhf, name="rlhf")
app.add_typer(zoo, name="zoo")
console = Console()
_state: dict[str, Any] = {"debug": False, "plugins": ()}

Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:0.")]


class Kind(str, Enum):
    """What can be listed."""

    envs = "envs"
    rewards = "rewards"
    agents = "agents"
    experiments = "experiments"


@app.callback()
def _common(
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            help="Python file that registers a reward function or an experiment; repeatable.",
            envvar="REWARDZOO_PLUGINS",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    import rewardzoo

    _state["debug"] = debug
    _state["plugins"] = tuple(str(p.resolve()) for p in plugin or ())
    for path in _state["plugins"]:
        rewardzoo.load_plugin(path)


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List what is registered, each with its first line."""
    from . import registration

    lines: dict[str, str] = {}
    if kind is Kind.envs:
        for id in registration.env_ids():
            lines[id] = registration.description_of(id)
    else:
        registries = {
            Kind.rewards: registration.REWARDS,
            Kind.agents: registration.AGENTS,
            Kind.experiments: registration.EXPERIMENTS,
        }
        if kind is Kind.rewards:
            _ = list(registration.EXPERIMENTS)  # an experiment may bring its own
        registry = registries[kind]
        for name in registry:
            entry = registry[name]
            lines[name] = entry.title if kind is Kind.experiments else _first_line(entry)
    wide = min(max(map(len, lines), default=0), 32)
    for name, text in lines.items():
        if console.is_terminal:
            line = Text.assemble(name.ljust(wide), "  ", (text, "dim"))
            console.print(line, soft_wrap=True)  # whole: the terminal breaks what is too long
        else:
            typer.echo(f"{name}\t{text}")


@app.command()
def run(
    experiment: Annotated[str | None, typer.Argument(help="Name of the experiment.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Run every experiment.")] = False,
    budget: Annotated[str, typer.Option(help="smoke, quick or full.")] = "quick",
    seeds: Annotated[int | None, typer.Option(help="How many seeds.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; default: one a core.", min=0)] = 0,
    launcher: Annotated[
        str, typer.Option(help="local, or ray for a cluster (RAY_ADDRESS) that sees --out.")
    ] = "local",
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option(help="Delete earlier runs first.")] = False,
) -> None:
    """Run what is missing of an experiment, then judge its claims and write a report.

    A run that was stopped or killed goes on where it was with the same command. With --all, an
    experiment that cannot be run is skipped, and a scoreboard of all claims comes last.

    Example: rewardzoo run quickstart --budget smoke --workers 2
    """
    from .functional import check_device
    from .jobs import Job, jobs_of
    from .registration import EXPERIMENTS
    from .scoreboard import scoreboard

    check_device(device)
    if all_ == (experiment is not None):
        raise ValueError("experiment: expected the name of one, or --all")
    chosen = list(EXPERIMENTS) if experiment is None else [experiment]
    runs: dict[str, list[Job]] = {}
    failed: dict[str, Exception] = {}
    for name in chosen:
        try:
            runs[name] = jobs_of(EXPERIMENTS[name], budget, out, seeds, device, _state["plugins"])
        except Exception as error:
            failed[name] = error
    if not runs:
        raise next(iter(failed.values()))
    check_writable("--out", out)
    for name, reason in failed.items():
        _failed(name, reason)
    for name, jobs in runs.items():
        try:
            _run(EXPERIMENTS[name], jobs, budget, workers, launcher, fresh)
        except typer.Exit:  # Ctrl-C is meant for all of them
            raise
        except Exception as error:  # whatever it is, the other experiments are worth having
            if not all_:
                raise
            failed[name] = error
            _failed(name, error)
    if all_:
        console.print(scoreboard([out / name / budget for name in runs]))
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(chosen)} failed: {', '.join(failed)}")


def _run(experiment: Any, jobs: Any, budget: str, workers: int, launcher: str, fresh: bool) -> None:
    """One experiment, to its report."""
    from .board import JobsFailed
    from .jobs import collect_results
    from .judging import judge_finished
    from .launch import run_jobs
    from .report import render_table, write_html
    from .results import write_json

    if limit := experiment.max_workers:
        workers = min(workers or limit, limit)
    failure: Exception | None = None
    try:
        run_jobs(jobs, workers, console, launcher, fresh)
    except KeyboardInterrupt:
        console.print("stopped; what is finished is kept. Go on with the same command")
        raise typer.Exit(130) from None
    except JobsFailed as error:
        if not any(job.finished for job in jobs):
            raise
        failure = error  # told last: what finished is reported first
    command = shlex.join(["rewardzoo", *sys.argv[1:]])
    results = collect_results(experiment, jobs, command, budget)
    verdicts, unjudged = judge_finished(experiment, results)
    folder = jobs[0].folder.parent.parent
    write_json(results, verdicts, folder / "results.json")
    render_table(results, verdicts, console)
    write_html(results, verdicts, folder / "report.html", experiment.figures)
    console.print(f"report: {folder / 'report.html'}")
    if failure is not None:
        raise failure
    if unjudged:
        reasons = "; ".join(f"{claim}: {reason}" for claim, reason in unjudged.items())
        raise RuntimeError(f"{len(unjudged)} of {len(verdicts)} claims not judged: {reasons}")


@app.command(context_settings={"ignore_unknown_options": True})
def compare(
    env: Annotated[str, typer.Option(help="Environment id.")],
    rewards: Annotated[list[str] | None, typer.Argument(help="Reward expressions.")] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Add every reward function that pays it as it is.")
    ] = False,
    agent: Annotated[str, typer.Option(help="Registered agent.")] = "ppo",
    steps: Annotated[int, typer.Option(help="Environment steps of a run.", min=1)] = 100_000,
    num_envs: Annotated[int, typer.Option(help="Environments in the batch.", min=1)] = 64,
    seeds: Annotated[int, typer.Option(help="Runs of each.", min=1)] = 5,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Hyperparameter, name=value; repeatable.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; default: one a core.", min=0)] = 0,
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option(help="Delete earlier runs first.")] = False,
) -> None:
    """Train on several reward functions, and compare what each teaches.

    The objective is measured beside what was paid, and is always one of them. Runs that are
    finished are kept: a reward function that is added later is all that is run then. What is run is
    written as an experiment, comparison.py, to go on from.

    Example: rewardzoo --plugin mine.py compare "objective + mine" --all --env rewardzoo/CartPole-v0
    """
    from .comparison import check_pays, fitting, write_comparison
    from .functional import check_device
    from .jobs import jobs_of
    from .registration import AGENTS, EXPERIMENTS, check_env_id, load_plugin
    from .settings import parse_settings

    check_env_id(env)
    check_device(device)
    _ = AGENTS[agent]
    chosen = list(rewards or ())
    if not chosen and not all_:
        raise ValueError("rewards: expected at least one reward expression, or --all")
    for reward in chosen:
        check_pays(env, reward)
    if all_:
        found = fitting(env)
        chosen += [name for name in found.fits if name not in chosen]
        _say(f"left out, as they need arguments: {', '.join(found.unspecified)}")
        for name, reason in found.unfit.items():
            _say(f"left out: {name}: {reason}")
    short = env.rpartition("/")[2].lower()
    name = f"compare_{short}_{agent}"
    check_writable("--out", out / name)
    file = (out / name / "comparison.py").resolve()
    arguments = {
        "name": name, "env": env, "rewards": chosen, "agent": agent, "total_timesteps": steps,
        "num_envs": num_envs, "seeds": seeds, "agent_kwargs": parse_settings(setting),
    }  # fmt: skip
    write_comparison(file, arguments)
    load_plugin(file)
    plugins = (*_state["plugins"], str(file))
    jobs = jobs_of(EXPERIMENTS[name], str(steps), out, None, device, plugins)
    _run(EXPERIMENTS[name], jobs, str(steps), workers, "local", fresh)


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="A run's folder; several to compare; or the folder of all runs."),
    ],
    out: Annotated[Path, typer.Option(help="Page that compares several runs.")] = Path(
        "comparison.html"
    ),
) -> None:
    """Print the table and write the page again from finished runs' results.

    Several folders give one page with the arms and verdicts of all of them; an experiment's folder,
    its run, or the scoreboard of its budgets; a folder of runs, the scoreboard of all below it.

    Example: rewardzoo report runs/quickstart/quick runs/quickstart/full --out both.html
    """
    from .registration import EXPERIMENTS
    from .report import render_table, write_html
    from .results import read_json
    from .scoreboard import carried, merged, run_in, scoreboard

    folders = [run_in(folder) for folder in folders]
    if len(folders) > 1:
        check_writable("--out", out.parent)
        runs = [read_json(_results_in(folder)) for folder in folders]
        results, verdicts = merged([results for results, _ in runs]), carried(runs)
        render_table(results, verdicts, console)
        write_html(results, verdicts, out)
        console.print(f"report: {out}")
        return
    (folder,) = folders
    if not (folder / "results.json").is_file():
        found = [*folder.glob("*/results.json"), *folder.glob("*/*/results.json")]
        if below := sorted(path.parent for path in found):
            console.print(scoreboard(below))
            return
    results, verdicts = read_json(_results_in(folder))
    render_table(results, verdicts, console)
    figures = EXPERIMENTS[results.name].figures if results.name in EXPERIMENTS else ()
    write_html(results, verdicts, folder / "report.html", figures)
    console.print(f"report: {folder / 'report.html'}")


@app.command()
def play(
    env: Annotated[str, typer.Argument(help="Environment id.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Of any agent, or a policy's folder; default: random.")
    ] = None,
    reward: Annotated[
        str, typer.Option(help="Shown beside the objective; a learned one as it begins.")
    ] = "objective",
    out: Annotated[Path | None, typer.Option(help="GIF to write; default: text.")] = None,
    steps: Annotated[int, typer.Option(help="At most so many.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of the episode.")] = 0,
) -> None:
    """Watch one episode, in the terminal or as a GIF."""
    from .registration import check_env_id
    from .video import check_gif, record_episode, show
    from .zoo.policies import load_agent

    check_env_id(env)
    if out is not None:
        check_gif(out)
    policy = None if checkpoint is None else load_agent(checkpoint, env, reward)
    show(record_episode(env, policy, steps, seed, out, reward), out, console)


@app.command()
def bench(
    only: Annotated[str | None, typer.Option(help="One benchmark by name.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure speed as ratios to peers in the same run; exit code 1 where a bar is missed.

    A file that is there keeps the rows of the benchmarks that are not run.
    """
    module = importlib.import_module("rewardzoo.experiments.benchmarks")
    if not module.main(only, out, console):
        raise typer.Exit(1)


@app.command()
def doctor(
    agent: Annotated[str | None, typer.Option(help="Show an agent's hyperparameters.")] = None,
) -> None:
    """Show what is installed, what each extra adds, and the devices."""
    import torch

    from .registration import AGENTS

    table = Table(box=None, padding=(0, 2))
    if agent is not None:
        for heading in ("hyperparameter", "default", "meaning"):
            table.add_column(heading)
        for item in dataclasses.fields(AGENTS[agent].Hyperparameters):
            table.add_row(item.name, str(item.default), item.metadata["help"])
        console.print(table)
        return
    import gymnasium

    from . import __version__

    crew = importlib.import_module("rewardzoo.envs.nethack.crew")

    compiled = (
        "two threads a process" if crew.Crew else "one thread a process: no C compiler was there"
    )
    for heading in ("extra", "installed", "adds"):
        table.add_column(heading, no_wrap=heading == "installed")  # a command is copied whole
    extras = {
        "nethack": ("nle", f"NetHack and MiniHack, {compiled}"),
        "mujoco": ("mujoco", "contact physics"),
        "traffic": ("libsumo", "road traffic"),
        "pettingzoo": ("pettingzoo", "games of several agents"),
        "llm": ("llama_cpp", "a local language model"),
        "rlhf": ("transformers", "language-model training"),
        "ray": ("ray", "clusters"),
        "sb3": ("stable_baselines3", "Stable-Baselines3's agents"),
    }
    for name, (module, adds) in extras.items():
        found = importlib.util.find_spec(module) is not None
        # Without the backslash, rich takes the name in brackets for a style.
        table.add_row(name, "yes" if found else f'pip install "rewardzoo\\[{name}]"', adds)
    console.print(
        f"rewardzoo {__version__}, python {sys.version.split()[0]}, torch {torch.__version__}, "
        f"gymnasium {gymnasium.__version__}, {os.cpu_count()} cores, "
        f"{torch.cuda.device_count()} CUDA devices"
    )
    console.print(table)


def main() -> None:
    """The ``rewardzoo`` command: one line for every error, exit code 2 for bad input."""
    interrupts.release()
    # What ends a job on a cluster or in a container: save as for Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except Exception as error:
        if _state["debug"]:
            raise
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    _complain(f"error: {_one_line(error)}")
    raise SystemExit(2 if isinstance(error, (ValueError, TypeError, OSError, ImportError)) else 1)


def _failed(name: str, error: Exception) -> None:
    """One of several experiments, the others of which go on."""
    if _state["debug"]:
        traceback.print_exception(error)
    _complain(f"{name}: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (LookupError, AttributeError, NameError, ArithmeticError, AssertionError)):
        return f"{type(error).__name__}: {text} (rewardzoo --debug shows where)"  # not for people
    return text or type(error).__name__


def _complain(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)


def _say(text: str) -> None:
    """A line by the way."""
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def _results_in(folder: Path) -> Path:
    path = folder / "results.json"
    if not path.is_file():
        below = ", ".join(sorted(found.parent.name for found in folder.glob("*/results.json")))
        fix = f"name one of those below it: {below}" if below else "run the experiment"
        raise ValueError(f"folder={str(folder)!r}: there is no results.json; {fix}")
    return path


def _first_line(entry: Any) -> str:
    return (entry.__doc__ or "").strip().splitlines()[0] if entry.__doc__ else ""
