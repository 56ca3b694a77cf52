"""Many answers to an instruction with a gold score each: what best-of-n curves are made of.

Format: ``instruction``, optionally ``input``, ``answers [N], gold_scores [N]`` and, where a reward
model has scored them already, ``proxy_scores [N]`` (Coste et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .conversations import read_instruction
from .fields import Text, numbers, texts
from .pairs import encode_responses
from .records import read_records
from .sequences import Sequences


@dataclass(frozen=True)
class Answers:
    """N answers to a prompt.

    Args:
        prompt: text, or token ids.
        answers: N texts, or lists of token ids.
        gold: (N,) true rewards.
        proxy: (N,) a reward model's, () where the row has none.
        origin: file and line of the row, for errors.
    """

    prompt: Text
    answers: tuple[Text, ...]
    gold: tuple[float, ...]
    proxy: tuple[float, ...] = ()
    origin: str = field(default="", compare=False)


def load_answers(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    vocab_size: int | None = None,
    split: str | None = None,
) -> list[Answers]:
    """Read answers with their scores.

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
        prompt = read_instruction(record, vocab_size)
        answers = texts(record, "answers", vocab_size)
        gold = numbers(record, "gold_scores", len(answers), "answers")
        given = "proxy_scores" in record
        proxy = numbers(record, "proxy_scores", len(answers), "answers") if given else []
        found.append(Answers(prompt, tuple(answers), tuple(gold), tuple(proxy), record.origin))
    return found


def encode_answers(
    data: Sequence[Answers],
    encode: Callable[[str], list[int]] | None = None,
    eos: int | None = None,
    max_length: int = 0,
) -> Sequences:
    """A batch of all answers, those of the first instruction first; see ``truncate_pairs``.

    Raises:
        DataError: naming the row of a prompt that leaves no room for an answer.
    """
    rows = [(x.origin, x.prompt, answer) for x in data for answer in x.answers]
    return encode_responses(rows, encode, eos, max_length)
