"""SepsisICU is the ``icu-sepsis`` package's environment, and its exact figures are the paper's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.agents.tabular import (
    TabularMDP,
    evaluate_policy,
    expected_return,
    greedy,
    mdp_of,
    occupancy,
    policy_iteration,
    q_values,
    value_iteration,
)
from rewardzoo.envs.sepsis import data as sepsis_data
from rewardzoo.envs.sepsis.data import FEATURES, _checked, read, tables
from rewardzoo.envs.sepsis.dynamics import SepsisICU, SepsisState
from rewardzoo.random import Rng

ENV = "rewardzoo/SepsisICU-v0"
UNIFORM = torch.full((716, 25), 0.04, dtype=torch.float64)


class FixedDraws:
    """Stands in for NumPy's generator: ``choice`` inverts the cumulative sum at a given number."""

    def __init__(self) -> None:
        self.u = 0.0

    def choice(self, n: int, p: np.ndarray) -> int:
        # As numpy.random.Generator.choice does.
        cdf = p.cumsum()
        cdf /= cdf[-1]
        return int(cdf.searchsorted(self.u, side="right"))


@pytest.fixture(scope="module")
def mdp() -> TabularMDP:
    return mdp_of(ENV)


def package_env(mode: str = "mean") -> tuple[Any, FixedDraws]:
    """The package's environment, drawing what it is told to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from icu_sepsis.envs import ICUSepsisEnv

    env, draws = ICUSepsisEnv(inadmissible_action_strategy=mode), FixedDraws()
    env._np_random = draws
    return env, draws


def _rng(count: int) -> Rng:
    return Rng(torch.arange(count), torch.zeros(count, dtype=torch.int64), 1)


@pytest.mark.parametrize("mode", ["mean", "terminate", "raise_exception"])
def test_equals_the_package_for_the_same_draws(mode: str) -> None:
    """10,000 steps: the same state, action and uniform number give the same step."""
    theirs, draws = package_env(mode)
    ours = SepsisICU(inadmissible="raise" if mode == "raise_exception" else mode)
    count, generator = 10_000, np.random.default_rng(0)
    state = generator.integers(0, 713, count)
    action = generator.integers(0, 25, count)
    if mode == "raise_exception":  # admissible ones only; forbidden ones have a test below
        action = np.where(tables().admissible[state], generator.random((count, 25)), -1).argmax(1)
    bits = _rng(count).bits().tolist()
    before = SepsisState(torch.tensor(state))
    following = ours.transition(before, torch.tensor(action), _rng(count))
    reward = ours.reward(before, torch.tensor(action), following, _rng(count))
    terminal = ours.terminal(following, _rng(count))
    got = zip(following.index.tolist(), reward.tolist(), terminal.tolist(), strict=True)
    for i, step in enumerate(got):
        theirs._current_state, draws.u = int(state[i]), bits[i] / 2**32
        obs, paid, terminated, truncated, _ = theirs.step(np.array(divmod(int(action[i]), 5)))
        assert step == (obs, paid, terminated) and not truncated


def test_tables_equal_the_package() -> None:
    theirs, _ = package_env()
    data = tables()
    assert np.array_equal(theirs._tx_mat, data.transition)
    assert np.array_equal(theirs.expert_policy, data.expert_policy)
    assert np.array_equal(theirs.state_cluster_centers, data.centres)
    assert np.array_equal(theirs.sofa_scores, data.sofa)
    admissible = [np.flatnonzero(row).tolist() for row in data.admissible]
    assert admissible == [sorted(actions) for actions in theirs._admissible_actions]


def test_starts_equal_the_package_for_the_same_draws() -> None:
    theirs, draws = package_env()
    got = SepsisICU().initial(_rng(2_000)).index.tolist()
    for start, k in zip(got, _rng(2_000).bits().tolist(), strict=True):
        draws.u = k / 2**32
        theirs._make_state_transition(theirs._d_0)
        assert start == theirs._current_state


def test_a_forbidden_action_raises_where_the_package_raises() -> None:
    from icu_sepsis.utils.exceptions import InadmissibleActionError

    theirs, _ = package_env("raise_exception")
    ours = SepsisICU(inadmissible="raise")
    for state, action in np.argwhere(~tables().admissible[:713])[::500].tolist():
        theirs._current_state = state
        with pytest.raises(InadmissibleActionError):
            theirs.step(np.array(divmod(action, 5)))
        with pytest.raises(ValueError, match=f"action={action} in row 0: .* in state {state}"):
            ours.transition(SepsisState(torch.tensor([state])), torch.tensor([action]), _rng(1))


def test_frequencies_are_the_tables() -> None:
    """200,000 draws of three rows: every frequency within five standard errors and one draw."""
    count, func = 200_000, SepsisICU()
    for state, action in [(0, 0), (350, 12), (712, 24)]:
        before = SepsisState(torch.full((count,), state))
        drawn = func.transition(before, torch.full((count,), action), _rng(count)).index
        seen = np.bincount(drawn, minlength=716) / count
        p = tables().transition[state, action]
        assert (np.abs(seen - p) <= 5 * np.sqrt(p * (1 - p) / count) + 1 / count * (p > 0)).all()


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


def test_exact_references(mdp: TabularMDP) -> None:
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
        assert float(expected_return(mdp, UNIFORM, gamma)) == pytest.approx(by_uniform, abs=1e-5)
        best = greedy(q_values(mdp, value, gamma))
        torch.testing.assert_close(evaluate_policy(mdp, best, gamma), value, atol=1e-8, rtol=0)
        visits = occupancy(mdp, policy, gamma)
        assert float((visits * mdp.reward).sum()) == pytest.approx(optimal, abs=1e-5)
    worst, _ = policy_iteration(mdp.with_reward(-mdp.reward), 1.0)
    assert float(-worst @ mdp.initial) == pytest.approx(0.632990, abs=1e-5)


def test_exact_lengths(mdp: TabularMDP) -> None:
    steps = mdp.with_reward(torch.ones_like(mdp.reward) * mdp.terminal.logical_not().unsqueeze(-1))
    _, best = policy_iteration(mdp, 1.0)
    expert = torch.tensor(tables().expert_policy)
    for policy, length in [(UNIFORM, 9.46), (expert, 9.24), (best, 10.99)]:
        assert float(expected_return(steps, policy, 1.0)) == pytest.approx(length, abs=0.005)


def test_forbidding_actions_costs_nothing(mdp: TabularMDP) -> None:
    """A forbidden action behaves as the mean of the admissible ones, one of which is no worse."""
    strict = mdp_of(ENV, inadmissible="terminate")
    value, policy = policy_iteration(strict, 1.0)
    assert float(value @ strict.initial) == pytest.approx(0.875142, abs=1e-5)
    assert tables().admissible[:713][policy[:713].bool().numpy()].all()
    assert float(expected_return(strict, UNIFORM, 1.0)) < 0.2  # most of the 25 are forbidden


def test_simulated_survival_equals_the_exact_one(mdp: TabularMDP) -> None:
    """20,000 episodes of each of three policies, within four standard errors."""
    _, best = policy_iteration(mdp, 1.0)
    count = 20_000
    for policy in (best, UNIFORM, torch.tensor(tables().expert_policy)):
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


def test_action_mask_is_observed_on_request() -> None:
    envs = gymnasium.make_vec(ENV, num_envs=5, action_mask=True)
    obs, info = envs.reset(seed=0)
    assert envs.single_observation_space["action_mask"].n == 25
    admissible = torch.tensor(tables().admissible).to(torch.int8)
    assert torch.equal(obs["action_mask"], admissible[obs["observation"]])
    obs, *_ = envs.step(obs["action_mask"].argmax(1))
    assert torch.equal(obs["action_mask"], admissible[obs["observation"]])
    single = gymnasium.make(ENV, action_mask=True)
    assert single.observation_space.contains(single.reset(seed=3)[0])


def test_sofa_and_the_expert_are_offered() -> None:
    func = SepsisICU()
    _, info = gymnasium.make_vec(ENV, num_envs=3).reset(seed=0)
    assert info["sofa"].shape == (3,) and info["sofa"].dtype == torch.float32
    assert func.sofa_scores.shape == (716,) and 0 < func.sofa_scores[:713].min()
    np.testing.assert_allclose(func.expert_policy[:713].sum(1), 1.0)
    with pytest.raises(ValueError, match="read-only"):
        func.sofa_scores[0] = 1.0


@pytest.mark.parametrize(
    ("state", "text"), [(0, "state   0  SOFA  5.5"), (713, "died"), (714, "survived")]
)
def test_cards(state: int, text: str) -> None:
    func = SepsisICU()
    patient = SepsisState(torch.tensor([state]))
    frame = func.render(patient, 0, "rgb_array")
    assert frame.shape == (240, 420, 3) and frame.dtype == np.uint8 and frame.std() > 1
    assert text in func.render(patient, 0, "ansi")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"obs": "image"}, "obs='image'"),
        ({"obs": "features", "features": "all"}, "features='all'"),
        ({"obs": "features", "obs_noise": -1.0}, "obs_noise=-1.0"),
        ({"obs_noise": 1.0}, "obs_noise=1.0 .* change nothing with obs='index'"),
        ({"inadmissible": "ignore"}, "inadmissible='ignore'"),
    ],
)
def test_bad_parameters_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SepsisICU(**kwargs)


def test_an_action_beyond_the_last_is_refused() -> None:
    env = gymnasium.make(ENV).unwrapped
    env.reset(seed=0)
    with pytest.raises(IndexError, match="25"):
        env.step(25)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sepsis_data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install icu-sepsis"):
        tables.__wrapped__()


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pip install --force-reinstall icu-sepsis"):
        read(tmp_path)
    good = tables()
    for name, place, value in [
        ("transition", (3, 4, 5), -0.1),
        ("initial", (0,), 0.7),
        ("expert_policy", (2, 1), 2.0),
        ("sofa", (9,), np.nan),
    ]:
        broken = getattr(good, name).copy()
        broken[place] = value
        with pytest.raises(ValueError, match=f"ICU-Sepsis table {name}"):
            _checked(good._replace(**{name: broken}))
    with pytest.raises(ValueError, match=r"transition.*expected finite \(716, 25, 716\)"):
        _checked(good._replace(transition=good.transition[:, :3]))
