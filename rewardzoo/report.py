"""The report of an experiment: a terminal table and one self-contained HTML page with SVG plots.

Everything shown is an interquartile mean over seeds with its 95 % bootstrap interval
(``summary.py``). The page loads nothing and follows the reader's light or dark setting; a script of
its own, which it can do without, shows curves' values, hides arms and saves the numbers as CSV.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import colour as colour
from .figures import curve_figure, hacking_figures, own_figure, paid_figure
from .files import write_atomic
from .results import COLUMNS, Results, Verdict
from .summary import (
    Curve,
    Row,
    column_digits,
    curve_names,
    curve_of,
    curves_of,
    evaluated,
    has_gap,
    rows_of,
    show,
)
from .tables import fitting_tables

if TYPE_CHECKING:
    from rich.console import Console

    from .experiment import Figure

_GLYPHS = {"holds": "✓", "fails": "✗", "inconclusive": "?"}
_STYLES = {"holds": "green", "fails": "red", "inconclusive": "yellow"}
_SHAPES = ("●", "■", "◆", "▲", "▼", "✚", "✖", "★")
_SPARKS = "▁▂▃▄▅▆▇█"


def render_table(
    results: Results, verdicts: Sequence[Verdict], console: Console | None = None
) -> None:
    """Prints the table of arms and the verdict of each claim.

    Args:
        results: of the experiment.
        verdicts: of its claims.
        console: where to print; None is the terminal.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    rows = rows_of(results)
    digits = column_digits(rows)
    columns = [
        (heading, [show(row.cells[key], digits[key]) for row in rows])
        for key, heading in results.columns.items()
    ]
    if has_gap(results):
        columns.append(("gap to optimum", [show(r.gap, digits["objective"]) for r in rows]))
    columns.append(("n", [str(len(row.arm.seeds)) for row in rows]))
    for name in curve_names(results.arms)[:1]:
        curves = [curve_of(row.arm, name) for row in rows]
        if any(curves):
            columns.append((f"{name} in training", [_spark(curve, curves) for curve in curves]))
    labels = [row.arm.label for row in rows]
    for table in fitting_tables(results.title, labels, columns, console.width):
        console.print(table)
    console.print(Text("Interquartile mean over seeds [95 % bootstrap interval]", style="dim"))
    for name, value in results.references.items():
        console.print(Text(f"  {name}: {value:.6g}", style="dim"))
    for row in rows:
        if row.note:
            console.print(Text(f"{row.arm.label}: {row.note}", style="yellow"))
    for v in verdicts:
        line = Text(f"{_GLYPHS[v.outcome]} {v.outcome}", style=f"bold {_STYLES[v.outcome]}")
        line.append(f"  {v.claim}", style="default not bold")
        line.append(f"\n    {'; '.join(facts_of(v))}", style="dim not bold")
        console.print(line)


def write_html(
    results: Results,
    verdicts: Sequence[Verdict],
    path: str | Path,
    figures: Sequence[Figure] = (),
) -> None:
    """Writes the report as one HTML file, whole or not at all.

    Args:
        results: of the experiment.
        verdicts: of its claims.
        path: the file; its folder is made where it is missing.
        figures: pictures of the experiment's own.
    """
    write_atomic(path, html(results, verdicts, figures))


def html(results: Results, verdicts: Sequence[Verdict], figures: Sequence[Figure] = ()) -> str:
    """The report as a page; equal inputs give equal text."""
    import jinja2

    source = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    rows = rows_of(results)
    curves = curves_of(results.arms)
    nothing: list[Curve | None] = [None for _ in rows]
    returns = {key: curves.get(key, nothing) for key in COLUMNS}
    seeds = [len(row.arm.seeds) for row in rows]
    script = resources.files(__package__).joinpath("report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(source).render(
        results=results,
        script=script,
        digest=digest,
        data=_data(results, rows, curves),
        verdicts=[
            {"v": v, "glyph": _GLYPHS[v.outcome], "facts": facts_of(v), "bar": _effect_bar(v)}
            for v in verdicts
        ],
        rows=rows,
        forest=_forest(rows, results.references),
        digits=column_digits(rows),
        has_gap=has_gap(results),
        show=show,
        figures=[(f, own_figure(f, results, i)) for i, f in enumerate(figures)],
        shape=lambda i: _SHAPES[i % len(_SHAPES)],
        measured="evaluated" if evaluated(results.arms) else "while training",
        names=COLUMNS,
        drawn=bool(curves),
        has_objective="objective" in curves,
        curves=_curve_figures(results, rows, curves),
        paid_svgs=[paid_figure(row, c) for row, c in zip(rows, returns["return"], strict=True)],
        hacking_svgs=hacking_figures(rows, returns, results.references),
        missing=sum(c.missing for found in curves.values() for c in found if c),
        fewest=min(seeds, default=0),
        paired=len(rows) > 1 and all(row.arm.seeds == rows[0].arm.seeds for row in rows),
        seeds=f"{min(seeds)} to {max(seeds)}"
        if len(set(seeds)) > 1
        else str(max(seeds, default=0)),
    )


def _curve_figures(
    results: Results, rows: Sequence[Row], curves: dict[str, list[Curve | None]]
) -> list[tuple[str, str]]:
    """Names and pictures of the curves that arms share an axis for, the first over all the page."""
    names = [name for name in curves if name != "return"]  # paid in units of each arm's own
    return [
        (
            name,
            curve_figure(
                rows, name, curves[name], results.references if name == "objective" else {}, i,
                wide=i == 0,
            ),
        )
        for i, name in enumerate(names)
    ]  # fmt: skip


def _data(results: Results, rows: Sequence[Row], curves: dict[str, list[Curve | None]]) -> str:
    """What the page's script reads, as JSON that may stand in HTML."""

    def plain(values: Any) -> list[float | None]:
        return [float(f"{x:.6g}") if math.isfinite(x) else None for x in values.tolist()]

    def parts(curve: Curve) -> dict[str, list[float | None]]:
        arrays = {"step": curve.steps, "point": curve.point, "low": curve.low, "high": curve.high}
        return {k: plain(v) for k, v in arrays.items()}

    arms = [
        {
            "label": row.arm.label,
            "shape": _SHAPES[row.index % len(_SHAPES)],
            "seeds": row.arm.seeds,
            "final": {k: plain(v) for k, v in row.arm.final.items()},
            "curves": {k: parts(found) for k, v in curves.items() if (found := v[i])},
        }
        for i, row in enumerate(rows)
    ]
    text = json.dumps({"name": results.name, "arms": arms}, allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _spark(curve: Curve | None, curves: Sequence[Curve | None]) -> str:
    """A curve as a dozen blocks, on a scale that all arms share."""
    if curve is None:
        return ""
    points = np.concatenate([c.point[np.isfinite(c.point)] for c in curves if c])
    if not len(points):
        return ""
    low, span = points.min(), float(np.ptp(points)) or 1.0
    parts = [x[np.isfinite(x)] for x in np.array_split(curve.point, min(12, len(curve.point)))]
    heights = [(x.mean() - low) / span if len(x) else math.nan for x in parts]
    top = len(_SPARKS) - 1
    return "".join(" " if math.isnan(h) else _SPARKS[round(h * top)] for h in heights)


def _finite(x: float | None) -> bool:
    return x is not None and math.isfinite(x)


def facts_of(v: Verdict) -> list[str]:
    """What a verdict rests on, in words: effect and interval, n, p values, how it was decided."""
    facts = []
    if _finite(v.effect):
        bounds = _finite(v.low) and _finite(v.high)
        facts.append(f"effect {v.effect:.3g}" + (f" [{v.low:.3g}, {v.high:.3g}]" if bounds else ""))
    facts.append(f"n = {v.n}")
    if _finite(v.p_value):
        facts.append(f"p = {v.p_value:.3g}")
    if _finite(v.p_adjusted):
        facts.append(f"p after Holm = {v.p_adjusted:.3g}")
    if v.detail:
        facts.append(v.detail)
    return facts


def _effect_bar(v: Verdict) -> dict[str, float] | None:
    """Per cent positions of an effect and its interval on an axis with 0 in the middle."""
    if v.effect is None or v.low is None or v.high is None:
        return None
    reach = max(abs(v.low), abs(v.high), abs(v.effect))
    if not 0 < reach < math.inf or math.isnan(v.low + v.high + v.effect):
        return None
    place = {"effect": v.effect, "low": v.low, "high": v.high}
    return {k: round(50 + 44 * x / reach, 2) for k, x in place.items()}


def _forest(rows: Sequence[Row], references: dict[str, float]) -> dict[str, Any] | None:
    """Per cent positions of every arm's objective on one axis, for the table's last column."""
    found = [row.objective for row in rows if row.objective is not None]
    ends = [x for i in found for x in (i.point, i.low, i.high) if math.isfinite(x)]
    known = {k: float(v) for v, k in sorted((v, k) for k, v in references.items()) if _finite(v)}
    if not ends:
        return None
    low, high = min([*ends, *known.values()]), max([*ends, *known.values()])
    span = (high - low) or 1.0

    def place(x: float) -> float | None:
        return round(4 + 92 * (x - low) / span, 2) if math.isfinite(x) else None

    return {
        "references": {k: place(v) for k, v in known.items()},
        "bars": [
            row.objective
            and {k: place(getattr(row.objective, k)) for k in ("point", "low", "high")}
            for row in rows
        ],
    }
