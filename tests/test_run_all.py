"""``rewardzoo run``: what fails costs itself alone, and what finished is judged and kept."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rewardzoo.board import Board
from rewardzoo.experiment import Budget, Claim, Experiment, Measure
from rewardzoo.files import hold
from rewardzoo.jobs import Job, Trial, collect_results, jobs_of
from rewardzoo.judging import judge_finished
from rewardzoo.launch import attempt, run_jobs
from rewardzoo.registration import EXPERIMENTS
from rewardzoo.results import Results, Verdict, read_json, write_json
from rewardzoo.scoreboard import merged, scoreboard

BUDGETS = {"quick": Budget(total_timesteps=1, num_envs=1, eval_episodes=1, seeds=2)}


def measure(value: float, failing: Sequence[int] = ()) -> Any:
    def run(trial: Trial) -> dict[str, float]:
        """A number, and the seed."""
        trial.log(1, value=value)
        if trial.seed in failing:
            raise RuntimeError(f"seed {trial.seed} on purpose")
        return {"value": value + trial.seed, "seed": float(trial.seed)}

    return run


def verdict(outcome: str, p_value: float | None = None) -> Verdict:
    return Verdict("c", outcome, 1.0, None, None, 2, "", p_value)


def paired(results: Results) -> Verdict:
    """By label, seed by seed."""
    a, b = results["one"].final, results["two"].final
    assert (a["seed"] == b["seed"]).all()
    return verdict("holds" if (b["value"] > a["value"]).all() else "fails", 0.03)


def of_one(results: Results) -> Verdict:
    return verdict("holds" if results["one"].final["value"].min() > 0.0 else "fails", 0.02)


def of_all(results: Results) -> Verdict:
    return verdict(
        "holds" if all(arm.final["value"].min() > 0.0 for arm in results.arms) else "fails"
    )


def of_three(results: Results) -> Verdict:
    return verdict("holds" if results["three"].final["value"].min() > 0.0 else "fails")


def undecided(results: Results) -> Any:
    """Forgets to return."""


def broken(results: Results) -> Verdict:
    raise KeyError("no such thing")


def made(name: str, claims: Sequence[Any] = (), **failing: Sequence[int]) -> Experiment:
    arms = [
        Measure(label, measure(value, failing.get(label, ())))
        for label, value in (("one", 1.0), ("two", 2.0), ("three", 3.0))
    ]
    return Experiment(
        name=name, title=f"About {name}", paper="none", grid=arms, budgets=BUDGETS, seeds=(3, 4),
        claims=[Claim(check.__name__, check) for check in claims], columns={"value": "value"},
    )  # fmt: skip


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """No experiments but those that the test makes."""
    monkeypatch.setattr(EXPERIMENTS, "_entries", {})
    monkeypatch.setattr(EXPERIMENTS, "_read", True)


def here(jobs: Sequence[Job], workers: int, board: Board) -> None:
    """One after the other, in this process."""
    for job in jobs:
        task = board.start(job)
        board.end(task, job, attempt(job, lambda metrics: None, lambda: False))


@pytest.fixture
def quick(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewardzoo.launch_local.launch", here)
    monkeypatch.setattr("rewardzoo.cli.console", Console(width=200))


def words(text: str) -> str:
    return " ".join(text.split())


# ---- one of them fails -----------------------------------------------------------------------


def test_of_failed_runs_what_finished_is_reported_and_the_rest_is_named(
    quick: None, cli: Any, tmp_path: Path
) -> None:
    made("part", [paired, of_one, of_all, of_three], two=[3], three=[3, 4])
    done = cli("run", "part", "--out", tmp_path)
    assert done.code == 1 and "3 of 6 runs failed: two, seed 3, three, seed 3: Run" in words(
        done.err
    )
    assert "three, seed 4" in done.err and "Traceback" not in done.err
    folder = tmp_path / "part/quick"
    results, verdicts = read_json(folder / "results.json")
    assert {arm.label: arm.seeds for arm in results.arms} == {"one": [3, 4], "two": [4]}
    assert results.provenance["not finished"] == "two, seed 3; three, seed 3; three, seed 4"
    assert [v.outcome for v in verdicts] == ["holds", "holds", "inconclusive", "inconclusive"]
    assert all("no finished run of three" in v.detail for v in verdicts[2:])
    assert [v.p_adjusted for v in verdicts] == [
        0.04,
        0.04,
        None,
        None,
    ]  # Holm's, over the two tests
    assert "three, seed 3" in (folder / "report.html").read_text()
    assert "About part" in done.out and "report:" in done.out


def test_where_nothing_finished_the_reason_is_all_there_is_to_say(
    quick: None, cli: Any, tmp_path: Path
) -> None:
    made("none", [of_one], one=[3, 4], two=[3, 4], three=[3, 4])
    done = cli("run", "none", "--out", tmp_path)
    assert done.code == 1 and "6 of 6 runs failed" in done.err and "on purpose" in done.err
    assert not (tmp_path / "none/quick/results.json").exists()


def test_claims_compare_the_seeds_that_all_arms_have(quick: None, tmp_path: Path) -> None:
    experiment = made("pairs", [paired], one=[3], two=[4])
    jobs = jobs_of(experiment, "quick", tmp_path)
    for job in jobs:
        attempt(job, lambda metrics: None, lambda: False)
    results = collect_results(experiment, jobs, "command", "quick")
    assert results["one"].seeds == [4] and results["two"].seeds == [3]
    verdicts, unjudged = judge_finished(experiment, results)
    assert verdicts[0].outcome == "inconclusive"
    assert unjudged == {"paired": "ValueError: no seed is finished in every arm"}


def test_a_claim_that_raises_is_told_and_the_others_are_judged(
    quick: None, cli: Any, tmp_path: Path
) -> None:
    made("claims", [broken, of_all, undecided])
    done = cli("run", "claims", "--out", tmp_path)
    assert done.code == 1
    assert "2 of 3 claims not judged: broken: KeyError: 'no such thing'" in words(done.err)
    assert "undecided: TypeError: the check returned NoneType, expected a Verdict" in words(
        done.err
    )
    _, verdicts = read_json(tmp_path / "claims/quick/results.json")
    assert [v.outcome for v in verdicts] == ["inconclusive", "holds", "inconclusive"]
    assert verdicts[0].claim == "broken" and "could not be judged: KeyError" in verdicts[0].detail
    assert (tmp_path / "claims/quick/report.html").is_file()


# ---- --fresh ---------------------------------------------------------------------------------


def test_fresh_removes_nothing_of_a_run_that_is_going_on(
    quick: None, cli: Any, tmp_path: Path
) -> None:
    made("held", [of_one])
    assert cli("run", "held", "--out", tmp_path).code == 0
    root = tmp_path / "held/quick"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with hold(root):
        done = cli("run", "held", "--out", tmp_path, "--fresh")
    assert done.code == 2 and "another run is using it" in done.err
    assert {path: path.read_bytes() for path in before} == before


def test_fresh_runs_everything_again(quick: None, cli: Any, tmp_path: Path) -> None:
    experiment = made("again", [of_one])
    assert cli("run", "again", "--out", tmp_path).code == 0
    jobs = jobs_of(experiment, "quick", tmp_path)
    (jobs[0].folder / "mark").touch()
    result = jobs[1].folder / "result.json"
    result.write_text(result.read_text().replace("2.0", "9.0"))
    kept = cli("run", "again", "--out", tmp_path)
    assert kept.code == 0 and "6 of 6 runs are finished already" in kept.out
    assert (jobs[0].folder / "mark").exists()
    assert cli("run", "again", "--out", tmp_path, "--fresh").code == 0
    assert not (jobs[0].folder / "mark").exists() and "9.0" not in result.read_text()


def test_comparing_anew_removes_nothing_of_a_comparison_that_is_going_on(
    quick: None, cli: Any, tmp_path: Path
) -> None:
    asked = ["compare", "2 * objective", "--env", "rewardzoo/GridWorld-v0", "--steps", 32]
    asked += ["--num-envs", 4, "--seeds", 1, "--out", tmp_path, "--fresh"]
    root = tmp_path / "compare_gridworld-v0_ppo/32"
    result = root / "objective/seed-0/result.json"
    result.parent.mkdir(parents=True)
    result.write_text("kept")
    with hold(root):
        done = cli(*asked)
    assert done.code == 2 and "another run is using it" in done.err
    assert result.read_text() == "kept"


def test_nothing_is_removed_before_the_folder_is_held(quick: None, tmp_path: Path) -> None:
    experiment = made("order")
    jobs = jobs_of(experiment, "quick", tmp_path)
    run_jobs(jobs, 1, Console(file=io.StringIO()))
    with hold(tmp_path / "order/quick"), pytest.raises(ValueError, match="another run is using"):
        run_jobs(jobs, 1, Console(file=io.StringIO()), fresh=True)
    assert all(job.finished for job in jobs)


# ---- --all -----------------------------------------------------------------------------------


def test_all_survives_whatever_one_experiment_raises(
    quick: None, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rewardzoo.report

    made("a_first", [broken])
    made("b_second", [of_one])
    made("c_third", [of_one], one=[3, 4])
    made("d_fourth", [of_all])
    whole = rewardzoo.report.write_html

    def write_html(results: Results, *args: Any) -> None:
        if results.name == "b_second":
            raise AttributeError("a page that cannot be drawn")
        whole(results, *args)

    monkeypatch.setattr("rewardzoo.report.write_html", write_html)
    done = cli("run", "--all", "--out", tmp_path)
    assert done.code == 1
    assert "error: 3 of 4 failed: a_first, b_second, c_third" in words(done.err)
    for line in (
        "a_first: 1 of 1 claims not judged",
        "b_second: AttributeError: a page that",
        "c_third: 2 of 6",
    ):
        assert line in words(done.err)
    assert "Traceback" not in done.err
    for name in ("a_first", "b_second", "c_third", "d_fourth"):
        assert (tmp_path / name / "quick/results.json").is_file()
    board = done.out[done.out.rindex("Claims") :]
    rows = [line.split("│")[1:-1] for line in board.splitlines() if line.startswith("│")]
    counts = {row[0].strip(): [cell.strip() for cell in row[2:]] for row in rows}
    assert counts["a_first quick"] == ["0", "0", "1"] and counts["d_fourth quick"] == [
        "1",
        "0",
        "0",
    ]
    assert counts["all"] == ["2", "0", "2"]


def test_all_runs_those_that_have_the_budget(quick: None, cli: Any, tmp_path: Path) -> None:
    made("has", [of_one])
    Experiment(
        name="has_not", title="", paper="", grid=[Measure("one", measure(1.0))], seeds=(3,),
        budgets={"huge": BUDGETS["quick"]}, claims=[],
    )  # fmt: skip
    done = cli("run", "--all", "--out", tmp_path)
    assert done.code == 1 and "has_not: budget='quick': has_not has huge" in done.err
    assert (tmp_path / "has/quick/results.json").is_file()
    none = cli("run", "--all", "--out", tmp_path, "--budget", "tiny")
    assert none.code == 2 and none.err.count("\n") == 1 and "budget='tiny'" in none.err


def test_an_interrupt_ends_all_of_them(
    quick: None, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def interrupted(jobs: Sequence[Job], workers: int, board: Board) -> None:
        ran.append(jobs[0].experiment)
        raise KeyboardInterrupt

    monkeypatch.setattr("rewardzoo.launch_local.launch", interrupted)
    made("a"), made("b")
    done = cli("run", "--all", "--out", tmp_path)
    assert done.code == 130 and "Go on with the same command" in done.out and ran == ["a"]


# ---- several runs at once --------------------------------------------------------------------


def stored(folder: Path, name: str, outcomes: Sequence[str], **columns: str) -> Results:
    """A run of two seeds in ``folder``."""
    from rewardzoo.results import ArmResult

    arm = ArmResult("one", "E", "r", "a", [3, 4], final={"value": np.array([1.0, 2.0])})
    results = Results(
        name, f"paper of {name}", f"About {name}", [arm], "quick", f"run {name}",
        columns=columns or {"value": "value"}, references={"best": 2.0}, root=folder,
    )  # fmt: skip
    write_json(results, [verdict(outcome) for outcome in outcomes], folder / "results.json")
    return results


def test_the_scoreboard_counts_what_is_stored_and_names_what_is_not(tmp_path: Path) -> None:
    stored(tmp_path / "a/quick", "a", ["holds", "fails", "holds"])
    stored(tmp_path / "b/quick", "b", ["inconclusive"])
    (tmp_path / "c/quick").mkdir(parents=True)
    (tmp_path / "c/quick/results.json").write_text('{"schema"')
    out = io.StringIO()
    folders = [tmp_path / name / "quick" for name in "abcd"]
    Console(file=out, width=100).print(scoreboard(folders))
    lines = [" ".join(line.replace("│", " ").split()) for line in out.getvalue().splitlines()]
    assert "a quick About a 2 1 0" in lines and "b quick About b 0 0 1" in lines
    assert "c quick results.json is damaged: run it again" in lines
    assert "d quick not run" in lines and "all 2 1 1" in lines


def test_runs_become_one_comparison_of_what_they_have_in_common(tmp_path: Path) -> None:
    a = stored(tmp_path / "a", "a", [], value="value", cost="cost")
    b = stored(tmp_path / "b", "b", [], value="value")
    both = merged([a, b])
    assert [arm.label for arm in both.arms] == ["one (a, quick)", "one (b, quick)"]
    assert both.columns == {"value": "value"} and both.references == {"best": 2.0}
    assert both.title == "About a and About b" and both.command == "run a; run b"
    again = merged([a, stored(tmp_path / "c", "a", [])])  # names clash: folders tell them apart
    assert [arm.label for arm in again.arms] == ["one (a)", "one (c)"]
    with pytest.raises(ValueError, match="folders: a and other have no column in common"):
        merged([a, stored(tmp_path / "d", "other", [], other="other")])


def test_the_folder_of_a_comparison_is_tried_before_anything_is_read(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(path: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("rewardzoo.results.read_json", none)
    done = cli("report", tmp_path, tmp_path, "--out", "/proc/nowhere/page.html")
    assert done.code == 2 and "--out /proc/nowhere: cannot write there" in done.err


def test_results_are_written_as_they_were_before_where_everything_finished(
    quick: None, cli: Any, tmp_path: Path
) -> None:
    made("whole", [paired])
    assert cli("run", "whole", "--out", tmp_path).code == 0
    document = json.loads((tmp_path / "whole/quick/results.json").read_text())
    assert "not finished" not in document["provenance"]
    assert [arm["seeds"] for arm in document["arms"]] == [[3, 4]] * 3
