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


def test_multipliers_rise_below_the_threshold_and_turn_negative_above():
    batch = pack([[2]] * 4, [[3, 1]] * 4)
    low, high = (lambda b, x=x: torch.full((4,), x) for x in (0.0, 2.0))
    reward = ConstrainedReward([low, high], [1.0, 1.0], "equality", learning_rate=0.5)
    assert not reward(batch).any()
    metrics = reward.update()
    assert reward.multipliers[0] > 0 > reward.multipliers[1]
    assert metrics["constraint/mean 1"] == 2.0
    at_threshold = ConstrainedReward([high], [2.0], "inequality")
    at_threshold(batch)
    at_threshold.update()
    assert at_threshold.multipliers[0] == 0.5
    other = ConstrainedReward([low, high], [1.0, 1.0], "equality")
    other.load_state_dict(reward.state_dict())
    assert torch.equal(other.multipliers, reward.multipliers)
    with pytest.raises(ValueError, match="1 of them for 2"):
        ConstrainedReward([low, high], [1.0])


@pytest.mark.parametrize("threshold", [1.0, -0.5])
def test_a_multiplier_converges_to_the_dual_of_the_constrained_problem(threshold):
    """One state, ten responses, a KL penalty of 1: the best policy tilts by the multiplier."""
    r = torch.randn(10, generator=torch.Generator().manual_seed(0))
    r = (r - r.mean()) / r.std()

    def mean_at(multiplier):
        return torch.softmax(multiplier * r, 0) @ r

    low, high = -3.0, 3.0  # the mean rises with the multiplier
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_at(middle) < threshold else (low, middle)
    scale = 4.0  # of the component, so that multipliers within (-1, 1) are enough
    reward = ConstrainedReward(
        [lambda batch: scale * mean_at(scale * reward.multipliers).reshape(1)], [scale * threshold]
    )
    for _ in range(300):
        reward(None)
        reward.update()
    assert float(scale * reward.multipliers) == pytest.approx(low, abs=1e-3)
    assert float(mean_at(scale * reward.multipliers)) == pytest.approx(threshold, abs=1e-3)
