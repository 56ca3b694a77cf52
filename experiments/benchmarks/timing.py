"""Interleaved readings, their ratios, and how a benchmark reports them.

Absolute times on a shared machine mean little. So every comparison reads its contenders in turn,
one after the other, several times over, and a ratio is the median of the ratios of neighbouring
readings, with the smallest and the largest.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from rewardzoo.files import write_atomic
from rewardzoo.jobs import provenance

REPEATS = 5
PACKAGES = ("nle", "stable-baselines3", "jax", "gymnax", "transformers", "trl")


@dataclass(frozen=True)
class Point:
    """Where a row lies on a curve of cost against size; its readings are the heights there.

    Args:
        curve: title of the picture, one line a contender.
        along: what grows, the label of its horizontal axis.
        at: how many.
    """

    curve: str
    along: str
    at: int


@dataclass(frozen=True)
class Row:
    """One line of the report: a reading or a ratio, and the bar that it must meet.

    Args:
        name: what is compared.
        readings: of each contender, one number a repeat.
        unit: of the readings.
        values: what the bar is about, one number a repeat: ratios, or the readings themselves.
        bar: the number to meet; None where there is none.
        at_most: whether smaller is better.
        times: whether ``values`` are ratios.
        note: settings that a reader must know, or why it could not be measured.
        extra: what else is stored.
        point: where it lies on a curve; None where it is on none.
        benchmark: whose it is, and
        revision: of what was measured, once it is stored.
    """

    name: str
    readings: dict[str, list[float]]
    unit: str
    values: list[float]
    bar: float | None = None
    at_most: bool = False
    times: bool = True
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    point: Point | None = None
    benchmark: str = ""
    revision: str = ""

    @property
    def median(self) -> float:
        """The number that is held against the bar."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none, or nothing was measured."""
        if self.bar is None or not self.values:
            return None
        return self.median <= self.bar if self.at_most else self.median >= self.bar


def missing(name: str, note: str) -> Row:
    """The row of a comparison that could not be made."""
    return Row(name, {}, "", [], note=note)


def ratio(
    name: str,
    readings: Mapping[str, list[float]],
    unit: str,
    over: str,
    under: str,
    **rest: Any,
) -> Row:
    """The row that compares contender ``over`` with contender ``under``, repeat by repeat."""
    pairs = zip(readings[over], readings[under], strict=True)
    kept = {k: readings[k] for k in (over, under)}
    return Row(name, kept, unit, [a / b for a, b in pairs], **rest)


def cheaper(point: Point, readings: Mapping[str, list[float]], than: list[float], note: str) -> Row:
    """The row of a point: how many times its first contender's seconds go into ``than``."""
    first = next(iter(readings.values()))
    name = f"{point.curve}, {point.along}: {point.at:,}"
    values = [a / b for a, b in zip(than, first, strict=True)]
    return Row(name, dict(readings), "s", values, note=note, point=point)


def interleave(
    contenders: Mapping[str, Callable[[], float]], repeats: int = REPEATS
) -> dict[str, list[float]]:
    """``repeats`` readings of each contender, taken in turn."""
    readings: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, read in contenders.items():
            readings[name].append(read())
    return readings


def seconds_per_call(call: Callable[[], Any], budget: float = 0.3) -> Callable[[], float]:
    """A reading: seconds a call, over as many calls as fit ``budget`` seconds; warms up first."""
    for _ in range(3):
        call()
    start = time.perf_counter()
    call()
    count = max(1, round(budget / max(time.perf_counter() - start, 1e-7)))

    def read() -> float:
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count

    return read


def peak_megabytes(work: Callable[[], Any], every: float = 0.01) -> float:
    """Do some work; the most memory that the process held meanwhile, beyond what it held before."""
    import psutil

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc's: what was freed is given back,
        ctypes.CDLL(None).malloc_trim(0)  # or whoever comes second would find it and need none
    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(every):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return float(max(peak, process.memory_info().rss) - before) / 1e6


def inverse(rate: Callable[[], float]) -> Callable[[], float]:
    """A reading in seconds an item, of one in items a second."""
    return lambda: 1.0 / rate()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def table(rows: list[Row]) -> Table:
    """All rows, for the terminal."""
    out = Table(box=None, padding=(0, 2, 1, 0))
    for heading in ("benchmark", "result", "min to max", "bar", "", "medians"):
        out.add_column(heading, overflow="fold")
    for row in rows:
        if not row.values:
            out.add_row(_titled(row), "not measured")
            continue
        bar = "" if row.bar is None else f"{'<=' if row.at_most else '>='} {_value(row, row.bar)}"
        medians = "\n".join(
            f"{k} {_number(statistics.median(v), row.unit)}" for k, v in row.readings.items()
        )
        span = f"{_value(row, min(row.values))} to {_value(row, max(row.values))}"
        met = {True: "met", False: "MISSED", None: ""}[row.met]
        out.add_row(_titled(row), _value(row, row.median), span, bar, met, medians)
    return out


def setting() -> dict[str, Any]:
    """Where, when and with what is measured; the load is that before the first reading."""
    versions = provenance("cpu")
    del versions["hardware"]
    date = versions.pop("date")
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"date": date, "hardware": hardware(), "versions": versions}


def write_json(path: Path, rows: list[Row], setting: Mapping[str, Any]) -> None:
    """Every reading, and what ``setting`` said."""
    found = []
    for row in rows:
        summary = {"median": row.median, "met": row.met} if row.values else {}
        found.append({**asdict(row), **summary})
    write_atomic(path, json.dumps({**setting, "rows": found}, indent=1) + "\n")


def hardware() -> dict[str, Any]:
    """The processor, how many of its cores may be used, and how busy they are with others."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = models[0] if models else model
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": model,
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": load,
    }


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _titled(row: Row) -> str:
    return f"{row.name}\n[dim]{escape(row.note)}[/dim]" if row.note else row.name


def _value(row: Row, x: float) -> str:
    return f"{x:.3g} x" if row.times else _number(x, row.unit)


def _number(x: float, unit: str) -> str:
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
            if x * factor >= 1.0:
                return f"{x * factor:.3g} {name}"
        return f"{x * 1e9:.3g} ns"
    return f"{x:,.0f} {unit}" if abs(x) >= 10.0 else f"{x:.2g} {unit}"
