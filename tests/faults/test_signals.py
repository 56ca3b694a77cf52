"""Interrupts, SIGTERM and folders in use: what was begun is saved and can be gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewardzoo.checkpoint import load_checkpoint
from rewardzoo.interrupts import is_command
from rewardzoo.rlhf.session import _interrupts

ENV = "rewardzoo/CartPole-v0"


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
    final: Any, tiny: Path, cli: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny/quick"
    sender = when(folder / "waits/seed-0/here", signal.SIGTERM)
    done = cli("--plugin", tiny, "run", "tiny", "--out", tmp_path, "--workers", 1)
    assert done.code == 130 and done.err == "", done
    sender.join()
    assert "stopped; what is finished is kept. Go on with the same command" in " ".join(
        done.out.split()
    )
    assert final(folder / "short/seed-0") == {"value": 1.0}
    assert (folder / "waits/seed-0/saved").is_file()  # it was asked, and not killed
    assert not (folder / "waits/seed-0/result.json").exists()


@pytest.mark.timeout(120)
def test_a_second_interrupt_leaves_at_once(
    final: Any, tiny: Path, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert final(folder / "short/seed-0") == {"value": 1.0}


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


def test_a_terminated_training_saves_and_goes_on(
    terminated: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("train", "--env", ENV, "--out", tmp_path, "--num-envs", 8, "--steps", 1024)
    args = (*args, "--set", "num_steps=16", "--reward", terminated)
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
