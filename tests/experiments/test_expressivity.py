"""Each task separates what it says it does; the diagram follows; the claims can come out either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Canvas

from rewardzoo.agents.tabular import mdp_of, policy_iteration
from rewardzoo.envs.expressivity import dynamics
from rewardzoo.experiments import expressivity as e
from rewardzoo.experiments.common import expressivity_certificates as certificates
from rewardzoo.experiments.common import expressivity_tasks as tasks
from rewardzoo.experiments.common.expressivity_diagram import MEMBERS, diagram
from rewardzoo.jobs import Job, collect_results, run_job
from rewardzoo.metrics.expressivity import (
    Model,
    expressible_by_mr,
    linear_order,
    occupancies,
    same_order,
    satisfaction,
    trajectories,
)
from rewardzoo.results import ArmResult, Results

BY_NAME = {make.__name__: make for make in tasks.TASKS}
EXPRESSED = [(n, f) for n, make in BY_NAME.items() for f in make().expressed]
REFUTED = [(n, f) for n, make in BY_NAME.items() for f in make().refuted]
SEARCHED = {("always", "RM"), ("leaving", "RM"), ("often_enough", "LTL")}  # hundreds of machines


@pytest.mark.parametrize(("task", "formalism"), EXPRESSED)
def test_its_specification_orders_all_policies_as_the_task(task: str, formalism: str) -> None:
    assert BY_NAME[task]().agreement(formalism) == 1.0


@pytest.mark.parametrize(
    ("task", "formalism"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] if pair in SEARCHED else [])
        for pair in REFUTED
        if pair != ("lexicographic", "FPR")  # a proof by cardinality
    ],
)
def test_its_certificate_holds(task: str, formalism: str) -> None:
    found = BY_NAME[task]().refuted[formalism]()
    assert found.holds and np.isfinite(found.number)


@pytest.mark.parametrize(("task", "labels", "size"), [("always", "a", 2), ("leaving", "place", 1)])
def test_small_machines_cannot_jump(task: str, labels: str, size: int) -> None:
    """The search of the slow tests, over machines one state smaller."""
    found = BY_NAME[task]()
    moves = found.model.transition
    codes = certificates.by_action(found.model)
    if labels == "place":
        codes = np.arange(4).reshape(2, 2, 1).repeat(2, 2)
    assert moves.shape == codes.shape
    assert certificates.continuity(found.model, found.policies, found.value, codes, size).holds


def test_visits_of_leaving_are_segments_to_a_line_so_that_all_rewards_are_refuted() -> None:
    """What the certificate of LAR against ONMR rests on; it fails where either fact does."""
    model = certificates.model_of(dynamics.LeaveOrStay)
    p, q = np.linspace(0.0, 1.0, 11), np.array([0.1, 0.3, 0.6, 0.9, 1.0])
    policies = certificates.grid(model, certificates.coins(*p), certificates.coins(*q))
    visits = occupancies(model, policies, certificates.GAMMA).reshape(11, 5, -1)
    assert certificates.bent(visits, p, q) < 1e-12
    askew = visits.copy()
    askew[1:, 2] += 0.01  # an end beside the line
    assert certificates.bent(askew, p, q) > 1e-3
    arched = visits.copy()
    arched[5, :] += 0.01  # half way beside the segment
    assert certificates.bent(arched, p, q) > 1e-3


def test_small_automata_cannot_jump() -> None:
    """The same of temporal logic; where an action is left out the classes may change."""
    found = tasks.often_enough()
    labels = certificates.by_action(found.model)
    how = found.model, found.policies, found.value, labels, 2
    assert certificates.no_jump(*how).holds and certificates.no_jump(*how).number == 16
    always = tasks.always()
    assert not certificates.no_jump(always.model, always.policies, always.value, labels, 2).holds
    # Of what an automaton can say, the chance of a being first, the search finds that it can.
    p = found.policies[:, 0, 0]
    assert not certificates.no_jump(found.model, found.policies, p, labels, 2).holds


def test_no_reward_makes_less_overlap_than_the_least() -> None:
    """Four ends at equal distances: at best two on each side, the near ones a third of the far."""
    model = certificates.model_of(dynamics.LeaveOrStay)
    policies = certificates.grid(
        model, certificates.coins(0.0, 1.0), certificates.coins(0.25, 0.5, 0.75, 1.0)
    )
    visits = occupancies(model, policies, certificates.GAMMA).reshape(2, 4, -1)
    ends = visits[1] - visits[0]
    least = certificates.least_overlap(ends)
    assert least == pytest.approx(1 / 6)
    rewards = np.random.default_rng(0).normal(size=(4, 5000))
    leaves = ends @ rewards
    up, down = np.maximum(leaves, 0.0), np.maximum(-leaves, 0.0)
    overlap = np.maximum(np.sort(up, 0)[-2], np.sort(down, 0)[-2]) / (up.max(0) + down.max(0))
    assert least - 1e-9 <= overlap.min() < least + 0.05


def test_certificates_fail_where_the_formalism_can() -> None:
    """They do not refute what is expressible: each kind on a task of its own."""
    ranking = tasks.ranking()
    features = occupancies(ranking.model, ranking.policies, certificates.GAMMA)[:, 0]
    assert not certificates.linear(features, ranking.value).holds
    assert not certificates.levels(ranking.model, lambda x: (x[:, 0, 0] == 1).astype(float)).holds
    assert not certificates.lines(lambda y: y @ np.array([1.0, 2.0]), (0.3, 0.3), 0.1, 3.0).holds
    labels = certificates.by_action(ranking.model)
    some = ranking.policies[:, 0, 0]
    assert not certificates.continuity(ranking.model, ranking.policies, some, labels, 1).holds
    first = tasks.first_step()
    assert not certificates.lottery(first.model, first.policies, first.value).holds


def test_a_machine_says_exactly_how_far_from_three_tenths() -> None:
    """``-.49 p^2 + .42 p (1 - p) - .09 (1 - p)^2``, paid at the second choice."""
    found = tasks.three_tenths()
    np.testing.assert_allclose(
        found.expressed["RM"](), certificates.GAMMA * found.value, atol=1e-12
    )


def test_two_policies_tie_and_what_is_half_way_between_is_better() -> None:
    tie = np.array([[0.4, 0.4, 0.2], [0.5, 0.32, 0.18]])
    middle = tie.mean(0)
    assert tie[:, :2].prod(1) == pytest.approx([0.16, 0.16]) and middle[:2].prod() > 0.1619
    model = certificates.model_of(dynamics.OneState)
    visits = occupancies(model, np.array([*tie, middle])[:, None], certificates.GAMMA).reshape(
        3, -1
    )
    found = linear_order(visits, [(2, 0)], [(0, 1)])
    assert found.certificate is not None and found.residual < 1e-9


@pytest.mark.parametrize("task", ["one_then_other", "often_enough", "three_tenths", "worse_off"])
def test_no_markov_reward_has_the_order_on_a_grid_with_all_pure_policies(task: str) -> None:
    found = BY_NAME[task]()

    def order(policies: np.ndarray) -> np.ndarray:
        a, b = policies[:, 0, 0], policies[:, 0, 1]
        return {
            "one_then_other": a * b,
            "often_enough": (a > 0.3 - 1e-9).astype(float),
            "three_tenths": -((a - 0.3) ** 2),
            "worse_off": np.minimum(a, b),
        }[task]

    np.testing.assert_allclose(order(found.policies), found.value)  # the same order as the task's
    answer = expressible_by_mr(found.model, order, certificates.GAMMA, steps=10)
    assert answer.weights is None and answer.residual < 1e-9


def test_sure_thing_and_lottery_of_equal_mean() -> None:
    """E[min(G, 1)] prefers 1 for sure to 0 or 2: a function of the trajectory, not of E[G]."""
    moves = np.zeros((4, 2, 4))
    moves[0, 0, 1] = 1.0
    moves[0, 1, 2] = moves[0, 1, 3] = 0.5
    moves[1:, :, :] = np.eye(4)[1:, None]
    model = Model(moves, np.eye(4)[0], np.array([False, True, True, True]))
    p = np.linspace(0, 1, 5)
    policies = np.full((5, 4, 2), 0.5)
    policies[:, 0] = np.stack((p, 1 - p), -1)
    paid = np.array([0.0, 1.0, 0.0, 2.0])
    end = trajectories(model, policies, 1).reshape(5, 4, 2, 4).sum((1, 2))
    assert np.ptp(end @ paid) < 1e-12  # under the given reward all policies tie
    assert same_order(end @ np.minimum(paid, 1.0), p) == 1.0
    # Yet another Markov reward, of the action, says the same: this separates no formalisms.
    assert same_order(occupancies(model, policies, 0.9)[:, 0, 0], p) == 1.0


@pytest.mark.parametrize("text", ["a", "F a", "G a", "a & X !a", "!a U (a & X a)", "a R X a"])
def test_deterministic_policies_satisfy_a_formula_or_do_not(text: str) -> None:
    """Why three levels are too many for temporal logic."""
    model = certificates.model_of(dynamics.OneState)
    found = satisfaction(model, np.eye(3)[:, None], text, certificates.by_action(model))
    assert np.isin(found.round(12), (0.0, 1.0)).all()


def everything_holds() -> tuple[dict[Any, float], dict[Any, certificates.Evidence]]:
    made = [make() for make in tasks.TASKS]
    agreement = {(t.name, f): 1.0 for t in made for f in t.expressed}
    sure = certificates.Evidence("linear", True, 0.0, "")
    return agreement, {(t.name, f): sure for t in made for f in t.refuted}


def test_the_diagram_follows_and_is_whole() -> None:
    agreement, evidence = everything_holds()
    relations = {(r.first, r.second): r.says for r in diagram(agreement, evidence)}
    assert len(relations) == 110 and "open" not in relations.values()
    assert sum(says == "expresses" for says in relations.values()) == 40
    for x in e.FIVE:
        assert all(relations[x, y] == "does not" for y in e.FIVE if y != x)
    # Inclusion is a partial order.
    for (x, y), says in relations.items():
        assert says == "does not" or relations[y, x] == "does not"
        for z in MEMBERS:
            if z not in (x, y) and says == "expresses" == relations[y, z]:
                assert relations[x, z] == "expresses"


def test_a_failed_computation_leaves_pairs_open_and_a_false_one_is_caught() -> None:
    agreement, evidence = everything_holds()
    evidence["in the long run", "ONMR"] = certificates.Evidence("curves", False, 0.0, "")
    found = {(r.first, r.second): r.says for r in diagram(agreement, evidence)}
    assert found["ONMR", "LAR"] == "open" and found["RM", "LAR"] == "does not"
    evidence["ranking", "PO"] = certificates.Evidence("linear", True, 0.0, "")
    with pytest.raises(AssertionError, match="includes"):
        diagram(agreement, evidence)


def test_constrained_optimum_of_the_shortcut() -> None:
    """Short with chance 1/3: two ninths of the way from the long route's return to the short's."""
    mdp = mdp_of(e.ENV, **e.SHORTCUT)
    cost = mdp.transition[:, :, e.RISKY["risk"]].sum(-1)
    cost[mdp.terminal] = 0.0
    short, long, toll = 0.9**3, 0.9**7, 0.9
    share = e.LIMIT / toll
    best = e.constrained_optimum(mdp, cost, e.LIMIT, e.RISK_GAMMA)
    assert best == pytest.approx(share * short + (1 - share) * long)
    assert e.constrained_optimum(mdp, cost, 9.0, e.RISK_GAMMA) == pytest.approx(short)
    assert e.constrained_optimum(mdp, cost, 0.0, e.RISK_GAMMA) == pytest.approx(long)


def test_product_of_the_errand() -> None:
    world = {**e.CORRIDOR, "slip": 0.0}
    model = e.product(mdp_of(e.ENV, **world), e.Machine.read(e.ERRAND), e.ENDS)
    value, _ = policy_iteration(model, e.ERRAND_GAMMA)
    assert float(value @ model.initial) == pytest.approx(e.ERRAND_GAMMA**11)
    assert torch.equal(model.initial.nonzero(), torch.tensor([[12]]))


# ---- claims --------------------------------------------------------------------------------------

SEEDS = [1, 2, 3, 4, 5]
NOISE = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])


def made_up(final: dict[str, dict[str, Any]]) -> Results:
    arms = [
        ArmResult(label, "", "", "", SEEDS, {}, {k: np.resize(v, 5) for k, v in values.items()})
        for label, values in final.items()
    ]
    return Results("x", "", "", arms, "", "")


def test_the_diagrams_claims_hold_or_fail() -> None:
    good = {"open": 0.0, "agreement": 1.0, "certificates": 19.0, "certified": 19.0,
            "expresses": 40.0, "does_not": 70.0, "apart": 20.0}  # fmt: skip
    assert e.diagram_is_decided(made_up({e.DIAGRAM: good})).outcome == "holds"
    assert e.five_are_apart(made_up({e.DIAGRAM: good})).outcome == "holds"
    for change in ({"open": 1.0}, {"agreement": 0.99}, {"certified": 18.0}):
        assert e.diagram_is_decided(made_up({e.DIAGRAM: {**good, **change}})).outcome == "fails"
    assert e.five_are_apart(made_up({e.DIAGRAM: {**good, "apart": 19.0}})).outcome == "fails"


@pytest.mark.parametrize(
    ("gap", "outcome"), [(0.5, "holds"), (-0.5, "fails"), (0.0, "inconclusive")]
)
def test_claims_of_one_arm_above_another(gap: float, outcome: str) -> None:
    check = e.better("More.", e.SEEING, e.BLIND, "value", "x")
    results = made_up({e.SEEING: {"value": gap + NOISE}, e.BLIND: {"value": 0.0}})
    assert check(results).outcome == outcome


@pytest.mark.parametrize(
    ("share", "outcome"), [(0.99, "holds"), (0.9, "fails"), (0.95, "inconclusive")]
)
def test_claims_of_nearness_to_an_optimum(share: float, outcome: str) -> None:
    results = made_up({e.SEEING: {"value": 2 * (share + NOISE), "optimum": 2.0}})
    assert e.near_optimal("Near.", e.SEEING)(results).outcome == outcome


@pytest.mark.parametrize(
    ("seen", "kept", "binds"),
    [(0.2, "holds", "fails"), (0.5, "fails", "holds"), (0.35, "inconclusive", "inconclusive")],
)
def test_claims_of_the_limit(seen: float, kept: str, binds: str) -> None:
    results = made_up({e.PRICED: {"risk": seen + NOISE}, e.FREE: {"risk": seen + NOISE}})
    assert e.limit_is_kept(results).outcome == kept
    assert e.limit_binds(results).outcome == binds


@pytest.mark.slow
def test_the_experiment_runs_and_draws(tmp_path: Path) -> None:
    experiment, budget = e.EXPERIMENT, e.EXPERIMENT.budgets["smoke"]
    jobs = [
        Job(experiment.name, i, seed, budget, tmp_path / arm.slug / f"seed-{seed}")
        for seed in (100, 101)
        for i, arm in enumerate(experiment.grid)
    ]
    for job in jobs:
        run_job(job)
    results = collect_results(experiment, jobs, "", "smoke")
    for claim in experiment.claims:
        assert claim.check(results).n == 2
    for figure in experiment.figures:
        canvas = Canvas(figsize=figure.size)
        figure.draw(canvas, results)
        canvas.savefig(tmp_path / "x.svg")
    assert "RM      does not   LTL" in (tmp_path / "the-diagram/seed-100/diagram.txt").read_text()
