"""The page of speed: what ``rewardzoo bench --out docs/benchmarks/NAME.json`` has measured."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rewardzoo.results import write_atomic

STORED = Path(__file__).parent / "benchmarks"
INTRO = """# Speed

Ratios to peers, measured in the same run: contenders are read in turn, several times over, and a
ratio is the median of the ratios of neighbouring readings. Absolute numbers on a shared machine
mean little; a bar that is missed says so.

```bash
mkdir -p docs/benchmarks
rewardzoo bench --out docs/benchmarks/here.json
```
"""


def write_speed(out: Path) -> None:
    """Write the page, and a picture for each stored run."""
    chapters = [INTRO]
    files = sorted(STORED.glob("*.json"))
    for file in files:
        run = json.loads(file.read_text())
        plot(run["rows"], out / f"speed-{file.stem}.svg")
        chapters.append(chapter(file.stem, run))
    if not files:
        chapters.append("No run is stored in `docs/benchmarks`; the command above makes one.\n")
    write_atomic(out / "speed.md", "\n".join(chapters))


def chapter(name: str, run: dict[str, Any]) -> str:
    """One stored run: hardware, picture, table."""
    hardware, rows = run["hardware"], run["rows"]
    versions = ", ".join(f"{k} {v}" for k, v in run["versions"].items())
    load = "" if hardware.get("load") is None else f", load {hardware['load']:.1f} at the end"
    lines = [
        f"## {name}",
        "",
        f"{hardware['processor']}, {hardware['cores']} cores, {hardware['system']}{load}. "
        f"{versions}.",
        "",
        f"![Ratios to peers of the run {name}, with their bars](speed-{name}.svg)",
        "",
        "| benchmark | result | least to most | bar | | medians |",
        "|---|---|---|---|---|---|",
        *map(line, rows),
        "",
    ]
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    title = f"{row['name']}<br><small>{row['note']}</small>" if row["note"] else row["name"]
    values = row["values"]
    if not values:
        return f"| {title} | not measured | | | | |"
    bar = "" if row["bar"] is None else f"{'≤' if row['at_most'] else '≥'} {shown(row, row['bar'])}"
    medians = "<br>".join(
        f"{who} {quantity(statistics.median(found), row['unit'])}"
        for who, found in row["readings"].items()
    )
    met = {True: "met", False: "**missed**", None: ""}[row.get("met")]
    span = f"{shown(row, min(values))} to {shown(row, max(values))}"
    return f"| {title} | {shown(row, row['median'])} | {span} | {bar} | {met} | {medians} |"


def shown(row: dict[str, Any], x: float) -> str:
    """A ratio, or a reading in its unit."""
    return f"{x:.3g} ×" if row["times"] else quantity(x, row["unit"])


def quantity(x: float, unit: str) -> str:
    """A number in its unit, seconds in the unit that suits them."""
    if unit != "s":
        return f"{x:,.0f} {unit}"
    for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if x * factor >= 1 or name == "µs":
            return f"{x * factor:.3g} {name}"
    raise AssertionError


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Every ratio over its bar, on a log scale: a reading right of the line meets it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    held = [row for row in rows if row["values"] and row["bar"]][::-1]
    plt.rcParams["svg.hashsalt"] = "rewardzoo"  # equal numbers, equal files
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.3 * max(1, len(held))), layout="constrained")
    for i, row in enumerate(held):
        over = [(row["bar"] / v if row["at_most"] else v / row["bar"]) for v in row["values"]]
        colour = "tab:blue" if row["met"] else "tab:orange"
        axes.plot([min(over), max(over)], [i, i], color=colour, lw=2)
        axes.plot(statistics.median(over), i, "o", color=colour)
    axes.axvline(1.0, color="grey", lw=1)
    axes.set(xscale="log", xlabel="result over its bar (right of the line: met)")
    axes.set_yticks(range(len(held)), [row["name"] for row in held], fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
