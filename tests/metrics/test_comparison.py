"""``rewardzoo compare-rewards``: exact where states can be counted, intervals elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

import rewardzoo
from rewardzoo.envs.grid_world.dynamics import GridWorld
from rewardzoo.envs.pendulum.dynamics import Pendulum
from rewardzoo.envs.sepsis.dynamics import SepsisICU
from rewardzoo.metrics import comparison
from rewardzoo.metrics.commands import Method, compare, compare_rewards
from rewardzoo.metrics.comparison import compare_exactly, enumerable, expected_rewards
from rewardzoo.metrics.epic import epic_distance
from rewardzoo.metrics.planning import expected
from rewardzoo.metrics.regret import regret_constants
from rewardzoo.metrics.starc import starc_distance
from rewardzoo.rewards import Novelty, Potential, env_reward
from rewardzoo.rewards.base import RewardFunction
from rewardzoo.transition import Transition

GRID = "rewardzoo/GridWorld-v0"
PHI = [3.0, 1.0, -2.0, 5.0, 0.5, 7.0, -1.0, 2.0, 4.0, -3.0, 6.0, 1.5]


class Table(RewardFunction):
    """R(s, a, s')."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.tensor(table)

    def __call__(self, t: Transition) -> Tensor:
        return self.table[t.obs, t.action, t.next_obs]


def cli(*args: str) -> Any:
    app = typer.Typer()
    app.command(context_settings={"ignore_unknown_options": True})(compare_rewards)
    return CliRunner().invoke(app, list(args))


def test_exact_distances_are_those_of_the_tables() -> None:
    """What is not absorbing is asked about, transition by transition."""
    func, rng, gamma = GridWorld(), np.random.default_rng(0), 0.9
    tables = rng.normal(size=(2, 12, 4, 12))
    found = compare_exactly(func, [Table(x) for x in tables], ["a", "b"], gamma)
    moves, _, _ = func.transition_matrix()
    tables[:, func.terminal_states] = 0.0
    assert found.exact and found.n == 48
    want = starc_distance(*tables, moves, gamma)
    # Rewards are float32.
    assert found.matrices["starc"][0, 1] == pytest.approx(want, abs=1e-6)
    want = epic_distance(*tables, moves, gamma)
    assert found.matrices["epic"][0, 1] == pytest.approx(want, abs=1e-6)
    assert not np.diagonal(found.matrices["regret"]).any()


@pytest.mark.parametrize(
    ("env", "reward"),
    [
        ("rewardzoo/SepsisICU-v0", "objective + potential(phi='optimal_value')"),
        ("rewardzoo/SubmodularGraph-v0", "modular_surrogate()"),
        ("rewardzoo/TomatoWatering-v0", "tomato_proxy()"),
        ("rewardzoo/SepsisICU-v0", "debate()"),
    ],
)
def test_what_the_dynamics_offer_by_name_is_found(env: str, reward: str) -> None:
    """The dynamics alone are asked here, in no environment around them."""
    found = cli("objective", reward, "--env", env, "--samples", "64")
    assert found.exit_code == 0, found.output
    assert "offers no" not in found.output and "is no rewardzoo" not in found.output


def test_the_objective_by_successor_has_the_model_s_expectation() -> None:
    func = GridWorld()
    moves, r, _ = func.transition_matrix()
    table = comparison._table(func, env_reward, moves, 0.9, whole=True)
    np.testing.assert_allclose(expected(table, moves), r, atol=1e-6)
    assert table[10, 1, 11] == 0.0 and table[6, 1, 7] == -1.0  # free; into the trap


def test_shaping_and_scale_are_no_difference_and_a_minus_is_all_of_it() -> None:
    found = compare(GRID, ["objective", f"3*objective + potential(phi={PHI})", "-objective"], 0.9)
    starc, regret = found.matrices["starc"], found.matrices["regret"]
    # float32 rewards over a canonical form of length about 1
    assert starc[0, 1] < 1e-5 and starc[0, 2] == pytest.approx(2.0, abs=1e-5)
    assert regret[0, 1] < 1e-5 and regret[0, 2] == pytest.approx(1.0, abs=1e-5)
    assert found.matrices["dard"][0, 2] == pytest.approx(1.0, abs=1e-3)
    # Not EPIC's nor DARD's: terminal states pay nothing, so transitions out of them tell.
    assert found.matrices["epic"][0, 1] > 0.1 and "see shaping here" in found.notes[0]


def test_canonicalisation_norm_and_metric_are_those_asked_for() -> None:
    func = GridWorld()
    rewards = [env_reward, Novelty(), env_reward + Potential(PHI)]
    moves, _, initial = func.transition_matrix()
    tables = expected_rewards(func, rewards, 0.9)
    for how in (("minimal", "l2", "l2"), ("none", "l1", "l1"), ("val", "range", "linf")):
        found = compare_exactly(func, rewards, list("abc"), 0.9, *how)
        want = starc_distance(tables[:, None], tables[None], moves, 0.9, *how, initial=initial)
        np.testing.assert_allclose(found.matrices["starc"], want, atol=1e-6)
        assert found.how == how
        assert found.top("starc") == (want.max() if how[1] == "range" else 2.0)
        assert found.bounds is None
        if how[0] != "minimal":
            assert "no bounds on the regret: they are known for val and minimal" in found.notes[-1]
    with pytest.raises(ValueError, match="canonical='dard': expected one of val, minimal, none"):
        compare_exactly(func, rewards, list("abc"), 0.9, "dard")


@pytest.mark.parametrize("canonical", ["val", "minimal"])
def test_regrets_lie_within_the_bounds_that_are_printed(canonical: str) -> None:
    rewards = [Table(x) for x in np.random.default_rng(0).normal(size=(5, 4, 4, 4))]
    func = GridWorld(map="SSSS")  # every state is begun in, so that no policy avoids one
    found = compare_exactly(func, rewards, list("abcde"), 0.5, canonical)
    assert found.bounds is not None
    low, high = found.bounds
    moves, _, initial = func.transition_matrix()
    assert found.bounds == regret_constants(moves, initial, 0.5, canonical)
    starc, regret = found.matrices["starc"], found.matrices["regret"]
    assert 0.0 < low and high < np.inf and starc.max() > 1.0
    assert (low * starc <= regret + 1e-9).all() and (regret <= high * starc + 1e-9).all()
    args = ("--env", GRID, "--canonical", canonical, "--gamma", "0.5")
    said = cli("novelty", "objective", *args, "--set", 'map="SSSS"')
    assert f"STARC distance ({canonical.upper()}, L2): 0 the same" in said.output
    assert f"bounds: for all rewards {low:.3g} STARC <= regret <= {high:.3g} STARC" in said.output
    assert "bounds: for" not in (walled := cli("novelty", "objective", *args)).output
    assert "no bounds on the regret: the uniform policy never comes to some" in walled.output


def test_bounds_that_would_take_minutes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_BOUNDED", 47)
    found = compare_exactly(GridWorld(), [env_reward, Novelty()], ["a", "b"], 0.9)
    assert found.bounds is None and "more than 47 states and actions" in found.notes[-1]


def test_sampled_distances_may_be_dard_or_of_the_expected_reward() -> None:
    args = ("objective", "novelty", "--env", GRID, "--gamma", "0.5", "--method", "sampled",
            "--samples", "400", "--json")  # fmt: skip
    told = json.loads(cli(*args, "--canonical", "dard").output)
    assert "starc" not in told and 0.0 <= told["dard"][0][1] <= 1.0
    assert told["low"][0][1] <= told["dard"][0][1] <= told["high"][0][1]
    none, val = (json.loads(cli(*args, "--canonical", c).output) for c in ("none", "val"))
    assert none["starc_is"] == ["none", "l2", "l2"] and none["starc"] != val["starc"]


def test_tables_too_large_for_epic_agree_with_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = [env_reward, Novelty(), env_reward + Potential(PHI)]
    whole = compare_exactly(GridWorld(), rewards, list("abc"), 0.9)
    monkeypatch.setattr(comparison, "_CELLS", 10)
    monkeypatch.setattr(comparison, "_ROWS", 7)
    parts = compare_exactly(GridWorld(), rewards, list("abc"), 0.9)
    assert set(parts.matrices) == {"starc", "regret"} and "no EPIC and DARD" in parts.notes[0]
    for name, values in parts.matrices.items():
        np.testing.assert_allclose(values, whole.matrices[name], atol=1e-5)


def test_enumerable_says_why_not() -> None:
    assert enumerable(GridWorld()) == enumerable(SepsisICU()) == ""
    assert enumerable(Pendulum()) == "it has no transition_matrix"
    with pytest.raises(ValueError, match="no exact distances on Pendulum: it has no transition"):
        compare_exactly(Pendulum(), [env_reward, Novelty()], ["a", "b"], 0.9)


def test_samples_agree_with_the_exact_distance_within_their_interval() -> None:
    # Starts everywhere: of states that are rarely sampled an interval knows too little.
    maze = "SSSG\nS#ST\nSSSS"
    func = GridWorld(map=maze)
    moves, _, initial = func.transition_matrix()
    uniform = np.where(func.terminal_states[:, None], 0.0, moves.mean(1))
    rewards = ["objective", "novelty", f"potential(phi={PHI}) + objective"]
    found = compare(
        GRID, rewards, 0.5, Method.sampled, samples=1000, settings=[f"map={json.dumps(maze)}"]
    )
    assert found.low is not None and found.high is not None and found.noise is not None
    visits = np.linalg.solve(np.eye(12) - 0.5 * uniform.T, initial)
    # A state is sampled at a geometric time, or as the last one before the end.
    stop = 0.5 + 0.5 * moves.mean(1)[:, func.terminal_states].sum(1)
    weights = np.where(func.terminal_states, 0.0, visits * stop)[:, None] * np.ones(4)
    tables = [comparison._table(func, fn, moves, 0.5, whole=True) for fn in (env_reward, Novelty())]
    exact = starc_distance(*tables, moves, 0.5, weights=weights)
    assert found.low[0, 1] <= exact <= found.high[0, 1]
    assert found.low[0, 2] < 0.05  # equivalent


def test_a_user_s_own_file_on_a_continuous_environment(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from rewardzoo import RewardFunction, register_reward\n"
        "@register_reward('compare_mine')\n"
        "class Mine(RewardFunction):\n"
        "    'Upright.'\n"
        "    def __init__(self, weight: float = 1.0) -> None:\n"
        "        self.weight = weight\n"
        "    def __call__(self, t):\n"
        "        return self.weight * t.next_obs[:, 0]\n"
    )
    rewardzoo.load_plugin(mine)
    found = cli(
        "compare_mine", "compare_mine(weight=-2)", "objective", "--env", "rewardzoo/Pendulum-v0",
        "--gamma", "0.8", "--samples", "64", "--rollouts", "2", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    told = json.loads(found.output)
    assert told["method"] == "sampled" and told["n"] == 64 and told["seed"] == 0
    assert told["starc"][0][1] == pytest.approx(2.0, abs=1e-5)  # the same noise in both
    assert told["low"][0][2] <= told["starc"][0][2] <= told["high"][0][2]


def test_a_simulator_that_is_only_stepped_has_epic_distances(tmp_path: Path) -> None:
    """A stock environment without terminal states, and one with."""
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from rewardzoo import RewardFunction, register_reward\n"
        "@register_reward('stepped')\n"
        "class Stepped(RewardFunction):\n"
        "    'Less for tilting and turning.'\n"
        "    def __call__(self, t):\n"
        "        return t.obs[:, 0] - 0.1 * t.obs[:, -1] ** 2 + 0.1 * t.next_obs[:, 1]\n"
        "def phi(obs):\n"
        "    return 3.0 * obs[:, 0] - obs[:, 1] * obs[:, 2]\n"
        "@register_reward('stepped_shaped')\n"
        "class Shaped(RewardFunction):\n"
        "    'The same, twice and shaped.'\n"
        "    gamma = 0.9\n"
        "    def __call__(self, t):\n"
        "        shaping = 0.9 * phi(t.next_obs) - phi(t.obs)\n"
        "        return 2.0 * Stepped()(t) + shaping\n"
    )
    rewardzoo.load_plugin(mine)
    rewards = ("stepped", "stepped_shaped", "-stepped", "stepped + 10*action_cost()")
    args = ("--gamma", "0.9", "--samples", "300", "--json")
    found = cli(*rewards, "--env", "Pendulum-v1", *args)
    assert found.exit_code == 0, found.output
    told = json.loads(found.output)
    assert told["method"] == "sampled" and told["n"] == 300 and "starc" not in told
    epic, low, high = (np.array(told[name]) for name in ("epic", "low", "high"))
    # float32 rewards: rho is 1 to 1e-6
    assert epic[0, 1] < 2e-3 and epic[0, 2] == pytest.approx(1.0, abs=1e-5)
    assert 0.05 < epic[0, 3] < 0.95 and low[0, 3] < epic[0, 3] < high[0, 3]
    assert "no STARC" in told["notes"][0] and "16,320 steps" in told["notes"][0]
    assert len(told["notes"]) == 1
    again = cli(*rewards, "--env", "Pendulum-v1", *args)
    assert again.output == found.output
    poles = cli("stepped", "-stepped", "--env", "CartPole-v1", "--gamma", "0.9")
    assert poles.exit_code == 0 and "EPIC distance" in poles.output and "1.00 [" in poles.output
    assert "terminal states pay nothing" in poles.output


def test_prints_tables_and_draws_the_heat_map(tmp_path: Path) -> None:
    for name in ("map.svg", "map.png"):
        out = tmp_path / "new" / name
        found = cli("objective", "-objective", "novelty", "--env", GRID, "--out", str(out))
        assert found.exit_code == 0, found.output
        assert out.stat().st_size > 2_000
    for word in (
        "STARC",
        "EPIC",
        "DARD",
        "regret",
        "A  objective",
        "B  -objective",
        "exact",
        "2.000",
    ):
        assert word in found.output
    assert "<svg" in (tmp_path / "new" / "map.svg").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["objective", "objektive"], "did you mean 'objective'"),
        (["objective"], "rewards: 1 given, expected at least two"),
        (["objective", "novelty(per_episode=True)"], "reward function novelty: it has memory"),
        (["objective", "potential(phi=[1,2])"], "phi: a table of 2 numbers, expected 12"),
        (["objective", "novelty", "--gamma", "1"], "--gamma 1.0: expected a number in"),
        (["objective", "novelty", "--out", "map.jpg"], "--out map.jpg: expected a name that ends"),
        (["objective", "novelty", "--set", "slipp=1"], "did you mean 'slip'"),
        (["objective", "novelty", "--set", "slip"], "--set slip: expected name=value"),
        (["objective", "novelty", "--canonical", "dard"], "exact DARD distances are printed beside"),
        (
            ["objective", "novelty", "--method", "sampled", "--norm", "l1"],
            "--norm l1 --metric l2: samples give l2",
        ),
        (["objective", "novelty", "--critic"], "--critic: exact values need none"),
        (
            ["objective", "novelty", "--method", "sampled", "--critic", "--canonical", "none"],
            "critic: fits the values of val, and canonical='none' has none",
        ),
        (["a"] * 27, "rewards: 27 given, expected at most 26"),
        (
            ["objective", "potential(phi=[1,2], gamma=0.5)"],
            "gamma=0.5 of reward function potential: the agent's is 0.99|expected 12",
        ),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(args: list[str], message: str) -> None:
    found = cli(*args, "--env", GRID)
    assert isinstance(found.exception, (ValueError, TypeError))
    assert re.search(message, str(found.exception))


@pytest.mark.parametrize(
    ("env", "args", "message"),
    [
        ("rewardzoo/GridWorl-v0", [], "did you mean 'rewardzoo/GridWorld-v0'"),
        ("CartPole-v1", ["--method", "exact"], "--method exact: not on CartPole-v1, which is no"),
        ("CartPole-v1", ["--critic"], "--critic: not on CartPole-v1, which has EPIC"),
        ("CartPole-v1", ["--norm", "l1"], "not on CartPole-v1, which has EPIC distances only"),
        ("CartPole-v1", [], "reward function objective: it pays no finite number where it is not"),
        ("rewardzoo/Pendulum-v0", ["--method", "exact"], "--method exact: not on rewardzoo/Pend"),
    ],
)
def test_bad_environments_are_named(env: str, args: list[str], message: str) -> None:
    found = cli("objective", "novelty", "--env", env, *args)
    assert isinstance(found.exception, ValueError) and message in str(found.exception)


@pytest.mark.parametrize(
    ("options", "name"), [(["--critic"], "VAL"), (["--canonical", "minimal"], "MINIMAL")]
)
def test_potentials_are_fitted_where_asked(options: list[str], name: str) -> None:
    """The maze's twelve places have more than their share of samples; twice a reward is it."""
    found = cli("objective", "2*objective", "-objective", "--env", GRID, "--gamma", "0.9",
                "--method", "sampled", *options)  # fmt: skip
    assert found.exit_code == 0, found.output
    assert f"STARC distance ({name}, L2)" in found.output and "95 % intervals" in found.output
    assert "0.00 [0.00, 0.00]" in found.output and "2.00 [2.00, 2.00]" in found.output


def test_noise_is_said_where_a_reward_says_nothing() -> None:
    found = cli("objective", "0*objective", "--env", "rewardzoo/Pendulum-v0", "--gamma", "0.5",
                "--samples", "16", "--rollouts", "1")  # fmt: skip
    assert found.exit_code == 0 and "noise swamps it" in found.output and "?" in found.output
