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
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rewardzoo.callbacks import Saving
from rewardzoo.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rewardzoo.experiment import Arm, Budget, Experiment, ExperimentError
from rewardzoo.jobs import Interrupted, Job, collect_results, jobs_of, run_job
from rewardzoo.launch import attempt
from rewardzoo.llm.cache import JudgementCache
from rewardzoo.registration import REWARDS
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


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one waits for workers to save; one of them never comes to that."""
    stuck = tmp_path / "stuck"
    monkeypatch.setenv("STUCK", str(stuck))
    with started(plugin("sticky"), "run", "faulty", "--out", tmp_path, "--workers", 1) as process:
        await_file(stuck, process)
        first = tmp_path / "faulty/quick/plain/seed-0/result.json"
        before = first.read_bytes()
        os.killpg(process.pid, signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        asked = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert time.monotonic() - asked < 20.0 and process.returncode == 130, out
        assert "what is finished is kept" in out and "Traceback" not in out
    assert first.read_bytes() == before


@pytest.mark.slow
def test_sigterm_saves_like_an_interrupt(plugin: Any, tmp_path: Path) -> None:
    args = ("run", "faulty", "--out", tmp_path, "--workers", 1)
    with started(plugin("objective", 10**8), *args) as process:
        await_file(tmp_path / "faulty/quick/plain/seed-0/metrics.jsonl", process)
        process.terminate()
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 130 and "stopped" in text and "Traceback" not in text, text
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    assert load_checkpoint(checkpoint, "ppo")["num_timesteps"] > 0


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
