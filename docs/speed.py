"""The page of speed: what ``make bench`` and ``make soak`` have stored, a file a machine."""

from __future__ import annotations

import json
import math
import re
import statistics
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import judges

from rewardzoo.files import write_atomic

STORED = Path(__file__).parent / "benchmarks"
INTRO = """# Speed

Ratios to peers, measured in the same run: contenders are read in turn, several times over, and a
ratio is the median of the ratios of neighbouring readings. Absolute numbers on a shared machine
mean little, which is why each machine below says how busy it was before; a bar that is missed says
so. One command measures all of it on your machine, and adds a column to this page:

```bash
make bench  # into docs/benchmarks; make bench RUN=laptop gives it a name
make soak   # the memory of half an hour of training, into the same file
```

`rewardzoo bench --only scaling_envs --out here.json` runs one benchmark alone.
"""
Run = dict[str, Any]  # what a file holds
Row = dict[str, Any]  # of it


def write_speed(out: Path) -> None:
    """Write the page and its pictures."""
    runs = {file.stem: json.loads(file.read_text()) for file in sorted(STORED.glob("*.json"))}
    chapters = [INTRO]
    if runs:
        chapters += [machines(runs), *ratios(runs, out), *curves(runs, out), *readings(runs)]
    else:
        chapters.append("No run is stored in `docs/benchmarks`; the command above makes one.\n")
    chapters.append(judges.chapter())
    write_atomic(out / "speed.md", "\n".join(chapters))


def machines(runs: dict[str, Run]) -> str:
    """What each run was measured on and with."""
    lines = ["## Machines", "", "| run | processor | load before | with | date |"]
    lines.append("|---|---|---|---|---|")
    for name, run in runs.items():
        hardware = run["hardware"]
        load = "" if hardware["load"] is None else f"{hardware['load']:.1f}"
        versions = ", ".join(f"{k} {v}" for k, v in run["versions"].items())
        processor = f"{hardware['processor']}, {hardware['cores']} cores<br>{hardware['system']}"
        lines.append(f"| {name} | {processor} | {load} | {versions} | {run['date']} |")
    return "\n".join([*lines, ""])


# ---- ratios to peers -----------------------------------------------------------------------------


def ratios(runs: dict[str, Run], out: Path) -> list[str]:
    """Every bar, with what each run made of it; nothing where no run has one."""
    held = {
        name: {row["name"]: row for row in run["rows"] if row["values"] and row["bar"]}
        for name, run in runs.items()
    }
    benchmarks = list(dict.fromkeys(name for rows in held.values() for name in rows))
    if not benchmarks:
        return []
    plot_ratios(held, benchmarks, out / "speed-bars.svg")
    lines = [
        "## Bars",
        "",
        "![Each benchmark's result over its bar, one mark a run](speed-bars.svg)",
        "",
        "| benchmark | bar | " + " | ".join(runs) + " |",
        "|---|---|" + "---|" * len(runs),
    ]
    for benchmark in benchmarks:
        found = [rows.get(benchmark) for rows in held.values()]
        first = next(row for row in found if row)
        cells = " | ".join("" if row is None else result(row) for row in found)
        lines.append(f"| {benchmark} | {bar(first)} | {cells} |")
    return ["\n".join([*lines, ""])]


def result(row: Row) -> str:
    """What was found, and whether it meets the bar."""
    return f"{shown(row, row['median'])} {'met' if row['met'] else '**missed**'}"


def plot_ratios(held: dict[str, dict[str, Row]], benchmarks: list[str], path: Path) -> None:
    """Every result over its bar, on a log scale: what is right of the line meets it."""
    from matplotlib.ticker import LogLocator, NullLocator

    labels = [textwrap.fill(name, 48) for name in benchmarks]
    height = 0.17 * sum(label.count("\n") + 2 for label in labels)
    with figure((9, 1.2 + height), path) as canvas:
        axes = canvas.subplots()
        for j, (name, rows) in enumerate(held.items()):
            shift = 0.5 * ((j + 0.5) / len(held) - 0.5)
            axes.plot([], [], "o-", color=f"C{j}", label=name)
            for i, benchmark in enumerate(benchmarks):
                if row := rows.get(benchmark):
                    values, bar = row["values"], row["bar"]
                    over = [bar / v if row["at_most"] else v / bar for v in values]
                    axes.plot([min(over), max(over)], [i + shift] * 2, color=f"C{j}", lw=2)
                    axes.plot(statistics.median(over), i + shift, "o", color=f"C{j}")
        axes.axvline(1.0, color="grey", lw=1)
        axes.set(xscale="log", xlabel="result over its bar; right of the line: met")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(range(len(benchmarks)), labels, fontsize=8)
        axes.set_ylim(len(benchmarks) - 0.5, -0.5)
        canvas.legend(loc="outside upper right", ncols=len(held))


# ---- cost against size ---------------------------------------------------------------------------


def curves(runs: dict[str, Run], out: Path) -> list[str]:
    """A picture and a table of every curve; one panel a run."""
    titles: dict[str, dict[str, list[Row]]] = {}
    for name, run in runs.items():
        for row in run["rows"]:
            if row["point"]:
                titles.setdefault(row["point"]["curve"], {}).setdefault(name, []).append(row)
    if not titles:
        return []
    chapters = [
        "## Cost against size\n\n"
        "Lines are medians, bands go from the least to the greatest reading. Dotted: the first "
        "contender's cost if it fell in proportion, which is all that overhead can do, and the "
        "best that cores can.\n"
    ]
    for title, found in titles.items():
        picture = f"speed-{re.sub(r'[^a-z]+', '-', title.lower())}.svg"
        plot_curve(found, {name: panel_title(name, runs[name]) for name in found}, out / picture)
        chapters.append(curve(title, found, picture))
    return chapters


def curve(title: str, found: dict[str, list[Row]], picture: str) -> str:
    """One curve: picture and table."""
    rows = [row for part in found.values() for row in part]
    contenders = list(dict.fromkeys(name for row in rows for name in row["readings"]))
    (along,) = {row["point"]["along"] for row in rows}
    note = rows[0]["note"]
    whose = ["run"] if len(found) > 1 else []
    head = [*whose, along, *contenders, "times cheaper"]
    lines = [
        f"### {title}",
        "",
        f"![{title}: cost against {along}, one line a contender]({picture})",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for name, part in found.items():
        for row in part:
            costs = [
                quantity(statistics.median(row["readings"][c]), row["unit"])
                if c in row["readings"]
                else ""
                for c in contenders
            ]
            at = f"{row['point']['at']:,}"
            cells = [*([name] if whose else []), at, *costs, shown(row, row["median"])]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Times cheaper: {note}.", ""])


def panel_title(name: str, run: Run) -> str:
    """A run and what it ran on."""
    hardware = run["hardware"]
    return f"{name}\n{hardware['processor']}, {hardware['cores']} cores"


def plot_curve(found: dict[str, list[Row]], titles: dict[str, str], path: Path) -> None:
    """Cost over size, one panel a run, equal axes; on log scales where it falls far."""
    from matplotlib.ticker import EngFormatter, NullFormatter, NullLocator

    every = [
        v for rows in found.values() for row in rows for r in row["readings"].values() for v in r
    ]
    far = max(every) > 10 * min(every)
    columns = min(3, len(found))
    lines = math.ceil(len(found) / columns)
    with figure((2.5 + 4.0 * columns, 3.0 * lines), path) as canvas:
        panels = canvas.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        used = list(zip(panels.flat, found.items(), strict=False))
        for panel in panels.flat[len(found) :]:
            panel.set_visible(False)
        for panel, (name, rows) in used:
            x = [row["point"]["at"] for row in rows]
            for marker, contender in zip("osD^v", rows[0]["readings"], strict=False):
                y = [row["readings"][contender] for row in rows]
                panel.fill_between(x, *([f(v) for v in y] for f in (min, max)), alpha=0.2, lw=0)
                panel.plot(x, [statistics.median(v) for v in y], f"{marker}-", label=contender)
            panel.set(xscale="log", xlabel=rows[0]["point"]["along"])
            panel.set_title(titles[name], fontsize=9)
            panel.set_xticks(x, [f"{n:,}" for n in x])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.grid(alpha=0.3)
        first = panels.flat[0]
        first.set_yscale("log" if far else "linear")
        first.set_ylim(None if far else 0.0)
        limits = first.get_ylim()  # which the guides must not stretch
        for panel, _ in used:
            x, y = panel.lines[0].get_data()
            finer = [x[0] * (x[-1] / x[0]) ** (i / 50) for i in range(51)]
            panel.plot(finer, [y[0] * x[0] / n for n in finer], ":", color="grey", lw=1.3, zorder=1)
            panel.yaxis.set_major_formatter(EngFormatter("s"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        first.set_ylim(limits)
        handles, labels = first.get_legend_handles_labels()
        if len(labels) > 1:
            canvas.legend(handles, labels, loc="outside right center")


@contextmanager
def figure(size: tuple[float, float], path: Path) -> Iterator[Any]:
    """A figure of so many inches to be drawn into, then written; equal numbers make equal files."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "rewardzoo", "font.size": 9}):
        canvas = Figure(figsize=size, layout="constrained")
        yield canvas
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, metadata={"Date": None})


# ---- every reading -------------------------------------------------------------------------------


def readings(runs: dict[str, Run]) -> list[str]:
    """The table of each run: what lies on no curve, with the contenders' own numbers."""
    chapters = []
    for name, run in runs.items():
        rows = [row for row in run["rows"] if not row["point"]]
        if rows:
            head = "| benchmark | result | least to most | bar | | medians |"
            chapters.append("\n".join([f"## Run {name}", "", head, "|---|---|---|---|---|---|"]))
            chapters[-1] += "\n" + "\n".join(map(line, rows)) + "\n"
    return chapters


def line(row: Row) -> str:
    """One row of the table."""
    title = f"{row['name']}<br><small>{row['note']}</small>" if row["note"] else row["name"]
    values = row["values"]
    if not values:
        return f"| {title} | not measured | | | | |"
    medians = "<br>".join(
        f"{who} {quantity(statistics.median(found), row['unit'])}"
        for who, found in row["readings"].items()
    )
    met = {True: "met", False: "**missed**", None: ""}[row.get("met")]
    span = f"{shown(row, min(values))} to {shown(row, max(values))}"
    return f"| {title} | {shown(row, row['median'])} | {span} | {bar(row)} | {met} | {medians} |"


def bar(row: Row) -> str:
    """What a row must reach."""
    if row["bar"] is None:
        return ""
    return f"{'≤' if row['at_most'] else '≥'} {shown(row, row['bar'])}"


def shown(row: Row, x: float) -> str:
    """A ratio, or a reading in its unit."""
    return f"{_short(x)} ×" if row["times"] else quantity(x, row["unit"])


def quantity(x: float, unit: str) -> str:
    """A number in its unit, seconds in the unit that suits them."""
    if unit != "s":
        return f"{_short(x)} {unit}"
    for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
        if x * factor >= 1 or name == "ns":
            return f"{x * factor:.3g} {name}"
    raise AssertionError


def _short(x: float) -> str:
    """Three digits, without a power of ten."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"
