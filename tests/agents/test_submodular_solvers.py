"""Solvers of submodular walks agree with one another and keep the classical guarantees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rewardzoo.agents.submodular_solvers import (
    TooLarge,
    best_markov,
    best_partition,
    best_set,
    brute_force,
    dp_augmented,
    exact_return,
    greedy_partition,
    greedy_path,
    greedy_set,
    greedy_value,
    lazy_greedy,
    modular_bound,
    multilinear,
    random_value,
    step_bound,
    tree_of,
)
from rewardzoo.envs.submodular.coverage import SubmodularCoverage
from rewardzoo.envs.submodular.design import SubmodularDesign
from rewardzoo.envs.submodular.graph import SubmodularBandit, SubmodularGraph
from rewardzoo.envs.submodular.items import SubmodularItems
from rewardzoo.experiments.submodular_theory import GAP
from rewardzoo.rewards.submodular_coverage import SetCover

SMALL = {
    "coverage": SubmodularCoverage(shape=(4, 4), horizon=6, start=(0, 0), weights="gp"),
    "items": SubmodularItems(
        shape=(3, 3), horizon=5, start=(0, 0), stock=(3, 3), demands=(1, 2), instance=1
    ),
    "design": SubmodularDesign(shape=(3, 3), spacing=1.0, known=2, horizon=4, start=(1, 1)),
    "chain": SubmodularGraph(),
}


def random_cover(seed: int, size: int = 8) -> SetCover:
    rng = np.random.default_rng(seed)
    covers = [np.flatnonzero(rng.random(14) < 0.25).tolist() for _ in range(size)]
    return SetCover(covers, rng.random(14))


@pytest.mark.parametrize("name", SMALL)
def test_values_are_ordered_as_they_must_be(name: str) -> None:
    walk = SMALL[name]
    path, optimum = brute_force(walk)
    assert walk.set_function.value(path) == pytest.approx(optimum)
    assert all(b in walk.neighbours[a] for a, b in zip(path, path[1:], strict=False))
    # Where nothing is random, a policy of place and time can play the best path.
    assert dp_augmented(walk) == pytest.approx(optimum)
    _, greedy = greedy_path(walk)
    assert greedy <= optimum + 1e-9
    assert random_value(walk, 256) <= optimum
    assert optimum <= step_bound(walk) + 1e-9 <= modular_bound(walk) + 2e-9


def test_the_chain_separates_planning_from_greed() -> None:
    assert greedy_path(SubmodularGraph())[1] == 3
    assert brute_force(SubmodularGraph())[1] == 10
    by_gradient = best_markov(SubmodularGraph(), restarts=1, steps=60)
    assert by_gradient in (3.0, 10.0)  # of a policy, so no more than the best one's


def test_a_walk_that_must_remember_gets_1_5_without_and_2_with_history() -> None:
    gap = SubmodularGraph(**GAP)
    assert best_markov(gap) == pytest.approx(1.5, abs=1e-12)
    assert dp_augmented(gap) == 2
    assert best_markov(gap, restarts=1, steps=60, max_policies=1) == pytest.approx(
        1.5, abs=1e-12
    )  # by gradient


def test_uniform_coverage_is_solved_by_greed_and_its_bound_is_tight() -> None:
    for horizon, want in ((40, 82), (80, 162)):
        walk = SubmodularCoverage(horizon=horizon)
        assert greedy_path(walk)[1] == want == step_bound(walk)
    walk = SubmodularCoverage(shape=(5, 5), horizon=8, start=(0, 0))
    assert greedy_path(walk)[1] == brute_force(walk)[1] == step_bound(walk) == 18


def test_backward_induction_is_the_best_of_all_policies_of_a_walk_that_slips() -> None:
    walk = SubmodularGraph(slip=0.3, horizon=4)
    optimum = dp_augmented(walk)
    tree = tree_of(walk)
    uniform = torch.full((3, 9, 3), 1 / 3, dtype=torch.float64)
    climbed = best_markov(walk, restarts=1, steps=60)
    assert float(exact_return(tree, uniform)) < climbed <= optimum + 1e-12
    assert greedy_value(walk, 4000) <= optimum + 0.05  # 5 standard errors of a mean of 4,000
    assert optimum <= modular_bound(walk)


def test_exact_return_is_the_mean_of_simulated_episodes() -> None:
    walk = SubmodularGraph(slip=0.2)
    uniform = torch.full((5, 9, 3), 1 / 3, dtype=torch.float64)
    exact = float(exact_return(tree_of(walk), uniform))
    # The largest F is 13, so a standard deviation is below 6.5: five of them for 20,000 episodes.
    assert random_value(walk, 20_000) == pytest.approx(exact, abs=5 * 6.5 / 20_000**0.5)


def test_greedy_sets_reach_their_guarantee_and_lazy_greedy_is_the_same() -> None:
    worst = 1.0
    for seed in range(60):
        f = random_cover(seed)
        chosen, value = greedy_set(f, 3)
        assert value == pytest.approx(f.value(chosen))
        assert lazy_greedy(f, 3)[1] == pytest.approx(value)
        worst = min(worst, value / best_set(f, 3)[1])
    assert worst >= 1 - 1 / math.e
    assert worst < 1  # else the instances say nothing


def test_greedy_over_a_partition_reaches_one_half() -> None:
    for seed in range(50):
        f = random_cover(seed, size=9)
        parts = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        chosen, value = greedy_partition(f, parts)
        assert all(v in part for v, part in zip(chosen, parts, strict=True))
        assert value >= best_partition(f, parts) / 2


def test_the_partition_guarantee_is_tight() -> None:
    # The first part offers the cells 0 or 1; the second only the cell 0.
    f = SetCover([[0], [1], [0]], [1.0, 1.0 - 1e-9])
    parts = [[0, 1], [2]]
    assert greedy_partition(f, parts)[1] / best_partition(f, parts) == pytest.approx(0.5, abs=1e-6)


def test_the_multilinear_extension_is_f_at_the_vertices_and_its_mean_inside() -> None:
    f = random_cover(0, size=4)
    vertex = torch.eye(4, dtype=torch.float64)[[2, 0]]
    assert float(multilinear(f, vertex)) == pytest.approx(f.value([2, 0]))
    probs = torch.rand(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs = probs / probs.sum(1, keepdim=True)
    want = sum(
        float(probs[0, a] * probs[1, b]) * f.value([a, b]) for a in range(4) for b in range(4)
    )
    assert float(multilinear(f, probs)) == pytest.approx(want)


def test_a_bandits_walk_is_as_good_as_its_best_set() -> None:
    walk = SubmodularBandit(arms=6, horizon=4, instance=1)
    assert brute_force(walk)[1] == pytest.approx(best_set(walk.set_function, 3)[1])


def test_too_large_walks_are_refused() -> None:
    with pytest.raises(TooLarge, match="max_states=1000"):
        brute_force(SubmodularCoverage(), max_states=1000)
    with pytest.raises(TooLarge, match="max_states=10"):
        dp_augmented(SubmodularGraph(), max_states=10)
    with pytest.raises(ValueError, match="slip=0 and one start"):
        brute_force(SubmodularGraph(slip=0.1))
