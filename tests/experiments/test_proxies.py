"""Claims of proxies' tasks can come out every way; each coefficient is chosen on other seeds."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from rewardzoo.experiment import Budget
from rewardzoo.experiments import correlated_proxies_glucose as glucose
from rewardzoo.experiments import correlated_proxies_tomato as tomato
from rewardzoo.experiments import correlated_proxies_traffic as traffic
from rewardzoo.experiments.common import proxies
from rewardzoo.experiments.common.proxies import KL, arm
from rewardzoo.experiments.correlated_proxies import ACTION_KL, HACKED, HONEST, SQRT_CHI2
from rewardzoo.results import ArmResult, Results


class Task(NamedTuple):
    """An experiment, its first claim, what the base reaches, and by how much runs differ."""

    module: ModuleType
    hacked: str
    base: float
    unit: float

    @property
    def regularisers(self) -> proxies.Regularisers:
        """Those of the experiment."""
        return getattr(self.module, "REGULARISERS", proxies.REGULARISERS)

    def results(self, above: dict[str, float]) -> Results:
        """Made-up runs of five seeds: so many units above the base by arm, else at the base."""
        noise = np.array([-2.0, 1.0, 0.0, 2.0, -1.0]) * self.unit / 10.0
        arms = []
        for measure in self.module.EXPERIMENT.grid:
            x = self.base + self.unit * above.get(measure.label, 0.0) + noise
            final = {"objective": x, "base": self.base - noise, "r": np.full(5, 0.6)}
            final |= {"raised_at": np.full(5, np.inf), "fallen_at": np.full(5, np.inf)}
            final["score"] = noise
            step = np.tile(np.arange(6.0), (5, 1))
            curves = {"step": step, "objective": np.where(step % 3 == 2, x[:, None], np.nan)}
            arms.append(ArmResult(measure.label, "", "", "", list(range(5)), curves, final))
        return Results("x", "", "", arms, "", "")

    def verdict(self, claim: str, above: dict[str, float]) -> str:
        """The outcome of a claim for made-up runs."""
        claims = self.module.EXPERIMENT.claims
        return next(c.check for c in claims if c.sentence == claim)(self.results(above)).outcome


TASKS = [
    Task(glucose, "The cost is hacked", -0.003, 1e-3),
    Task(traffic, "The speed is hacked", -0.28, 1e-2),
    Task(tomato, "The bucket is hacked", 0.065, 1e-3),
]
CLAIMS = [
    ("sqrt(chi2) beats the base", SQRT_CHI2, None),
    ("sqrt(chi2) beats action KL", SQRT_CHI2, ACTION_KL),
    ("Occupancy KL beats action KL", KL, ACTION_KL),
    ("The theory's coefficient improves on the base", SQRT_CHI2, None),
]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda t: t.module.EXPERIMENT.name)


@every_task
@pytest.mark.parametrize(
    ("reached", "outcome"), [(-9.0, "holds"), (9.0, "fails"), (0.0, "inconclusive")]
)
def test_the_proxy_is_hacked_or_not(task: Task, reached: float, outcome: str) -> None:
    assert task.verdict(task.hacked, {HACKED: reached}) == outcome


@pytest.mark.parametrize(
    ("task", "claim", "name", "rival"),
    [(task, *claim) for task in TASKS for claim in CLAIMS]
    + [(TASKS[2], "sqrt(chi2) of states beats action KL", tomato.SQRT_CHI2_STATES, ACTION_KL)],
)
def test_regularisers_are_compared_at_their_best(
    task: Task, claim: str, name: str, rival: str | None
) -> None:
    factors = task.regularisers[name].factors
    worse = {arm(name, f): -20.0 for f in factors}
    ours = arm(name, proxies.THEORY if "theory" in claim else factors[0])
    assert task.verdict(claim, {**worse, ours: 5.0}) == "holds"
    assert task.verdict(claim, {**worse, ours: -10.0}) == "fails"
    assert task.verdict(claim, {**worse, ours: 0.0}) == "inconclusive"
    if rival is not None:
        better = arm(rival, task.regularisers[rival].factors[-1])
        assert task.verdict(claim, {**worse, ours: 5.0, better: 15.0}) == "fails"


def test_the_coefficient_of_a_seed_is_chosen_on_the_others() -> None:
    """Arm b is best on seed 0 alone: no seed but the others' mean may say so."""
    made = TASKS[0].results({})
    labels = [arm(SQRT_CHI2, f) for f in (0.3, 1.0)]
    made[labels[0]].final["objective"] = np.array([1.0, 1.0, 1.0, 1.0, 1.0])
    made[labels[1]].final["objective"] = np.array([9.0, 0.0, 0.0, 0.0, 0.0])
    found, chosen = proxies.best_of_others(made, labels)
    assert found.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert chosen == [labels[0], *[labels[1]] * 4]


@pytest.mark.parametrize(
    ("short", "name"),
    [("sqrt(chi2)", SQRT_CHI2), ("sqrt(chi2) of states", tomato.SQRT_CHI2_STATES),
     ("occupancy KL", KL)],
)  # fmt: skip
def test_in_the_mean_the_best_is_the_same_for_every_seed(short: str, name: str) -> None:
    task = TASKS[2]
    first, second, *others = task.regularisers[name].factors
    rivals = [arm(ACTION_KL, f) for f in task.regularisers[ACTION_KL].factors]
    base, action = (f"In the mean {short} beats {x}" for x in ("the base policy", "action KL"))
    low = {arm(name, f): -20.0 for f in others} | {arm(name, first): -30.0}
    assert task.verdict(base, {**low, arm(name, second): 5.0}) == "holds"
    assert task.verdict(base, {**low, arm(name, second): -10.0}) == "fails"
    assert task.verdict(action, {**low, arm(name, second): 5.0}) == "holds"
    assert task.verdict(action, {**low, arm(name, second): 5.0, rivals[3]: 9.0}) == "fails"
    made = task.results({})
    made[arm(name, first)].final["objective"] = np.array([9.0, 9.0, 9.0, 9.0, -99.0])
    made[arm(name, second)].final["objective"] = np.array([1.0, 1.0, 1.0, 1.0, 1.0])
    found, chosen = proxies.best_of_all(made, [arm(name, f) for f in (first, second)])
    assert chosen == [arm(name, second)] and found.tolist() == [1.0] * 5


@every_task
def test_the_picture_can_be_drawn(task: Task) -> None:
    canvas = Canvas()
    task.module.EXPERIMENT.figures[0].draw(canvas, task.results({HONEST: 3.0}))
    left, right = canvas.axes
    assert len(right.lines) == 15
    assert all(np.isfinite(line.get_ydata()).all() for line in right.lines)
    assert left.get_xscale() == "log"


class Trial:
    """What a run of an experiment is given."""

    seed, device = 0, "cpu"

    def __init__(self, total_timesteps: int, num_envs: int) -> None:
        self.budget = Budget(total_timesteps, num_envs, eval_episodes=0, seeds=1)
        self.steps: list[int] = []

    def log(self, step: int, **numbers: Any) -> None:
        self.steps.append(step)


@pytest.mark.slow
def test_a_tiny_run_of_glucose() -> None:
    trial = Trial(4_608, 16)
    found = glucose.learn(trial, "glucose_cost", SQRT_CHI2, 1.0)
    assert trial.steps == [1_536, 3_072, 4_608]
    assert 0.3 < found["r"] < 0.8 and found["base"] < 0.0 and np.isfinite(found["objective"])


@pytest.mark.slow
def test_a_tiny_run_of_traffic() -> None:
    pytest.importorskip("libsumo")
    trial = Trial(1_200, 4)
    found = traffic.learn(trial, "traffic_speed", SQRT_CHI2, 1.0)
    assert trial.steps == [400, 800, 1_200]
    assert 0.3 < found["r"] < 0.95 and found["base"] < 0.0 and np.isfinite(found["objective"])


@pytest.mark.parametrize("name", tomato.REGULARISERS)
def test_a_tiny_run_of_the_garden_begins_at_random_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rewardzoo.agents.orpo import ORPO
    from rewardzoo.experiments import correlated_proxies

    made: list[ORPO] = []

    def orpo(*args: Any, **kwargs: Any) -> ORPO:
        made.append(ORPO(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(correlated_proxies, "ORPO", orpo)
    monkeypatch.setattr(correlated_proxies, "imitate", None)  # would fail
    trial = Trial(800, 8)
    kind = tomato.REGULARISERS[name]
    found = tomato.learn(trial, "tomato_proxy", name, 2.0)
    garden = tomato.Garden("4", 0.9, 0)
    unit = garden.theory if kind.divergence == "sqrt_chi2" else garden.problem.sigma
    (agent,) = made
    assert trial.steps == [800] and agent.coef == pytest.approx(2.0 * unit)
    assert (agent.hp.divergence, agent.hp.on) == (kind.divergence, kind.on)
    assert 0.5 < found["r"] < 0.9 and 0.05 < found["base"] < 0.075
