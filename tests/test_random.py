"""Counter-based numbers: known vectors, uniform, and independent across every counter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from rewardzoo.random import Rng

COUNT = 200_000
M = (1 << 64) - 1


def reference_bits(seed: int, episode: int, step: int, draw: int, stream: int) -> int:
    """The documented hash in Python's unbounded integers."""
    x = (
        seed * 0x9E3779B97F4A7C15
        + episode * 0xD1B54A32D192ED03
        + step * 0x8CB92BA72F3D8DD7
        + draw * 0xABC98388FB8FAC03
        + stream * 0xF1357AEA2E62A9C5
    ) & M
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M
    return (x ^ (x >> 31)) >> 32


def along(counter: str, count: int = COUNT) -> Rng:
    """Rows that differ in one counter only."""
    moving, still = torch.arange(count), torch.full((count,), 3)
    return Rng(*(moving if counter == name else still for name in ("seed", "episode", "step")))


@pytest.mark.parametrize("step", [0, 7, 2**40])
def test_known_vectors(step: int) -> None:
    seeds, episodes = [0, 1, 2**31 - 1, 12345], [0, 5, 1000, 2]
    rng = Rng(torch.tensor(seeds), torch.tensor(episodes), step, stream=2)
    first, pair = rng.bits(), rng.bits(2)
    for i, (seed, episode) in enumerate(zip(seeds, episodes, strict=True)):
        want = [reference_bits(seed, episode, step, draw, 2) for draw in range(3)]
        assert [int(first[i]), *pair[i].tolist()] == want
    as_tensor = Rng(torch.tensor(seeds), torch.tensor(episodes), torch.full((4,), step), 2)
    assert torch.equal(as_tensor.bits(), first)


@pytest.mark.parametrize("counter", ["seed", "episode", "step"])
def test_uniform_and_uncorrelated_along_every_counter(counter: str) -> None:
    u = along(counter).uniform(2).double().numpy()
    # Kolmogorov-Smirnov at level 1e-6; correlations within 5 standard errors, 1 / sqrt(n).
    assert stats.kstest(u[:, 0], "uniform").pvalue > 1e-6
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(u[:-lag, 0], u[lag:, 0])[0, 1]) < 5 / np.sqrt(COUNT)
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 5 / np.sqrt(COUNT)
    cells = np.histogram2d(u[:-1, 0], u[1:, 0], bins=16)[0]
    assert stats.chisquare(cells.ravel()).pvalue > 1e-6


def test_uniform_and_uncorrelated_along_the_draws_of_a_step() -> None:
    u = along("seed", 2).uniform(COUNT).double().numpy()
    for row in u:
        assert stats.kstest(row, "uniform").pvalue > 1e-6
        for lag in (1, 2, 64):
            assert abs(np.corrcoef(row[:-lag], row[lag:])[0, 1]) < 5 / np.sqrt(COUNT)
    assert abs(np.corrcoef(u)[0, 1]) < 5 / np.sqrt(COUNT)


def test_seed_and_episode_and_step_are_not_exchangeable() -> None:
    """The hash of a sum must not make one counter's numbers another's."""
    numbers = [along(counter, 1000).bits().tolist() for counter in ("seed", "episode", "step")]
    # 1,000 of 2**32 each: a shared one by chance has probability below .001; (3, 3, 3) is shared.
    assert len(set().union(*numbers)) == 3 * 1000 - 2
    streams = [Rng(*(torch.arange(1000),) * 3, stream=s).bits() for s in range(2)]
    assert not set(streams[0].tolist()) & set(streams[1].tolist())


def test_laws() -> None:
    rng = along("seed")
    assert stats.kstest(rng.normal().numpy(), "norm").pvalue > 1e-6
    assert stats.kstest(rng.gumbel().numpy(), "gumbel_r").pvalue > 1e-6
    assert stats.chisquare(np.bincount(rng.integers(-2, 5) + 2, minlength=7)).pvalue > 1e-6
    orders = (rng.permutation(4) * torch.tensor([64, 16, 4, 1])).sum(1).numpy()
    assert stats.chisquare(np.unique(orders, return_counts=True)[1]).pvalue > 1e-6
    probs = torch.tensor([0.5, 0.0, 0.2, 0.3])
    for drawn in (rng.categorical(probs=probs), rng.categorical(logits=probs.log())):
        counts = np.bincount(drawn, minlength=4)
        assert counts[1] == 0
        assert stats.chisquare(counts[[0, 2, 3]], COUNT * np.array([0.5, 0.2, 0.3])).pvalue > 1e-6


def test_one_long_permutation_is_one() -> None:
    order = Rng(torch.tensor([4]), torch.tensor([0]), 0).permutation(100_000)[0]
    assert torch.equal(order.sort().values, torch.arange(100_000))


def test_normal_and_gumbel_are_finite_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Rng(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 0)
    ends = torch.tensor([0, 2**32 - 1])
    monkeypatch.setattr(
        rng, "bits", lambda *shape: ends.reshape(2, *(1,) * len(shape)).expand(2, *shape)
    )
    assert torch.isfinite(rng.gumbel(1)).all() and torch.isfinite(rng.normal(1)).all()


def test_bad_arguments_are_named() -> None:
    rng = along("seed", 2)
    with pytest.raises(ValueError, match="high=1: expected an integer above low=1"):
        rng.integers(1, 1)
    with pytest.raises(ValueError, match="exactly one of probs and logits"):
        rng.categorical()
