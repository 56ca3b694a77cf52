"""The report of an experiment: a terminal table and one self-contained HTML page with SVG plots.

Everything shown is an interquartile mean over seeds with its 95 % bootstrap interval
(``metrics.statistics``). The page loads nothing, runs no script, and follows the reader's light or
dark setting: the plots are drawn in marker colours that become CSS variables.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .metrics.statistics import Interval, bootstrap_curve, stratified_bootstrap
from .results import COLUMNS, ArmResult, Results, Verdict, write_atomic

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes
    from rich.console import Console

    from .experiment import Figure

Array = NDArray[np.float64]

_GLYPHS = {"holds": "✓", "fails": "✗", "inconclusive": "?"}
_STYLES = {"holds": "green", "fails": "red", "inconclusive": "yellow"}
_MARKERS = "osD^vPX*"  # each arm's shape says again what its colour says
_SHAPES = ("●", "■", "◆", "▲", "▼", "✚", "✖", "★")
_POINTS = 160  # longer curves are averaged in blocks
_PATH_POINTS = 24  # of a hacking path, where noise would tangle it

# Colours that occur nowhere else: _svg() turns them into the page's CSS variables.
_INK, _MUTED, _GRID, _PAPER = "#010101", "#010102", "#010103", "#010104"
_VARIABLES = {_INK: "ink", _MUTED: "muted", _GRID: "grid", _PAPER: "card"}


@dataclass(frozen=True)
class Curve:
    """One quantity of one arm over training: (points,) arrays, gaps as nan."""

    steps: Array
    point: Array
    low: Array
    high: Array
    missing: int


@dataclass(frozen=True)
class Row:
    """One arm of the table."""

    index: int
    arm: ArmResult
    cells: dict[str, Interval | None]  # by final number, in the order of the columns
    gap: Interval | None
    note: str

    @property
    def paid(self) -> Interval | None:
        """The specified return."""
        return self.cells.get("return")

    @property
    def objective(self) -> Interval | None:
        """The objective return."""
        return self.cells.get("objective")


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
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    rows = _rows(results)
    table = Table(title=Text(results.title, style="bold"), title_justify="left")
    table.add_column("arm")
    for heading in results.columns.values():
        table.add_column(heading, justify="right")
    if _has_gap(results):
        table.add_column("gap to optimum", justify="right")
    table.add_column("n", justify="right")
    digits = _column_digits(rows)
    for row in rows:
        cells = [_show(cell, digits[key]) for key, cell in row.cells.items()]
        if _has_gap(results):
            cells.append(_show(row.gap, digits["objective"]))
        table.add_row(Text(row.arm.label), *map(Text, cells), str(len(row.arm.seeds)))
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
        line.append(f"\n    {'; '.join(_facts(v))}", style="dim not bold")
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
    rows = _rows(results)
    evaluated = bool(rows) and all(
        f"eval_{key}" in row.arm.curves for row in rows for key in ("return", "objective")
    )
    prefix = "eval_" if evaluated else ""
    curves = {
        key: [_curve(row.arm, prefix + key) for row in rows] for key in ("objective", "return")
    }
    seeds = [len(row.arm.seeds) for row in rows]
    return environment.from_string(source).render(
        results=results,
        verdicts=[
            {"v": v, "glyph": _GLYPHS[v.outcome], "facts": _facts(v), "bar": _effect_bar(v)}
            for v in verdicts
        ],
        rows=rows,
        forest=_forest(rows, results.references),
        digits=_column_digits(rows),
        has_gap=_has_gap(results),
        show=_show,
        figures=[(f, _own_figure(f, results, i)) for i, f in enumerate(figures)],
        shape=lambda i: _SHAPES[i % len(_SHAPES)],
        measured="evaluated" if evaluated else "while training",
        objective_svg=_objective_figure(rows, curves["objective"], results.references),
        paid_svgs=[_paid_figure(row, c) for row, c in zip(rows, curves["return"], strict=True)],
        hacking_svgs=_hacking_figures(rows, curves, results.references),
        missing=sum(c.missing for key in curves for c in curves[key] if c),
        fewest=min(seeds, default=0),
        paired=len(rows) > 1 and all(row.arm.seeds == rows[0].arm.seeds for row in rows),
        seeds=f"{min(seeds)} to {max(seeds)}"
        if len(set(seeds)) > 1
        else str(max(seeds, default=0)),
    )


# ------------------------------------------------------------------------------------- numbers


def _rows(results: Results) -> list[Row]:
    optimum = results.references.get("optimal")
    rows = []
    for index, arm in enumerate(results.arms):
        notes: list[str] = []
        cells = {k: _final(arm, k, name, notes) for k, name in results.columns.items()}
        objective = cells.get("objective")
        gap = None
        if objective is not None and optimum is not None:
            gap = Interval(
                optimum - objective.point,
                optimum - objective.high,
                optimum - objective.low,
                objective.n,
            )
        rows.append(Row(index, arm, cells, gap, "; ".join(notes)))
    return rows


def _final(arm: ArmResult, key: str, name: str, notes: list[str]) -> Interval | None:
    """The interval of a final score; None, with a note, where a seed has no finite one.

    A column of the experiment's own need not concern every arm; the returns do.
    """
    values = arm.final.get(key)
    if values is None:
        if key in COLUMNS:
            notes.append(f"{name} was not recorded")
        return None
    bad = ~np.isfinite(values)
    if bad.any():
        which = ", ".join(str(s) for s, b in zip(arm.seeds, bad, strict=True) if b)
        notes.append(f"{name} is not finite at seed {which}, so no mean is given")
        return None
    return stratified_bootstrap(values)


def _curve(arm: ArmResult, key: str) -> Curve | None:
    """The interquartile mean of a curve; points that some, not all, seeds lack become gaps."""
    values = arm.curves.get(key)
    steps = arm.curves.get("eval_step" if key.startswith("eval_") else "step")
    if key.startswith("eval_") and steps is None:
        steps = arm.curves.get("step")
    if values is None or steps is None or values.shape != steps.shape:
        return None
    # A column in which no seed has a value was not measured; that is no gap.
    kept = np.isfinite(values).any(0) & np.isfinite(steps).all(0)
    values, steps = values[:, kept], steps[:, kept]
    if values.shape[1] == 0:
        return None
    grid = steps[0]
    if not np.array_equal(steps, np.broadcast_to(grid, steps.shape)):
        grid = np.linspace(steps.min(1).max(), steps.max(1).min(), values.shape[1])
        values = np.stack([np.interp(grid, s, v) for s, v in zip(steps, values, strict=True)])
    edges = np.linspace(0, len(grid), min(len(grid), _POINTS) + 1).round().astype(int)[:-1]
    counts = np.diff(np.append(edges, len(grid)))
    grid = np.add.reduceat(grid, edges) / counts
    values = np.where(np.isfinite(values), values, np.nan)
    values = np.add.reduceat(values, edges, axis=1) / counts
    whole = np.isfinite(values).all(0)
    point, low, high = (np.full(len(grid), np.nan) for _ in range(3))
    if whole.any():
        interval = bootstrap_curve(values[:, whole], reps=1000)
        point[whole], low[whole], high[whole] = interval.point, interval.low, interval.high
    return Curve(grid, point, low, high, int((~whole).sum()))


def _digits(interval: Interval | None) -> int | None:
    """Decimals at which the interval's width shows two digits; None without a width."""
    if interval is None or not math.isfinite(interval.low) or interval.high <= interval.low:
        return None
    return min(5, max(0, 1 - math.floor(math.log10(interval.high - interval.low))))


def _column_digits(rows: Sequence[Row]) -> dict[str, int | None]:
    """Decimals of each column; returns are paid in units of each arm's own, so each has its own."""
    keys = rows[0].cells if rows else ()
    return {
        key: None if key == "return" else _shared_digits(row.cells[key] for row in rows)
        for key in keys
    }


def _has_gap(results: Results) -> bool:
    return "optimal" in results.references and "objective" in results.columns


def _shared_digits(intervals: Iterable[Interval | None]) -> int | None:
    digits = [d for d in map(_digits, intervals) if d is not None]
    return min(4, max(digits)) if digits else None


def _show(interval: Interval | None, digits: int | None = None) -> str:
    if interval is None:
        return "n/a"
    digits = _digits(interval) if digits is None else digits
    form: Callable[[float], str]
    form = (lambda x: f"{x:.4g}") if digits is None else (lambda x: f"{x + 0.0:.{digits}f}")
    if not math.isfinite(interval.low):
        return f"{form(interval.point)} [one seed]"
    return f"{form(interval.point)} [{form(interval.low)}, {form(interval.high)}]"


def _finite(x: float | None) -> bool:
    return x is not None and math.isfinite(x)


def _facts(v: Verdict) -> list[str]:
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


# ------------------------------------------------------------------------------------- figures


def _objective_figure(
    rows: Sequence[Row], curves: Sequence[Curve | None], references: dict[str, float]
) -> str | None:
    if not any(curves):
        return None

    def draw(axes: Axes) -> None:
        for row, curve in zip(rows, curves, strict=True):
            if curve:
                _draw_curve(axes, row.index, curve, len(rows))
        axes.margins(x=0.01, y=0.08)
        _draw_references(axes, references, labels=True)
        axes.set_xlabel("environment steps")
        axes.set_ylabel("objective return")

    ends = [f"{r.arm.label} ends at {_show(r.objective)}" for r in rows]
    text = "Objective return over environment steps, one line an arm. " + "; ".join(ends) + "."
    longest = max((len(f"{k} {v:.4g}") for k, v in references.items()), default=0)
    return _svg(draw, (9.0, 3.7), "objective", text, right=min(3.0, 0.15 + 0.078 * longest))


def _paid_figure(row: Row, curve: Curve | None) -> str | None:
    if curve is None:
        return None

    def draw(axes: Axes) -> None:
        _draw_curve(axes, row.index, curve, 1)
        axes.margins(x=0.02, y=0.12)
        axes.set_xlabel("environment steps")
        axes.set_ylabel("specified return")

    text = f"Specified return of {row.arm.label} over steps, ending at {_show(row.paid)}."
    return _svg(draw, (2.6, 2.0), f"paid{row.index}", text)


def _hacking_figures(
    rows: Sequence[Row], curves: dict[str, list[Curve | None]], references: dict[str, float]
) -> list[str | None]:
    """One panel an arm, since arms are paid in different units; the objective's axis is shared."""
    paths = [
        _path(paid, objective)
        for paid, objective in zip(curves["return"], curves["objective"], strict=True)
    ]
    heights = [path[1] for path in paths]
    heights += [row.arm.final["objective"] for row in rows if "objective" in row.arm.final]
    heights.append(np.array(list(references.values()), dtype=np.float64))
    every = np.concatenate(heights)
    every = every[np.isfinite(every)]
    if not len(every):
        return [None for _ in rows]
    margin = 0.08 * (float(np.ptp(every)) or 1.0)
    limits = float(every.min()) - margin, float(every.max()) + margin
    return [
        _hacking_figure(row, path, references, limits)
        for row, path in zip(rows, paths, strict=True)
    ]


def _path(paid: Curve | None, objective: Curve | None) -> tuple[Array, Array]:
    if paid is None or objective is None or not np.array_equal(paid.steps, objective.steps):
        return np.empty(0), np.empty(0)
    both = np.isfinite(paid.point) & np.isfinite(objective.point)
    parts = min(_PATH_POINTS, int(both.sum()))
    if parts == 0:
        return np.empty(0), np.empty(0)
    x, y = (np.array_split(c.point[both], parts) for c in (paid, objective))
    # The first point stands as it is: averaged, a fast learner would seem to start half way.
    ends = [
        np.array([c.point[both][0], *(p.mean() for p in blocks)])
        for c, blocks in ((paid, x), (objective, y))
    ]
    return ends[0], ends[1]


def _hacking_figure(
    row: Row,
    path: tuple[Array, Array],
    references: dict[str, float],
    limits: tuple[float, float],
) -> str | None:
    x, y = path
    nothing = np.empty(0)
    seed_x, seed_y = row.arm.final.get("return", nothing), row.arm.final.get("objective", nothing)
    ends = (seed_x, seed_y) if len(seed_x) == len(seed_y) else (nothing, nothing)
    if not len(x) and not (np.isfinite(ends[0]) & np.isfinite(ends[1])).any():
        return None

    def draw(axes: Axes) -> None:
        own, marker = colour(row.index), _MARKERS[row.index % len(_MARKERS)]
        axes.plot(x, y, color=own, lw=1.4, solid_joinstyle="round", zorder=3)
        if len(x) > 1:
            axes.plot(x[:1], y[:1], "o", mfc=_PAPER, mec=own, ms=5, zorder=4)
        axes.scatter(*ends, s=13, marker=marker, color=own, alpha=0.45, lw=0, zorder=4)
        if row.paid and row.objective:
            end = row.paid.point, row.objective.point
            axes.plot(*end, marker, color=own, mec=_PAPER, mew=1, ms=8, zorder=5)
        axes.margins(x=0.12)
        axes.set_ylim(*limits)
        _draw_references(axes, references, labels=False)
        axes.set_xlabel("specified return")
        axes.set_ylabel("objective return")

    text = f"{row.arm.label}: objective against specified return over training, "
    text += f"from the open circle to objective {_show(row.objective)}."
    return _svg(draw, (2.6, 2.4), f"hack{row.index}", text)


def colour(index: int) -> str:
    """The colour of an arm, for Matplotlib; the page turns it into one that suits its setting."""
    return f"#0102{index % len(_MARKERS):02x}"


def _draw_curve(axes: Axes, index: int, curve: Curve, arms: int) -> None:
    own, marker = colour(index), _MARKERS[index % len(_MARKERS)]
    axes.fill_between(curve.steps, curve.low, curve.high, color=own, alpha=0.16, lw=0)
    every = max(1, len(curve.steps) // 5)
    # Marks of different arms are set apart, so that equal curves stay recognisable.
    start = (index * every) // max(1, arms)
    axes.plot(
        curve.steps,
        curve.point,
        color=own,
        lw=1.7,
        marker=marker,
        markevery=(start, every),
        ms=5.5,
        mec=_PAPER,
        mew=0.8,
    )


def _draw_references(axes: Axes, references: dict[str, float], labels: bool) -> None:
    known = sorted((v, k) for k, v in references.items() if math.isfinite(v))
    for value, _ in known:
        axes.axhline(value, color=_MUTED, lw=0.9, ls=(0, (4, 3)), zorder=1)
    if not labels or not known:
        return
    low, high = axes.get_ylim()
    at, previous = [], -math.inf
    for value, _ in known:  # labels of close lines are pushed apart
        previous = max(value, previous + 0.06 * (high - low))
        at.append(previous)
    for y, (value, name) in zip(at, known, strict=True):
        axes.annotate(
            f"{name} {value:.4g}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            color=_MUTED,
            annotation_clip=False,
            parse_math=False,
        )


def _svg(
    draw: Callable[[Axes], None],
    size: tuple[float, float],
    name: str,
    text: str,
    right: float = 0.08,
) -> str:
    """Draws one set of axes of the page's own.

    Args:
        draw: fills the axes.
        size: (width, height) in inches.
        name: prefix of the ids, which must differ between the plots of a page.
        text: what a screen reader says.
        right: inches kept free on the right.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    def fill(figure: matplotlib.figure.Figure) -> None:
        width, height = size
        left, bottom = 0.62, 0.46
        axes = figure.add_axes(
            (left / width, bottom / height, (width - left - right) / width, 1 - 0.56 / height)
        )
        axes.set_axisbelow(True)
        axes.grid(axis="y")
        draw(axes)
        wide = width > 5
        axes.xaxis.set_major_locator(MaxNLocator(6 if wide else 3))
        axes.yaxis.set_major_locator(MaxNLocator(6 if wide else 4))
        if axes.get_xlabel() == "environment steps":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    return _figure_svg(fill, size, name, text)


def _own_figure(figure: Figure, results: Results, index: int) -> str:
    """A picture of the experiment's own; one that cannot be drawn says why in its place."""
    from markupsafe import escape

    try:
        return _figure_svg(
            lambda canvas: figure.draw(canvas, results),
            figure.size,
            f"own{index}",
            figure.caption,
            layout="constrained",
        )
    except (OSError, KeyError, ValueError) as error:
        return f'<p class="none">cannot be drawn: {escape(error)}</p>'


def _figure_svg(
    fill: Callable[[matplotlib.figure.Figure], None],
    size: tuple[float, float],
    name: str,
    text: str,
    layout: Literal["constrained"] | None = None,
) -> str:
    """Draws a figure and returns an inline SVG in the page's own colours and font."""
    import matplotlib
    from markupsafe import escape
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    style: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "rewardzoo",
        "font.size": 9,
        "axes.linewidth": 0.8,
        "axes.unicode_minus": True,
        "text.parse_math": False,
        "text.color": _INK,
        "axes.labelcolor": _MUTED,
        "axes.edgecolor": _GRID,
        "xtick.color": _GRID,
        "ytick.color": _GRID,
        "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _MUTED,
        "grid.color": _GRID,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "ytick.left": False,
        "xtick.major.size": 3,
    }
    with matplotlib.rc_context(style):  # type: ignore[arg-type]
        figure = Canvas(figsize=size, layout=layout)
        FigureCanvasSVG(figure)
        fill(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"{name}-", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font: [^;\"]*?(\d+(?:\.\d+)?)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"#0102([0-9a-f]{2})", lambda m: f"var(--arm{int(m[1], 16)})", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg role="img" aria-labelledby="{name}-title" {box[0] if box else ""}>'
    head += f'<title id="{name}-title">{escape(text)}</title>'
    return head + re.sub(r"^<svg[^>]*>", "", svg)
