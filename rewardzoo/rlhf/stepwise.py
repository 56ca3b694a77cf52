"""Completions labelled step by step, as process reward models learn from and are measured on.

Format: ``prompt, completions [S], labels [S]``, one label a step, true or false or a probability
(PRM800K as TRL has it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from .conversations import Messages, read_prompt
from .fields import Text, numbers, texts
from .pairs import check_room, encoder
from .records import DataError, read_records
from .sequences import Sequences, pack


@dataclass(frozen=True)
class Stepwise:
    """A completion in steps.

    Args:
        prompt: text, or token ids.
        steps: S texts, or lists of token ids.
        labels: (S,) of the steps, 0 to 1.
        origin: file and line of the row, for errors.
    """

    prompt: Text
    steps: tuple[Text, ...]
    labels: tuple[float, ...]
    origin: str = field(default="", compare=False)


@dataclass(frozen=True)
class StepBatch:
    """B completions of up to S steps."""

    responses: Sequences
    ends: Tensor  # (B, S) int64, column of each step's last token; the last one's after it
    labels: Tensor  # (B, S) float32, 0 after the last step
    mask: Tensor  # (B, S) bool, True where there is a step


def load_stepwise(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    template: Callable[[Messages], str] | None = None,
    vocab_size: int | None = None,
    split: str | None = None,
) -> list[Stepwise]:
    """Read completions with a label for each step.

    Args:
        path: file or folder.
        columns: from this project's column names to the file's.
        template: writes the messages of a prompt as text.
        vocab_size: of the model that token ids are for.
        split: of a folder that has several; without it, ``train``.

    Raises:
        DataError: naming file, line and field of the first row that cannot be used.
    """
    found = []
    for record in read_records(path, columns, split):
        prompt = read_prompt(record, template, vocab_size)
        steps = texts(record, "completions", vocab_size)
        labels = numbers(record, "labels", len(steps), "completions", 0.0, 1.0)
        found.append(Stepwise(prompt, tuple(steps), tuple(labels), record.origin))
    return found


def encode_stepwise(
    data: Sequence[Stepwise],
    encode: Callable[[str], list[int]] | None = None,
    eos: int | None = None,
    separator: str = "\n",
    max_length: int = 0,
) -> StepBatch:
    r"""Tensors of all completions.

    Args:
        data: the completions.
        encode: text to token ids, without special tokens; not needed where data hold ids.
        eos: ends each completion, as part of its last step.
        separator: written after each step that is text.
        max_length: of a sequence, 0 for none. No step is cut, so a row that is longer is an error.

    Raises:
        DataError: naming the row.

    Example:
        >>> batch = encode_stepwise([Stepwise([5], ([6, 7], [8]), (1.0, 0.0))], eos=1)
        >>> batch.responses.ids, batch.ends
        (tensor([[5, 6, 7, 8, 1]]), tensor([[1, 3]]))
    """
    ids, ended = encoder(encode, eos)
    prompts, completions, ends = [], [], []
    for i, x in enumerate(data):
        row = x.origin or f"row {i}"
        prompts.append(ids(row, "prompt", x.prompt))
        check_room(row, prompts[-1], max_length)
        written = [y + separator if isinstance(y, str) else y for y in x.steps]
        steps = [ids(row, "completions", y) for y in written]
        steps[-1] = ended(steps[-1])
        completions.append([token for step in steps for token in step])
        total = len(prompts[-1]) + len(completions[-1])
        if max_length and total > max_length:
            raise DataError(
                f"{row}, field 'completions': {total} tokens with the prompt, expected at most "
                f"max_length={max_length}; raise it or leave the row out"
            )
        ends.append([n - 1 for n in accumulate(map(len, steps))])
    most = max(map(len, ends))
    return StepBatch(
        pack(prompts, completions),
        torch.tensor([[*x, *[x[-1]] * (most - len(x))] for x in ends]),
        torch.tensor([[*x.labels, *[0.0] * (most - len(x.labels))] for x in data]),
        torch.tensor([[s < len(x) for s in range(most)] for x in ends]),
    )
