"""Curves of cost against size: every contender is read at every size, shares are of one item."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rewardzoo.experiments import benchmarks
from rewardzoo.experiments.benchmarks import (
    rlhf,
    scaling_batch,
    scaling_cores,
    scaling_envs,
    timing,
)
from rewardzoo.experiments.benchmarks.timing import Point, Row, cheaper
from rewardzoo.jobs import Job
from rewardzoo.rewards import RewardFunction
from rewardzoo.transition import Transition


def quiet(line: str) -> None:
    """Say nothing."""


def test_the_first_contender_is_compared_repeat_by_repeat() -> None:
    point = Point("A step", "environments", 8)
    row = cheaper(point, {"ours": [1.0, 2.0, 4.0], "other": [9.0] * 3}, [2.0, 6.0, 4.0], "a note")
    assert row.values == [2.0, 3.0, 1.0] and row.median == 2.0 and row.met is None
    assert row.readings["other"] == [9.0] * 3 and row.point == point


def test_steps_are_read_of_every_contender_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the call that moves N environments, a reading is an Nth."""
    asked: list[tuple[str, int, bool]] = []

    def contender(name: str) -> Any:
        def made(num_envs: int, compile: bool = False) -> Any:
            asked.append((name, num_envs, compile))
            return lambda: None

        return made

    monkeypatch.setattr(scaling_envs, "batched", contender("ours"))
    monkeypatch.setattr(scaling_envs, "numpy_batched", contender("batch"))
    monkeypatch.setattr(scaling_envs, "_sync", contender("loop"))
    monkeypatch.setattr(scaling_envs, "seconds_per_call", lambda call, budget: lambda: 4.0)
    rows = scaling_envs.run(quiet)
    sizes = [row.point.at for row in rows if row.point]
    assert sizes == [1, 8, 64, 512, 4096]
    assert len(asked) == 4 * len(rows) == len(set(asked))
    for row, size in zip(rows, sizes, strict=True):
        assert set(row.readings) == {
            "rewardzoo, compiled",
            "rewardzoo",
            "gymnasium, NumPy batch",
            "gymnasium, SyncVectorEnv",
        }
        assert all(v == [4.0 / size] * timing.REPEATS for v in row.readings.values())


def test_gymnasiums_loop_steps_all_its_environments() -> None:
    obs, reward, *_ = scaling_envs._sync(3)()
    assert obs.shape == (3, 4) and reward.tolist() == [1.0] * 3


def test_a_batch_is_paid_played_and_learned_from_by_the_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []

    def seconds_per_call(call: Any, budget: float) -> Any:
        calls.append(call())
        return lambda: 4.0

    monkeypatch.setattr(scaling_batch, "seconds_per_call", seconds_per_call)
    monkeypatch.setattr(scaling_batch, "ROWS", (1, 64))
    monkeypatch.setattr(scaling_batch, "NUM_ENVS", (1, 4))
    monkeypatch.setattr(scaling_batch, "_sampling", lambda say: [])
    rows = scaling_batch.run(quiet)
    sizes = [row.point.at for row in rows if row.point]
    assert sizes == [1, 64, 128, 512]
    for row, size in zip(rows, sizes, strict=True):
        assert all(v == [4.0 / size] * timing.REPEATS for v in row.readings.values())
    assert [row.median for row in rows] == [1.0, 64.0, 1.0, 4.0]
    assert len(calls) == sum(len(row.readings) for row in rows)
    paid = calls[:6]
    assert [tuple(p.shape) for p in paid] == [(1,)] * 3 + [(64,)] * 3


def test_rewards_are_paid_without_gradients_as_in_a_rollout() -> None:
    class Asked(RewardFunction):
        def __call__(self, t: Transition) -> Tensor:
            return torch.full_like(t.reward, float(torch.is_grad_enabled()))

    assert scaling_batch._paying(Asked(), scaling_batch._transition(2))().tolist() == [0.0, 0.0]


def test_enough_prompts_are_completed_for_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="needs the extra rlhf")
    asked: list[tuple[int, int]] = []

    def samplers(count: int, times: int) -> Any:
        asked.append((count, times))
        return {"ours": lambda: 1000.0 * count}

    monkeypatch.setattr(rlhf, "samplers", samplers)
    rows = scaling_batch._sampling(quiet)
    assert asked == [(1, 64), (8, 8), (64, 1), (512, 1)]
    assert rows[1].readings == {"ours": [1 / 8000.0] * timing.REPEATS}
    assert rows[1].median == pytest.approx(8.0)


def test_the_most_memory_is_noticed_though_it_is_given_back() -> None:
    def work() -> None:
        held = np.ones(8_000_000)  # 64 MB
        time.sleep(0.1)
        del held

    assert 60.0 < timing.peak_megabytes(work) < 90.0
    assert timing.peak_megabytes(lambda: time.sleep(0.05)) < 20.0


def test_all_samplers_give_a_rate() -> None:
    pytest.importorskip("transformers", reason="needs the extra rlhf")
    found = {name: read() for name, read in rlhf.samplers(2, 2).items()}
    assert len(found) == 3 and all(rate > 0.0 for rate in found.values())


def test_jobs_are_run_anew_by_each_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, list[Job]]] = []
    monkeypatch.setattr(
        scaling_cores, "run_jobs", lambda jobs, workers, console: ran.append((workers, jobs))
    )
    rows = scaling_cores._jobs([1, 2, 16], quiet)
    assert [row.point.at for row in rows if row.point] == [1, 2]  # sixteen would have none to do
    assert [workers for workers, _ in ran] == [1, 2] * 3
    folders = [job.folder for _, jobs in ran for job in jobs]
    assert len(folders) == len(set(folders)) == 8 * len(ran)
    assert {job.budget for _, jobs in ran for job in jobs} == {scaling_cores.JOB}


def test_threads_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(scaling_cores, "NUM_ENVS", 1)

    def read() -> float:
        used.append(torch.get_num_threads())
        return 1.0

    monkeypatch.setattr(scaling_cores, "seconds_per_call", lambda call, budget: read)
    before = torch.get_num_threads()
    rows = scaling_cores._threads([1, 2], quiet)
    assert used == [1, 2] * timing.REPEATS and torch.get_num_threads() == before
    assert rows[0].readings == {"rewardzoo": [1 / 128] * timing.REPEATS}


def test_what_is_stored_says_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And under which load of others: that before the first reading."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.25, 0.0, 0.0), raising=False)

    def run(say: Any) -> list[Row]:
        monkeypatch.setattr("os.getloadavg", lambda: (9.0, 0.0, 0.0), raising=False)
        return [cheaper(Point("A", "b", 1), {"ours": [1.0]}, [1.0], "")]

    monkeypatch.setattr(scaling_envs, "run", run)
    benchmarks.main("scaling_envs", tmp_path / "here.json")
    stored = json.loads((tmp_path / "here.json").read_text())
    assert stored["hardware"]["load"] == 0.25 and stored["hardware"]["processor"]
    assert stored["hardware"]["cores"] == timing.cores()
    assert {"rewardzoo", "python", "torch", "gymnasium"} <= set(stored["versions"])
    assert stored["rows"][0]["point"] == {"curve": "A", "along": "b", "at": 1}


def test_one_that_fails_does_not_cost_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(say: Any) -> list[Row]:
        raise RuntimeError("no such peer")

    monkeypatch.setattr(benchmarks, "BENCHMARKS", ("scaling_batch", "scaling_envs"))
    monkeypatch.setattr(benchmarks, "apart", lambda function, name: function(name))
    monkeypatch.setattr(scaling_batch, "run", fail)
    monkeypatch.setattr(scaling_envs, "run", lambda say: [Row("a", {}, "", [1.0], bar=2.0)])
    assert not benchmarks.main(out=tmp_path / "here.json")
    failed, other = json.loads((tmp_path / "here.json").read_text())["rows"]
    assert failed["name"] == "scaling_batch" and failed["note"] == "RuntimeError: no such peer"
    assert other["name"] == "a" and other["met"] is False
    with pytest.raises(RuntimeError, match="no such peer"):
        benchmarks.main("scaling_batch")


def test_each_has_a_process_to_itself_whose_end_costs_that_one_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert benchmarks.apart(os.getpid) != os.getpid()
    asked: list[Any] = []

    def apart(function: Any, name: str) -> Any:
        asked.append((function, name))
        return benchmarks_apart(os._exit, 3) if name == "rlhf" else []

    benchmarks_apart = benchmarks.apart
    monkeypatch.setattr(benchmarks, "BENCHMARKS", ("rlhf", "scaling_envs"))
    monkeypatch.setattr(benchmarks, "apart", apart)
    benchmarks.main(out=tmp_path / "here.json")
    assert asked == [(benchmarks.rows_of, "rlhf"), (benchmarks.rows_of, "scaling_envs")]
    (row,) = json.loads((tmp_path / "here.json").read_text())["rows"]
    assert row["name"] == "rlhf" and "terminated abruptly" in row["note"]
