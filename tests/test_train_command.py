"""``rewardzoo train``: nobody's training is replaced unasked, and what cannot be saved is said."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from rewardzoo.checkpoint import load_checkpoint
from rewardzoo.registration import REWARDS
from rewardzoo.rewards.base import RewardFunction

ENV = "rewardzoo/CartPole-v0"
STEPS = 512
ITERATION = 128


def command(folder: Path, *more: Any, steps: int = STEPS) -> list[Any]:
    """A training of four iterations."""
    args = ["train", "--env", ENV, "--num-envs", 8, "--steps", steps, "--set", "num_steps=16"]
    return [*args, "--out", folder, *more]


def steps_of(folder: Path) -> int:
    return int(load_checkpoint(folder / "checkpoint.pt", "ppo")["num_timesteps"])


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(autouse=True)
def saves_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every iteration; and few episodes are played at the end."""
    from rewardzoo.zoo import policies

    monkeypatch.setattr("rewardzoo.callbacks.Saving.__init__.__defaults__", (0.0, False))
    whole = policies.score
    monkeypatch.setattr(policies, "score", lambda agent, made, *_: whole(agent, made, 8, 8))


# ---- whose folder it is ----------------------------------------------------------------------


def test_a_second_start_is_told_how_to_go_on(cli: Any, tmp_path: Path) -> None:
    assert cli(*command(tmp_path)).code == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    again = cli(*command(tmp_path))
    assert again.code == 2 and again.err.count("\n") == 1
    assert f"--out {tmp_path}: it holds this very training; go on with --resume" in again.err
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert cli(*command(tmp_path, "--resume", steps=STEPS + ITERATION)).code == 0
    assert steps_of(tmp_path) == STEPS + ITERATION
    longer = cli(*command(tmp_path, steps=STEPS + ITERATION))
    assert longer.code == 2 and "this very training" in longer.err


@pytest.mark.parametrize(
    "other",
    [
        ["--reward", "2 * objective"],
        ["--agent", "double_dqn"],
        ["--seed", 1],
        ["--set", "gamma=0.5"],
        ["--num-envs", 4],
    ],
)
def test_another_training_is_not_replaced(other: list[Any], cli: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("its checkpoint")
    from rewardzoo.training import record_training

    first = {"env": ENV, "reward": "objective", "agent": "ppo", "num_envs": 8, "seed": 0}
    record_training(tmp_path, {**first, "settings": {"num_steps": 16}})
    args = [x for x in command(tmp_path, *other) if x != "num_steps=16" or "--agent" not in other]
    if "--agent" in other:
        args.remove("--set")
    done = cli(*args)
    assert done.code == 2
    assert f"it holds another training, of ppo on objective in {ENV}; use another --out" in done.err
    assert (tmp_path / "checkpoint.pt").read_text() == "its checkpoint"


def test_a_training_of_before_there_were_records_is_not_replaced(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("its checkpoint")
    done = cli(*command(tmp_path))
    assert done.code == 2 and "it holds another training; use another --out" in done.err
    assert (tmp_path / "checkpoint.pt").read_text() == "its checkpoint"


def test_a_policy_is_not_replaced(cli: Any, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    assert cli(*command(tmp_path / "a", "--save", policy)).code == 0
    before = (policy / "model.safetensors").read_bytes()
    other = command(tmp_path / "b", "--save", policy, "--seed", 1)
    done = cli(*other)
    assert done.code == 2 and not (tmp_path / "b/checkpoint.pt").exists()
    assert f"--save {policy}: it holds a policy, of ppo on objective in {ENV}; use" in done.err
    assert (policy / "model.safetensors").read_bytes() == before
    assert cli(*other, "--fresh").code == 0
    assert (policy / "model.safetensors").read_bytes() != before


def test_fresh_deletes_an_earlier_training_and_nothing_else(cli: Any, tmp_path: Path) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    assert cli(*command(tmp_path, "--eval-every", ITERATION)).code == 0
    logs = set(tmp_path.glob("events.out.tfevents.*"))
    assert logs and (tmp_path / "best.pt").is_file()
    assert cli(*command(tmp_path, "--fresh", "--seed", 1)).code == 0
    assert mine.read_text() == "mine" and not (tmp_path / "best.pt").exists()
    assert not logs & set(tmp_path.glob("events.out.tfevents.*"))
    assert load_checkpoint(tmp_path / "checkpoint.pt", "ppo")["seed"] == 1
    done = cli(*command(tmp_path, "--fresh", "--resume"))
    assert done.code == 2 and "--fresh: it deletes what --resume goes on from" in done.err


def test_a_folder_that_cannot_be_written_is_named_by_its_option(cli: Any, tmp_path: Path) -> None:
    for option, args in (
        ("--save", command(tmp_path, "--save", "/proc/nowhere")),
        ("--out", command(Path("/proc/nowhere"))),
    ):
        done = cli(*args)
        assert done.code == 2 and f"{option} /proc/nowhere: cannot write there" in done.err
    assert not (tmp_path / "checkpoint.pt").exists()


# ---- full disks ------------------------------------------------------------------------------


def fills_up(after: int, patch: pytest.MonkeyPatch, where: str = "rewardzoo.checkpoint") -> None:
    """From the ``after``-th file on, the disk is full."""
    from rewardzoo.files import write_atomic

    written = 0

    def write(path: Any, content: Any) -> None:
        nonlocal written
        written += 1
        if written > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_atomic(path, content)

    patch.setattr(f"{where}.write_atomic", write)


def test_room_is_looked_for_before_anything_is_trained(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rewardzoo.agents.ppo import PPO

    def learn(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(PPO, "learn", learn)
    fills_up(0, monkeypatch)
    done = cli(*command(tmp_path))
    assert done.code == 2 and done.err.count("\n") == 1
    told = f"--out {tmp_path}: cannot write there (No space left on device); make room, or choose"
    assert told in done.err
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize("after", [3, 5])  # the probe, then iterations: the third; the last save
def test_a_disk_that_fills_up_costs_what_came_after_the_last_save(
    after: int, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*command(tmp_path / "whole")).code == 0
    folder = tmp_path / "full"
    with monkeypatch.context() as patch:
        fills_up(after, patch)
        done = cli(*command(folder))
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert (
        f"--out {folder}: cannot write there (No space left on device); make room; checkpoint.pt is as it "
        in done.err
    )
    assert "to go on from with --resume" in done.err
    assert steps_of(folder) == (after - 1) * ITERATION
    assert cli(*command(folder, "--resume")).code == 0
    whole, found = (
        load_checkpoint(path / "checkpoint.pt", "ppo")["network"]
        for path in (tmp_path / "whole", folder)
    )
    assert all(torch.equal(found[name], x) for name, x in whole.items()) and whole


def test_a_disk_too_full_for_the_policy_keeps_the_checkpoint(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy"
    args = command(tmp_path / "out", "--save", policy)
    with monkeypatch.context() as patch:
        fills_up(1, patch, "rewardzoo.zoo.policies")
        done = cli(*args)
    assert done.code == 2 and f"--save {policy}: cannot write there (No space left" in done.err
    assert steps_of(tmp_path / "out") == STEPS
    assert cli(*args, "--resume").code == 0 and (policy / "config.json").is_file()


# ---- interrupts ------------------------------------------------------------------------------


class Interrupting(RewardFunction):
    """Its fiftieth step sends the process Ctrl-C."""

    calls = 0

    def __call__(self, t: Any) -> Any:
        Interrupting.calls += 1
        if Interrupting.calls == 50:
            os.kill(os.getpid(), signal.SIGINT)
        return t.reward


@pytest.mark.parametrize("saved_before", [True, False])
def test_a_second_interrupt_says_that_nothing_was_saved(
    saved_before: bool, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the first one's checkpoint is written."""
    from rewardzoo.callbacks import Saving

    if not saved_before:
        monkeypatch.setattr(Saving.__init__, "__defaults__", (1e9, False))
    monkeypatch.setitem(REWARDS._entries, "interrupting", Interrupting)
    monkeypatch.setattr(Interrupting, "calls", 0)
    synced = os.fsync

    def fsync(handle: int) -> None:
        if Interrupting.calls >= 50:
            os.kill(os.getpid(), signal.SIGINT)
        synced(handle)

    monkeypatch.setattr("os.fsync", fsync)
    done = cli(*command(tmp_path, "--reward", "interrupting"))
    assert done.code == 130 and done.err == ""
    said = words(done.out)
    assert "stopped; not saved, as it was interrupted again; " in said
    assert ("checkpoint.pt is as it was saved last" in said) == saved_before
    assert ("nothing was saved yet" in said) != saved_before
    assert (tmp_path / "checkpoint.pt").is_file() == saved_before
    assert not list(tmp_path.glob(".checkpoint*"))


# ---- what a plugin does wrong ------------------------------------------------------------------

PLUGIN = '''"""Reward functions that look for what is not there."""
from rewardzoo import RewardFunction, register_reward

@register_reward("misspelt")
class Misspelt(RewardFunction):
    """Reads what no environment says."""
    def __call__(self, t):
        return t.info["sofaa"]

@register_reward("early")
class Early(RewardFunction):
    """The same, before the first step."""
    def bind(self, num_envs, device, spaces):
        {}["sofaa"]
'''


@pytest.mark.parametrize(
    ("reward", "code", "message"),
    [
        (
            "misspelt",
            2,
            "error: reward function misspelt: KeyError: 'sofaa' (mine.py, line 8); inf",
        ),
        ("early", 1, "error: KeyError: 'sofaa' (rewardzoo --debug shows where)"),
    ],
)
def test_an_error_of_a_plugin_is_one_line_that_says_what_it_is(
    cli: Any, tmp_path: Path, reward: str, code: int, message: str
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    done = cli("--plugin", plugin, *command(tmp_path / "out", "--reward", reward))
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert done.err.startswith(message)
