"""What goes wrong around a run: it says so in a line, and no finished result is lost.

Told elsewhere: workers that die and killed runs that go on (test_experiment.py), environments'
workers (test_workers.py), nodes of a cluster (test_launch_ray.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rewardzoo.callbacks import Saving
from rewardzoo.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rewardzoo.experiment import Arm, Budget, Experiment, ExperimentError
from rewardzoo.interrupts import is_command
from rewardzoo.jobs import Interrupted, Job, collect_results, jobs_of, run_job
from rewardzoo.launch import attempt
from rewardzoo.llm.cache import JudgementCache
from rewardzoo.registration import EXPERIMENTS, REWARDS, load_plugin
from rewardzoo.results import write_atomic
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.rlhf.session import _interrupts

ENV = "rewardzoo/CartPole-v0"
PLUGIN = '''
import os
import time
from pathlib import Path

from rewardzoo.experiment import Arm, Budget, Experiment
from rewardzoo.registration import register_reward
from rewardzoo.rewards.base import RewardFunction


@register_reward("sticky")
class Sticky(RewardFunction):
    """Takes for ever over its hundredth step."""

    calls = 0

    def __call__(self, t):
        self.calls += 1
        if self.calls == 100:
            Path(os.environ["STUCK"]).write_text("here\\n")
            time.sleep(600.0)
        return t.reward


Experiment(
    name="faulty", title="One arm goes wrong", paper="none", claims=[], seeds=(0,),
    grid=[
        Arm("plain", "rewardzoo/CartPole-v0", "objective", agent_kwargs={"num_steps": 16}),
        Arm("other", "rewardzoo/CartPole-v0", "REWARD", agent_kwargs={"num_steps": 16}),
    ],
    budgets={"quick": Budget(total_timesteps=STEPS, num_envs=8, eval_episodes=8, seeds=1)},
)
'''


def command(plugin: Path, *args: Any) -> dict[str, Any]:
    """What ``subprocess`` needs to start a run."""
    env = dict(os.environ, COLUMNS="200", REWARDZOO_PLUGINS=str(plugin))
    line = [sys.executable, "-m", "rewardzoo", *map(str, args)]
    return {"args": line, "env": env, "text": True}


def rewardzoo(plugin: Path, *args: Any, **kwargs: Any) -> Any:
    return subprocess.run(**command(plugin, *args), capture_output=True, timeout=300, **kwargs)


@contextlib.contextmanager
def started(plugin: Path, *args: Any) -> Any:
    """A run in a process group of its own, which ends with the block."""
    process = subprocess.Popen(
        **command(plugin, *args), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # A shell starts background jobs with the signal ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def await_file(path: Path, process: Any) -> None:
    """Return as soon as the running process has written to the file."""
    deadline = time.monotonic() + 120
    while not (path.is_file() and path.stat().st_size > 0):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


@pytest.fixture
def plugin(tmp_path: Path) -> Any:
    """A function that writes the experiment with an arm of some reward."""

    def write(reward: str, steps: int = 1024) -> Path:
        path = tmp_path / "faulty.py"
        path.write_text(PLUGIN.replace("REWARD", reward).replace("STEPS", str(steps)))
        return path

    return write


TINY = '''
import os
import time

from rewardzoo.experiment import Budget, Experiment, Measure


def short(trial):
    """Ends at once."""
    return {"value": 1.0}


def waits(trial):
    """Goes on until it is asked to stop, or is stuck."""
    (trial.folder / "here").touch()
    if "QUICK" in os.environ:
        return {"value": 2.0}
    if "STUCK" in os.environ:
        time.sleep(600.0)
    for step in range(1, 100_000):
        time.sleep(0.01)
        (trial.folder / "saved").touch()
        trial.log(step, value=0.0)


Experiment(
    name="tiny", title="Two measures", paper="none", claims=[], seeds=(0,),
    grid=[Measure("short", short), Measure("waits", waits)], columns={"value": "value"},
    budgets={"quick": Budget(total_timesteps=1, num_envs=1, eval_episodes=1, seeds=1)},
)
'''


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A plugin whose experiment takes no time but its workers'."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    yield path
    EXPERIMENTS._entries.pop("tiny", None)


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        name="faults", title="", paper="", seeds=(0, 1), claims=[],
        grid=[Arm("a", ENV, "objective", agent_kwargs={"num_steps": 16})],
        budgets={"quick": Budget(2048, 8, 8, 2)},
    )  # fmt: skip


def stop_after(job: Job, iterations: int) -> None:
    """Run a job until it is asked to stop."""
    seen: list[Any] = []
    with pytest.raises(Interrupted):
        run_job(job, seen.append, lambda: len(seen) >= iterations)


# ---- disks -----------------------------------------------------------------------------------


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["tempfile.mkstemp", "os.fsync", "os.replace"])
def test_a_full_disk_leaves_the_old_file_and_no_part_of_a_new_one(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(path, "new" * 100_000)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_costs_the_job_and_nothing_that_was_kept(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, job = jobs_of(experiment, "quick", tmp_path / "full")
    whole = jobs_of(experiment, "quick", tmp_path / "whole")[1]
    for each in (done, whole):
        run_job(each)
    kept = (done.folder / "result.json").read_bytes()
    stop_after(job, 3)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        patch.setattr(Path, "write_text", full)  # there is no room for a log either
        error = attempt(job, lambda metrics: None, lambda: False)
    assert "No space left on device" in error and not job.finished
    assert (done.folder / "result.json").read_bytes() == kept
    assert attempt(job, lambda metrics: None, lambda: False) == ""  # there is room again
    assert final(job) == final(whole)


def final(job: Job) -> Any:
    return json.loads((job.folder / "result.json").read_text())["final"]


def in_this_process(jobs: Any, workers: int, board: Any) -> None:
    """A launcher for quick tests."""
    for job in jobs:
        task = board.start(job)
        board.end(task, job, attempt(job, lambda metrics: None, lambda: False))


def test_a_run_on_a_full_disk_says_so_in_a_line_and_goes_on_when_there_is_room(
    cli: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewardzoo.launch_local.launch", in_this_process)
    monkeypatch.setenv("QUICK", "1")
    load_plugin(tiny)
    args = ("run", "tiny", "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        done = cli(*args)
    assert done.code == 1 and done.err.count("\n") == 1, done
    assert "2 of 2 runs failed" in done.err and "No space left on device" in done.err
    assert cli(*args).code == 0 and len(list(tmp_path.rglob("result.json"))) == 2


def read_only(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Nobody can make files in ``folder``, or below it."""
    touch = Path.touch

    def refused(self: Path, *args: Any, **kwargs: Any) -> None:
        if folder in self.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        touch(self, *args, **kwargs)

    patch.setattr(Path, "touch", refused)


@pytest.mark.parametrize(
    "args",
    [
        ["run", "tiny", "--out", "FOLDER"],
        ["train", "--env", ENV, "--out", "FOLDER"],
        ["train", "--env", ENV, "--save", "FOLDER", "--out", "ELSEWHERE"],
        ["compare", "objective", "--env", ENV, "--out", "FOLDER"],
        ["zoo", "train", "ppo-gridworld", "--out", "FOLDER"],
        ["zoo", "play", "ppo-gridworld", "--out", "FOLDER/film.gif"],
        ["play", "rewardzoo/GridWorld-v0", "--out", "FOLDER/film.gif"],
        ["report", "RUN", "RUN", "--out", "FOLDER/page.html"],
        ["bench", "--only", "scaling_envs", "--out", "FOLDER/here.json"],
    ],
)
def test_every_command_tries_its_folder_before_it_does_anything(
    args: list[str], cli: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    for work in (
        "rewardzoo.launch.run_jobs", "rewardzoo.agents.ppo.PPO.learn", "rewardzoo.video.episode",
        "rewardzoo.results.read_json", "rewardzoo.experiments.benchmarks.rows_of",
    ):  # fmt: skip
        monkeypatch.setattr(work, never)
    folder = tmp_path / "mine"
    folder.mkdir()
    read_only(folder, monkeypatch)
    elsewhere = str(tmp_path / "elsewhere")
    args = [x.replace("FOLDER", str(folder)).replace("ELSEWHERE", elsewhere) for x in args]
    done = cli("--plugin", tiny, *args)
    option = "--save" if "--save" in args else "--out"
    assert done.code == 2 and done.err.count("\n") == 1, done
    assert f"{option} {folder}" in done.err and "cannot write there (Read-only file" in done.err
    assert not list(folder.rglob("*.*"))


@pytest.mark.slow
def test_a_run_on_a_disk_without_room_says_so_in_a_line(plugin: Any, tmp_path: Path) -> None:
    """Files may have 20,000 bytes, as on a full disk: the system refuses what is written beyond."""
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    path = plugin("objective")
    done = rewardzoo(path, "run", "faulty", "--out", tmp_path, "--workers", 1, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert "OSError: [Errno 27] File too large" in done.stderr and "Traceback" not in done.stderr
    again = rewardzoo(path, "run", "faulty", "--out", tmp_path, "--workers", 1)
    assert again.returncode == 0 and len(list(tmp_path.glob("**/result.json"))) == 2


def without_overriding_permissions() -> None:
    """Root may write everywhere: take that from what is executed next."""
    if os.geteuid() == 0:
        drop_from_bounding_set, dac_override = 24, 1
        assert ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0) == 0


@pytest.mark.slow
def test_a_read_only_folder_is_named_before_anything_is_run(plugin: Any, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    path = plugin("objective")
    assert rewardzoo(path, "run", "faulty", "--out", out, "--workers", 1).returncode == 0
    before = digest(out)
    for folder in (out, *(p for p in out.rglob("*") if p.is_dir())):
        folder.chmod(0o555)
    try:
        done = rewardzoo(
            path, "run", "faulty", "--out", out, preexec_fn=without_overriding_permissions
        )
        shown = rewardzoo(
            path, "report", out / "faulty/quick", preexec_fn=without_overriding_permissions
        )
    finally:
        for folder in (out, *(p for p in out.rglob("*") if p.is_dir())):
            folder.chmod(0o755)
    assert done.returncode == 2 and f"--out {out}: cannot write there" in done.stderr
    assert "plain" in shown.stdout  # the table needs no file
    assert shown.returncode == 2 and "Permission denied" in shown.stderr
    assert digest(out) == before


def digest(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# ---- damaged and malicious files -------------------------------------------------------------


class Malice:
    """Executes code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("write", ["pickle", "torch", "inside"])
def test_a_checkpoint_that_would_execute_code_is_refused(write: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "checkpoint.pt", tmp_path / "executed"
    if write == "pickle":
        path.write_bytes(pickle.dumps(Malice(mark)))
    elif write == "torch":
        torch.save(Malice(mark), path)
    else:
        save_checkpoint(path, "ppo", {"network": Malice(mark)})
    with pytest.raises(CheckpointError, match=r"(pickle|\.mkdir).* could execute code, so"):
        load_checkpoint(path, "ppo")
    assert not mark.exists()
    with path.open("rb") as file:
        torch.load(file, weights_only=False) if write != "pickle" else pickle.load(file)
    assert mark.exists()  # so it was a working trap


def damage(path: Path, how: str) -> bytes:
    """Spoil a file; what it holds then."""
    whole = path.read_bytes()
    middle = len(whole) // 2
    spoilt = {
        "cut": whole[:middle],
        "empty": b"",
        "zeros": bytes(len(whole)),  # what a power cut leaves on some file systems
        "bit": whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
    }[how]
    path.write_bytes(spoilt)
    return spoilt


def interrupted(job: Job, iterations: int) -> Path:
    """The checkpoint of a job that saved after every iteration until it was asked to stop."""
    seen: list[Any] = []
    with pytest.raises(Interrupted):
        run_job(job, seen.append, lambda: len(seen) >= iterations, checkpoint_seconds=0.0)
    return job.folder / "checkpoint.pt"


@pytest.mark.parametrize("how", ["cut", "empty", "zeros", "bit"])
def test_a_job_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_result(
    how: str, experiment: Experiment, tmp_path: Path
) -> None:
    whole, job = (jobs_of(experiment, "quick", tmp_path / name)[0] for name in ("whole", "job"))
    run_job(whole)
    checkpoint = interrupted(job, 5)
    assert load_checkpoint(checkpoint, "ppo")["num_timesteps"] == 5 * 128
    spoilt = damage(checkpoint, how)
    seen: list[Any] = []
    with pytest.warns(UserWarning) as told:
        assert attempt(job, seen.append, lambda: False) == ""
    (text,) = [str(w.message) for w in told]
    assert "set aside as checkpoint.damaged.pt; going on from checkpoint.previous.pt" in text
    assert seen[0]["time/total_timesteps"] == 5 * 128  # the fifth iteration, for the second time
    assert final(job) == final(whole)
    steps = [
        [json.loads(x)["time/total_timesteps"] for x in (j.folder / "metrics.jsonl").open()]
        for j in (whole, job)
    ]
    assert steps[0] == steps[1]
    kept = {p.name: p.read_bytes() for p in job.folder.glob("*.pt")}
    assert set(kept) == {"checkpoint.pt", "checkpoint.damaged.pt"}
    assert kept["checkpoint.damaged.pt"] == spoilt


def test_a_job_whose_checkpoints_are_all_damaged_begins_anew_to_the_same_result(
    experiment: Experiment, tmp_path: Path
) -> None:
    whole, job = (jobs_of(experiment, "quick", tmp_path / name)[0] for name in ("whole", "job"))
    run_job(whole)
    checkpoint = interrupted(job, 5)
    damage(checkpoint, "cut")
    damage(job.folder / "checkpoint.previous.pt", "bit")
    seen: list[Any] = []
    with pytest.warns(UserWarning) as told:
        assert attempt(job, seen.append, lambda: False) == ""
    (text,) = [str(w.message) for w in told]
    assert "checkpoint.damaged.pt and checkpoint.previous.damaged.pt; no whole one is left" in text
    assert seen[0]["time/total_timesteps"] == 128 and final(job) == final(whole)


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one_or_says_that_none_is_left(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewardzoo.callbacks.Saving.__init__.__defaults__", (0.0, False))
    monkeypatch.setitem(REWARDS._entries, "terminated", Terminated)
    checkpoint = tmp_path / "checkpoint.pt"
    args = ("train", "--env", ENV, "--num-envs", 8, "--steps", 1024, "--set", "num_steps=16")
    assert cli(*args, "--out", tmp_path / "whole").code == 0
    args = (*args, "--out", tmp_path, "--reward", "terminated")
    monkeypatch.setattr(Terminated, "calls", 0)
    assert cli(*args).code == 130
    previous = tmp_path / "checkpoint.previous.pt"
    assert previous.is_file()
    damage(checkpoint, "bit")
    with pytest.warns(UserWarning, match="going on from checkpoint.previous.pt"):
        assert cli(*args, "--resume").code == 0
    whole = load_checkpoint(tmp_path / "whole" / "checkpoint.pt", "ppo")["network"]
    found = load_checkpoint(checkpoint, "ppo")["network"]
    assert all(torch.equal(found[name], x) for name, x in whole.items()) and whole
    assert not previous.exists()
    damage(checkpoint, "cut")
    with pytest.warns(UserWarning, match="no whole one is left"):
        done = cli(*args, "--resume")
    assert done.code == 2 and "--resume: no whole checkpoint in" in " ".join(done.err.split())


def test_a_damaged_result_is_named_and_the_job_runs_again(
    experiment: Experiment, tmp_path: Path
) -> None:
    jobs = jobs_of(experiment, "quick", tmp_path)
    for job in jobs:
        run_job(job)
    before = final(jobs[1])
    path = jobs[1].folder / "result.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(ExperimentError, match=r"seed-1/result.json': it is damaged .*delete it"):
        collect_results(experiment, jobs, "command", "quick")
    path.unlink()
    run_job(jobs[1])
    assert final(jobs[1]) == before
    assert len(collect_results(experiment, jobs, "command", "quick").arms[0].seeds) == 2


# ---- rewards that are no numbers -------------------------------------------------------------


class LateNan(RewardFunction):
    """No number from the fifth step of an episode on."""

    def __call__(self, t: Any) -> Any:
        return torch.where(t.episode_step >= 4, torch.nan, t.reward)


def test_nan_is_named_with_its_step_and_the_other_arm_is_kept(tmp_path: Path) -> None:
    experiment = Experiment(
        name="nan", title="", paper="", seeds=(0,), claims=[],
        grid=[
            Arm("plain", ENV, "objective", agent_kwargs={"num_steps": 16}),
            Arm("nan", ENV, lambda envs: LateNan(), agent_kwargs={"num_steps": 16}),
        ],
        budgets={"quick": Budget(512, 8, 8, 1)},
    )  # fmt: skip
    plain, bad = jobs_of(experiment, "quick", tmp_path)
    assert attempt(plain, lambda metrics: None, lambda: False) == ""
    kept = digest(plain.folder)
    error = attempt(bad, lambda metrics: None, lambda: False)
    assert "reward function late_nan: paid nan in row 0" in error and "at step 4 of its" in error
    assert "late_nan" in (bad.folder / "log.txt").read_text()
    assert digest(plain.folder) == kept and not bad.finished


def test_training_that_fails_keeps_what_was_saved_before(tmp_path: Path) -> None:
    from rewardzoo.agents.ppo import PPO
    from rewardzoo.jobs import make_envs

    path = tmp_path / "checkpoint.pt"
    saving, learner = Saving(path, seconds=0.0), PPO(make_envs(ENV, "objective", 8), num_steps=16)

    def fail(agent: Any, metrics: dict[str, float]) -> None:
        if agent.num_timesteps > 256:
            raise RuntimeError("on purpose")
        saving(agent, metrics)

    with pytest.raises(RuntimeError, match="on purpose"):
        learner.learn(1024, callback=fail)
    assert PPO.load(path, make_envs(ENV, "objective", 8)).num_timesteps == 256
    with pytest.raises(ValueError, match="seconds=-1"):
        Saving(path, seconds=-1)


# ---- clocks ----------------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_no_duration_and_no_result(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock on the wall goes back a day at each look."""
    jobs = jobs_of(experiment, "quick", tmp_path)
    now, start = time.time(), time.monotonic()
    looks = iter(range(1_000_000))
    monkeypatch.setattr("time.time", lambda: now - 86_400.0 * next(looks))
    monkeypatch.setattr("time.time_ns", lambda: int(1e9 * (now - 86_400.0 * next(looks))))
    rates: list[float] = []
    for job in jobs:
        run_job(job, lambda metrics: rates.append(metrics["time/sps"]))
    took = time.monotonic() - start
    seconds = [json.loads((j.folder / "result.json").read_text())["seconds"] for j in jobs]
    assert all(0.0 < s <= took for s in seconds) and all(r > 0.0 for r in rates)


def test_a_claim_from_before_the_clock_was_set_back_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    killed, other = (JudgementCache(tmp_path / "cache.db", "judge", "1") for _ in range(2))
    monkeypatch.setattr("time.time", lambda: now + 86_400.0)
    assert killed.claim(["a message"]) == ["a message"]
    assert other.claim(["a message"]) == []
    monkeypatch.setattr("time.time", lambda: now)
    assert other.claim(["a message"]) == ["a message"]
    for cache in (killed, other):
        cache.close()


# ---- signals and locks -----------------------------------------------------------------------


def when(path: Path, number: int, then: Callable[[], None] = lambda: None) -> threading.Thread:
    """Send this process a signal as soon as the file is there."""

    def send() -> None:
        deadline = time.monotonic() + 120
        while not path.is_file():
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        os.kill(os.getpid(), number)
        then()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


@pytest.mark.timeout(120)
def test_sigterm_saves_like_an_interrupt_and_keeps_what_is_finished(
    tiny: Path, cli: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny/quick"
    sender = when(folder / "waits/seed-0/here", signal.SIGTERM)
    done = cli("--plugin", tiny, "run", "tiny", "--out", tmp_path, "--workers", 1)
    assert done.code == 130 and done.err == "", done
    sender.join()
    assert "stopped; what is finished is kept. Go on with the same command" in " ".join(
        done.out.split()
    )
    assert final_of(folder / "short/seed-0") == {"value": 1.0}
    assert (folder / "waits/seed-0/saved").is_file()  # it was asked, and not killed
    assert not (folder / "waits/seed-0/result.json").exists()


@pytest.mark.timeout(120)
def test_a_second_interrupt_leaves_at_once(
    tiny: Path, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one waits for workers to save; this one never comes to that."""
    monkeypatch.setenv("STUCK", "1")
    folder = tmp_path / "tiny/quick"
    asked: list[float] = []

    def again() -> None:
        time.sleep(0.5)
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    sender = when(folder / "waits/seed-0/here", signal.SIGINT, again)
    done = cli("--plugin", tiny, "run", "tiny", "--out", tmp_path, "--workers", 1)
    ended = time.monotonic()
    assert done.code == 130 and done.err == "", done
    sender.join()
    assert ended - asked[0] < 20.0
    assert "what is finished is kept" in " ".join(done.out.split())
    assert final_of(folder / "short/seed-0") == {"value": 1.0}


def final_of(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())["final"]


def test_an_interrupted_command_that_has_no_word_for_it_says_stopped(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("rewardzoo.registration.env_ids", interrupted)
    done = cli("list", "envs")
    assert (done.code, done.out, done.err) == (130, "", "stopped\n")


def test_an_interrupt_while_libraries_are_imported_is_one_line(tmp_path: Path) -> None:
    """The library is a stand-in that is interrupted, and would catch what Python raises."""
    (tmp_path / "torch.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    raise ImportError('half of it') from None\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "rewardzoo", "list", "envs"],
        env=dict(os.environ, PYTHONPATH=str(tmp_path)), capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["python", "-m", "rewardzoo", "list"], True),
        (["python", "/home/me/bin/rewardzoo", "list"], True),
        (["python", "-m", "rewardzoo.experiments.benchmarks"], False),
        (["python", "-m", "pytest", "rewardzoo"], False),
        (["python", "train.py", "rewardzoo"], False),
        (["python"], False),
        ([], False),
    ],
)
def test_only_the_command_takes_the_interrupts_of_imports(
    arguments: list[str], command: bool
) -> None:
    assert is_command(arguments) is command


class Terminated(RewardFunction):
    """Its hundredth step sends the process what a cluster sends before it kills."""

    calls = 0

    def __call__(self, t: Any) -> Any:
        Terminated.calls += 1
        if Terminated.calls == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        return t.reward


def test_a_terminated_training_saves_and_goes_on(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REWARDS._entries, "terminated", Terminated)
    monkeypatch.setattr(Terminated, "calls", 0)
    args = ("train", "--env", ENV, "--out", tmp_path, "--num-envs", 8, "--steps", 1024)
    args = (*args, "--set", "num_steps=16", "--reward", "terminated")
    done = cli(*args)
    assert done.code == 130 and "Go on with the same command and --resume" in " ".join(
        done.out.split()
    )
    saved = load_checkpoint(tmp_path / "checkpoint.pt", "ppo")["num_timesteps"]
    assert saved == 768  # six iterations of 128; the seventh was interrupted
    assert cli(*args, "--resume").code == 0
    assert load_checkpoint(tmp_path / "checkpoint.pt", "ppo")["num_timesteps"] == 1024


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_a_language_model_ends_after_its_step_and_at_a_second_signal_at_once(
    number: int,
) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with _interrupts() as asked:
        os.kill(os.getpid(), number)
        assert asked == [number]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_training_refuses_a_folder_in_use_and_takes_over_that_of_a_killed_one(
    cli: Any, tmp_path: Path
) -> None:
    args = ("train", "--env", ENV, "--out", tmp_path, "--num-envs", 8, "--steps", 128)
    lock = tmp_path / ".lock"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
            "print('held', flush=True); time.sleep(600)",
            str(lock),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        refused = cli(*args)
        assert refused.code == 2 and "another run is using it" in refused.err
        assert not (tmp_path / "checkpoint.pt").exists()
    finally:
        holder.kill()
        holder.wait()
    assert lock.exists()  # a killed process cleans nothing up
    assert cli(*args).code == 0
