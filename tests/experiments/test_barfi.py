"""The BARFI experiment: its claims can come out every way, and a tiny run of it works."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rewardzoo import Transition
from rewardzoo.cli import app
from rewardzoo.experiments import barfi
from rewardzoo.experiments.common.barfi_tasks import (
    BAD,
    GOOD,
    NONE,
    TASKS,
    Blocks,
    Nothing,
    last_tenth,
)
from rewardzoo.registration import EXPERIMENTS
from rewardzoo.results import ArmResult, Results
from rewardzoo.rewards.heuristics import VelocityPush

NOISE = np.array([-0.02, 0.01, 0.0, 0.02, -0.01, 0.0, 0.01, -0.01])


def results(kind: str, **final: Any) -> Results:
    """Made-up shares of the maze."""
    arm = ArmResult(
        barfi.label("maze", kind), "", "", "", list(range(8)), {},
        {k: np.asarray(v) + NOISE for k, v in final.items()},
    )  # fmt: skip
    return Results("x", "", "", [arm], "", "", {})


@pytest.mark.parametrize(
    ("share", "outcome"), [(0.99, "holds"), (0.7, "fails"), (0.95, "inconclusive")]
)
def test_barfi_must_reach_the_optimum(share: float, outcome: str) -> None:
    assert barfi.reaches("maze")(results(BAD, barfi=share)).outcome == outcome


@pytest.mark.parametrize(
    ("share", "outcome"), [(0.1, "holds"), (0.9, "fails"), (0.5, "inconclusive")]
)
@pytest.mark.parametrize("arm", ["naive", "shaping", "subtracted"])
def test_competitors_must_fail(arm: str, share: float, outcome: str) -> None:
    made = results(BAD, **{arm: share})
    assert barfi.fails("maze", arm, "it")(made).outcome == outcome


@pytest.mark.parametrize(
    ("mine", "outcome"), [(0.88, "holds"), (0.7, "fails"), (0.8, "inconclusive")]
)
def test_to_be_no_worse_is_to_lose_less_than_the_margin(mine: float, outcome: str) -> None:
    scores = np.full(8, mine) + np.linspace(-0.05, 0.05, 8)
    made = results(BAD, barfi=scores, weight=0.9)
    assert barfi.no_worse("maze", BAD, "weight", 0.1, "x")(made).outcome == outcome


@pytest.mark.parametrize(
    ("phi", "outcome"), [(-1.0, "holds"), (1.0, "fails"), (0.5, "inconclusive")]
)
def test_bad_advice_must_be_disbelieved(phi: float, outcome: str) -> None:
    assert barfi.disbelieves("maze")(results(BAD, phi_3=phi)).outcome == outcome


def test_the_last_tenth_counts() -> None:
    curves = np.array([[0.0] * 18 + [1.0, 3.0], [5.0] * 20])
    assert last_tenth(curves).tolist() == [2.0, 5.0]


def test_blocks_pay_each_its_own_rows() -> None:
    fn = Blocks(Nothing(), VelocityPush(2.0))
    fn._rows = 2
    no = torch.zeros(4, dtype=torch.bool)
    obs = torch.tensor([[0.0, 0.01]] * 4)
    t = Transition(obs=obs, action=torch.tensor([2, 0, 2, 0]), next_obs=obs,
                   reward=torch.zeros(4), terminated=no, truncated=no, valid=~no,
                   episode_step=torch.zeros(4, dtype=torch.int64))  # fmt: skip
    assert fn(t).tolist() == [0.0, 0.0, 2.0, -2.0]


class Trial:
    """A trial that remembers what it is told."""

    def __init__(self, seed: int) -> None:
        self.seed, self.logged, self.arrays = seed, [], {}
        self.budget = types.SimpleNamespace(total_timesteps=9, seeds=2)

    def log(self, step: int, **numbers: float) -> None:
        self.logged.append((step, numbers))

    def save_arrays(self, **arrays: Any) -> None:
        self.arrays.update(arrays)


def test_a_tiny_run_of_the_maze_gives_every_number_of_every_line() -> None:
    for kind in (BAD, GOOD, NONE):
        trial = Trial(seed=101)
        final = barfi.compare(trial, "maze", kind)
        assert all(np.isfinite(v) for v in final.values())
        assert ("naive" in final) == (kind != NONE)
        assert {"barfi", "primary", "old_primary", "phi_3", "gamma_phi"} <= set(final)
        assert trial.logged[-1][0] == 9 and set(trial.logged[0][1]) <= {*final, "gamma_phi"}
        assert trial.arrays["map_3"].shape == (21, 21)
    assert final["barfi"] <= 1.01


def test_shares_of_an_unknown_optimum_are_of_what_the_primary_reward_teaches() -> None:
    finals = [
        barfi.compare(Trial(seed), "half cheetah", BAD)
        for seed in barfi.TASKS["half cheetah"].seeds[:2]
    ]
    assert np.mean([final["primary"] for final in finals]) == pytest.approx(1.0)
    assert all(np.isfinite(v) for final in finals for v in final.values())
    assert "primary reward alone" in barfi.yardstick("half cheetah")
    assert barfi.yardstick("maze") == "the optimum"


def test_tuning_and_reporting_seeds_are_apart_and_every_task_is_an_experiment() -> None:
    assert set(barfi.TASK_EXPERIMENTS) == set(TASKS)
    for name, experiment in barfi.TASK_EXPERIMENTS.items():
        assert not set(experiment.seeds) & set(experiment.tuning_seeds)
        assert len(experiment.claims) == 9 and len(experiment.grid) == 3
        assert experiment.budgets["quick"].seeds == 10
        assert experiment.name in EXPERIMENTS and name in experiment.title


def test_one_process_learns_the_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []

    def run_jobs(jobs: Any, workers: int, *rest: Any) -> None:
        asked.append(workers)
        raise RuntimeError("that is enough")

    monkeypatch.setattr("rewardzoo.launch.run_jobs", run_jobs)
    for name in ("barfi_maze", "quickstart"):
        for workers in ("0", "4"):
            command = ["run", name, "--budget", "smoke", "--workers", workers]
            CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert asked == [1, 1, 0, 4]
