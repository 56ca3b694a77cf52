"""A report in a real headless browser, without a network: tips, arms that hide, numbers saved."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardzoo.report import write_html
from rewardzoo.results import ArmResult, Results

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


def arm(label: str, slope: float) -> ArmResult:
    step = np.tile(np.arange(5.0) * 1000, (3, 1))
    curves = {"step": step, "objective": slope * step, "return": 2 * step, "kl, nats": step / 100}
    final = {k: curves[k][:, -1] for k in ("objective", "return")}
    return ArmResult(label, "E", "r", "a", [0, 1, 2], curves, final)


@pytest.fixture
def tab(docs: Any, tmp_path: Path) -> Iterator[Any]:
    """The report of two arms, opened offline; fails for anything that it complains of."""
    site = docs("check_site")
    path = tmp_path / "report.html"
    made = Results("made-up", "p", "t", [arm("up", 1), arm('down, "too"', -1)], "smoke", "c")
    write_html(made, [], path)
    wrong: list[str] = []
    asked: list[str] = []
    with sync_api.sync_playwright() as playwright:
        if not site.BROWSER and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed")
        browser = playwright.chromium.launch(executable_path=site.BROWSER, args=list(site.FLAGS))
        context = browser.new_context(viewport={"width": 1000, "height": 800}, offline=True)
        context.set_default_timeout(60_000)  # ms; a busy machine is no page's fault
        tab = context.new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        yield tab
        browser.close()
    assert not wrong
    assert [url for url in asked if not url.startswith("blob:")] == [path.as_uri()]


def tip(tab: Any, plot: str) -> str:
    """What is told at the middle of a plot's time axis, its first of three lines left out."""
    svg = tab.locator(plot)
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    _, _, left, right = map(float, svg.get_attribute("data-x").split())
    width = float(svg.get_attribute("viewBox").split()[2])
    at = box["x"] + box["width"] * (left + right) / 2 / width
    tab.mouse.move(at, box["y"] + box["height"] / 2)
    found = tab.locator(".tip:visible")
    return str(found.inner_text()) if found.count() else ""


def test_every_plot_tells_its_values_and_hides_an_arm(tab: Any) -> None:
    objective, own = 'svg[data-curve="objective"]', 'svg[data-curve="kl, nats"]'
    paid, path = 'svg[data-curve="return"][data-only="1"]', 'svg[data-path="1"]'
    told = tip(tab, objective)
    for text in ("2,000 steps", "up: 2000 [2000, 2000]", 'down, "too": -2000 [-2000, -2000]'):
        assert text in told
    assert "up: 20 [20, 20]" in tip(tab, own) and 'too": 20 [' in tip(tab, own)
    assert tip(tab, paid).count(":") == 1 and "4000 [4000, 4000]" in tip(tab, paid)
    assert "specified 4000, objective -2000" in tip(tab, path)
    line = tab.locator("#curve0-arm1-line")
    assert line.is_visible()
    button = tab.locator('button[data-arm="1"]')
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and not line.is_visible()
    assert not tab.locator("#curve1-arm1-line").is_visible()
    assert tab.locator("#curve1-arm0-line").is_visible()
    assert "up: 2000" in tip(tab, objective) and "down" not in tip(tab, objective)
    assert not tip(tab, paid) and not tip(tab, path)
    button.click()
    assert line.is_visible() and 'too": -2000' in tip(tab, objective)


def test_numbers_are_saved_as_csv(tab: Any) -> None:
    def saved(kind: str) -> list[list[str]]:
        with tab.expect_download() as waiting:
            tab.locator(f'button[data-save="{kind}"]').click()
        assert waiting.value.suggested_filename == f"made-up-{kind}.csv"
        with waiting.value.path().open(newline="") as file:
            return list(csv.reader(file))

    curves = saved("curves")
    assert curves[0] == ["arm", "curve", "step", "interquartile mean", "low", "high"]
    assert len(curves) == 1 + 2 * 3 * 5
    assert ['down, "too"', "kl, nats", "4000", "40", "40", "40"] in curves
    final = saved("final")
    assert len(final) == 1 + 2 * 2 * 3 and ["up", "2", "objective", "4000"] in final
