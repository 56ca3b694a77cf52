"""Rows of preference and prompt data from local files: jsonl, json, csv, parquet, folders.

A row keeps the file and line it came from, so that every later complaint can say where it is.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INSTALL = 'pip install "rewardzoo[rlhf]"'
_SPLITS = ("train", "validation", "valid", "val", "dev", "test")
_ABOUT = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")


class DataError(ValueError):
    """A row cannot be used; the message names file, line and field."""


@dataclass(frozen=True)
class Record:
    """One row.

    Args:
        file: its name, from the folder on where a folder was read.
        line: in the file, from 1; the number of the row where a file has no lines.
        fields: column to value.
    """

    file: str
    line: int
    fields: Mapping[str, Any]

    @property
    def origin(self) -> str:
        """File and line, as errors name them."""
        return f"{self.file}, line {self.line}"

    def error(self, field: str, message: str) -> DataError:
        """A ``DataError`` about one of its fields."""
        return DataError(f"{self.origin}, field {field!r}: {message}")

    def __contains__(self, field: str) -> bool:
        return self.fields.get(field) is not None

    def __getitem__(self, field: str) -> Any:
        if field not in self:
            raise self.error(field, f"missing; the row has {', '.join(sorted(self.fields))}")
        return self.fields[field]


def read_records(
    path: str | Path, columns: Mapping[str, str] | None = None, split: str | None = None
) -> list[Record]:
    """Read a file, or the data files of a folder and of the folders in it.

    A folder may be one of ``datasets``, of one data set or of several splits, or a copy of a
    repository of the Hugging Face hub.

    Args:
        path: ``.jsonl``, ``.json`` (a list of objects) or ``.csv``, each of which may be
            compressed (``.gz``), ``.parquet``, or a folder.
        columns: from this project's column names to the file's, as ``{"prompt": "question"}``;
            they take the place of columns of those names.
        split: of a folder that has several, as files (``test.jsonl``,
            ``test-00000-of-00001.parquet``) and folders are called; without it, ``train``.

    Raises:
        DataError: for a file that cannot be read, with its line; for a folder whose splits do not
            say what to read.
    """
    file = Path(path)
    if not file.exists():
        raise DataError(f"path={str(path)!r}: there is no such file or folder")
    if file.is_dir():
        records = _read_folder(file, split)
    elif split is not None:
        raise DataError(f"split={split!r}: {file.name} is a file; give it for a folder only")
    elif _kind(file) in _READERS:
        records = list(_READERS[_kind(file)](file, file.name))
    else:
        raise DataError(f"path={str(path)!r}: expected one of {_known()} or a folder")
    if not records:
        raise DataError(f"path={str(path)!r}: no rows")
    if columns:
        records = [_renamed(record, columns) for record in records]
    return records


def _renamed(record: Record, columns: Mapping[str, str]) -> Record:
    for name, own in columns.items():
        if own not in record.fields:
            raise record.error(own, f"missing; columns= maps {name!r} to it")
    own_names = set(columns.values())
    fields = {key: value for key, value in record.fields.items() if key not in own_names}
    fields.update({name: record.fields[own] for name, own in columns.items()})
    return Record(record.file, record.line, fields)


def _read_jsonl(file: Path, name: str) -> Iterator[Record]:
    for number, line in enumerate(_text(file, name).split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{name}, line {number}: not JSON ({error.msg})") from None
        if not isinstance(fields, dict):
            raise DataError(f"{name}, line {number}: expected a JSON object")
        yield Record(name, number, fields)


def _read_json(file: Path, name: str) -> Iterator[Record]:
    try:
        rows = json.loads(_text(file, name))
    except json.JSONDecodeError as error:
        raise DataError(f"{name}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{name}: expected a JSON list of objects")
    for number, row in enumerate(rows, 1):
        yield Record(name, number, row)


def _read_csv(file: Path, name: str) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(_text(file, name), newline=""))
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{name}, line {reader.line_num}: not csv ({error})") from None
        if row is None:
            return
        if None in row or None in row.values():
            raise DataError(
                f"{name}, line {reader.line_num}: expected {len(reader.fieldnames or ())} "
                "fields, as in the header"
            )
        yield Record(name, reader.line_num, row)


def _read_parquet(file: Path, name: str) -> Iterator[Record]:
    try:
        import pyarrow.parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise DataError(f"{name}: parquet needs pyarrow ({_INSTALL})") from None
    try:
        table = pyarrow.parquet.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: not a whole parquet file ({reason}); copy it again") from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield Record(name, number, row)


def _text(file: Path, name: str) -> str:
    content = file.read_bytes()
    if file.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{name}: not a whole gzip file ({error}); copy it again") from None
    try:
        return content.decode("utf-8-sig")  # spreadsheets put a mark before the first column
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise DataError(f"{name}, line {line}: byte {byte:#x} is not UTF-8; save it so") from None


def _kind(file: Path) -> str:
    return (file.with_suffix("") if file.suffix == ".gz" else file).suffix


def _known() -> str:
    return ", ".join(_READERS)


def _read_folder(folder: Path, split: str | None) -> list[Record]:
    if (folder / "dataset_dict.json").is_file():
        names = json.loads(_text(folder / "dataset_dict.json", "dataset_dict.json"))["splits"]
        name = _choose(folder, names, split)
        return _read_arrow(folder / name, f"{folder.name}/{name}")
    if (folder / "dataset_info.json").is_file() or (folder / "state.json").is_file():
        return _read_arrow(folder, folder.name)
    parts: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if not hidden and file.name not in _ABOUT and _kind(file) in _READERS and file.is_file():
            parts.setdefault(_split_of(inside), []).append(file)
    if not parts:
        raise DataError(f"path={str(folder)!r}: no file of {_known()} is in it")
    files = parts[_choose(folder, list(parts), split)]
    return [
        record
        for file in files
        for record in _READERS[_kind(file)](file, file.relative_to(folder).as_posix())
    ]


def _read_arrow(folder: Path, name: str) -> list[Record]:
    try:
        import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise DataError(f"{name}: a datasets folder needs {_INSTALL}") from None
    rows = datasets.load_from_disk(str(folder))
    return [Record(name, i, dict(row)) for i, row in enumerate(rows, 1)]


def _split_of(file: Path) -> str:
    """The split that a file is of by its name or folder, "" if they say none."""
    if shard := re.match(r"(.+)-\d{5}-of-\d{5}", file.name):
        return shard[1]
    said = [part for part in (file.name.split(".")[0], *file.parts) if part in _SPLITS]
    return said[0] if said else ""


def _choose(folder: Path, splits: Sequence[str], split: str | None) -> str:
    """Never several of them: what is kept for testing must not be trained on."""
    names = ", ".join(name or "files of none" for name in sorted(splits))
    if split is not None:
        if split not in splits:
            raise DataError(f"split={split!r}: {folder.name} has {names}")
        return split
    if len(splits) == 1:
        return splits[0]
    if "train" in splits and "" not in splits:
        return "train"
    raise DataError(f"path={str(folder)!r}: it has {names}; give split= or one file's path")


_READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
