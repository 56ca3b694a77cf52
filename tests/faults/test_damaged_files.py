"""Checkpoints and results that are damaged, or would execute code: none of it is believed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rewardzoo.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rewardzoo.experiment import Experiment, ExperimentError
from rewardzoo.jobs import Interrupted, Job, collect_results, jobs_of, run_job
from rewardzoo.launch import attempt

ENV = "rewardzoo/CartPole-v0"


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
    final: Any, how: str, experiment: Experiment, tmp_path: Path
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
    assert final(job.folder) == final(whole.folder)
    steps = [
        [json.loads(x)["time/total_timesteps"] for x in (j.folder / "metrics.jsonl").open()]
        for j in (whole, job)
    ]
    assert steps[0] == steps[1]
    kept = {p.name: p.read_bytes() for p in job.folder.glob("*.pt")}
    assert set(kept) == {"checkpoint.pt", "checkpoint.damaged.pt"}
    assert kept["checkpoint.damaged.pt"] == spoilt


def test_a_job_whose_checkpoints_are_all_damaged_begins_anew_to_the_same_result(
    final: Any, experiment: Experiment, tmp_path: Path
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
    assert seen[0]["time/total_timesteps"] == 128 and final(job.folder) == final(whole.folder)


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one_or_says_that_none_is_left(
    terminated: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewardzoo.callbacks.Saving.__init__.__defaults__", (0.0, False))
    checkpoint = tmp_path / "checkpoint.pt"
    args = ("train", "--env", ENV, "--num-envs", 8, "--steps", 1024, "--set", "num_steps=16")
    assert cli(*args, "--out", tmp_path / "whole").code == 0
    args = (*args, "--out", tmp_path, "--reward", terminated)
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
    final: Any, experiment: Experiment, tmp_path: Path
) -> None:
    jobs = jobs_of(experiment, "quick", tmp_path)
    for job in jobs:
        run_job(job)
    before = final(jobs[1].folder)
    path = jobs[1].folder / "result.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(ExperimentError, match=r"seed-1/result.json': it is damaged .*delete it"):
        collect_results(experiment, jobs, "command", "quick")
    path.unlink()
    run_job(jobs[1])
    assert final(jobs[1].folder) == before
    assert len(collect_results(experiment, jobs, "command", "quick").arms[0].seeds) == 2
