"""Pairs of similar instructions, each with a good response: is a reward model consistent?

Format: ``query, retrieval, query_response_k, retrieval_response_k``, two instructions and the
preferred response to each. Paper: Shen et al. (2024), "The trickle-down impact of reward
(in-)consistency on RLHF".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .fields import Text, shown, text
from .pairs import encode_responses
from .records import read_records
from .sequences import Sequences


@dataclass(frozen=True)
class Contrast:
    """Two instructions, and a response to each.

    Args:
        instructions: texts, or token ids.
        responses: in the same order.
        origin: file and line of the row, for errors.
    """

    instructions: tuple[Text, Text]
    responses: tuple[Text, Text]
    origin: str = field(default="", compare=False)


def load_contrast(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    vocab_size: int | None = None,
    split: str | None = None,
) -> list[Contrast]:
    """Read contrasting instructions.

    Args:
        path: file or folder.
        columns: from this project's column names to the file's.
        vocab_size: of the model that token ids are for.
        split: of a folder that has several; without it, ``train``.

    Raises:
        DataError: naming file, line and field of the first row that cannot be used.
    """
    found = []
    for record in read_records(path, columns, split):
        first, second = (text(record, name, vocab_size) for name in ("query", "retrieval"))
        names = ("query_response_k", "retrieval_response_k")
        good, other = (text(record, name, vocab_size) for name in names)
        for name, a, b in (("retrieval", first, second), (names[1], good, other)):
            if a == b:
                raise record.error(name, f"{shown(b)}: equals the query's; leave the row out")
        found.append(Contrast((first, second), (good, other), record.origin))
    return found


def encode_contrast(
    data: Sequence[Contrast],
    encode: Callable[[str], list[int]] | None = None,
    eos: int | None = None,
    max_length: int = 0,
) -> Sequences:
    """Both responses to both instructions, 4 rows an item; arguments as for ``truncate_pairs``.

    A model's scores (4 items,) of them, reshaped to (items, 2, 2), are what
    ``evaluation.contrast_consistency`` takes.

    Raises:
        DataError: naming the row of an instruction that leaves no room for a response.
    """
    rows = [(x.origin, q, y) for x in data for q in x.instructions for y in x.responses]
    return encode_responses(rows, encode, eos, max_length)
