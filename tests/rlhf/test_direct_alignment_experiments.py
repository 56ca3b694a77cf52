"""Experiments on direct alignment: the law and its fit, claims come out each way, figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Canvas

from rewardzoo.experiments import rlhf_daa_scaling, rlhf_simpo_vpo_rpo
from rewardzoo.experiments.common.rlhf import at_kl, draw_fit, draw_kl
from rewardzoo.rlhf.losses import Scores, dpo

from .made_up import results


def curves_of_dpo(gold, seed=0, noise=0.0):
    """Eight made-up runs at each beta: gold over d, whose range grows as beta falls."""
    rng = np.random.default_rng(seed)
    curves = {}
    for beta in rlhf_daa_scaling.BETAS:
        d = np.linspace(0, 4 * (0.01 / beta) ** 0.25, 21)
        seen = gold(d + 1e-9) + noise * rng.normal(size=(8, len(d)))
        curves[f"DPO, beta {beta:g}"] = {"kl": np.tile(d**2, (8, 1)), "gold": seen}
    return results({label: {} for label in curves}, curves)


def test_the_law_predicts_better_than_a_line_only_where_gold_bends():
    check = rlhf_daa_scaling.law_fits_better_than_a_line
    bent = check(curves_of_dpo(lambda d: d * (1 - 0.5 * np.log(d)), noise=0.1))
    assert bent.outcome == "holds" and bent.effect > 0.1
    for intercept in (0.0, 0.2):
        found = [
            check(curves_of_dpo(lambda d, a=intercept: a + 0.4 * d, seed, noise=0.1)).outcome
            for seed in range(20)
        ]
        # Of 20 intervals of a difference that is not above 0, 3 above it are a chance of .02.
        assert found.count("holds") <= 2 and "fails" in found


def test_the_held_out_error_is_of_curves_that_were_not_fitted():
    d = np.linspace(1, 3, 5)
    curves = [(d, 2 * d), (d, 2 * d), (d, 2 * d + 1)]
    found = rlhf_daa_scaling.held_out_error(rlhf_daa_scaling.line, curves)
    # Left out, the third is 1 off all along; beside it, either of the others is off by a half.
    variance = np.concatenate([gold for _, gold in curves]).var()
    assert found == pytest.approx((1 + 2 * 0.25) / 3 / variance)


def test_length_that_explains_a_preference_is_not_learned_from_it():
    def gradient(longer):
        policy = torch.zeros(1, requires_grad=True)
        zero = torch.zeros(1)
        lengths = torch.tensor([5.0 + longer]), torch.tensor([5.0])
        s = Scores(policy, zero, zero, zero, *lengths, zero)
        loss = rlhf_daa_scaling.length_regularised(s, beta=0.1, nats=0.5).sum()
        return loss.item(), torch.autograd.grad(loss, policy)[0].item()

    s = Scores(*(torch.tensor([x]) for x in (-3.0, -5.0, -4.0, -4.0, 6.0, 6.0, 0.0)))
    torch.testing.assert_close(rlhf_daa_scaling.length_regularised(s, beta=0.1), dpo(s, 0.1))
    assert gradient(0) == pytest.approx((np.log(2), -0.05))
    assert gradient(8)[1] > gradient(0)[1] > gradient(-8)[1]


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ((0, 1, 2, 2, 2, 1, 0), "holds"),
        ((2, 1, 1, 1, 1, 1, 0), "fails"),
        ((0, 1, 1, 1, 1, 1, 2), "fails"),
    ],
)
def test_a_hump_over_beta_is_above_both_ends(ends, outcome):
    noise = np.array([-0.1, 0.2, 0.0, 0.1, -0.2, 0.1, 0.0, -0.1])
    finals = {
        f"DPO, beta {beta:g}": {"end": end + noise, "end_kl": np.ones(8)}
        for beta, end in zip(rlhf_daa_scaling.BETAS, ends, strict=True)
    }
    assert rlhf_daa_scaling.hump_over_beta(results(finals)).outcome == outcome


def chosen_falls_by(nats_a_kl):
    """A run that goes on to a KL of 6, or to one of 2, with chosen log-ratios falling evenly."""
    return {
        name: np.tile(np.linspace(0, end, 7), (8, 1))
        for name, end in (("kl", 6.0), ("chosen", -6.0 * nats_a_kl))
    }


@pytest.mark.parametrize(
    ("rate", "stays", "likelier"), [(0.1, "holds", "holds"), (2.0, "fails", "fails")]
)
def test_what_becomes_of_chosen_responses_at_equal_kl_can_come_out_each_way(rate, stays, likelier):
    module = rlhf_simpo_vpo_rpo
    near = {name: values[:, :3] for name, values in chosen_falls_by(rate).items()}
    curves = {module.DPO: chosen_falls_by(1.0), module.RPO: near}
    made_up = results({label: {} for label in curves}, curves)
    # The one ends at a KL of 2, so they are compared there.
    at = module.at_equal_kl(made_up, module.RPO, module.DPO, "chosen")
    np.testing.assert_allclose(at, [[-2 * rate] * 8, [-2.0] * 8])
    assert module.chosen_stay("x", module.RPO)(made_up).outcome == stays
    assert module.chosen_likelier("x", module.RPO)(made_up).outcome == likelier


def test_values_at_a_level_of_kl_are_interpolated():
    kl, gold = np.array([0.0, 2.0, 6.0]), np.array([0.0, 1.0, 3.0])
    assert at_kl(kl, gold, 4.0) == 2.0 and at_kl(kl, gold, 10.0) == 3.0


def along(alpha, beta, points):
    """KL and gold of one run that obeys the law."""
    d = np.linspace(0.5, 3.0, points)
    return d**2, d * (alpha - beta * np.log(d))


def test_the_fit_is_drawn_with_intervals_over_runs():
    """The laws of two runs: their mean's lies between, and resampled runs reach either."""
    kl, gold = (np.stack(x) for x in zip(along(1.0, 0.5, 9), along(2.0, 0.3, 9), strict=True))
    axes = Canvas().subplots()
    draw_fit(axes, kl, gold, ls="--")
    (line,) = axes.lines
    assert line.get_label().startswith("alpha 1.50 [1.00, 2.00], beta 0.40 [0.30, 0.50], R2 1.00")
    d, fitted = line.get_data()
    np.testing.assert_allclose(fitted, d * (1.5 - 0.4 * np.log(d)))
    assert (d.min(), d.max()) == (0.5, 3.0)


def test_gold_and_proxy_are_drawn_over_kl_with_a_fit():
    kl, gold = along(1.0, 0.5, 9)
    curves = {"kl": kl, "gold": gold, "proxy": 2.0 * gold}
    made = results({"a": {}, "still": {}}, {"a": {k: np.tile(x, (8, 1)) for k, x in curves.items()},
                   "still": {k: np.zeros((8, 9)) for k in curves}})  # fmt: skip
    canvas = Canvas()
    draw_kl(("a", "still"), canvas, made)
    labels = [line.get_label() for line in canvas.axes[0].lines]
    assert [x for x in labels if not x.startswith("_")] == [
        "a: gold",
        "alpha 1.00 [1.00, 1.00], beta 0.50 [0.50, 0.50], R2 1.00",
        "still: gold",
    ]
