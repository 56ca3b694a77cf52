"""The report of made-up results: complete, self-contained, escaped, and honest about gaps."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from rich.console import Console

from rewardzoo.figures import draw_runs
from rewardzoo.report import html, render_table, write_html
from rewardzoo.results import (
    ArmResult,
    Results,
    Verdict,
    from_json,
    read_json,
    to_json,
    write_atomic,
    write_json,
)
from rewardzoo.scoreboard import carried, merged, names_of
from rewardzoo.summary import column_digits, rows_of, show

VOID = {"meta", "link", "br", "img", "hr", "input", "source"}
NASTY = '<script>alert("1 & 2")</script> $x_1$'


def arm(label: str, shift: float = 0.0, seeds: int = 5, points: int = 30) -> ArmResult:
    rng = np.random.default_rng(len(label))
    step = np.tile(np.linspace(0, 1e5, points), (seeds, 1))
    objective = 0.5 + shift * step / 1e5 + rng.normal(0, 0.01, (seeds, points))
    paid = 3 * step / 1e5 + rng.normal(0, 0.05, (seeds, points))
    return ArmResult(
        label=label,
        env="rewardzoo/GridWorld-v0",
        reward="proxy",
        agent="ppo",
        seeds=list(range(seeds)),
        curves={"step": step, "return": paid, "objective": objective},
        final={"return": paid[:, -1], "objective": objective[:, -1]},
    )


def results(*arms: ArmResult, references: dict[str, float] | None = None) -> Results:
    return Results(
        name="made-up",
        paper="Author (2024), https://example.org/paper",
        title="A made-up comparison",
        arms=list(arms) or [arm("good", 0.3), arm("hacked", -0.3)],
        budget="smoke",
        command="rewardzoo run made-up --budget smoke",
        provenance={"torch": "2.13.0", "hardware": "2 cores"},
        references={"optimal": 0.9, "uniform": 0.5} if references is None else references,
    )


VERDICTS = [
    Verdict("the first claim", "holds", 0.1, 0.05, 0.15, 5, "a difference", 0.03, 0.06),
    Verdict("the second claim", "fails", -0.1, -0.2, -0.05, 5, "another"),
    Verdict("the third claim", "inconclusive", None, None, None, 0, "no seed finished"),
]


class Page(HTMLParser):
    """Checks that tags nest, and collects tags, ids, references and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def table_text(res: Results, verdicts: list[Verdict] | None = None, width: int = 160) -> str:
    out = io.StringIO()
    render_table(res, verdicts or [], Console(file=out, width=width))
    return out.getvalue()


def assert_loads_nothing(text: str) -> None:
    page = Page(text)
    for tag, attrs in page.tags:
        assert tag not in {"link", "img", "iframe", "image", "object", "embed"}, tag
        assert tag != "script" or "src" not in attrs
        for name, value in attrs.items():
            assert not name.startswith("on"), f"{tag} runs {name}"
            if name in {"href", "src", "xlink:href"} and tag != "a":
                assert (value or "").startswith("#"), f"{tag} loads {value}"
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text) and "@import" not in text
    without_links = re.sub(r'<a href="[^"]*"[^>]*>[^<]*</a>', "", text)
    assert "://" not in without_links.replace('"http://www.w3.org/2000/svg"', "")


def test_page_shows_every_arm_verdict_and_what_made_it() -> None:
    text = html(results(), VERDICTS)
    page = Page(text)
    for word in ("good", "hacked", "rewardzoo run made-up --budget smoke", "2 cores", "2.13.0"):
        assert word in page.text
    for v in VERDICTS:
        assert v.claim in page.text and v.outcome in page.text and v.detail in page.text
    assert "p after Holm = 0.06" in page.text
    figures = [a for t, a in page.tags if t == "svg" and "viewbox" in a]
    assert len(figures) == 1 + 2 + 2  # objective; specified and hacking for each arm


def scripts(text: str) -> list[str]:
    return re.findall(r"<script[^>]*>(.*?)</script>", text, flags=re.S)


def test_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    text = html(results(), VERDICTS)
    assert_loads_nothing(text)
    data, script = scripts(text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert json.loads(data)["arms"][0]["label"] == "good"
    for way in ("fetch", "XMLHttpRequest", "eval", "innerHTML", "import("):
        assert way not in script


def test_page_holds_the_numbers_that_it_saves() -> None:
    made = results()
    data = json.loads(scripts(html(made, []))[0])
    for arm, found in zip(made.arms, data["arms"], strict=True):
        assert found["seeds"] == arm.seeds
        np.testing.assert_allclose(found["final"]["objective"], arm.final["objective"], rtol=1e-5)
        np.testing.assert_allclose(found["curves"]["return"]["step"][-1], 1e5)


def test_pointer_finds_the_values_of_every_plot() -> None:
    text = html(results(), [])
    page = Page(text)
    plots = [attrs for tag, attrs in page.tags if tag == "svg" and "viewbox" in attrs]
    shown = [[p.get(f"data-{key}") for key in ("curve", "only", "path")] for p in plots]
    assert shown[0] == ["objective", None, None]
    assert shown[1:3] == [["return", "0", None], ["return", "1", None]]
    assert shown[3:] == [[None, None, "0"], [None, None, "1"]]
    first, last, left, right = map(float, str(plots[0]["data-x"]).split())
    steps = results().arms[0].curves["step"][0]
    assert first < steps[0] and last > steps[-1] and 0 < left < right < 9 * 72
    low, high, bottom, top = map(float, str(plots[0]["data-y"]).split())
    assert low < 0.2 and high > 0.9 and 0 < top < bottom < 3.7 * 72
    ids = {a.get("id") for _, a in page.tags}
    assert {"curve0-arm0-line", "curve0-arm1-band"} <= ids  # what a button hides


def measured(label: str, **curves: np.ndarray[Any, Any]) -> ArmResult:
    step = np.tile(np.arange(4.0), (3, 1))
    return ArmResult(label, "", "r", "a", [0, 1, 2], {"step": step, **curves}, {"x": np.ones(3)})


def test_curves_are_drawn_whatever_they_are_called() -> None:
    rising, once = np.tile(np.arange(4.0), (3, 1)), np.full((3, 4), math.nan)
    once[:, -1] = 1.0
    arms = [measured("one", gold=rising, once=once), measured("two", **{"k<l": rising})]
    res = Results("n", "p", "t", [*arms, measured("none")], "b", "c", columns={"x": "x"})
    text = html(res, [])
    assert_loads_nothing(text)
    page = Page(text)
    drawn = [attrs["data-curve"] for tag, attrs in page.tags if tag == "svg" and "data-x" in attrs]
    assert drawn == ["gold", "k<l"]  # a single point is no curve
    data = json.loads(scripts(text)[0])
    assert [list(arm["curves"]) for arm in data["arms"]] == [["gold"], ["k<l"], []]
    assert [attrs["data-arm"] for _, attrs in page.tags if "data-arm" in attrs] == ["0", "1", "2"]
    assert 'data-save="curves"' in text
    assert re.search("one .*[▁▂▃▄▅▆▇█]{4} │$", table_text(res), flags=re.M)


def test_returns_are_drawn_where_no_column_shows_them() -> None:
    trained, other = arm("trained"), measured("other")
    res = results(trained, other, references={})
    res = replace(res, columns={"objective": "objective (s)"})
    plots = [attrs for tag, attrs in Page(html(res, [])).tags if "data-x" in attrs]
    assert [p.get("data-curve") for p in plots] == ["objective", "return"]
    assert "not recorded" not in html(res, []).replace("was not recorded", "")


def test_page_is_accessible() -> None:
    page = Page(html(results(), VERDICTS))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        for name in ("aria-labelledby", "href"):
            target = attrs.get(name) or ""
            target = target.removeprefix("#") if name == "aria-labelledby" or "#" in target else ""
            assert not target or target in ids, f"{tag} points at {target}, which is not there"
        if tag == "svg":
            assert attrs.get("aria-hidden") or attrs.get("role") == "img"
    assert [t for t, _ in page.tags].count("caption") == 1
    assert "good ends at" in page.text


def test_plots_use_the_colours_of_the_page() -> None:
    text = html(results(), [])
    plots = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.S))
    assert "var(--arm0)" in plots and "var(--arm1)" in plots and "var(--muted)" in plots
    assert not re.search(r"#0[01][0-9a-f]{4}\b", plots), "a marker colour was not replaced"
    defined = set(re.findall(r"(--[\w-]+):", text))
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= defined


def test_equal_results_give_equal_pages(tmp_path: Path) -> None:
    assert html(results(), VERDICTS) == html(results(), VERDICTS)
    write_html(results(), VERDICTS, tmp_path / "new" / "report.html")
    written = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert written == html(results(), VERDICTS)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]


def test_labels_are_escaped() -> None:
    verdict = Verdict(NASTY, "holds", 1.0, 0.5, 1.5, 5, NASTY)
    nasty = results(arm(NASTY), references={NASTY: 0.4, "[bold]optimal": 0.7})
    text = html(nasty, [verdict])
    assert_loads_nothing(text)
    assert text.count("<script") == 2 and Page(text).text.count(NASTY) >= 6
    marked = table_text(results(arm("[red]label[/red]")))
    assert "[red]label[/red]" in marked


def test_table_holds_interquartile_mean_interval_gap_and_n() -> None:
    flat = arm("flat", seeds=5)
    flat = ArmResult(
        **{
            **vars(flat),
            "final": {"return": np.full(5, 2.0), "objective": np.array([0.0, 0.5, 0.6, 0.7, 9.0])},
        }
    )
    text = table_text(results(flat, references={"optimal": 0.9}), VERDICTS)
    line = next(x for x in text.splitlines() if "flat" in x)
    assert "2 [2, 2]" in line  # a return without spread
    assert " 0.6 [" in line and " 0.3 [" in line  # mean of .5, .6, .7, and .9 less that
    assert re.search(r"│\s+5 │ [▁-█]+ +│$", line)
    assert all(f"{v.outcome}  {v.claim}" in text for v in VERDICTS)
    assert "gap to optimum" not in table_text(results(flat, references={}))


@pytest.mark.parametrize("width", [60, 80, 100])
def test_tables_never_cut_a_number(width: int) -> None:
    names = [f"column {i} of many" for i in range(10)]
    rng = np.random.default_rng(0)
    arms = [
        replace(
            arm(f"PPO where giving up early pays, {i} (quickstart, quick)"),
            final={name: -1234 + 0.1 * rng.normal(size=5) for name in names},
        )
        for i in range(3)
    ]
    res = replace(results(*arms), columns={name: name for name in names}, references={})
    text = table_text(res, width=width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    numbers = [re.sub(r"[ │]+", " ", line) for line in text.splitlines()]
    for row in rows_of(res):
        digits = column_digits(rows_of(res))
        for name, cell in row.cells.items():
            assert any(show(cell, digits[name]) in line for line in numbers)
    assert len(re.findall("[▁▂▃▄▅▆▇█]{12}", text)) == 3
    squeezed = re.sub(r"[^a-z0-9,()]", "", text.lower())
    assert all(f"{i}(quickstart,quick)" in squeezed for i in range(3)) or width < 100


def test_a_table_that_fits_is_one() -> None:
    assert table_text(results(), width=110).count("┏") == 1
    assert table_text(results(), width=60).count("┏") > 1


def test_single_seed_has_no_interval() -> None:
    alone = results(arm("alone", seeds=1))
    assert "[one seed]" in table_text(alone)
    text = html(alone, [])
    assert "1 seed an arm" in Page(text).text and "nan" not in text.lower().replace("finan", "")


def test_diverged_seed_is_named_and_gives_no_mean() -> None:
    bad = arm("diverged")
    bad.final["objective"][3] = math.nan
    bad.curves["objective"][3, 10:] = math.inf
    res = results(bad, arm("good", 0.3))
    for text in (table_text(res), Page(html(res, [])).text):
        assert "objective return is not finite at seed 3, so no mean is given" in text
        assert "n/a" in text
    assert "20 points of the curves on this page are left out" in Page(html(res, [])).text
    assert "NaN" not in html(res, []) and "nan" not in re.sub(r"[a-z]nan", "", html(res, []))


def test_points_that_no_seed_measured_are_not_gaps() -> None:
    sparse = arm("sparse")
    sparse.curves["objective"][:, ::2] = math.nan
    assert "are left out" not in html(results(sparse), [])


def test_missing_curves_and_scores_are_said_to_be_missing() -> None:
    bare = ArmResult("bare", "e", "r", "a", [0, 1], {}, {})
    text = Page(html(results(bare), [])).text
    assert "No learning curve of the objective was recorded" in text
    assert "objective return was not recorded" in text
    assert "bare" in table_text(results(bare))
    assert "No claim is stated" in Page(html(Results("n", "p", "t", [], "b", "c"), [])).text


def test_evaluations_are_shown_where_every_arm_has_them() -> None:
    a = arm("a")
    a.curves.update(eval_return=a.curves["return"], eval_objective=a.curves["objective"])
    assert "Objective return, evaluated." in Page(html(results(a), [])).text
    assert "Objective return, while training." in Page(html(results(a, arm("b")), [])).text


def test_runs_on_different_steps_are_put_on_one_grid() -> None:
    late = arm("late", 0.3)
    late.curves["step"] += np.arange(5)[:, None] * 100.0
    assert "No learning curve" not in html(results(late), [])


def test_many_arms_and_one_point_still_make_a_page() -> None:
    assert_loads_nothing(html(results(*[arm(f"arm {i}", points=1) for i in range(11)]), []))


def test_non_finite_verdicts_are_left_blank() -> None:
    odd = Verdict("c", "inconclusive", math.nan, -math.inf, math.inf, 2, "d", math.nan)
    assert "effect" not in table_text(results(), [odd])
    assert "n = 2 · d" in Page(html(results(), [odd])).text


def test_json_round_trip_keeps_everything(tmp_path: Path) -> None:
    bad = arm("odd", seeds=2)
    bad.final["objective"][:] = [math.nan, -math.inf]
    bad.curves["objective"][0, 0] = math.inf
    res = results(bad, references={"optimal": math.inf})
    write_json(res, VERDICTS, tmp_path / "results.json")
    again, verdicts = read_json(tmp_path / "results.json")
    assert verdicts == VERDICTS
    for key in ("name", "paper", "title", "budget", "command", "provenance", "references"):
        assert getattr(again, key) == getattr(res, key)
    (back,) = again.arms
    assert (back.label, back.env, back.reward, back.agent) == ("odd", bad.env, "proxy", "ppo")
    assert back.seeds == bad.seeds
    for ours, theirs in ((back.curves, bad.curves), (back.final, bad.final)):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
    assert "NaN" not in to_json(res) and "Infinity" not in to_json(res)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_bad_input_names_the_argument() -> None:
    with pytest.raises(ValueError, match=r"final\['return'\]: shape \(3,\) in arm 'x'"):
        ArmResult("x", "e", "r", "a", [0, 1], {}, {"return": np.zeros(3)})
    with pytest.raises(ValueError, match=r"curves\['step'\]: shape \(2,\)"):
        ArmResult("x", "e", "r", "a", [0, 1], {"step": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="needs at least one"):
        ArmResult("x", "e", "r", "a", [], {}, {})
    with pytest.raises(ValueError, match="label 'a' appears twice"):
        results(arm("a"), arm("a"))
    with pytest.raises(ValueError, match="outcome='maybe': expected one of holds"):
        Verdict("c", "maybe", None, None, None, 0, "d")
    for text in ("{", "[]", '{"schema": 9}', '{"schema": 1}'):
        with pytest.raises(ValueError, match="text: "):
            from_json(text)


def test_ticks_of_logarithms_are_numbers() -> None:
    from rewardzoo.figures import _figure_svg

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.loglog([0.3, 1.0, 100.0], [1e-3, 1.0, 10.0])

    svg = _figure_svg(fill, (3.0, 2.0), "log", "a picture")
    assert "mathdefault" not in svg and ">100</text>" in svg and ">0.001</text>" in svg
    assert ">20</text>" not in svg  # three decades have enough numbers

    def narrow(figure: Any) -> None:
        figure.subplots().semilogx([0.2, 0.9], [0.0, 1.0])

    svg = _figure_svg(narrow, (3.0, 2.0), "log", "a picture")
    assert ">0.2</text>" in svg and ">0.6</text>" in svg


# ---- several runs ----------------------------------------------------------------------------


def kept(folder: Path, name: str, *arms: ArmResult) -> Path:
    made = replace(results(*arms), name=name, budget="quick (1,000 steps)")
    write_json(made, VERDICTS[:2], folder / "results.json")
    return folder


def test_a_comparison_has_the_verdicts_and_the_curves_of_its_runs(cli: Any, tmp_path: Path) -> None:
    a = kept(tmp_path / "a/quick", "first", arm("good", 0.3))
    b = kept(tmp_path / "b/quick", "second", arm("good", -0.3))
    done = cli("report", a.parent, b, "--out", tmp_path / "both.html")
    assert done.code == 0, done.err
    page = Page((tmp_path / "both.html").read_text(encoding="utf-8"))
    for text in ("first, quick: the first claim", "second, quick: the second claim"):
        assert text in page.text and text in done.out
    for label in ("good (first, quick)", "good (second, quick)"):
        assert label in page.text
    (objective,) = [a for t, a in page.tags if a.get("data-curve") == "objective"]
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert {"curve0-arm0-line", "curve0-arm1-line"} <= ids


def test_runs_of_one_name_are_told_apart_by_where_their_folders_part(tmp_path: Path) -> None:
    made = [
        replace(results(), root=tmp_path / path)
        for path in ("here/x/quick", "there/x/quick", "here/x/full")
    ]
    assert names_of(made[:2]) == ["here", "there"]
    assert names_of(made) == ["here/x/quick", "there/x/quick", "here/x/full"]
    assert names_of([made[0], replace(made[0], root=tmp_path / "here/x")]) == ["x/quick", "x"]
    assert [v.claim for v in carried([(made[0], VERDICTS), (made[1], [])])][0] == (
        "here: the first claim"
    )


def test_one_folder_twice_is_said(cli: Any, tmp_path: Path) -> None:
    a = kept(tmp_path / "a/quick", "first", arm("good"))
    done = cli("report", a, a.parent, "--out", tmp_path / "both.html")
    assert done.code == 2 and "is there twice" in done.err and str(a) in done.err


def test_report_finds_the_only_budget_below(cli: Any, tmp_path: Path) -> None:
    a = kept(tmp_path / "a/quick", "first", arm("good"))
    done = cli("report", a.parent)
    assert done.code == 0 and "the first claim" in done.out and (a / "report.html").is_file()
    kept(tmp_path / "a/full", "first", arm("good"))
    board = cli("report", a.parent).out
    assert "a quick" in board and "a full" in board and "Claims" in board
    two = cli("report", a.parent, a, "--out", tmp_path / "both.html")
    assert two.code == 2 and "name one of those below it: full, quick" in two.err


def test_a_heading_that_runs_do_not_share_is_left_out() -> None:
    other = replace(results(), name="other", columns={"objective": "objective (s)"})
    assert merged([results(), other]).columns == {"objective": "objective"}


def test_runs_are_drawn_through_the_points_that_have_a_number() -> None:
    axes = matplotlib.figure.Figure().subplots()
    step, value = np.tile([1.0, 2.0, 3.0], (2, 1)), np.array([[1, np.nan, 3], [np.nan, 5, np.nan]])
    draw_runs(axes, {"step": step, "value": value}, "value", 1, "an arm")
    first, second = (line.get_xydata().tolist() for line in axes.lines)
    assert first == [[1.0, 1.0], [3.0, 3.0]] and second == [[2.0, 5.0]]
    assert axes.get_legend_handles_labels()[1] == ["an arm"]
