"""`rewardzoo compare`: what fits an environment, what is decided, and that nothing runs twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardzoo.comparison import comparison, fitting, teaches_more, write_comparison
from rewardzoo.registration import EXPERIMENTS, UnknownNameError
from rewardzoo.results import ArmResult, Results

GRID = "rewardzoo/GridWorld-v0"
ARM = "2 * objective"


def made_up(objective: list[float], other: list[float]) -> Results:
    seeds = list(range(len(objective)))
    arms = [
        ArmResult(label, "", "", "", seeds, {}, {"objective": np.array(values)})
        for label, values in (("objective", objective), (ARM, other))
    ]
    return Results("made up", "", "", arms, "", "")


@pytest.fixture
def no_trace() -> Any:
    """Experiments made in a test are forgotten after it."""
    before = set(EXPERIMENTS)
    yield
    for name in set(EXPERIMENTS) - before:
        EXPERIMENTS._entries.pop(name)


def test_the_objective_comes_first_and_once(no_trace: None) -> None:
    made = comparison("one", GRID, [ARM, "objective", ARM], total_timesteps=7, seeds=2)
    assert [arm.label for arm in made.grid] == ["objective", ARM]
    assert len(made.claims) == 1 and list(made.budgets) == ["7"] and len(made.seeds) == 2


def test_a_reward_function_can_teach_more_or_less_or_neither() -> None:
    low, high = [1.0, 1.1, 0.9, 1.0, 1.2], [2.0, 2.2, 1.9, 2.1, 2.0]
    assert teaches_more(made_up(low, high), ARM).outcome == "holds"
    assert teaches_more(made_up(high, low), ARM).outcome == "fails"
    assert teaches_more(made_up(low, low[::-1]), ARM).outcome == "inconclusive"
    four = teaches_more(made_up(low[:4], high[:4]), ARM)
    assert four.outcome == "inconclusive" and "fewer than 5 seeds" in four.detail


def test_what_fits_is_told_from_what_needs_arguments_and_what_does_not_fit() -> None:
    found = fitting("rewardzoo/Glucose-v0")
    assert "glucose_cost" in found.fits and "objective" not in found.fits
    assert {"potential", "clip"} <= set(found.unspecified)
    assert "no rewardzoo/TomatoWatering-v0" in found.unfit["tomato_proxy"]
    assert "tomato_proxy" in fitting("rewardzoo/TomatoWatering-v0").fits
    with pytest.raises(UnknownNameError, match="did you mean 'rewardzoo/Glucose-v0'"):
        fitting("rewardzoo/Glucosse-v0")


def test_trying_reward_functions_closes_no_engine_of_the_others(
    recwarn: pytest.WarningsRecorder,
) -> None:
    assert "oni_retrieval" in fitting("rewardzoo/NetHackScore-v0").fits
    assert not [w for w in recwarn if "started again" in str(w.message)]


def test_a_written_comparison_is_the_one_asked_for(tmp_path: Path, no_trace: None) -> None:
    import rewardzoo

    asked = {
        "name": "written", "env": GRID, "rewards": ["potential(phi=\"it's\")", ARM],
        "total_timesteps": 9, "agent_kwargs": {"hidden": (), "learning_rate": 0.1},
    }  # fmt: skip
    write_comparison(tmp_path / "comparison.py", asked)
    rewardzoo.load_plugin(tmp_path / "comparison.py")
    made = EXPERIMENTS["written"]
    assert [arm.label for arm in made.grid] == ["objective", *asked["rewards"]]
    assert made.grid[1].agent_kwargs == asked["agent_kwargs"]


def test_one_more_reward_function_is_all_that_runs_the_second_time(
    cli: Callable[..., Any], tmp_path: Path, no_trace: None
) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from rewardzoo import RewardFunction, register_reward\n"
        "@register_reward('a_tenth')\n"
        "class ATenth(RewardFunction):\n"
        "    '''Pays a tenth.'''\n"
        "    def __call__(self, t):\n"
        "        return 0.1 * t.reward\n"
    )
    options = ["--env", GRID, "--steps", 256, "--num-envs", 4, "--seeds", 1, "--out", tmp_path]
    options += ["--set", "num_steps=16", "--workers", 1]
    first = cli("--plugin", own, "compare", "-1 * objective", *options)
    assert first.code == 0, first.err
    assert "finished: objective, seed 100" in first.out
    assert "undecided with fewer than 5 seeds" in " ".join(first.out.split())
    root = tmp_path / "compare_gridworld-v0_ppo"
    assert (root / "256" / "report.html").is_file()
    EXPERIMENTS._entries.pop("compare_gridworld-v0_ppo")  # a new process would not know it
    second = cli("--plugin", own, "compare", "-1 * objective", "a_tenth", *options)
    assert second.code == 0, second.err
    assert "2 of 3 runs are finished already" in second.out
    assert "finished: a_tenth, seed 100" in second.out
    assert "finished: objective, seed 100" not in second.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", GRID], "at least one reward expression, or --all"),
        (["noveltie", "--env", GRID], "did you mean 'novelty'"),
        (["tomato_proxy", "--env", GRID], "no rewardzoo/TomatoWatering-v0"),
        (["novelty", "--env", "rewardzoo/GridWord-v0"], "did you mean 'rewardzoo/GridWorld-v0'"),
        (["novelty", "--env", GRID, "--agent", "pppo"], "did you mean 'sb3_ppo'|'ppo'"),
        (["novelty", "--env", GRID, "--device", "cuda:9"], "cuda"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(
    cli: Callable[..., Any], tmp_path: Path, arguments: list[str], message: str
) -> None:
    import re

    done = cli("compare", *arguments, "--out", tmp_path / "runs")
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1
    assert re.search(message, done.err) and not (tmp_path / "runs").exists()
