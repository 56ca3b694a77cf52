"""One seed, two processes: the same checkpoint and the same metrics, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import hashlib, json, sys
from pathlib import Path
from rewardzoo.experiment import Arm, Budget, Experiment
from rewardzoo.jobs import jobs_of, run_job

SAC = {"num_steps": 8, "updates_per_step": 0.125, "learning_starts": 128, "batch_size": 32}
experiment = Experiment(
    name="again", title="", paper="", seeds=(0, 1), claims=[],
    grid=[
        Arm("ppo", "rewardzoo/GridWorld-v0", "normalise(objective) + 0.1 * novelty()",
            agent_kwargs={"num_steps": 16}),
        Arm("sac", "rewardzoo/Pendulum-v0", "objective", agent="sac", agent_kwargs=SAC),
    ],
    budgets={"quick": Budget(1024, 8, 8, 2)},
)
found = {}
for job in jobs_of(experiment, "quick", Path(sys.argv[1])):
    run_job(job)
    lines = [json.loads(x) for x in (job.folder / "metrics.jsonl").read_text().splitlines()]
    found[job.name] = {
        "checkpoint": hashlib.sha256((job.folder / "checkpoint.pt").read_bytes()).hexdigest(),
        "metrics": [{k: v for k, v in x.items() if k != "time/sps"} for x in lines],
        "final": json.loads((job.folder / "result.json").read_text())["final"],
    }
print(json.dumps(found))
"""


def test_two_processes_with_one_seed_end_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This process, and one whose sets of strings have an order of their own."""
    out = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "one")],
        env=dict(os.environ, PYTHONHASHSEED="12345"),
        capture_output=True, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip
    one = json.loads(out)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "two")])
    exec(CODE, {})
    assert one == json.loads(capsys.readouterr().out)
    assert len(one["ppo, seed 0"]["metrics"]) == 8 and len(one["sac, seed 0"]["metrics"]) == 16
    for agent in ("ppo", "sac"):  # another seed is told apart by each of them
        for key, value in one[f"{agent}, seed 0"].items():
            assert value != one[f"{agent}, seed 1"][key]
