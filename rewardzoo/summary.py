"""The numbers of a report: of each arm and curve the interquartile mean and its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics.statistics import Interval, bootstrap_curve, stratified_bootstrap
from .results import COLUMNS, ArmResult, Results

Array = NDArray[np.float64]

_POINTS = 160  # longer curves are averaged in blocks


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


def rows_of(results: Results) -> list[Row]:
    """The rows of the table, one an arm."""
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


def evaluated(arms: Sequence[ArmResult]) -> bool:
    """Whether evaluations stand for what was measured while training: where all arms have them."""
    return bool(arms) and all(f"eval_{key}" in arm.curves for arm in arms for key in COLUMNS)


def curve_names(arms: Sequence[ArmResult]) -> list[str]:
    """The curves that any arm has, the objective's first and the specified return's second."""
    found = dict.fromkeys(
        name
        for arm in arms
        for name, values in arm.curves.items()
        if name not in ("step", "eval_step") and np.isfinite(values).any()
    )
    own = [k for k in found if k.removeprefix("eval_") not in COLUMNS]
    return [k for k in ("objective", "return") if k in found or f"eval_{k}" in found] + own


def curves_of(arms: Sequence[ArmResult]) -> dict[str, list[Curve | None]]:
    """Every curve that has more than a point, by name, one an arm; None where an arm has it not."""
    prefix = "eval_" if evaluated(arms) else ""
    curves = {
        name: [curve_of(arm, prefix + name if name in COLUMNS else name) for arm in arms]
        for name in curve_names(arms)
    }
    return {k: v for k, v in curves.items() if any(c and len(c.steps) > 1 for c in v)}


def curve_of(arm: ArmResult, key: str) -> Curve | None:
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


def column_digits(rows: Sequence[Row]) -> dict[str, int | None]:
    """Decimals of each column; returns are paid in units of each arm's own, so each has its own."""
    keys = rows[0].cells if rows else ()
    return {
        key: None if key == "return" else _shared_digits(row.cells[key] for row in rows)
        for key in keys
    }


def has_gap(results: Results) -> bool:
    """Whether the optimum is known, and what is left to it can be shown."""
    return "optimal" in results.references and "objective" in results.columns


def _shared_digits(intervals: Iterable[Interval | None]) -> int | None:
    digits = [d for d in map(_digits, intervals) if d is not None]
    return min(4, max(digits)) if digits else None


def show(interval: Interval | None, digits: int | None = None) -> str:
    """An interval in words, with so many decimals or as many as its width is worth."""
    if interval is None:
        return "n/a"
    digits = _digits(interval) if digits is None else digits
    form: Callable[[float], str]
    form = (lambda x: f"{x:.4g}") if digits is None else (lambda x: f"{x + 0.0:.{digits}f}")
    if not math.isfinite(interval.low):
        return f"{form(interval.point)} [one seed]"
    return f"{form(interval.point)} [{form(interval.low)}, {form(interval.high)}]"
