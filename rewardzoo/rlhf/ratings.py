"""Responses rated one by one: HelpSteer2's attributes, outcome labels, scores of any name.

Formats: ``prompt, response`` and numbers (HelpSteer2: helpfulness, correctness, coherence,
complexity, verbosity); ``prompt, completion, label`` (true or false, or a probability), as for KTO
and outcome reward models. Prompts and responses are text, messages or token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .conversations import Messages, read_responses
from .fields import Text, has_text, number
from .pairs import RatingBatch, encode_responses
from .records import Record, read_records

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


@dataclass(frozen=True)
class Rated:
    """A response to a prompt, with its ratings.

    Args:
        prompt: text, or token ids.
        response: text, or token ids.
        ratings: one number an attribute.
        origin: file and line of the row, for errors.
    """

    prompt: Text
    response: Text
    ratings: tuple[float, ...]
    origin: str = field(default="", compare=False)


def load_ratings(
    path: str | Path,
    attributes: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    vocab_size: int | None = None,
    template: Callable[[Messages], str] | None = None,
    split: str | None = None,
) -> list[Rated]:
    """Read rated responses.

    Args:
        path: file or folder.
        attributes: columns of the ratings; without any, ``label``, or those of HelpSteer2 that the
            first row has.
        columns: from this project's column names to the file's.
        vocab_size: of the model that token ids are for.
        template: writes messages as text.
        split: of a folder that has several; without it, ``train``.

    Raises:
        DataError: naming file, line and field of the first row that cannot be used.
    """
    records = read_records(path, columns, split)
    names = tuple(attributes) or _attributes(records[0])
    found = []
    for record in records:
        response = "completion" if has_text(record, "completion") else "response"
        prompt, (answer,) = read_responses(record, [response], template, vocab_size)
        ratings = tuple(_rating(record, name) for name in names)
        found.append(Rated(prompt, answer, ratings, record.origin))
    return found


def encode_ratings(
    data: Sequence[Rated],
    encode: Callable[[str], list[int]] | None = None,
    eos: int | None = None,
    max_length: int = 0,
) -> RatingBatch:
    """Tensors of all rated responses; arguments as for ``truncate_pairs``.

    Raises:
        DataError: naming the row of a prompt that leaves no room for a response.
    """
    rows = [(x.origin, x.prompt, x.response) for x in data]
    ratings = torch.tensor([x.ratings for x in data], dtype=torch.float32)
    responses = encode_responses(rows, encode, eos, max_length)
    return RatingBatch(responses, ratings, torch.ones(len(data)))


def _rating(record: Record, name: str) -> float:
    return number(record, name, 0.0, 1.0) if name == "label" else number(record, name)


def _attributes(record: Record) -> tuple[str, ...]:
    if "label" in record:
        return ("label",)
    found = tuple(name for name in HELPSTEER if name in record)
    if not found:
        raise record.error("label", "missing, and no rating of HelpSteer2; give attributes=")
    return found
