"""SepsisICU is the ``icu-sepsis`` package's environment, and its exact figures are the paper's."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.agents.tabular import (
    evaluate_policy,
    expected_return,
    greedy,
    mdp_of,
    occupancy,
    policy_iteration,
    q_values,
    value_iteration,
)
from rewardzoo.envs.sepsis.data import FEATURES, tables
from rewardzoo.envs.sepsis.dynamics import SepsisICU, SepsisState
from rewardzoo.random import Rng

ENV = "rewardzoo/SepsisICU-v0"


class FixedDraws:
    """Stands in for NumPy's generator: ``choice`` inverts the cumulative sum at a given number."""

    def __init__(self) -> None:
        self.u = 0.0

    def choice(self, n: int, p: np.ndarray) -> int:
        # As numpy.random.Generator.choice does.
        cdf = p.cumsum()
        cdf /= cdf[-1]
        return int(cdf.searchsorted(self.u, side="right"))


@pytest.mark.parametrize("mode", ["mean", "terminate", "raise_exception"])
def test_equals_the_package_for_the_same_draws(mode: str) -> None:
    """10,000 steps: the same state, action and uniform number give the same step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from icu_sepsis.envs import ICUSepsisEnv
        from icu_sepsis.utils.exceptions import InadmissibleActionError

    theirs = ICUSepsisEnv(inadmissible_action_strategy=mode)
    draws = FixedDraws()
    theirs._np_random = draws
    ours = SepsisICU(inadmissible="raise" if mode == "raise_exception" else mode)
    count = 10_000
    generator = np.random.default_rng(0)
    state = torch.tensor(generator.integers(0, 713, count))
    action = torch.tensor(generator.integers(0, 25, count))
    if mode == "raise_exception":
        allowed = torch.tensor(tables().admissible)[state, action]
        with pytest.raises(ValueError, match="not admissible in state"):
            ours.transition(SepsisState(state), action, _rng(count))
        forbidden = int((~allowed).nonzero()[0])
        theirs._current_state = int(state[forbidden])
        with pytest.raises(InadmissibleActionError):
            theirs.step(np.array(divmod(int(action[forbidden]), 5)))
        state, action = state[allowed], action[allowed]
        count = len(state)
    bits = _rng(count).bits()
    following = ours.transition(SepsisState(state), action, _rng(count))
    reward = ours.reward(SepsisState(state), action, following, _rng(count))
    terminal = ours.terminal(following, _rng(count))
    for i in range(count):
        theirs._current_state = int(state[i])
        draws.u = int(bits[i]) / 2**32
        obs, paid, terminated, _, _ = theirs.step(np.array(divmod(int(action[i]), 5)))
        assert (int(following.index[i]), float(reward[i]), bool(terminal[i])) == (
            obs, paid, terminated,
        )  # fmt: skip


def _rng(count: int) -> Rng:
    return Rng(torch.arange(count), torch.zeros(count, dtype=torch.int64), 1)


@pytest.mark.parametrize(("k", "u"), [(0, 0.0), (2**31, 0.5), (2**32 - 1, 1 - 2.0**-32)])
def test_extreme_draws_invert_exactly(k: int, u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data, func = tables(), SepsisICU()
    cdf = data.transition.reshape(-1, 716).cumsum(-1)
    cdf /= cdf[:, -1:]
    rows = np.arange(713 * 25)
    want = np.array([row.searchsorted(u, side="right") for row in cdf[rows]])
    rng = _rng(len(rows))
    monkeypatch.setattr(rng, "bits", lambda: torch.full((len(rows),), k))
    state, action = torch.tensor(rows // 25), torch.tensor(rows % 25)
    got = func.transition(SepsisState(state), action, rng).index.numpy()
    np.testing.assert_array_equal(got, want)


def test_exact_references() -> None:
    mdp = mdp_of(SepsisICU())
    uniform = torch.full((716, 25), 0.04, dtype=torch.float64)
    expert = torch.tensor(tables().expert_policy)
    for gamma, optimal, by_expert, by_uniform in [
        (1.0, 0.875142, 0.781845, 0.780071),
        (0.99, 0.801334, 0.722158, 0.719095),
    ]:
        value = value_iteration(mdp, gamma)
        assert float(value @ mdp.initial) == pytest.approx(optimal, abs=1e-5)
        solved, policy = policy_iteration(mdp, gamma)
        torch.testing.assert_close(solved, value, atol=1e-8, rtol=0)
        assert float(expected_return(mdp, policy, gamma)) == pytest.approx(optimal, abs=1e-5)
        assert float(expected_return(mdp, expert, gamma)) == pytest.approx(by_expert, abs=1e-5)
        assert float(expected_return(mdp, uniform, gamma)) == pytest.approx(by_uniform, abs=1e-5)
        best = greedy(q_values(mdp, value, gamma))
        torch.testing.assert_close(evaluate_policy(mdp, best, gamma), value, atol=1e-8, rtol=0)
        visits = occupancy(mdp, policy, gamma)
        assert float((visits * mdp.reward).sum()) == pytest.approx(optimal, abs=1e-5)


def test_exact_lengths() -> None:
    mdp = mdp_of(SepsisICU())
    steps = mdp.with_reward(torch.ones_like(mdp.reward) * mdp.terminal.logical_not().unsqueeze(-1))
    uniform = torch.full((716, 25), 0.04, dtype=torch.float64)
    assert float(expected_return(steps, uniform, 1.0)) == pytest.approx(9.46, abs=0.005)
    expert = torch.tensor(tables().expert_policy)
    assert float(expected_return(steps, expert, 1.0)) == pytest.approx(9.24, abs=0.005)


def test_simulated_survival_equals_the_exact_one() -> None:
    """20,000 episodes of each of three policies, within four standard errors."""
    func = SepsisICU()
    mdp = mdp_of(func)
    _, best = policy_iteration(mdp, 1.0)
    uniform = torch.full((716, 25), 0.04, dtype=torch.float64)
    count = 20_000
    for policy in (best, uniform, torch.tensor(tables().expert_policy)):
        envs = gymnasium.make_vec(ENV, num_envs=count)
        obs, _ = envs.reset(seed=7)
        open_ = torch.ones(count, dtype=torch.bool)
        survived = torch.zeros(count)
        generator = torch.Generator().manual_seed(0)
        cdf = policy.cumsum(1)
        while bool(open_.any()):
            u = torch.rand(count, 1, generator=generator, dtype=torch.float64)
            action = (cdf[obs] <= u).sum(1).clamp(max=24)
            obs, reward, terminated, truncated, _ = envs.step(action)
            survived = torch.where(open_, reward, survived)
            open_ &= ~(terminated | truncated)
        exact = float(expected_return(mdp, policy, 1.0))
        assert abs(float(survived.mean()) - exact) < 4 * np.sqrt(exact * (1 - exact) / count)


def test_feature_observations() -> None:
    data = tables()
    living = slice(0, 713)
    column = FEATURES.index("SOFA")
    correlation = np.corrcoef(data.centres[living, column], data.sofa[living])[0, 1]
    assert column == 31 and correlation == pytest.approx(0.997, abs=5e-4)
    env = gymnasium.make(ENV, obs="features")
    func: Any = env.unwrapped.func
    assert len(func.feature_names) == 44 and "max_dose_vaso" not in func.feature_names
    obs, _ = env.reset(seed=0)
    state = int(env.unwrapped.state.index[0])
    kept = [FEATURES.index(name) for name in func.feature_names]
    np.testing.assert_allclose(obs, data.centres[state, kept], rtol=1e-6)
    with pytest.warns(UserWarning, match="are the action"):
        assert SepsisICU(obs="features", features="all47").observation_space.shape == (47,)
    noisy = SepsisICU(obs="features", obs_noise=1.0)
    many = SepsisState(torch.full((50_000,), state))
    spread = noisy.observation(many, _rng(50_000)).std(0)
    within = np.sqrt(np.maximum(0, 1 - data.centres[:714, kept].var(0)))
    np.testing.assert_allclose(spread.numpy(), within, rtol=0.03, atol=1e-6)


def test_the_package_itself_is_not_imported() -> None:
    import subprocess
    import sys

    code = (
        "import rewardzoo, gymnasium, sys;"
        "gymnasium.make('rewardzoo/SepsisICU-v0').reset(seed=0);"
        "assert 'icu_sepsis' not in sys.modules and 'gym' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"obs": "image"}, "obs='image'"), ({"obs_noise": -1.0}, "obs_noise=-1.0")],
)
def test_bad_parameters_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SepsisICU(**kwargs)
