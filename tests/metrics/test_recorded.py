"""EPIC from recorded steps: unbiased canonical rewards, and intervals that cover the exact one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.metrics.canonical import epic
from rewardzoo.metrics.epic import epic_distance
from rewardzoo.metrics.recorded import (
    Recording,
    canonical_rewards,
    distances_from_canonical,
    record,
    recorded_distances,
)
from rewardzoo.rewards import Novelty, Potential, env_reward
from rewardzoo.rewards.base import RewardFunction, Spaces
from rewardzoo.transition import Transition

GAMMA = 0.8
S, A = 5, 3
UNIFORM = np.full((S, A, S), 1.0 / S)


class Table(RewardFunction):
    """R(s, a, s')."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.tensor(table)

    def __call__(self, t: Transition) -> Tensor:
        return self.table[t.obs, t.action, t.next_obs]


def everywhere(rows: int, steps: int, seed: int) -> Recording:
    """A chain in which every transition is as likely as any other, with uniform actions."""
    rng = np.random.default_rng(seed)
    path = torch.tensor(rng.integers(S, size=(steps + 1, rows)))
    return Recording(
        obs=path[:-1].flatten(),
        action=torch.tensor(rng.integers(A, size=steps * rows)),
        next_obs=path[1:].flatten(),
        terminated=torch.zeros(steps * rows, dtype=torch.bool),
        episode_step=torch.arange(steps).repeat_interleave(rows),
        row=torch.arange(rows).repeat(steps),
        spaces=Spaces(spaces.Discrete(S), spaces.Discrete(A)),
    )


def tables() -> np.ndarray:
    """Four rewards, the second near the first; the third is the first, shaped and scaled."""
    rng = np.random.default_rng(0)
    r = rng.normal(size=(4, S, A, S))
    r[1] = r[0] + 0.4 * r[1]
    phi = 3.0 * rng.normal(size=S)
    r[2] = 2.0 * r[0] + GAMMA * phi - phi[:, None, None]
    return r


def exact() -> np.ndarray:
    r = tables()
    return np.array([[epic_distance(a, b, UNIFORM, GAMMA) for b in r] for a in r])


def test_canonical_rewards_are_unbiased() -> None:
    """Within five standard errors of the table's, at every transition and in the mean."""
    r = tables()
    recording = everywhere(64, 500, 0)
    n = len(recording.row)
    *both, _ = canonical_rewards(recording, [Table(x) for x in r], GAMMA, n, draws=2)
    # The samples are in another order: that of the same generator.
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    at = tuple(x[order].numpy() for x in (recording.obs, recording.action, recording.next_obs))
    want = np.stack([epic(x, UNIFORM, GAMMA) for x in r], -1)
    for found in both:
        error = found.std(0) / np.sqrt(n)
        assert (np.abs(found.mean(0) - want.mean((0, 1, 2))) < 5.0 * error + 0.02).all()
        for cell in np.ndindex(S, A, S):
            rows = np.logical_and.reduce([x == i for x, i in zip(at, cell, strict=True)])
            error = found[rows].std(0) / np.sqrt(rows.sum())
            difference = found[rows].mean(0) - want[cell]
            assert (np.abs(difference) < 5.0 * error + 0.02).all(), cell  # .02: of the pool


def test_one_estimate_is_the_exact_distance_within_its_interval() -> None:
    want = exact()
    found = recorded_distances(everywhere(64, 100, 3), [Table(r) for r in tables()], GAMMA, 2000)
    assert found.n == 2000 and (found.distance == found.distance.T).all()
    assert (found.low <= want + 1e-6).all() and (want <= found.high + 1e-6).all()
    assert (found.low <= found.distance).all() and (found.distance <= found.high).all()
    apart = want[np.triu_indices(4, 1)] > 0.1
    widths = (found.high - found.low)[np.triu_indices(4, 1)]
    assert (widths[apart] < 0.15).all() and (widths[apart] > 0.0).all()


def test_intervals_cover_in_93_percent_of_300_runs() -> None:
    want, fns = exact(), [Table(r) for r in tables()]
    pairs = [(0, 1), (0, 3), (1, 3), (2, 3)]  # the others are equal: see below
    covered = np.zeros(len(pairs))
    for run in range(300):
        found = recorded_distances(everywhere(64, 40, run), fns, GAMMA, 500, 3, seed=run)
        covered += [found.low[p] <= want[p] <= found.high[p] for p in pairs]
    assert (covered / 300).mean() >= 0.93, covered / 300
    assert (covered / 300).mean() < 0.99, covered / 300  # and are no wider than they must be


def test_steps_of_a_row_that_say_the_same_are_no_evidence() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 40, 3)) + rng.normal(size=(40, 3))
    once = distances_from_canonical(first, second, np.arange(40))
    often = distances_from_canonical(*(np.repeat(x, 50, 0) for x in (first, second, np.arange(40))))
    for name in ("distance", "low", "high"):
        np.testing.assert_allclose(getattr(often, name), getattr(once, name), atol=1e-7)
    assert (once.high - once.low)[0, 1] > 0.1


def test_noise_of_the_draws_does_not_push_rewards_apart() -> None:
    """With one draw a mean, noise is most of a canonical reward; the distance knows nothing of it.

    Uncorrected, that between the two estimates of the same reward is ``noise``.
    """
    r = tables()
    r[1] = r[0] + 1e-3 * r[1]  # as good as equal, but not a shaping
    found = recorded_distances(everywhere(64, 200, 0), [Table(x) for x in r], GAMMA, 9000, 1)
    assert (found.noise > 0.3).all()
    assert found.distance[0, 1] < 0.02


def test_shaping_and_scale_change_nothing_and_a_minus_is_all_of_it() -> None:
    """In every sample, not on average: 40 of them, with one draw a mean."""
    r = tables()
    fns = [Table(x) for x in (r[0], r[2], -r[0])]
    recording = everywhere(8, 20, 1)
    first, second, _ = canonical_rewards(recording, fns, GAMMA, 40, draws=1)
    for half in (first, second):
        centred = half - half.mean(0)
        np.testing.assert_allclose(centred[:, 1], 2.0 * centred[:, 0], atol=1e-12)
    distance = recorded_distances(recording, fns, GAMMA, 40, 1).distance
    assert distance[0, 1] < 1e-6 and distance[0, 2] == pytest.approx(1.0, abs=1e-12)


def test_a_reward_that_is_nothing_but_shaping_has_no_distance() -> None:
    phi = [0.5, -2.0, 1.0, 4.0, 0.0]
    fns = [Table(tables()[0]), Potential(phi=phi, gamma=GAMMA), 0.0 * Table(tables()[1])]
    found = recorded_distances(everywhere(8, 50, 0), fns, GAMMA)
    assert np.isnan(found.distance[1:]).all() and np.isnan(found.distance[0, 1:]).all()
    assert (found.low[0, 1:] == 0.0).all() and (found.high[0, 1:] == 1.0).all()


def test_a_terminal_state_pays_nothing_by_hand() -> None:
    """0 -> 1 -> 2, which is terminal; paid is ``10 s + s'``, and 100 for arriving at the end."""

    class Arrival(RewardFunction):
        def __call__(self, t: Transition) -> Tensor:
            return 10.0 * t.obs[:, 0] + t.next_obs[:, 0] + 100.0 * t.terminated

    column = torch.tensor([[0.0], [1.0]])
    recording = Recording(
        obs=column,
        action=torch.zeros(2, dtype=torch.int64),
        next_obs=column + 1.0,
        terminated=torch.tensor([False, True]),
        episode_step=torch.tensor([0, 1]),
        row=torch.tensor([0, 1]),
        spaces=Spaces(spaces.Box(0.0, 9.0, (1,)), spaces.Discrete(1)),
    )
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(2, generator=generator)
    drawn, _ = torch.randint(2, (2, 2, 2, 1), generator=generator)
    states, ends = np.array([0.0, 1.0, 2.0]), np.array([False, False, True])

    def paid(s: int, t: int) -> float:
        return 0.0 if ends[s] else 10.0 * states[s] + states[t] + 100.0 * ends[t]

    first, second, rows = canonical_rewards(recording, [Arrival()], GAMMA, 2, draws=1)
    assert rows.tolist() == order.tolist()
    for half, found in enumerate((first, second)):
        for i, s in enumerate(order.tolist()):
            t = int(drawn[i, half, 0]) + 1  # arrived at, from there to itself
            want = paid(s, s + 1) + GAMMA * paid(s + 1, t) - paid(s, t) - GAMMA * paid(t, t)
            assert found[i, 0] == pytest.approx(want)


class Counting(gymnasium.Env):
    """Observes how many steps were made; ends after three, by one way and the other in turns."""

    observation_space = spaces.Dict({"t": spaces.Box(0.0, 9.0, (1,))})
    action_space = spaces.Discrete(2)
    episode = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        self.episode += 1
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        end = self.t == 3
        ends = (end, False) if self.episode % 2 else (False, end)
        return self._obs(), 1.0, *ends, {}

    def _obs(self) -> Any:
        return {"t": np.array([self.t], dtype=np.float32)}


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_what_is_recorded_never_crosses_the_end_of_an_episode(mode: str) -> None:
    mode = getattr(gymnasium.vector.AutoresetMode, mode)
    envs = gymnasium.vector.SyncVectorEnv([Counting] * 3, autoreset_mode=mode)
    found = record(envs, 24, seed=0)
    assert len(found.row) == 3 * (18 if mode is gymnasium.vector.AutoresetMode.NEXT_STEP else 24)
    t = found.obs["t"][:, 0]
    assert torch.equal(found.next_obs["t"][:, 0], t + 1) and torch.equal(
        found.episode_step, t.long()
    )
    assert found.terminated.sum() == 3 * (3 if len(found.row) == 54 else 4)
    assert set(found.action.tolist()) == {0, 1}
    last = record(envs, 5, policy=lambda obs: np.array([0, 1, 0]))
    assert torch.equal(last.action, torch.tensor([0, 1, 0]).repeat(5)[: len(last.row)])


class Talks(RewardFunction):
    """Reads what the simulator said."""

    def __call__(self, t: Transition) -> Tensor:
        return t.info["speed"]


def test_what_cannot_be_asked_about_other_transitions_is_named() -> None:
    recording, table = everywhere(4, 5, 0), Table(tables()[0])
    for fn, message in (
        (env_reward, "reward function objective.*not told what the environment paid"),
        (0.5 * env_reward + table, "not told what the environment paid"),
        (Talks(), "reward function talks: it reads 'speed' of info"),
        (Novelty(per_episode=True), "reward function novelty: has memory"),
        (Potential(phi=[0.0] * S, gamma=0.5), "gamma=0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            recorded_distances(recording, [table, fn], GAMMA)
    for kwargs, message in (
        ({"gamma": 1.0}, "gamma=1.0"),
        ({"gamma": 0.5, "draws": 0}, "draws=0"),
        ({"gamma": 0.5, "num_samples": 1}, "num_samples=1"),
    ):
        with pytest.raises(ValueError, match=message):
            recorded_distances(recording, [table, table], **kwargs)
    with pytest.raises(ValueError, match="1 rows: expected"):
        distances_from_canonical(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(3))
