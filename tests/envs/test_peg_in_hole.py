"""PegInHole's dynamics have the closed form's makespans, and its optimal policy is optimal."""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from scipy import stats

import rewardzoo  # noqa: F401
from rewardzoo.envs.peg_in_hole.closed_form import (
    ConfusionTimes,
    expected_makespan,
    reactive_makespan,
)
from rewardzoo.envs.peg_in_hole.durations import FAMILIES, draw, quantiles
from rewardzoo.envs.peg_in_hole.dynamics import CELLS, PegInHole, PegInHoleParams, effective_times
from rewardzoo.envs.peg_in_hole.stopping import StoppingPolicy, StoppingProblem, problem_of, solve
from rewardzoo.random import Rng
from rewardzoo.testing import check_vector_env

ENV = "rewardzoo/PegInHole-v0"
SAMPLES = (2.0, 3.0, 5.0, 30.0)


def makespans(policy: Any, count: int, **params: Any) -> np.ndarray:
    """(count,) the first episode's makespan of every row."""
    envs = gymnasium.make_vec(ENV, num_envs=count, **params)
    obs, _ = envs.reset(seed=5)
    open_, out, state = torch.ones(count, dtype=torch.bool), torch.zeros(count), None
    while bool(open_.any()):
        action, state = policy(obs, state)
        obs, _, terminated, truncated, info = envs.step(action)
        done = terminated | truncated
        out = torch.where(open_ & done, info["makespan"], out)
        open_ &= ~done
    return out.double().numpy()


def always(action: int) -> Any:
    return lambda obs, state: (torch.full((len(obs),), action), None)


def near(sample: np.ndarray, want: float, sigma: float = 5.0) -> bool:
    return abs(sample.mean() - want) < sigma * sample.std() / np.sqrt(len(sample))


@pytest.mark.parametrize("mode", ["call", "window"])
@pytest.mark.filterwarnings("ignore")
def test_conforms(mode: str) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    env = gymnasium.make(ENV, mode=mode, render_mode="rgb_array")
    check_env(env.unwrapped)
    sb3_check_env(env)
    make = lambda num_envs, autoreset_mode: gymnasium.make_vec(  # noqa: E731
        ENV, num_envs, mode=mode, autoreset_mode=autoreset_mode, max_episode_steps=13
    )
    report = check_vector_env(make)
    assert report.terminated and report.objective and report.saves


@pytest.mark.parametrize("mode", ["call", "window"])
def test_rewards_add_up_to_the_makespan(mode: str) -> None:
    env = gymnasium.make(ENV, mode=mode, start_time=1.0)
    env.action_space.seed(0)
    for seed in range(30):
        env.reset(seed=seed)
        total, attempts, over = 0.0, 0, False
        while not over:
            _, reward, over, truncated, info = env.step(env.action_space.sample())
            total += reward
            attempts += info["outcome"] > 0
            assert not truncated and (info["cell"] > 0) == (info["outcome"] > 0)
        assert info["makespan"] == pytest.approx(-total, rel=1e-5)
        assert info["attempts"] == attempts and info["outcome"] == 1


def random_settings(count: int, seed: int) -> dict[str, torch.Tensor]:
    """Settings whose attempts succeed at least one time in ten, calls included."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(9, count, generator=g)
    low = torch.tensor([0.25, 5.0, 10.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]).unsqueeze(1)
    high = torch.tensor([0.95, 60.0, 120.0, 1.0, 0.6, 60.0, 60.0, 10.0, 5.0]).unsqueeze(1)
    names = ("p", "mts", "mtf", "rho_tn", "rho_fn", "d_tn", "d_fn", "reset_time", "start_time")
    return dict(zip(names, low + (high - low) * u, strict=True))


@pytest.mark.parametrize("family", ["exponential", "gamma", "lognormal"])
def test_closed_form_equals_simulation_on_200_random_settings(family: str) -> None:
    """A row's setting is its own: 200 settings of 120 episodes in one batch, z-scores normal."""
    settings, rows = random_settings(200, 0), 120
    params = {k: v.repeat_interleave(rows) for k, v in settings.items()}
    sample = makespans(always(1), 200 * rows, family=family, censor=False, **params)
    sample = sample.reshape(200, rows)
    want = expected_makespan(
        ConfusionTimes.from_rates(**{k: v.numpy() for k, v in settings.items()})
    )
    z = (sample.mean(1) - want) / (sample.std(1) / np.sqrt(rows))
    assert np.abs(z).max() < 6.0  # skewed sums: a little beyond the normal's 200-fold 5 sigma
    assert abs(z.mean()) < 5 / np.sqrt(200) and 0.75 < z.std() < 1.3
    assert abs((sample.mean(1) / want).mean() - 1) < 0.01


def test_never_acting_is_the_reactive_makespan() -> None:
    for kwargs in ({}, {"mode": "window"}, {"family": "poisson", "censor": False}):
        sample = makespans(always(0), 3_000, **kwargs)
        assert near(sample, float(reactive_makespan(0.49, 30.2, 67.7, 3.0)))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_have_their_mean_and_law(family: str) -> None:
    count, mean = 40_000, 20.0
    rng = Rng(torch.arange(count), torch.zeros(count, dtype=torch.int64), 1)
    shape = torch.tensor(SAMPLES) / np.mean(SAMPLES)
    sample = draw(family, torch.tensor(mean), 0.5, shape, rng).double().numpy()
    q = quantiles(family, mean, 0.5, shape.double().numpy())
    assert q.mean() == pytest.approx(mean, rel=2e-3)
    if family == "deterministic":
        assert (sample == mean).all()
        return
    assert near(sample, mean)
    laws = {
        "exponential": stats.expon(scale=mean),
        "gamma": stats.gamma(4, scale=mean / 4),
        "lognormal": stats.lognorm(np.sqrt(np.log(1.25)), scale=mean / np.sqrt(1.25)),
    }
    if family in laws:
        assert stats.kstest(sample, laws[family].cdf).pvalue > 1e-4
    elif family == "poisson":
        k = np.arange(60)
        seen, want = (
            np.bincount(sample.astype(int), minlength=60)[:60] / count,
            stats.poisson(mean).pmf(k),
        )
        assert (np.abs(seen - want) <= 5 * np.sqrt(want / count) + 1 / count).all()
    else:
        assert set(np.round(sample / mean * np.mean(SAMPLES), 3)) == set(SAMPLES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("u", [0.0, 1.0 - 2.0**-24])
def test_extreme_draws_are_finite_times(
    family: str, u: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = Rng(torch.arange(2), torch.zeros(2, dtype=torch.int64), 1)
    monkeypatch.setattr(rng, "uniform", lambda *shape: torch.full((2, *shape), u))
    found = draw(family, torch.tensor(20.0), 0.5, torch.tensor(SAMPLES), rng)
    assert (torch.isfinite(found) & (found >= 0)).all() and (found < 20.0 * 70).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_effective_times_after_censoring(family: str) -> None:
    """Calls that would come too late are never heard; the makespan follows from what is left."""
    params = {"family": family, "samples": SAMPLES if family == "empirical" else ()}
    times = effective_times(PegInHoleParams(**params))
    sample = makespans(always(1), 2_000 if family == "poisson" else 10_000, **params)
    assert near(sample, float(expected_makespan(times)))
    if family == "deterministic":
        assert float(times.tn) == pytest.approx(0.51 * 0.85)
    else:
        assert float(times.tn) < 0.51 * 0.85 - 0.001 or family in ("empirical", "poisson")
    exact = effective_times(PegInHoleParams(censor=False))
    assert expected_makespan(exact) == pytest.approx(67.073, abs=5e-4)


def test_cells_name_truth_and_decision() -> None:
    count = 4_000
    envs = gymnasium.make_vec(ENV, num_envs=count)
    envs.reset(seed=0)
    before = envs.state
    action = torch.arange(count) % 2
    *_, info = envs.step(action)
    for i in range(count):
        good, called, stop = bool(before.succeeds[i]), bool(before.called[i]), bool(action[i])
        if called and stop:
            want = "FN" if good else "TN"
        elif called:
            want = "NCS" if good else "NCF"
        else:
            want = "TP" if good else "FP"
        assert CELLS[int(info["cell"][i])] == want
    assert len(set(info["cell"].tolist())) == 6


def test_an_action_without_a_call_changes_nothing() -> None:
    a, b = (makespans(always(k), 200, rho_tn=0.0, rho_fn=0.0) for k in (0, 1))
    assert (a == b).all()


def toy() -> StoppingProblem:
    """Three windows, three scores; attempts may end in any window."""
    llr = np.tile([-1.0, 0.0, 1.0], (3, 1))
    fails, succeeds = np.array([0.1, 0.3, 0.1 * math.e]), np.array([0.1 * math.e, 0.3, 0.1])
    chance = np.stack([np.tile(x / x.sum(), (3, 1)) for x in (fails, succeeds)])
    # The same chance of ending for both, so that sums of scores stay whole numbers.
    hazard = np.array([[0.1, 0.2, 1.0], [0.1, 0.2, 1.0]])
    seconds = np.array([[9.0, 9.0, 30.0], [6.0, 5.0, 4.0]])
    return StoppingProblem(0.3, np.zeros(3), hazard, seconds, llr, chance, 1.0, 0.5)


def brute_force(problem: StoppingProblem) -> float:
    """V0 by recursion over all histories of scores, and iteration of its fixed point."""

    def cost(k: int, joint: np.ndarray, fresh: float) -> float:
        if k == 3:
            return 0.0
        over, left = joint * problem.hazard[:, k], joint * (1 - problem.hazard[:, k])
        go_on = float(joint @ problem.seconds[:, k]) + float(over[0]) * fresh
        go_on += sum(cost(k + 1, left * problem.chance[:, k, s], fresh) for s in range(3))
        return min(go_on, float(joint.sum()) * fresh)

    p_fail = 1 / (1 + math.exp(-problem.prior))
    v0 = 0.0
    for _ in range(2_000):
        v0 = problem.start_time + cost(0, np.array([p_fail, 1 - p_fail]), problem.reset_time + v0)
    return v0


def test_optimal_stopping_equals_brute_force_on_a_toy() -> None:
    solution = solve(toy(), np.arange(-10.0, 11.0))
    assert solution.makespan == pytest.approx(brute_force(toy()), abs=1e-6)
    assert all(b < a for a, b in itertools.pairwise(solution.history)) and len(solution.history) > 1


@pytest.mark.parametrize(
    "params",
    [{}, {"family": "gamma", "signal": 0.3}, {"family": "deterministic", "start_time": 2.0}],
)
def test_optimal_policy_has_the_makespan_it_promises(params: dict[str, Any]) -> None:
    dynamics = PegInHole(mode="window", **params)
    solution = solve(problem_of(dynamics.params))
    sample = makespans(StoppingPolicy(dynamics, solution).predict, 5_000, mode="window", **params)
    assert near(sample, solution.makespan, 4.0)
    assert solution.makespan < solution.history[0]


def test_the_policy_acts_on_one_environment_as_on_a_row() -> None:
    dynamics = PegInHole(mode="window")
    policy = StoppingPolicy(dynamics, solve(problem_of(dynamics.params), iterations=2))
    env = gymnasium.make(ENV, mode="window")
    obs, _ = env.reset(seed=9)
    state, over, total = None, False, 0.0
    while not over:
        action, state = policy.predict(obs, state)
        obs, reward, over, _, _ = env.step(action)
        total -= reward
    envs = gymnasium.make_vec(ENV, num_envs=1, mode="window")
    obs, _ = envs.reset(seed=9)
    state, over, again = None, False, 0.0
    while not over:
        action, state = policy.predict(obs, state)
        obs, reward, terminated, _, _ = envs.step(action)
        over, again = bool(terminated[0]), again - float(reward[0])
    assert total == pytest.approx(again, rel=1e-6)


def test_a_score_without_a_signal_leaves_only_the_clock() -> None:
    """With no signal the best rule is a timer, and it is the best of all timers."""
    params = PegInHoleParams(mode="window", signal=0.0, family="gamma", dt=2.0)
    solution = solve(problem_of(params))
    mts, mtf = (stats.gamma(4, scale=m / 4) for m in (params.mts, params.mtf))
    seconds = np.arange(2.0, 400.0, 2.0)

    def timer(tau: float) -> float:
        done = params.p * mts.cdf(tau)
        run = sum(
            share * (law.expect(lambda t: t, lb=0, ub=tau) + tau * law.sf(tau))
            for share, law in ((params.p, mts), (1 - params.p, mtf))
        )
        return float((run + params.reset_time * (1 - done)) / done)

    best = min(timer(tau) for tau in seconds[:60])
    assert solution.makespan == pytest.approx(best, rel=2e-3)


def test_renders() -> None:
    for mode in ("call", "window"):
        func = PegInHole(mode=mode, p=torch.full((3,), 0.4))
        state = func.initial(Rng(torch.arange(3), torch.zeros(3, dtype=torch.int64), 0))
        frame = func.render(state, 1, "rgb_array")
        assert frame.dtype == np.uint8 and frame.std() > 1
        assert "attempt 1" in func.render(state, 1, "ansi")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"p": 0.0}, "p=0.0"),
        ({"rho_tn": 1.5}, "rho_tn=1.5"),
        ({"mts": -1.0}, "mts=-1.0"),
        ({"p": torch.tensor([0.5, 1.5])}, r"expected finite numbers in \[1e-06, 1\]"),
        ({"family": "weibull"}, "family='weibull'"),
        ({"family": "empirical"}, r"samples=\(\): expected recorded times"),
        ({"mode": "continuous"}, "mode='continuous'"),
        ({"dt": 0.0}, "dt=0.0"),
    ],
)
def test_bad_parameters_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PegInHole(**kwargs)
