"""Count-based novelty against a Counter."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rewardzoo import Transition
from rewardzoo.rewards import Novelty, Spaces

ACTION = spaces.Discrete(2)


def bound(fn, space, num_envs):
    fn.bind(num_envs, torch.device("cpu"), Spaces(space, ACTION))
    return fn


def step(next_obs, valid=None):
    n = len(next_obs) if isinstance(next_obs, torch.Tensor) else len(next_obs["a"])
    no = torch.zeros(n, dtype=torch.bool)
    return Transition(
        obs=next_obs,
        action=no,
        next_obs=next_obs,
        reward=torch.zeros(n),
        terminated=no,
        truncated=no,
        valid=~no if valid is None else valid,
        episode_step=torch.zeros(n, dtype=torch.int64),
    )


def visits(num_states, n, steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(num_states, size=(steps, n))


def test_shared_counts_equal_a_counter_with_ties_inside_a_batch_counted_together():
    fn = bound(Novelty(), spaces.Discrete(5), 8)
    counts = Counter()
    for row in visits(5, 8, 30):
        paid = fn(step(torch.from_numpy(row)))
        counts.update(row.tolist())
        np.testing.assert_allclose(paid, [counts[s] ** -0.5 for s in row], rtol=1e-6)


def test_counts_per_episode_equal_a_counter_for_each_row():
    fn = bound(Novelty(per_episode=True), spaces.Discrete(5), 4)
    counts = [Counter() for _ in range(4)]
    rng = np.random.default_rng(1)
    for row in visits(5, 4, 40):
        paid = fn(step(torch.from_numpy(row)))
        for i, s in enumerate(row):
            counts[i][s] += 1
            assert paid[i] == pytest.approx(counts[i][s] ** -0.5)
        mask, first = rng.random(4) < 0.2, rng.integers(5, size=4)
        fn.reset(torch.from_numpy(mask), torch.from_numpy(first))
        for i in np.flatnonzero(mask):
            counts[i] = Counter({int(first[i]): 1})


def test_first_observations_are_visits():
    fn = bound(Novelty(), spaces.Discrete(5), 2)
    fn.reset(torch.tensor([True, False]), torch.tensor([3, 3]))
    assert fn(step(torch.tensor([3, 4]))).tolist() == pytest.approx([2**-0.5, 1])


def test_dead_rows_are_not_counted():
    fn = bound(Novelty(), spaces.Discrete(5), 2)
    fn(step(torch.tensor([1, 1]), valid=torch.tensor([True, False])))
    assert fn._counts.tolist() == [0, 1, 0, 0, 0]


def test_discrete_spaces_may_start_anywhere():
    fn = bound(Novelty(), spaces.Discrete(3, start=-1), 3)
    fn(step(torch.tensor([-1, 0, 1])))
    assert fn._counts.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("space", "make"),
    [
        (spaces.Box(0, 255, (4, 4), np.uint8), lambda s: torch.full((1, 4, 4), s).byte()),
        (spaces.Box(-9, 9, (2,), np.float32), lambda s: torch.tensor([[s / 3, -s / 7]])),
        (spaces.Box(-9, 9, (2,), np.float64), lambda s: torch.tensor([[s / 3, -s / 7]]).double()),
        (spaces.MultiDiscrete([9, 9]), lambda s: torch.tensor([[s, 1]])),
        (
            spaces.Dict({"a": spaces.Discrete(9), "b": spaces.Box(0, 9, (1,), np.float32)}),
            lambda s: {"a": torch.tensor([1]), "b": torch.tensor([[s / 3]])},
        ),
    ],
)
def test_hashed_observations_are_told_apart_and_recognised(space, make):
    fn = bound(Novelty(), space, 1)
    for n in range(1, 4):
        for s in range(8):
            assert fn(step(make(s))).item() == pytest.approx(n**-0.5)


def test_order_of_the_parts_matters_to_the_hash():
    fn = bound(Novelty(), spaces.MultiDiscrete([9, 9]), 1)
    assert [fn(step(torch.tensor([x]))).item() for x in ([1, 2], [2, 1])] == [1, 1]


def test_resolution_rounds_and_minus_zero_is_zero():
    space = spaces.Box(-9, 9, (1,), np.float32)
    coarse = bound(Novelty(resolution=0.5), space, 1)
    assert [round(coarse(step(torch.tensor([[x]]))).item(), 4) for x in (1.0, 1.1, 1.4)] == [
        1,
        0.7071,
        1,
    ]
    exact = bound(Novelty(), space, 1)
    exact(step(torch.tensor([[0.0]])))
    assert exact(step(torch.tensor([[-0.0]]))).item() < 1


def test_collisions_are_as_rare_as_random_ones():
    fn = bound(Novelty(buckets=16384), spaces.Box(-9, 9, (3,), np.float32), 1000)
    generator = torch.Generator().manual_seed(0)
    fn(step(torch.rand(1000, 3, generator=generator)))
    # 1,000 balls into 16,384 urns: 970 +- 5.3 are used
    used = int((fn._counts > 0).sum())
    assert abs(used - 970) < 5 * 5.3


def test_relabel_looks_and_does_not_count():
    fn = bound(Novelty(), spaces.Discrete(5), 1)
    fn(step(torch.tensor([1])))
    for _ in range(2):
        assert fn.relabel(step(torch.tensor([1, 2]))).tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="memory"):
        bound(Novelty(per_episode=True), spaces.Discrete(5), 1).relabel(step(torch.tensor([1])))
