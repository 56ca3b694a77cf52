"""Multipliers of constrained rewards: their step, their range, and what they make of components."""

from __future__ import annotations

import pytest
import torch

from rewardzoo.rlhf.constrained import ConstrainedReward
from rewardzoo.rlhf.sequences import pack

BATCH = pack([[2]] * 4, [[3, 1]] * 4)


def paying(*scores):
    """Components that pay every completion the same."""
    return [lambda batch, x=x: torch.full((len(batch.ids),), x) for x in scores]


@pytest.mark.parametrize(("kind", "slope"), [("inequality", 0.25), ("equality", 1.0)])
def test_the_first_step_is_down_the_slope_of_the_weighted_violation(kind, slope):
    """Of sigmoid at 0 a quarter, of tanh 1; violations 2 - 5 and 2 - 1."""
    reward = ConstrainedReward(paying(2.0, 2.0), [5.0, 1.0], kind, learning_rate=0.1)
    paid = reward(BATCH)
    squash = torch.sigmoid if kind == "inequality" else torch.tanh
    assert paid.tolist() == pytest.approx([4.0 * float(squash(torch.zeros(())))] * 4)
    found = reward.update()
    xi = torch.tensor([0.1 * slope * 3.0, -0.1 * slope * 1.0])
    torch.testing.assert_close(reward.multipliers, squash(xi))
    assert found["constraint/mean 0"] == 2.0
    assert found["constraint/multiplier 1"] == pytest.approx(float(squash(xi[1])))
    torch.testing.assert_close(reward(BATCH), (2 * squash(xi).sum()).expand(4))


def test_only_equalities_push_a_component_down():
    for kind, low in (("inequality", 0.0), ("equality", -1.0)):
        reward = ConstrainedReward(paying(9.0, -9.0), [0.0, 0.0], kind)
        for _ in range(200):
            reward(BATCH)
            reward.update()
        above, below = reward.multipliers.tolist()
        assert low <= above < low + 0.05 and 0.95 < below <= 1


def test_multipliers_wait_for_a_score_and_bad_arguments_are_refused():
    reward = ConstrainedReward(paying(1.0), [0.0])
    assert reward.update() == {} and not reward.multipliers.any()
    with pytest.raises(ValueError, match="kind='less'"):
        ConstrainedReward(paying(1.0), [0.0], "less")
