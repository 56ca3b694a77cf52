"""Pairs as tensors, for trainers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .data import PairData, Text
from .records import DataError
from .sequences import Sequences, concatenate, pack


@dataclass(frozen=True)
class PairBatch:
    """B prompts, each with a better and a worse completion."""

    chosen: Sequences
    rejected: Sequences
    strength: Tensor  # (B,)
    weight: Tensor  # (B,)

    def __len__(self) -> int:
        return len(self.strength)

    @property
    def both(self) -> Sequences:
        """The chosen, then the rejected: 2 B rows for one forward pass."""
        return concatenate(self.chosen, self.rejected)

    def take(self, index: Tensor) -> PairBatch:
        """Some of the pairs."""
        return PairBatch(
            self.chosen.rows(index),
            self.rejected.rows(index),
            self.strength[index],
            self.weight[index],
        )


@dataclass(frozen=True)
class RatingBatch:
    """B responses, each with one or several ratings."""

    responses: Sequences
    ratings: Tensor  # (B, attributes)
    weight: Tensor  # (B,)

    def __len__(self) -> int:
        return len(self.weight)

    def take(self, index: Tensor) -> RatingBatch:
        """Some of the responses."""
        return RatingBatch(self.responses.rows(index), self.ratings[index], self.weight[index])


def encode_pairs(
    data: PairData,
    encode: Callable[[str], list[int]] | None = None,
    eos: int | None = None,
    max_length: int = 0,
) -> PairBatch:
    """Tensors of all pairs.

    Args:
        data: the pairs.
        encode: text to token ids, without special tokens; not needed where data hold ids.
        eos: ends each completion that does not end so already.
        max_length: of a sequence, 0 for none.

    Raises:
        DataError: naming the row whose responses become the same, or empty, by truncation.
    """
    ids, ended = encoder(encode, eos)
    pairs = data.pairs
    prompts = [ids(i, "prompt", p.prompt) for i, p in enumerate(pairs)]
    chosen = [ended(ids(i, "chosen", p.chosen)) for i, p in enumerate(pairs)]
    rejected = [ended(ids(i, "rejected", p.rejected)) for i, p in enumerate(pairs)]
    # One prompt must be cut the same for both of its completions.
    cut = []
    for x, y, z in zip(prompts, chosen, rejected, strict=True):
        room = max(1, max_length - max(len(y), len(z))) if max_length else len(x)
        cut.append(x[-room:] if x else x)
    packed = [pack(cut, each, max_length) for each in (chosen, rejected)]
    for i, (y, z) in enumerate(zip(*map(_lists, packed), strict=True)):
        if y == z:
            raise DataError(f"row {i}, field 'rejected': equals chosen at max_length={max_length}")
    return PairBatch(
        packed[0],
        packed[1],
        torch.tensor([p.strength for p in pairs]),
        torch.tensor([p.weight for p in pairs]),
    )


def encoder(
    encode: Callable[[str], list[int]] | None, eos: int | None
) -> tuple[Callable[[int, str, Text], list[int]], Callable[[list[int]], list[int]]]:
    """From (row, field, text) to token ids, and what ends a completion with ``eos``."""

    def ids(row: int, field: str, text: Text) -> list[int]:
        if isinstance(text, str):
            if encode is None:
                raise DataError(f"row {row}, field {field!r}: text; give encode=, a tokenizer")
            return encode(text)
        return list(text)

    def ended(tokens: list[int]) -> list[int]:
        return tokens if eos is None or tokens[-1:] == [eos] else [*tokens, eos]

    return ids, ended


def minibatches(n: int, size: int, seed: int, first: int, last: int) -> Iterator[Tensor]:
    """Indices of steps ``first`` to ``last`` of endless epochs; any step can be gone on from."""
    if size < 1 or size > n:
        raise ValueError(f"batch_size={size}: expected 1 to {n}, the number of rows")
    per_epoch = n // size
    order, epoch = torch.empty(0, dtype=torch.int64), -1
    for step in range(first, last):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(n, generator=generator)
        start = (step % per_epoch) * size
        yield order[start : start + size]


def _lists(batch: Sequences) -> Sequence[list[int]]:
    return [row[: int(n)] for row, n in zip(batch.completions.tolist(), batch.lengths, strict=True)]
