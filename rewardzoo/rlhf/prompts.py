"""Prompts as trainers that sample ask for them, and the other columns of their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .sequences import pack


class RandomPrompts:
    """Prompts of token ids, drawn at random.

    Args:
        ids: of each prompt.
        room: most tokens of a prompt; a longer one loses its beginning.
    """

    def __init__(self, ids: Iterable[Sequence[int]], room: int) -> None:
        self.ids = [list(each)[-room:] for each in ids]

    def draw(self, n: int, generator: torch.Generator) -> list[list[int]]:
        """``n`` of them, with replacement."""
        rows = torch.randint(len(self.ids), (n,), generator=generator, device=generator.device)
        return [self.ids[i] for i in rows.tolist()]

    def __call__(self, n: int, generator: torch.Generator) -> Tensor | tuple[Tensor, Tensor]:
        """(n, P) int64, and the mask (n, P) where some are padded on the left."""
        found, mask = padded(self.draw(n, generator))
        return found if mask is None else (found, mask)


def padded(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Prompts (B, P) padded on the left, and their mask, None where there is no padding."""
    batch = pack(ids, [[0]] * len(ids))
    return batch.prompts, batch.prompt_mask


def columns_by_ids(
    rows: Sequence[Mapping[str, Any]], ids: Sequence[Sequence[int]]
) -> dict[tuple[int, ...], dict[str, Any]]:
    """The columns of each prompt by its token ids, as ``CallableReward`` asks for them.

    A column that has two values for one prompt is left out, as nothing says which is meant.

    Args:
        rows: column to value; None where a row lacks another's column.
        ids: of each row's prompt, cut as it will be completed.

    Example:
        >>> columns_by_ids([{"answer": 4, "by": "a"}, {"answer": 4, "by": "b"}], [[7], [7]])
        {(7,): {'answer': 4}}
    """
    names = {name for row in rows for name in row}
    found: dict[tuple[int, ...], Mapping[str, Any]] = {}
    for row, each in zip(rows, ids, strict=True):
        first = found.setdefault(tuple(each), row)
        names = {name for name in names if first.get(name) == row.get(name)}
    return {each: {name: row.get(name) for name in sorted(names)} for each, row in found.items()}
