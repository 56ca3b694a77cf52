"""Constrained rewards against overoptimisation: claims come out each way, rewards correlate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardzoo.experiments import rlhf_constrained
from rewardzoo.experiments.common.rlhf import laboratory

from .made_up import NOISE, results


def constrained(**finals):
    module = rlhf_constrained
    usual = {"end": np.ones(8), "peak": np.ones(8), "missed": np.zeros(8), "short": np.zeros(8)}
    labels = (module.FIXED, module.INEQUALITY, module.EQUALITY)
    return results({label: {**usual, **finals} for label in labels})


def claim_of(module, name):
    return next(claim.check for claim in module.EXPERIMENT.claims if claim.sentence == name)


def test_constraints_whose_mean_is_met_can_both_be_violated():
    curves = {"kl": np.arange(9.0), "component 0": np.full(9, 1.5), "component 1": np.full(9, 0.5)}
    found = rlhf_constrained.violations(curves, [1.0, 1.0])
    assert found == {"missed": 0.5, "short": 0.5}
    made_up = constrained(**{name: np.full(8, x) for name, x in found.items()})
    for name in ("Constraints are met", "Inequality constraints are met"):
        assert claim_of(rlhf_constrained, name)(made_up).outcome == "fails"
        assert claim_of(rlhf_constrained, name)(constrained()).outcome == "holds"
    # Only the last third counts, at its worst, and an inequality is not violated from above.
    curves["component 1"] = np.array([9.0] * 6 + [1.0, 1.3, 1.0])
    curves["component 0"] = np.ones(9)
    found = rlhf_constrained.violations(curves, [1.0, 1.0])
    assert found["missed"] == pytest.approx(0.3) and found["short"] == 0.0


@pytest.mark.parametrize(
    ("shift", "outcome"),
    [(1.0, "holds"), (-1.0, "holds"), (0.0, "fails"), (0.1, "inconclusive")],
)
def test_thresholds_move_to_either_side_or_do_not(shift, outcome):
    module = rlhf_constrained
    ends = {module.CORRELATIONS[0]: 0.1 * NOISE + shift, module.CORRELATIONS[-1]: np.zeros(8)}
    finals = {f"pilot, correlation {x:g}": {"threshold": end} for x, end in ends.items()}
    assert module.thresholds_move(results(finals)).outcome == outcome


def test_reward_models_correlate_as_they_are_told_and_each_holds_as_much_gold(trial):
    lab = laboratory(trial)
    gold = lab.gold(lab.base)
    for correlation in rlhf_constrained.CORRELATIONS:
        scores = [f(lab.base) for f in rlhf_constrained.correlated(lab, correlation)]
        both = torch.corrcoef(torch.stack([*scores, gold]))
        assert float(both[0, 1]) == pytest.approx(correlation, abs=1e-4)
        assert both[:2, 2].tolist() == pytest.approx([5**-0.5] * 2, abs=1e-4)
