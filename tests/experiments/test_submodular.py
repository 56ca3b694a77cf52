"""The claims of the submodular experiments can come out either way, and their pictures can be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from rewardzoo.experiment import Budget, Experiment
from rewardzoo.experiments import (
    submodular_coverage,
    submodular_gp,
    submodular_items,
    submodular_theory,
)
from rewardzoo.experiments.common import submodular
from rewardzoo.jobs import Job, collect_results, run_job
from rewardzoo.results import ArmResult, Results

SEEDS = [1, 2, 3, 4, 5]


def made_up(final: dict[str, dict[str, Any]]) -> Results:
    arms = [
        ArmResult(label, "", "", "", SEEDS, {}, {k: np.resize(v, 5) for k, v in values.items()})
        for label, values in final.items()
    ]
    return Results("x", "", "", arms, "", "")


def test_a_ratio_holds_fails_or_is_open() -> None:
    check = submodular.at_least("More.", "a", "f", 1.5, "b")
    outcome = {
        value: check(made_up({"a": {"f": value}, "b": {"f": 10.0}})).outcome
        for value in [(16.0, 15.9), (14.0, 14.5), (10.0, 20.0, 10.0, 20.0, 18.0)]
    }
    assert list(outcome.values()) == ["holds", "fails", "inconclusive"]
    known = submodular.at_least("Near.", "a", "f", 0.95, 82.0)
    assert known(made_up({"a": {"f": 80.0}})).outcome == "holds"
    assert known(made_up({"a": {"f": 70.0}})).outcome == "fails"
    assert known(made_up({"a": {"f": 80.0}})).effect == pytest.approx(80 / 82)


def test_everywhere_means_on_every_task() -> None:
    tasks = [submodular.Task("f", "x"), submodular.Task("g", "x")]
    check = submodular.everywhere("All.", "a", "b", tasks, 0.9)

    def outcome(f: Any, g: Any) -> str:
        return check(made_up({"a": {"f": f, "g": g}, "b": {"f": 1.0, "g": 1.0}})).outcome

    assert outcome(1.0, 0.95) == "holds"
    assert outcome(1.0, 0.5) == "fails"
    assert outcome(1.0, (0.7, 1.2, 0.7, 1.2, 0.9)) == "inconclusive"


def test_modpo_against_random_holds_fails_or_is_open() -> None:
    def outcome(x: Any) -> str:
        final = {submodular.MODULAR: {"uniform": x}, submodular.RANDOM: {"uniform": 30.0}}
        return submodular_coverage.modular_is_worse_than_random(made_up(final)).outcome

    assert outcome((28.0, 28.5)) == "holds"
    assert outcome((31.0, 31.5)) == "fails"
    assert outcome((28.0, 33.0, 29.0, 32.0, 30.0)) == "inconclusive"


def test_reaching_is_asked_of_every_seed() -> None:
    check = submodular_theory.reaches("There.", "a", "gap", 1.45, 1.55)
    outcomes = [
        check(made_up({"a": {"gap": x}})).outcome for x in (1.5, (1.5, 1.6, 1.5, 1.5, 1.5), 2.0)
    ]
    assert outcomes == ["holds", "inconclusive", "fails"]


def test_the_cost_of_gains_holds_fails_or_is_open() -> None:
    def outcome(flat: Any, square: Any) -> str:
        final = {"slope of coverage": flat, "slope of information": square}
        results = made_up({submodular_theory.COST: final})
        return submodular_theory.cost_grows_as_it_should(results).outcome

    assert outcome(0.01, 1.9) == outcome(0.01, 1.4) == "holds"
    assert outcome(1.0, 1.9) == "fails"
    assert outcome(0.01, 3.0) == "fails"
    assert outcome((0.0, 0.0, 0.0, 0.0, 0.3), 2.0) == "inconclusive"


def test_the_exact_claims_hold_and_would_fail_on_another_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert submodular_theory.gradient_is_exact(made_up({})).outcome == "holds"
    assert submodular_theory.markov_cannot_reach_the_optimum(made_up({})).outcome == "holds"
    # Another weight for one of the items: then it is no longer 1.5 against 2.
    other = {**submodular_theory.GAP, "weights": (1.0, 3.0, 0.0)}
    monkeypatch.setattr(submodular_theory, "GAP", other)
    assert submodular_theory.markov_cannot_reach_the_optimum(made_up({})).outcome == "fails"
    monkeypatch.setattr(submodular_theory, "credits", lambda r, d, g, c: r)
    assert submodular_theory.gradient_is_exact(made_up({})).outcome == "fails"


def run(experiment: Experiment, budget: Budget, folder: Path) -> Results:
    """The whole experiment at a budget of its own, on one seed."""
    seed = experiment.seeds[0]
    jobs = [
        Job(experiment.name, i, seed, budget, folder / arm.slug / f"seed-{seed}")
        for i, arm in enumerate(experiment.grid)
    ]
    for job in jobs:
        run_job(job)
    return collect_results(experiment, jobs, "", "tiny")


def draw_all(experiment: Experiment, results: Results) -> None:
    for figure in experiment.figures:
        canvas = Canvas(figsize=figure.size)
        figure.draw(canvas, results)
        assert len(canvas.axes) >= 1


def test_items_run_from_training_to_verdicts_and_pictures(tmp_path: Path) -> None:
    experiment = submodular_items.EXPERIMENT
    results = run(experiment, Budget(600, 8, 8, 1), tmp_path)
    for label in (submodular.MARKOV, submodular_items.PPO_LABEL, submodular.RANDOM):
        assert 0 < results[label].final["items"][0] <= 21
    assert len({claim.check(results).claim for claim in experiment.claims}) == 5
    draw_all(experiment, results)
    path = results.arrays(submodular.MARKOV)[0]["items"]
    walk = submodular_items.TASKS[0].walk(results[submodular.MARKOV].seeds[0])
    assert path.shape == (40,)
    assert all(b in walk.neighbours[a] for a, b in zip(path, path[1:], strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("module", [submodular_coverage, submodular_gp, submodular_theory])
def test_the_others_run_from_training_to_verdicts_and_pictures(module: Any, tmp_path: Path) -> None:
    experiment = module.EXPERIMENT
    results = run(experiment, Budget(4_000, 8, 8, 1), tmp_path)
    for claim in experiment.claims:
        assert claim.check(results).outcome in ("holds", "fails", "inconclusive")
    draw_all(experiment, results)


def test_an_interrupted_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    class Trial:
        seed, device, folder = 7, "cpu", tmp_path
        budget = Budget(1_200, 8, 8, 1)
        logged: list[int] = []

        def log(self, step: int, **numbers: float) -> None:
            self.logged.append(step)

    task = submodular.Task("items", "rewardzoo/SubmodularItems-v0", {"horizon": 6})
    whole, _ = submodular.train(Trial(), task, "objective", "markov", 0, 1_200)
    (tmp_path / "items.pt").unlink()
    Trial.logged.clear()
    submodular.train(Trial(), task, "objective", "markov", 0, 600)
    resumed, _ = submodular.train(Trial(), task, "objective", "markov", 0, 1_200)
    assert whole.tolist() == resumed.tolist()
    assert Trial.logged == sorted(set(Trial.logged))
