"""Responses rated one by one: HelpSteer2's attributes, outcome labels, scores of any name.

Formats: ``prompt, response`` and numbers (HelpSteer2: helpfulness, correctness, coherence,
complexity, verbosity); ``prompt, completion, label`` (true or false), as for KTO and outcome
reward models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .data import Text, check_text, number
from .pairs import RatingBatch, encoder
from .records import Record, read_records
from .sequences import pack

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


@dataclass(frozen=True)
class Rated:
    """A response to a prompt, with its ratings.

    Args:
        prompt: text, or token ids.
        response: text, or token ids.
        ratings: one number an attribute.
    """

    prompt: Text
    response: Text
    ratings: tuple[float, ...]


def load_ratings(
    path: str | Path,
    attributes: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    vocab_size: int | None = None,
) -> list[Rated]:
    """Read rated responses.

    Args:
        path: file or folder.
        attributes: columns of the ratings; without any, ``label``, or those of HelpSteer2 that the
            first row has.
        columns: from this project's column names to the file's.
        vocab_size: of the model that token ids are for.

    Raises:
        DataError: naming file, line and field of the first row that cannot be used.
    """
    records = read_records(path, columns)
    names = tuple(attributes) or _attributes(records[0])
    found = []
    for record in records:
        name = "completion" if "completion" in record else "response"
        for field in ("prompt", name):
            check_text(record, field, record[field], vocab_size)
        ratings = tuple(number(record, attribute) for attribute in names)
        found.append(Rated(record["prompt"], record[name], ratings))
    return found


def encode_ratings(
    data: Sequence[Rated],
    encode: Callable[[str], list[int]] | None = None,
    eos: int | None = None,
    max_length: int = 0,
) -> RatingBatch:
    """Tensors of all rated responses; arguments as for ``encode_pairs``."""
    ids, ended = encoder(encode, eos)
    prompts = [ids(i, "prompt", x.prompt) for i, x in enumerate(data)]
    responses = [ended(ids(i, "response", x.response)) for i, x in enumerate(data)]
    ratings = torch.tensor([x.ratings for x in data], dtype=torch.float32)
    return RatingBatch(pack(prompts, responses, max_length), ratings, torch.ones(len(data)))


def _attributes(record: Record) -> tuple[str, ...]:
    if "label" in record:
        return ("label",)
    found = tuple(name for name in HELPSTEER if name in record)
    if not found:
        raise record.error("label", "missing, and no rating of HelpSteer2; give attributes=")
    return found
