"""Files of labelled messages: what a judge may be replaced by, and what it is measured on."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from .tasks import PAIR

_MAX_BYTES = 256  # a message of the game is no longer


class LabelError(ValueError):
    """A file of labels that cannot be used; the message names file and line."""


def read_labels(path: str | Path) -> dict[str, float]:
    """Labels by message.

    Args:
        path: a JSON object ``{message: 0 or 1}``, or JSONL with ``{"message", "label"}`` or
            ``{"a", "b", "choice": 1, 2 or null}`` a line.

    Raises:
        LabelError: for anything else, a message that is too long, or two labels for one message.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{file}: {error}") from None
    return _parse(text, str(file))


def shipped_messages() -> dict[str, float]:
    """The labelled messages of NetHack that come with the project; see ``messages.md``."""
    name = "messages.jsonl"
    return _parse(resources.files(__package__).joinpath(name).read_text("utf-8"), name)


def _parse(text: str, source: str) -> dict[str, float]:
    whole = _json(text)
    if isinstance(whole, dict) and not {"message", "a"} & whole.keys():
        rows = [(f"{source}, key {k!r}", {"message": k, "label": v}) for k, v in whole.items()]
    else:
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                rows.append((f"{source}, line {number}", _json(line)))
    labels: dict[str, float] = {}
    for where, row in rows:
        message, label = _row(where, row)
        if labels.setdefault(message, label) != label:
            raise LabelError(f"{where}: {message!r} has another label above")
    if not labels:
        raise LabelError(f"{source}: it holds no labels")
    return labels


def _row(where: str, row: Any) -> tuple[str, float]:
    if isinstance(row, dict) and {"message", "label"} <= row.keys():
        label = row["label"]
        if type(label) is not int or label not in (0, 1):
            raise LabelError(f"{where}: label={label!r}: expected 0 or 1")
        return _message(where, row["message"]), float(label)
    if isinstance(row, dict) and {"a", "b", "choice"} <= row.keys():
        choice = row["choice"]
        if choice not in (1, 2, None) or isinstance(choice, (bool, float)):
            raise LabelError(f"{where}: choice={choice!r}: expected 1, 2 or null")
        pair = PAIR.join(_message(where, row[key]) for key in ("a", "b"))
        return pair, {1: 1.0, 2: 0.0, None: 0.5}[choice]
    raise LabelError(f"{where}: expected {{message, label}} or {{a, b, choice}}, got {row!r:.80}")


def _message(where: str, message: Any) -> str:
    if not isinstance(message, str):
        raise LabelError(f"{where}: message={message!r:.80}: expected a text")
    if len(message.encode()) > _MAX_BYTES:
        raise LabelError(f"{where}: a message of more than {_MAX_BYTES} bytes")
    return message


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
