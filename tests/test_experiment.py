"""Experiments: claims can fail, runs are paired, killed runs resume to the same table, bad input is told."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rewardzoo.experiment import (
    Arm,
    Budget,
    Claim,
    Experiment,
    ExperimentError,
    Figure,
    Measure,
    judge,
)
from rewardzoo.experiments import quickstart
from rewardzoo.jobs import Interrupted, Trial, collect_results, jobs_of, run_job
from rewardzoo.registration import env_ids
from rewardzoo.report import colour, html
from rewardzoo.results import ArmResult, Results, Verdict, read_json, write_json

PLUGIN = '''
from rewardzoo.experiment import Arm, Budget, Claim, Experiment
from rewardzoo.registration import register_reward
from rewardzoo.results import Verdict
from rewardzoo.rewards.base import RewardFunction


@register_reward("crash")
class Crash(RewardFunction):
    """Ends the process."""

    def __call__(self, t):
        import os

        os._exit(7)


@register_reward("nan")
class Nan(RewardFunction):
    """Pays what is no number."""

    def __call__(self, t):
        return t.reward * float("nan")


def check(results):
    d = results.arms[0].final["objective"] - results.arms[1].final["objective"]
    return Verdict("a claim", "holds", float(d.mean()), None, None, len(d), "made up")


KW = {"num_steps": 16, "gamma": 0.99}
BUDGET = Budget(total_timesteps=STEPS, num_envs=8, eval_episodes=16, seeds=2)
CARTPOLE = "rewardzoo/CartPole-v0"
Experiment(
    name="small", title="A small one", paper="none",
    grid=[
        Arm("plain", CARTPOLE, "objective", agent_kwargs=KW),
        Arm("double", CARTPOLE, "2 * objective", agent_kwargs=KW),
    ],
    budgets={"quick": BUDGET}, claims=[Claim("a claim", check)], seeds=(0, 1),
)
for bad in ("crash", "nan"):
    Experiment(
        name=bad, title="One arm is bad", paper="none",
        grid=[
            Arm("plain", CARTPOLE, "objective", agent_kwargs=KW),
            Arm(bad, CARTPOLE, bad, agent_kwargs=KW),
        ],
        budgets={"quick": BUDGET}, claims=[], seeds=(0, 1),
    )
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "small_experiment.py"
    path.write_text(PLUGIN.replace("STEPS", "1024"))
    return path


def rewardzoo(*args: Any, plugin: Path | None = None, **kwargs: Any) -> Any:
    env = dict(os.environ, COLUMNS="200")
    if plugin is not None:
        env["REWARDZOO_PLUGINS"] = str(plugin)
    return subprocess.run(
        [sys.executable, "-m", "rewardzoo", *map(str, args)],
        capture_output=True, text=True, env=env, timeout=300, **kwargs,
    )  # fmt: skip


def final_tables(root: Path) -> dict[str, Any]:
    files = sorted(root.glob("**/result.json"))
    return {str(f.parent.relative_to(root)): json.loads(f.read_text())["final"] for f in files}


def await_content(file: Path, process: subprocess.Popen[Any]) -> None:
    """Return as soon as the running process has written to the file."""
    deadline = time.time() + 120
    while not (file.is_file() and file.stat().st_size > 0):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.02)


def test_killed_run_resumes_to_the_same_table(tmp_path: Path, plugin: Path) -> None:
    plugin.write_text(PLUGIN.replace("STEPS", "10240"))
    whole = rewardzoo("run", "small", "--out", tmp_path / "whole", "--workers", 1, plugin=plugin)
    assert whole.returncode == 0, whole.stderr + whole.stdout
    cut = tmp_path / "cut"
    command = [
        sys.executable,
        "-m",
        "rewardzoo",
        "run",
        "small",
        "--out",
        str(cut),
        "--workers",
        "1",
    ]
    process = subprocess.Popen(
        command, env=dict(os.environ, REWARDZOO_PLUGINS=str(plugin)), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    await_content(cut / "small/quick/double/seed-0/metrics.jsonl", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = cut / "small/quick/plain/seed-0/result.json"
    stamp = first.stat().st_mtime_ns
    assert not (cut / "small/quick/double/seed-0/result.json").exists()
    again = rewardzoo("run", "small", "--out", cut, "--workers", 1, plugin=plugin)
    assert again.returncode == 0 and "1 of 4 runs are finished already" in again.stdout
    assert first.stat().st_mtime_ns == stamp
    assert final_tables(cut) == final_tables(tmp_path / "whole") and len(final_tables(cut)) == 4
    curves = [
        json.loads((root / "small/quick/results.json").read_text())["arms"][1]["curves"]
        for root in (cut, tmp_path / "whole")
    ]
    assert curves[0] == curves[1]


def test_a_stopped_job_continues_from_its_checkpoint(tmp_path: Path) -> None:
    experiment = Experiment(
        name="stopped", title="", paper="", seeds=(0,), claims=[],
        grid=[Arm("a", "rewardzoo/CartPole-v0", "objective", agent_kwargs={"num_steps": 16})],
        budgets={"quick": Budget(2048, 8, 8, 1)},
    )  # fmt: skip
    (whole,) = jobs_of(experiment, "quick", tmp_path / "whole")
    run_job(whole)
    (job,) = jobs_of(experiment, "quick", tmp_path / "cut")
    seen: list[float] = []
    with pytest.raises(Interrupted):
        run_job(job, lambda m: seen.append(m["time/total_timesteps"]), lambda: len(seen) >= 5)
    run_job(job, lambda m: seen.append(m["time/total_timesteps"]))
    assert seen == [128.0 * i for i in range(1, 17)]
    a, b = (json.loads((j.folder / "result.json").read_text())["final"] for j in (whole, job))
    assert a == b
    with pytest.raises(ExperimentError, match="another configuration"):
        (other,) = jobs_of(experiment, "quick", tmp_path / "cut")
        (other.folder / "result.json").unlink()
        (other.folder / "config.json").write_text("{}")
        run_job(other)


def test_a_dead_worker_is_named_and_the_others_go_on(tmp_path: Path, plugin: Path) -> None:
    done = rewardzoo("run", "crash", "--out", tmp_path, "--workers", 2, plugin=plugin)
    assert done.returncode == 1
    assert "crash, seed 0" in done.stdout and "exit code 7" in done.stdout
    assert sorted(final_tables(tmp_path)) == [
        "crash/quick/plain/seed-0",
        "crash/quick/plain/seed-1",
    ]


def test_a_reward_that_is_no_number_is_named(tmp_path: Path, plugin: Path) -> None:
    done = rewardzoo("run", "nan", "--out", tmp_path, "--seeds", 1, plugin=plugin)
    assert done.returncode == 1
    assert "reward function nan: paid nan in row 0" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr


def test_two_runs_do_not_share_a_folder(tmp_path: Path, plugin: Path) -> None:
    from filelock import FileLock

    folder = tmp_path / "small" / "quick"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        done = rewardzoo("run", "small", "--out", tmp_path, plugin=plugin)
    assert done.returncode == 2 and "another run is using it" in done.stderr


def test_interrupt_saves_and_says_how_to_go_on(tmp_path: Path, plugin: Path) -> None:
    plugin.write_text(PLUGIN.replace("STEPS", "100_000_000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "rewardzoo", "run", "small", "--out", str(tmp_path)],
        env=dict(os.environ, REWARDZOO_PLUGINS=str(plugin)), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # A shell starts background jobs with the signal ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        log = tmp_path / "small/quick/plain/seed-0/metrics.jsonl"
        await_content(log, process)
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and "Go on with the same command" in out, out
    assert (log.parent / "checkpoint.pt").is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "quickstrat"], "experiment 'quickstrat' is unknown: did you mean 'quickstart'?"),
        (["run", "quickstart", "--budget", "huge"], "budget='huge'"),
        (["run", "quickstart", "--seeds", "99"], "seeds=99: expected 1 to 10"),
        (["run", "quickstart", "--device", "cuda"], "device='cuda'"),
        (["run", "quickstart", "--out", "/proc/nowhere"], "--out /proc/nowhere: cannot write"),
        (["train", "--env", "rewardzoo/CartPoel-v0"], "did you mean 'rewardzoo/CartPole-v0'"),
        (["train", "--env", "rewardzoo/CartPole-v0", "--reward", "objektive"], "'objective'"),
        (["train", "--env", "rewardzoo/CartPole-v0", "--agent", "pppo"], "did you mean 'ppo'"),
        (["train", "--env", "rewardzoo/CartPole-v0", "--set", "gamma=nan"], "gamma=nan: expected"),
        (["train", "--env", "rewardzoo/CartPole-v0", "--set", "gama=1"], "did you mean 'gamma'"),
        (["report", "/nowhere"], "no results.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    args: list[str], message: str, tmp_path: Path
) -> None:
    done = rewardzoo(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())


def test_help_and_lists() -> None:
    assert rewardzoo("list", "agents").stderr == ""  # no peer library is imported for a list
    assert "rewardzoo run quickstart" in rewardzoo("--help").stdout
    assert "falling_sofa" in rewardzoo("list", "rewards").stdout
    assert "learning_rate" in rewardzoo("doctor", "--agent", "ppo").stdout
    assert "rewardzoo/SepsisICU-v0" in rewardzoo("list", "envs").stdout


def test_a_list_has_every_name_whole(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a name: with a tab where a program reads it, broken by the terminal where that is."""
    monkeypatch.setenv("COLUMNS", "40")
    lines = [line.split("\t") for line in cli("list", "envs").out.splitlines()]
    assert [id for id, _ in lines] == env_ids() and all(text for _, text in lines)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr("rewardzoo.cli.console", console)
    assert cli("list", "envs").code == 0
    assert [line.split()[0] for line in out.getvalue().splitlines()] == env_ids()


def test_doctor_says_how_to_install_what_is_missing(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = cli("doctor").out
    for extra in ("nethack", "mujoco", "traffic", "pettingzoo", "llm", "rlhf", "ray", "sb3"):
        assert f'pip install "rewardzoo[{extra}]"' in said


def test_train_resume_report_and_play(tmp_path: Path) -> None:
    args = ["train", "--env", "rewardzoo/CartPole-v0", "--out", tmp_path / "t", "--num-envs", 8]
    args += ["--set", "num_steps=16"]
    done = rewardzoo(*args, "--steps", 512)
    assert done.returncode == 0 and "objective" in done.stdout, done.stderr
    assert list((tmp_path / "t").glob("events.out.tfevents*"))
    more = ["--steps", 1024, "--resume", "--eval-every", 256, "--video"]
    assert rewardzoo(*args, *more).returncode == 0
    assert (tmp_path / "t" / "best.pt").is_file()
    assert (tmp_path / "t" / "videos" / "step-1024.gif").is_file()
    gif = tmp_path / "a.gif"
    checkpoint = ["--checkpoint", tmp_path / "t" / "checkpoint.pt", "--out", gif, "--steps", 20]
    assert rewardzoo("play", "rewardzoo/CartPole-v0", *checkpoint).returncode == 0
    assert gif.read_bytes()[:6] == b"GIF89a"
    wrong = rewardzoo("play", "rewardzoo/GridWorld-v0", *checkpoint)
    assert wrong.returncode == 2 and "was saved for Box" in wrong.stderr
    text = rewardzoo("play", "rewardzoo/GridWorld-v0", "--steps", 2)
    assert "@" in text.stdout


# ---- measured arms ---------------------------------------------------------------------------


def walk(trial: Trial) -> dict[str, float]:
    """A random walk that keeps its place."""
    place = trial.folder / "place.json"
    start, x = json.loads(place.read_text()) if place.is_file() else (0, 0.0)
    steps = np.random.default_rng(trial.seed).normal(size=trial.budget.total_timesteps)
    for i in range(start, trial.budget.total_timesteps):
        x += float(steps[i])
        place.write_text(json.dumps([i + 1, x]))
        trial.log(i + 1, position=x)
    trial.save_arrays(path=np.cumsum(steps))
    return {"position": x, "cost": 2.0}


def draw(figure: Any, found: Results) -> None:
    axes = figure.subplots()
    for i, arrays in enumerate(found.arrays("walk")):
        axes.plot(arrays["path"], color=colour(i))


@pytest.fixture
def walking(tmp_path: Path) -> Experiment:
    return Experiment(
        name="walking", title="A walk", paper="none", seeds=(3, 4), claims=[],
        grid=[Measure("walk", walk)],
        budgets={"quick": Budget(total_timesteps=9, num_envs=1, eval_episodes=0, seeds=2)},
        columns={"position": "position (m)", "cost": "cost (USD)"},
        figures=[Figure("Where it went", "The path of each seed.", draw)],
    )  # fmt: skip


def test_measured_arms_stop_go_on_and_show_their_own_columns_and_figures(
    walking: Experiment, tmp_path: Path
) -> None:
    whole = jobs_of(walking, "quick", tmp_path / "whole")
    cut = jobs_of(walking, "quick", tmp_path / "cut")
    seen: list[float] = []
    with pytest.raises(Interrupted):
        run_job(cut[0], lambda m: seen.append(m["time/total_timesteps"]), lambda: len(seen) >= 4)
    (cut[0].folder / "place.json").write_text("[2, 0.5]")  # as if killed before it was kept
    for job in (*whole, *cut):
        run_job(job)
    steps = [json.loads(x)["step"] for x in (cut[0].folder / "metrics.jsonl").open()]
    assert steps == list(range(1, 10))
    found = collect_results(walking, whole, "command", "quick")
    assert found["walk"].curves["position"].shape == (2, 9)
    np.testing.assert_allclose(
        found["walk"].final["position"], [a["path"][-1] for a in found.arrays("walk")]
    )
    write_json(found, [], tmp_path / "whole/walking/quick/results.json")
    again, _ = read_json(tmp_path / "whole/walking/quick/results.json")
    page = html(again, [], walking.figures)
    assert "Position (m)" in page and "Cost (USD)" in page and "A random walk that keeps" in page
    assert page.count("var(--arm0)") and "The path of each seed." in page
    assert "Learning curves" not in page and "hacked" not in page
    with pytest.raises(KeyError, match="arm 'run': there are walk"):
        found["run"]


def test_a_figure_whose_arrays_are_gone_says_so(walking: Experiment, tmp_path: Path) -> None:
    jobs = jobs_of(walking, "quick", tmp_path)
    for job in jobs:
        run_job(job)
    found = collect_results(walking, jobs, "command", "quick")
    (jobs[1].folder / "arrays.npz").unlink()
    assert "cannot be drawn: [Errno 2]" in html(found, [], walking.figures)


# ---- claims ----------------------------------------------------------------------------------


def results(objective: float, misleading: float, proxy: float, rise: float = 1.0) -> Results:
    noise = np.array([-0.002, -0.001, 0.0, 0.001, 0.002])
    step = np.tile(np.arange(10.0), (5, 1))

    def arm(label: str, survival: float, sign: int = 1) -> ArmResult:
        paid = step * rise + noise[:, None]
        return ArmResult(
            label, quickstart.ENV, "", "ppo", list(range(5)),
            curves={"step": step, "return": paid, "objective": paid},
            final={"objective": survival + sign * noise, "return": noise},
        )  # fmt: skip

    arms = [
        arm(quickstart.OBJECTIVE, objective),
        arm(quickstart.OPTIMAL, objective),
        arm(quickstart.MISLEADING, misleading, -1),  # so that differences have a spread
        arm(quickstart.PROXY, proxy),
    ]
    references = dict(quickstart.EXPERIMENT.references)
    return Results("quickstart", "", "", arms, "quick", "", references=references)


@pytest.mark.parametrize(
    ("made_up", "outcomes"),
    [
        (results(0.85, 0.85, 0.75), ["holds", "holds", "holds", "holds", "holds"]),
        (results(0.85, 0.80, 0.79), ["holds", "holds", "fails", "holds", "fails"]),
        (results(0.80, 0.90, 0.85), ["holds", "holds", "fails", "fails", "fails"]),
        (results(0.85, 0.869, 0.75, -1.0), ["holds", "holds", "inconclusive", "fails", "holds"]),
    ],
)
def test_each_claim_of_the_quickstart_can_come_out_either_way(
    made_up: Results, outcomes: list[str]
) -> None:
    verdicts = judge(quickstart.EXPERIMENT, made_up)
    assert [v.outcome for v in verdicts] == outcomes
    tested = [v for v in verdicts if v.p_value is not None]
    assert all(v.p_adjusted is not None and v.p_adjusted >= v.p_value for v in tested)


def test_the_exact_claim_fails_when_shaping_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shaping that forgets the discount is no potential shaping."""
    right = quickstart.shaped
    monkeypatch.setattr(quickstart, "shaped", lambda mdp, phi, gamma: right(mdp, 50 * phi, 1.0))
    verdict = quickstart.shaping_keeps_the_optimum(results(0.8, 0.8, 0.8))
    assert verdict.outcome == "fails" and verdict.effect > 0.01


def test_tuned_seeds_are_not_reported() -> None:
    with pytest.raises(ValueError, match=r"\[1\] were tuned on"):
        Experiment("x", "", "", grid=[], budgets={}, claims=[], seeds=(1, 2), tuning_seeds=(0, 1))


def test_arms_are_paired_by_seed(tmp_path: Path) -> None:
    """The same seed gives every arm the same patients at the start."""
    claim = Claim("", lambda r: Verdict("", "holds", None, None, None, 1, ""))
    experiment = Experiment(
        name="paired", title="", paper="", seeds=(4,), claims=[claim],
        grid=[
            Arm("a", "rewardzoo/GridWorld-v0", "objective", agent_kwargs={"num_steps": 8}),
            Arm("b", "rewardzoo/GridWorld-v0", "0 * objective", agent_kwargs={"num_steps": 8}),
        ],
        budgets={"quick": Budget(64, 8, 8, 1)},
    )  # fmt: skip
    jobs = jobs_of(experiment, "quick", tmp_path)
    for job in jobs:
        run_job(job)
    found = collect_results(experiment, jobs, "command", "quick")
    a, b = (arm.curves["objective"] for arm in found.arms)
    np.testing.assert_array_equal(a, b)
    assert found.provenance["torch"] and judge(experiment, found)[0].outcome == "holds"
