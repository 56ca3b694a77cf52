"""What is stored for the pages: readings of speed, and what experiments found, as README counts it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rewardzoo.registration import EXPERIMENTS

ROOT = Path(__file__).parents[1]


def setting(cores: int) -> dict[str, Any]:
    """What a stored run says of its machine."""
    hardware = {"processor": "Chip", "cores": cores, "system": "Linux", "load": 0.5}
    return {"date": "2026-01-01", "hardware": hardware, "versions": {"torch": "2"}}


def test_stored_readings_become_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docs: Any
) -> None:
    from rewardzoo.experiments.benchmarks.timing import Row, missing, write_json

    speed = docs("speed")
    monkeypatch.setattr(speed, "STORED", tmp_path)
    rows = [
        Row("fast", {"us": [2.0, 4.0], "peer": [1.0, 1.0]}, "steps/s", [2.0, 4.0], bar=1.5),
        Row("slow", {"us": [0.002]}, "s", [0.002], bar=0.001, at_most=True, times=False),
        missing("absent", "no peer"),
    ]
    write_json(tmp_path / "here.json", rows, setting(2))
    speed.write_speed(tmp_path / "out")
    text = (tmp_path / "out" / "speed.md").read_text()
    assert "| fast | 3 × | 2 × to 4 × | ≥ 1.5 × | met | us 3 steps/s<br>peer 1 steps/s |" in text
    assert "| slow | 2 ms | 2 ms to 2 ms | ≤ 1 ms | **missed** | us 2 ms |" in text
    assert "| absent<br><small>no peer</small> | not measured |" in text
    assert "| here | Chip, 2 cores<br>Linux | 0.5 | torch 2 | 2026-01-01 |" in text
    assert "<svg" in (tmp_path / "out" / "speed-bars.svg").read_text()


def test_runs_of_two_machines_stand_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docs: Any
) -> None:
    from rewardzoo.experiments.benchmarks.timing import Row, write_json

    speed = docs("speed")
    monkeypatch.setattr(speed, "STORED", tmp_path)
    fast = Row("fast", {}, "", [2.0], bar=1.5)
    write_json(
        tmp_path / "large.json", [fast, Row("only here", {}, "", [1.0], bar=2.0)], setting(8)
    )
    write_json(tmp_path / "small.json", [Row("fast", {}, "", [1.0], bar=1.5)], setting(2))
    speed.write_speed(tmp_path / "out")
    text = (tmp_path / "out" / "speed.md").read_text()
    assert "| benchmark | bar | large | small |" in text
    assert "| fast | ≥ 1.5 × | 2 × met | 1 × **missed** |" in text
    assert "| only here | ≥ 2 × | 1 × **missed** |  |" in text


def test_costs_against_sizes_become_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docs: Any
) -> None:
    from rewardzoo.experiments.benchmarks.timing import Point, cheaper, write_json

    speed = docs("speed")
    monkeypatch.setattr(speed, "STORED", tmp_path)
    for name, cores in (("a", 2), ("b", 8)):
        rows = [
            cheaper(
                Point("A step", "environments", at),
                {"ours": [1e-3 / at] * 3, "peer": [2e-3, 2e-3, 1e-3]},
                [2e-3, 2e-3, 1e-3],
                "against the peer",
            )
            for at in (1, 1000)
        ]
        write_json(tmp_path / f"{name}.json", rows, setting(cores))
    drawn: list[Any] = []
    figure = speed.figure

    @contextmanager
    def watched(size: Any, path: Path) -> Iterator[Any]:
        with figure(size, path) as canvas:
            yield canvas
            drawn.append(canvas)

    monkeypatch.setattr(speed, "figure", watched)
    speed.write_speed(tmp_path / "out")
    text = (tmp_path / "out" / "speed.md").read_text()
    assert "| a | 1,000 | 1 µs | 2 ms | 2,000 × |" in text and "## Bars" not in text
    assert "![A step: cost against environments, one line a contender](speed-a-step.svg)" in text
    assert (tmp_path / "out" / "speed-a-step.svg").is_file()
    (canvas,) = drawn
    titles = [panel.get_title() for panel in canvas.axes]
    assert titles == ["a\nChip, 2 cores", "b\nChip, 8 cores"]
    for panel in canvas.axes:
        ours, peer = panel.lines[:2]
        assert ours.get_xydata().tolist() == [[1, 1e-3], [1000, 1e-6]]
        assert peer.get_xydata().tolist() == [[1, 2e-3], [1000, 2e-3]]
        assert panel.get_yscale() == "log"


def test_the_readmes_verdicts_are_those_that_were_found(docs: Any) -> None:
    """Every row counts a stored run, of the reporting seeds and the claims as they are now."""
    verdicts = docs("verdicts")
    readme = (ROOT / "README.md").read_text()
    row = re.compile(
        r"^\| `(\w+)` \| .* \| \[(\d+) / (\d+) / (\d+)\]\(RESULTS.md#\1\) \|$", re.MULTILINE
    )
    said = {name: (int(a), int(b), int(c)) for name, a, b, c in row.findall(readme)}
    found = verdicts.found()
    assert said == {name: verdicts.counts(judged) for name, (_, judged) in found.items()}
    assert verdicts.readme_counted(readme) == readme
    assert verdicts.results_page() == (ROOT / "RESULTS.md").read_text(), "docs/verdicts.py --judge"
    rest = re.search(r"run at `quick` yet: (.*?)\.", readme, re.DOTALL)
    missing = set(re.findall(r"`(\w+)`", rest[1] if rest else ""))
    module_of = docs("generate").module_of
    own = {n for n in EXPERIMENTS if module_of(EXPERIMENTS[n]).__name__ != "rewardzoo.experiments"}
    assert missing == own - found.keys()
    for name, (results, judged) in found.items():
        now = EXPERIMENTS[name]
        assert len(judged) == len(now.claims), f"{name}: run it again, its claims have changed"
        labels = [arm.label for arm in results.arms]
        assert labels == [arm.label for arm in now.grid], f"{name}: run it again, in all its arms"
        for arm in results.arms:
            assert set(arm.seeds) <= set(now.seeds), f"{name}: run it again, on its seeds"
        today = verdicts.judged(results)
        if today is not None:
            before = verdicts.outcomes(judged)
            assert verdicts.outcomes(today) == before, f"{name}: docs/verdicts.py --judge"
        assert results.budget.startswith("quick")
        assert "/" not in results.command, f"{name}: its command names somebody's folder"


def test_the_readmes_quickstart_is_the_stored_one(docs: Any) -> None:
    from rewardzoo.metrics.statistics import stratified_bootstrap

    readme = (ROOT / "README.md").read_text()
    results, _ = docs("verdicts").found()["quickstart"]
    for arm in results.arms:
        found = stratified_bootstrap(arm.final["objective"])
        cell = f"| {found.point:.4f} [{found.low:.4f}, {found.high:.4f}] | {0.875142 - found.point:.3f} |"
        assert cell.replace("0.", ".") in readme, arm.label


def test_stored_results_are_judged_by_claims_that_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docs: Any
) -> None:
    verdicts = docs("verdicts")
    for name in ("starc_regret", "quickstart"):  # whose claims read curves
        text = (verdicts.STORED / f"{name}.json").read_text()
        (tmp_path / f"{name}.json").write_text(text)
    monkeypatch.setattr(verdicts, "STORED", tmp_path)
    assert verdicts.judge_stored() == []
    assert verdicts.judged(verdicts.found()["quickstart"][0]) is None
    fewer = EXPERIMENTS["starc_regret"].claims[:-1]
    changed = {"starc_regret": SimpleNamespace(claims=fewer)}
    monkeypatch.setattr(verdicts, "EXPERIMENTS", changed)
    assert verdicts.judge_stored() == ["starc_regret"]
    assert len(verdicts.found()["starc_regret"][1]) == len(fewer)


def test_results_are_stored_without_their_curves_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docs: Any
) -> None:
    from rewardzoo.results import ArmResult, Results, Verdict, read_json, write_json

    verdicts = docs("verdicts")
    monkeypatch.setattr(verdicts, "STORED", tmp_path / "stored")
    arm = ArmResult(
        "a | b", "", "", "", [1, 2], {"step": np.ones((2, 3))}, {"objective": np.array([1.0, 3.0])}
    )
    results = Results("tiny", "", "", [arm], "quick (9 steps)", "", columns={"objective": "meant"})
    judged = [
        Verdict("It is < 1.", "fails", 2.0, 1.0, 3.0, 2, "a * b"),
        Verdict("It is.", "holds", None, None, None, 2, ""),
    ]
    for budget in ("quick", "smoke"):
        (tmp_path / "runs" / "tiny" / budget).mkdir(parents=True)
        write_json(results, judged, tmp_path / "runs" / "tiny" / budget / "results.json")
    assert verdicts.store(tmp_path / "runs") == ["tiny"]
    for wrong, why in (
        ({"not finished": "b, seed 3"}, "not finished: b, seed 3"),
        ({"rewardzoo": "0.1.0 abc-dirty"}, "run by changed files"),
    ):
        other = tmp_path / f"other-{len(why)}" / "tiny" / "quick"
        other.mkdir(parents=True)
        write_json(replace(results, provenance=wrong), judged, other / "results.json")
        with pytest.raises(ValueError, match=why):
            verdicts.store(other.parents[1])
    kept, same = read_json(tmp_path / "stored" / "tiny.json")
    assert not kept.arms[0].curves and kept.arms[0].final["objective"].tolist() == [1.0, 3.0]
    assert verdicts.counts(same) == (1, 1, 0)
    text = verdicts.chapter(kept, same)
    assert "| ✗ fails | It is &lt; 1. | effect 2 [1, 3]; n = 2; a \\* b |" in text
    assert "| a \\| b | 2.0 [1.0, 3.0] | 2 |" in text


@pytest.mark.parametrize("task", ["maze", "cart_pole", "mountain_car", "half_cheetah"])
def test_experiments_that_are_made_together_are_described_by_their_module(
    task: str, docs: Any
) -> None:
    module = docs("generate").module_of(EXPERIMENTS[f"barfi_{task}"])
    assert module.__name__ == "rewardzoo.experiments.barfi"


def test_stored_numbers_are_compared_with_those_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docs: Any
) -> None:
    verdicts = docs("verdicts")
    quick = tmp_path / "starc_regret" / "quick"
    quick.mkdir(parents=True)
    text = (verdicts.STORED / "starc_regret.json").read_text()
    (quick / "results.json").write_text(text)
    (line,) = verdicts.compare(tmp_path)
    count = len(verdicts.numbers(verdicts.read_json(quick / "results.json")[0]))
    assert line == f"starc_regret: {count} of {count} numbers repeat" and count > 10
    content = json.loads(text)
    arm = content["arms"][0]
    name, seed = next(iter(arm["final"])), arm["seeds"][0]
    arm["final"][name][0] = np.nextafter(arm["final"][name][0], np.inf)
    (quick / "results.json").write_text(json.dumps(content))
    first, second = verdicts.compare(tmp_path)[0].split("\n")
    assert first == f"starc_regret: {count - 1} of {count} numbers repeat"
    assert second.startswith(f"  ('{arm['label']}', {seed}, '{name}')")
    monkeypatch.setattr(verdicts, "STORED", tmp_path / "empty")
    assert verdicts.compare(tmp_path) == ["starc_regret: not stored"]
