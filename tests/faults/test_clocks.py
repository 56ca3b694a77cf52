"""Clocks that are set while something runs change no duration and hold nobody up."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rewardzoo.experiment import Experiment
from rewardzoo.jobs import jobs_of, run_job
from rewardzoo.llm.cache import JudgementCache


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
