"""The soak: it sees what is kept, is not fooled by spikes, and lasts only when it is asked for."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardzoo.experiments import benchmarks
from rewardzoo.experiments.benchmarks import soak


def readings(growth: float) -> list[tuple[float, float]]:
    """Half an hour that warms up by 500 MB, with noise, and a spike in every tenth reading."""
    minutes = np.linspace(0.1, 30.0, 300)
    rng = np.random.default_rng(0)
    megabytes = 300.0 + growth * minutes + rng.normal(0.0, 1.0, 300)
    megabytes += np.where(minutes < 5.0, 100.0 * (minutes - 5.0), 0.0)
    megabytes[::10] += 200.0
    return list(zip(minutes.tolist(), megabytes.tolist(), strict=True))


@pytest.mark.parametrize("growth", [0.0, 0.5, 3.0])
def test_the_slope_is_that_after_warming_up(growth: float) -> None:
    found, low, high = soak.slope(readings(growth))
    assert low <= growth <= high and abs(found - growth) < 0.05  # five standard errors


def test_too_few_readings_are_told() -> None:
    with pytest.raises(ValueError, match="readings: 1 after warming up, expected at least 3"):
        soak.slope([(0.1, 100.0), (30.0, 100.0)])


def test_what_is_kept_is_seen() -> None:
    before = soak._megabytes()
    # Pages of its own: an array may get memory that this process has freed and still holds.
    kept = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(kept, np.uint8)[:] = 1
    assert soak._megabytes() - before == pytest.approx(64.0, abs=2.0)


def test_what_is_shared_with_workers_is_seen() -> None:
    before = soak._megabytes()
    kept = mmap.mmap(-1, 64 << 20)
    np.frombuffer(kept, np.uint8)[:] = 1
    assert soak._megabytes() - before == pytest.approx(64.0, abs=2.0)


@pytest.mark.parametrize("settings", soak._SETTINGS, ids=lambda settings: settings[0])
def test_a_round_goes_on_with_the_agent_that_was_read_again(settings: Any, tmp_path: Path) -> None:
    learner = soak._learner(*settings)
    for steps in (1024, 2048):
        before, learner = learner, soak._round(learner, tmp_path)
        assert learner.agent is not before.agent and learner.agent.num_timesteps == steps


def test_one_learners_worlds_are_in_workers_that_end_with_its_round(tmp_path: Path) -> None:
    gc.collect()  # whatever other tests have left
    before = set(multiprocessing.active_children())
    learner = soak._learner(*soak._SETTINGS[-1])
    for _ in range(2):
        assert len(set(multiprocessing.active_children()) - before) == 2
        learner = soak._round(learner, tmp_path)
        gc.collect()


def test_it_lasts_at_least_one_round() -> None:
    rounds: list[int] = []
    found = soak.soak(1e-9, lambda line: None, lambda: rounds.append(1))
    assert len(found) == len(rounds) == 1 and found[0][0] > 0.0 and found[0][1] > 50.0


@pytest.mark.parametrize(("growth", "met"), [(0.5, True), (3.0, False)])
def test_it_is_run_by_its_name_alone_and_judged(
    growth: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def quick(minutes: float, say: Any) -> Any:
        asked.append(minutes)
        return readings(growth)

    monkeypatch.setattr(soak, "soak", quick)
    monkeypatch.setattr(benchmarks, "BENCHMARKS", ("soak",))
    assert benchmarks.main() and asked == []
    assert benchmarks.main("soak") is met and asked == [30.0]
