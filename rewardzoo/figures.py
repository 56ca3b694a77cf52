"""The plots of a report: inline SVG, drawn by Matplotlib in colours that the page chooses."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .results import COLUMNS, Results
from .summary import Curve, Row, show

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

    from .experiment import Figure

Array = NDArray[np.float64]

_MARKERS = "osD^vPX*"  # each arm's shape says again what its colour says
_PATH_POINTS = 24  # of a hacking path, where noise would tangle it

# Colours that occur nowhere else: _figure_svg() turns them into the page's CSS variables.
_INK, _MUTED, _GRID, _PAPER = "#010101", "#010102", "#010103", "#010104"
_VARIABLES = {_INK: "ink", _MUTED: "muted", _GRID: "grid", _PAPER: "card"}


def curve_figure(
    rows: Sequence[Row],
    name: str,
    curves: Sequence[Curve | None],
    references: dict[str, float],
    index: int,
    wide: bool,
) -> str:
    """One quantity over training, a line an arm.

    Args:
        rows: the arms.
        name: of the quantity.
        curves: one an arm; None where an arm has it not.
        references: known values of it.
        index: of this figure among those of its kind.
        wide: whether it fills the page's width, or half of it.
    """
    heading = COLUMNS.get(name, name)
    over = "environment steps" if name in COLUMNS else "steps"

    def draw(axes: Axes) -> None:
        for row, curve in zip(rows, curves, strict=True):
            if curve:
                _draw_curve(axes, row.index, curve, len(rows))
        axes.margins(x=0.01, y=0.08)
        _draw_references(axes, references, labels=True)
        axes.set_xlabel(over)
        axes.set_ylabel(heading)

    ends = [
        f"{row.arm.label} ends at {_end(row, name, curve)}"
        for row, curve in zip(rows, curves, strict=True)
        if curve
    ]
    text = f"Curves of {heading} over {over}, one line an arm. {'; '.join(ends)}."
    longest = max((len(f"{k} {v:.4g}") for k, v in references.items()), default=0)
    right = min(3.0, 0.15 + 0.078 * longest)
    size = (9.0, 3.7) if wide else (4.4, 2.7)
    return _svg(draw, size, f"curve{index}", text, {"curve": name}, right)


def _end(row: Row, name: str, curve: Curve) -> str:
    """The last value of a curve: as in the table, where that has it."""
    if name in row.cells:
        return show(row.cells[name])
    finite = curve.point[np.isfinite(curve.point)]
    return f"{finite[-1]:.4g}" if len(finite) else "n/a"


def paid_figure(row: Row, curve: Curve | None) -> str | None:
    """What an arm was paid over training; None where it was not recorded."""
    if curve is None:
        return None

    def draw(axes: Axes) -> None:
        _draw_curve(axes, row.index, curve, 1)
        axes.margins(x=0.02, y=0.12)
        axes.set_xlabel("environment steps")
        axes.set_ylabel("specified return")

    text = f"Specified return of {row.arm.label} over steps, ending at {show(row.paid)}."
    data = {"curve": "return", "only": row.index}
    return _svg(draw, (2.6, 2.0), f"paid{row.index}", text, data)


def hacking_figures(
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
    text += f"from the open circle to objective {show(row.objective)}."
    return _svg(draw, (2.6, 2.4), f"hack{row.index}", text, {"path": row.index})


def colour(index: int) -> str:
    """The colour of an arm, for Matplotlib; the page turns it into one that suits its setting."""
    return f"#0102{index % len(_MARKERS):02x}"


def draw_runs(axes: Any, curves: Mapping[str, Any], key: str, index: int, label: str) -> None:
    """A thin line a run, through the points that have a number; for an experiment's own figures.

    Args:
        axes: of Matplotlib.
        curves: of an arm, (seeds, points) by name, ``step`` among them.
        key: which of them.
        index: of the colour.
        label: in the legend, once.
    """
    for row, (x, y) in enumerate(zip(curves["step"], curves[key], strict=True)):
        known = np.isfinite(y)  # not in every iteration does an episode end
        name = None if row else label
        axes.plot(x[known], y[known], color=colour(index), lw=1, label=name)


def _draw_curve(axes: Axes, index: int, curve: Curve, arms: int) -> None:
    own, marker = colour(index), _MARKERS[index % len(_MARKERS)]
    band = axes.fill_between(curve.steps, curve.low, curve.high, color=own, alpha=0.16, lw=0)
    band.set_gid(f"arm{index}-band")
    every = max(1, len(curve.steps) // 5)
    # Marks of different arms are set apart, so that equal curves stay recognisable.
    start = (index * every) // max(1, arms)
    (line,) = axes.plot(
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
    line.set_gid(f"arm{index}-line")


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
    data: dict[str, Any],
    right: float = 0.08,
) -> str:
    """Draws one set of axes of the page's own, in which the page's script finds values.

    Args:
        draw: fills the axes.
        size: (width, height) in inches.
        name: prefix of the ids, which must differ between the plots of a page.
        text: what a screen reader says.
        data: which curve or path it shows, for the script.
        right: inches kept free on the right.
    """
    from markupsafe import escape
    from matplotlib.ticker import EngFormatter, MaxNLocator

    data = dict(data)
    width, height = size
    left, bottom, top = 0.62, 0.46, 0.10

    def fill(figure: matplotlib.figure.Figure) -> None:
        axes = figure.add_axes(
            (
                left / width,
                bottom / height,
                (width - left - right) / width,
                1 - (bottom + top) / height,
            )
        )
        axes.set_axisbelow(True)
        axes.grid(axis="y")
        draw(axes)
        wide = width > 5
        axes.xaxis.set_major_locator(MaxNLocator(6 if wide else 3))
        axes.yaxis.set_major_locator(MaxNLocator(6 if wide else 4))
        if axes.get_xlabel().endswith("steps"):
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        # The bounds of each axis, and their places in points from the upper left corner.
        across = *axes.get_xlim(), 72 * left, 72 * (width - right)
        up = *axes.get_ylim(), 72 * (height - bottom), 72 * top
        for key, ends in (("x", across), ("y", up)):
            data[key] = " ".join(f"{end:.9g}" for end in ends)

    svg = _figure_svg(fill, size, name, text)
    attributes = "".join(f'data-{k}="{escape(str(v))}" ' for k, v in data.items())
    return svg.replace("<svg ", f"<svg {attributes}", 1)


def own_figure(figure: Figure, results: Results, index: int) -> str:
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


def _number_logarithm(axis: Any) -> None:
    """Write numbers at the ticks of a logarithm, not formulas, which nothing here sets.

    Less than a few decades have numbers between the powers too, as Matplotlib chooses them.
    """
    from matplotlib.ticker import LogFormatter

    class Number(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    base = axis.get_transform().base
    for set_formatter in (axis.set_major_formatter, axis.set_minor_formatter):
        set_formatter(Number(base))


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
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                if axis.get_scale() == "log":
                    _number_logarithm(axis)
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
