"""Metrics: enumeration, quadrature, closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from rewardzoo.rlhf.evaluation import (
    accuracy,
    auroc,
    bon_curve,
    by_subset,
    contrast_consistency,
    fit_scaling_law,
    grouped_r2,
    kl_bon,
    length_controlled_win_rate,
    one_to_many,
    one_to_many_margins,
    overoptimisation,
    pass_at_k,
    reward_bench,
    scaling_law_intervals,
)


def test_best_of_n_equals_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    gold, proxy = rng.normal(size=8), rng.normal(size=8)
    for n in range(1, 9):
        subsets = itertools.combinations(range(8), n)
        mean = np.mean([gold[max(s, key=lambda i: proxy[i])] for s in subsets])
        assert bon_curve(gold, proxy, [n])[0] == pytest.approx(mean, abs=1e-12)
    assert bon_curve(gold, proxy, [1])[0] == pytest.approx(gold.mean())


def test_the_weights_of_many_answers_sum_to_one_and_the_best_of_all_is_the_best():
    """As many answers as in Coste et al.; binomials of them overflow."""
    gold = np.random.default_rng(0).normal(size=12_600)
    ns = [1, 512, 12_500, 12_600]
    assert bon_curve(np.ones(12_600), gold, ns) == pytest.approx(1.0, abs=1e-9)
    found = bon_curve(gold, gold, ns)
    assert np.isfinite(found).all() and found[-1] == pytest.approx(gold.max())


def test_ties_are_broken_at_random_in_expectation():
    gold, proxy = np.array([1.0, 5.0, 0.0, 2.0]), np.array([3.0, 3.0, 1.0, 3.0])
    orders = [np.array(p) for p in itertools.permutations(range(4))]
    for n in (1, 2, 3, 4):
        broken = [bon_curve(gold, proxy + 1e-6 * np.argsort(o), [n])[0] for o in orders]
        assert bon_curve(gold, proxy, [n])[0] == pytest.approx(np.mean(broken))


def test_the_proxys_own_curve_on_normal_scores_is_the_expected_maximum():
    x = np.random.default_rng(0).normal(size=(400, 256))
    for n in (2, 16):
        exact = integrate.quad(
            lambda t, n=n: t * n * stats.norm.pdf(t) * stats.norm.cdf(t) ** (n - 1), -8, 8
        )[0]
        each = bon_curve(x, x, [n])[:, 0]
        assert abs(each.mean() - exact) < 5 * each.std() / 20


def test_kl_of_best_of_n_is_exact_without_ties_and_a_bound_for_a_discrete_policy():
    grid = (np.arange(200_000) + 0.5) / 200_000
    for n in (2, 8):
        density = n * grid ** (n - 1)
        assert kl_bon(n) == pytest.approx((density * np.log(density)).mean(), abs=1e-3)
    assert kl_bon(512) == pytest.approx(5.24, abs=0.005)
    p = np.array([0.5, 0.3, 0.2])
    best = np.diff(np.concatenate([[0], p.cumsum() ** 2]))
    assert (best * np.log(best / p)).sum() < kl_bon(2)


def test_a_re_sorted_proxy_takes_its_gold_along():
    gold, proxy = np.arange(6.0), np.arange(6.0)[::-1]
    assert bon_curve(gold, proxy, [6])[0] == 0 and bon_curve(gold, -proxy, [6])[0] == 5


def test_pass_at_k_equals_enumeration():
    for c in range(6):
        for k in range(1, 6):
            hits = [any(i < c for i in s) for s in itertools.combinations(range(5), k)]
            assert pass_at_k(c, 5, k) == pytest.approx(np.mean(hits))


def test_random_scores_have_the_one_to_many_metrics_of_chance():
    got = one_to_many(np.random.default_rng(0).normal(size=(20_000, 10)))
    harmonic = sum(1 / i for i in range(1, 11)) / 10
    assert got["accuracy"] == pytest.approx(0.1, abs=5 * 0.3 / 141)
    assert got["mrr"] == pytest.approx(harmonic, abs=5 * 0.27 / 141)
    assert harmonic == pytest.approx(0.2929, abs=1e-4)
    assert one_to_many(np.ones((3, 10)))["accuracy"] == 0


def test_problems_need_not_have_equally_many_wrong_answers():
    scores = np.random.default_rng(0).normal(size=(50, 10))
    problem = np.repeat(np.arange(50), 9)
    margins = (scores[:, :1] - scores[:, 1:]).reshape(-1)
    assert one_to_many_margins(margins, problem) == one_to_many(scores)
    # Of three problems, the second has one wrong answer and the third a tie.
    found = one_to_many_margins([1.0, -1.0, 2.0, 3.0, 0.0, 1.0], [4, 4, 7, 9, 9, 9])
    assert found == {"accuracy": 1 / 3, "mrr": (0.5 + 1 + 0.5) / 3, "one_to_one": 1.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_finite_numbers_are_refused_by_row(bad):
    """A NaN compares as false, so that it would win, lose or vanish unseen."""
    x, matrix, square = np.ones(4), np.ones((4, 3)), np.ones((4, 2, 2))
    for values in (x, matrix, square):
        values[2, ...] = bad
    ok = np.arange(4.0)
    for match, call in (
        ("scores, row 2", lambda: one_to_many(matrix)),
        ("margins, row 2", lambda: one_to_many_margins(x, [0, 0, 1, 1])),
        ("scores, row 2", lambda: contrast_consistency(square)),
        ("proxy, row 2", lambda: bon_curve(ok, x, [1])),
        ("gold, row 2", lambda: bon_curve(matrix, np.ones((4, 3)), [1])),
        ("margins, row 2", lambda: accuracy(x)),
        ("score, row 2", lambda: auroc(x, [0, 0, 1, 1])),
        ("correct, row 2", lambda: by_subset(x, list("aabb"))),
        ("wins, row 2", lambda: length_controlled_win_rate(x, ok)),
        ("longer, row 2", lambda: length_controlled_win_rate([0, 1, 0, 1], x)),
        ("gold, row 2", lambda: fit_scaling_law(ok, x)),
        ("kl, row 2", lambda: fit_scaling_law(x, ok)),
        ("gold, row 2", lambda: overoptimisation(ok, x)),
        ("proxy, row 2", lambda: overoptimisation(ok, ok, x)),
    ):
        with pytest.raises(ValueError, match=f"{match}: {bad}, expected finite numbers"):
            call()


def test_contrast_consistency_counts_both_directions():
    right = np.array([[[2.0, 1.0], [0.0, 3.0]]])
    assert contrast_consistency(right) == {"response": 1.0, "instruction": 1.0}
    assert contrast_consistency(right[:, ::-1]) == {"response": 0.0, "instruction": 0.0}
    # The second instruction is worth more whatever the response, or the second response is.
    one = np.array([[[2.0, 1.0], [10.0, 11.0]]])
    assert contrast_consistency(one) == {"response": 1.0, "instruction": 0.5}
    assert contrast_consistency(one.swapaxes(1, 2)) == {"response": 0.5, "instruction": 1.0}
    noise = contrast_consistency(np.random.default_rng(0).normal(size=(10_000, 2, 2)))
    assert noise == pytest.approx({"response": 0.5, "instruction": 0.5}, abs=0.02)


def test_categories_are_weighed_by_pairs_in_a_section_and_equally_in_the_score():
    correct, subsets = [1, 1, 0, 0.5], ["a", "a", "a", "b"]
    assert by_subset(correct, subsets) == {
        "a": pytest.approx(2 / 3),
        "b": 0.5,
        "score": pytest.approx(7 / 12),
    }
    assert by_subset(correct, subsets, {"all": ["a", "b"]})["score"] == 2.5 / 4
    with pytest.raises(ValueError, match="'c'"):
        by_subset(correct, subsets, {"all": ["a", "c"]})


def test_mathematics_weighs_as_much_as_code_in_rewardbenchs_reasoning():
    subsets = ["math-prm"] * 4 + ["hep-go"] * 6 + ["hep-cpp"] * 2 + ["mt-bench-easy"] * 5
    correct = [1, 0, 0, 0] + [1] * 6 + [0, 0] + [1, 1, 1, 1, 0.5]
    found = reward_bench(correct, subsets)
    assert found["Reasoning"] == pytest.approx((1 / 4 + 6 / 8) / 2)
    assert found["math-prm"] == 0.25 and found["hep-go"] == 1 and found["Chat"] == 0.9
    assert found["score"] == pytest.approx((0.5 + 0.9) / 2)
    assert set(found) == {*subsets, "Reasoning", "Chat", "score"}
    with pytest.raises(ValueError, match="'hard'"):
        reward_bench([1, 0], ["math-prm", "hard"])


def test_of_the_whole_rewardbench_mathematics_counts_984_pairs_as_in_the_benchmark():
    """1,431 pairs of reasoning: 447 of mathematics and 164 of each of six languages."""
    rng = np.random.default_rng(0)
    names = ["hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"]
    subsets = ["math-prm"] * 447 + [name for name in names for _ in range(164)]
    correct = rng.integers(0, 2, len(subsets))
    by = by_subset(correct, subsets)
    weighed = by["math-prm"] * 984 + sum(by[name] * 164 for name in names)
    assert reward_bench(correct, subsets)["score"] == pytest.approx(weighed / (984 + 6 * 164))


def test_a_win_rate_at_equal_length_takes_away_what_length_buys():
    rng = np.random.default_rng(0)
    longer = rng.normal(3, 2, 20_000)
    wins = rng.random(20_000) < 1 / (1 + np.exp(-(0.4 + 0.5 * longer)))
    expected = 1 / (1 + math.exp(-0.4))
    assert wins.mean() > expected + 0.15
    assert length_controlled_win_rate(wins, longer) == pytest.approx(expected, abs=0.03)
    assert length_controlled_win_rate(longer > 0, longer) == pytest.approx(0.5, abs=0.2)


def test_auroc_and_accuracy_count_ties_half():
    assert auroc([1, 2, 3, 4], [0, 0, 1, 1]) == 1.0
    assert auroc([1, 1], [0, 1]) == 0.5
    assert accuracy([1.0, 0.0, -1.0, 2.0]) == 0.625


@pytest.mark.parametrize("form", ["rl", "bon"])
def test_the_scaling_law_is_recovered(form):
    d = np.linspace(0.3, 6, 30)
    gold = d * (1.2 - 0.4 * (np.log(d) if form == "rl" else d))
    alpha, beta, r2 = fit_scaling_law(d**2, gold, form)
    assert (alpha, beta, r2) == pytest.approx((1.2, 0.4, 1.0))
    other = fit_scaling_law(d**2, gold, "bon" if form == "rl" else "rl")
    assert other[2] < r2


def test_r2_of_groups_is_of_their_means_in_the_proxys_order():
    """With one group a sample it is that of samples; noise within groups averages out."""
    rng = np.random.default_rng(0)
    r = rng.permutation(np.arange(1_000.0))
    gold = r / 288.7 + rng.normal(0, 1, 1_000)
    assert grouped_r2(r, 3.0 - 2.0 * r) == pytest.approx(1.0)
    assert grouped_r2(r, gold, 1_000) == pytest.approx(np.corrcoef(r, gold)[0, 1] ** 2)
    assert grouped_r2(r, gold, 1_000) < 0.6 < 0.95 < grouped_r2(r, gold)
    order = np.argsort(r)
    means = [[x[order[i : i + 100]].mean() for i in range(0, 1_000, 100)] for x in (r, gold)]
    assert grouped_r2(r, gold) == pytest.approx(np.corrcoef(means)[0, 1] ** 2)
    for match, call in (
        ("groups=2: expected 3 to 1000", lambda: grouped_r2(r, gold, 2)),
        ("groups=1001", lambda: grouped_r2(r, gold, 1_001)),
        ("gold: shape", lambda: grouped_r2(r, gold[1:])),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_intervals_of_the_scaling_law_are_over_runs():
    """Runs differ, points of a run do not: each has a factor of its own."""
    d = np.linspace(0.3, 6, 30)
    factor = np.random.default_rng(0).normal(1, 0.2, (16, 1))
    gold = factor * d * (1.2 - 0.4 * np.log(d))
    kl = np.tile(d**2, (16, 1))
    found = scaling_law_intervals(kl, gold)
    error = 0.2 / 4  # of the mean factor
    for name, truth in (("alpha", 1.2), ("beta", 0.4)):
        low, high = found[name]
        assert low < truth * factor.mean() < high
        assert high - low == pytest.approx(2 * 1.96 * error * truth, rel=0.35)
    narrow = scaling_law_intervals(kl, gold, confidence=0.5)["alpha"]
    assert found["alpha"][0] < narrow[0] < narrow[1] < found["alpha"][1]
    same = scaling_law_intervals(kl, np.tile(gold[0], (16, 1)), reps=10)["beta"]
    assert same[0] == pytest.approx(same[1]) == pytest.approx(0.4 * factor[0, 0])
    assert scaling_law_intervals(kl, gold, "bon", 10)["alpha"] != found["alpha"]
    for match, call in (
        ("confidence=1", lambda: scaling_law_intervals(kl, gold, confidence=1)),
        ("gold: shape", lambda: scaling_law_intervals(kl, gold[0])),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_overoptimisation_is_the_fall_from_the_peak():
    got = overoptimisation([0, 1, 4, 9], [0.0, 1.0, 1.5, 0.5])
    assert got == {"peak": 1.5, "peak_kl": 4.0, "end": 0.5, "end_kl": 9.0, "fall": 1.0}


def test_the_area_is_of_what_the_proxy_overstates_over_the_root_of_kl():
    kl, gold = np.array([0.0, 1.0, 9.0, 4.0]), np.array([0.0, 1.0, 0.0, 1.0])
    proxy = gold + np.sqrt(kl)  # overstates by d, of which the area to 3 is 4.5, in any order
    found = overoptimisation(kl, gold, proxy)
    assert found["area"] == pytest.approx(4.5)
    assert {k: v for k, v in found.items() if k != "area"} == overoptimisation(kl, gold)
    assert overoptimisation(kl, gold, gold)["area"] == 0
    # An estimate of KL may be below 0 where there is none.
    assert overoptimisation([-0.01, 4.0], [0.0, 0.0], [1.0, 1.0])["area"] == pytest.approx(2.0)
