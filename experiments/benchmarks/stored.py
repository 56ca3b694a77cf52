"""Readings in a file: each row with its benchmark and revision, so that one can be measured anew.

A file holds one machine's readings, and is only ever replaced whole.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rewardzoo.disk import check_writable

from .timing import Point, Row, write_json

_MACHINE = ("processor", "cores", "system")


def check_place(path: Path, hardware: Mapping[str, Any]) -> None:
    """Raise ValueError unless readings of this hardware can be kept in the file."""
    if not path.absolute().parent.is_dir():
        raise ValueError(f"out={str(path)!r}: its folder does not exist; make it first")
    check_writable("--out", path.parent)
    held = _read(path).get("hardware", hardware)
    for key in _MACHINE:
        if held[key] != hardware[key]:
            raise ValueError(
                f"out={str(path)!r}: its readings are of another machine ({key} {held[key]}, here "
                f"{hardware[key]}); use another file"
            )


def put(
    path: Path,
    found: Mapping[str, Sequence[Row]],
    setting: Mapping[str, Any],
    benchmarks: Sequence[str],
) -> None:
    """Put the rows of the benchmarks that were run in the place of those that the file has.

    Args:
        path: of the file, new or of the same machine.
        found: rows by benchmark.
        setting: of ``timing.setting``, before the first reading.
        benchmarks: all that there are, in the order of their rows; those of others are dropped.
    """
    revision = setting["versions"]["rewardzoo"]
    fresh = [
        replace(row, benchmark=name, revision=revision)
        for name, rows in found.items()
        for row in rows
    ]
    replaced = {row.name for row in fresh}
    kept = [row for row in _rows(path) if _stays(row, found, replaced, benchmarks)]
    order = {name: i for i, name in enumerate(benchmarks)}
    rows = sorted(kept + fresh, key=lambda row: order.get(row.benchmark, len(order)))
    revisions = ", ".join(dict.fromkeys(row.revision for row in rows)) or revision
    versions = {**setting["versions"], "rewardzoo": revisions}
    write_json(path, rows, {**setting, "versions": versions})


def _stays(
    row: Row, ran: Collection[str], replaced: Collection[str], benchmarks: Collection[str]
) -> bool:
    """Whether a row of the file is kept; one that tells no benchmark is known by its name."""
    if not row.benchmark:
        return row.name not in replaced
    return row.benchmark in benchmarks and row.benchmark not in ran


def _rows(path: Path) -> list[Row]:
    """The file's; one that tells no revision is of the file's."""
    held = _read(path)
    known = {field.name for field in fields(Row)}
    rows = []
    for line in held.get("rows", []):
        point = line["point"] and Point(**line["point"])
        told = {key: value for key, value in line.items() if key in known}
        revision = line.get("revision") or held["versions"]["rewardzoo"]
        rows.append(Row(**{**told, "point": point, "revision": revision}))
    return rows


def _read(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"hardware", "versions", "rows"} <= set(found):
        raise ValueError(f"out={str(path)!r}: it holds no readings; use another file")
    return found
