"""Rows of preference and prompt data from local files: jsonl, json, csv, parquet, folders.

A row keeps the file and line it came from, so that every later complaint can say where it is.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INSTALL = 'pip install "rewardzoo[rlhf]"'


class DataError(ValueError):
    """A row cannot be used; the message names file, line and field."""


@dataclass(frozen=True)
class Record:
    """One row.

    Args:
        file: its name.
        line: in the file, from 1.
        fields: column to value.
    """

    file: str
    line: int
    fields: Mapping[str, Any]

    def error(self, field: str, message: str) -> DataError:
        """A ``DataError`` about one of its fields."""
        return DataError(f"{self.file}, line {self.line}, field {field!r}: {message}")

    def __contains__(self, field: str) -> bool:
        return self.fields.get(field) is not None

    def __getitem__(self, field: str) -> Any:
        if field not in self:
            raise self.error(field, f"missing; the row has {', '.join(sorted(self.fields))}")
        return self.fields[field]


def read_records(path: str | Path, columns: Mapping[str, str] | None = None) -> list[Record]:
    """Read a file, or every data file of a folder (a folder of ``datasets`` as one data set).

    Args:
        path: ``.jsonl``, ``.json`` (a list of objects), ``.csv``, ``.parquet``, or a folder.
        columns: from this project's column names to the file's, as ``{"prompt": "question"}``.

    Raises:
        DataError: for a file that cannot be read, with its line.
    """
    file = Path(path)
    if not file.exists():
        raise DataError(f"path={str(path)!r}: there is no such file or folder")
    if file.is_dir():
        records = _read_folder(file)
    elif file.suffix in _READERS:
        records = list(_READERS[file.suffix](file))
    else:
        raise DataError(f"path={str(path)!r}: expected one of {', '.join(_READERS)} or a folder")
    if not records:
        raise DataError(f"path={str(path)!r}: no rows")
    if columns:
        records = [_renamed(record, columns) for record in records]
    return records


def _renamed(record: Record, columns: Mapping[str, str]) -> Record:
    for name, own in columns.items():
        if own not in record.fields:
            raise record.error(own, f"missing; columns= maps {name!r} to it")
    own_names = {own: name for name, own in columns.items()}
    fields = {own_names.get(key, key): value for key, value in record.fields.items()}
    return Record(record.file, record.line, fields)


def _read_jsonl(file: Path) -> Iterator[Record]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{file.name}, line {number}: not JSON ({error.msg})") from None
            if not isinstance(fields, dict):
                raise DataError(f"{file.name}, line {number}: expected a JSON object")
            yield Record(file.name, number, fields)


def _read_json(file: Path) -> Iterator[Record]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{file.name}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file.name}: expected a JSON list of objects")
    for number, row in enumerate(rows, 1):
        yield Record(file.name, number, row)


def _read_csv(file: Path) -> Iterator[Record]:
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{file.name}, line {reader.line_num}: expected {len(reader.fieldnames or ())} "
                    "fields, as in the header"
                )
            yield Record(file.name, reader.line_num, row)


def _read_parquet(file: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise DataError(f"{file.name}: parquet needs pyarrow ({_INSTALL})") from None
    for number, row in enumerate(pyarrow.parquet.read_table(file).to_pylist(), 1):
        yield Record(file.name, number, row)


def _read_folder(folder: Path) -> list[Record]:
    if (folder / "dataset_info.json").is_file() or (folder / "state.json").is_file():
        try:
            import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise DataError(f"{folder.name}: a datasets folder needs {_INSTALL}") from None
        rows = datasets.load_from_disk(str(folder))
        return [Record(folder.name, i, dict(row)) for i, row in enumerate(rows, 1)]
    files = sorted(f for f in folder.iterdir() if f.suffix in _READERS)
    return [record for f in files for record in _READERS[f.suffix](f)]


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
