"""Pairs as tensors, for trainers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .data import PairData
from .fields import Text
from .records import DataError
from .sequences import Sequences, concatenate, moved, pack


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

    def to(self, device: torch.device | str) -> PairBatch:
        """The pairs on ``device``."""
        return PairBatch(
            self.chosen.to(device),
            self.rejected.to(device),
            moved(self.strength, device),
            moved(self.weight, device),
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

    def to(self, device: torch.device | str) -> RatingBatch:
        """The responses on ``device``."""
        ratings, weight = moved(self.ratings, device), moved(self.weight, device)
        return RatingBatch(self.responses.to(device), ratings, weight)


def truncate_pairs(
    data: PairData,
    encode: Callable[[str], list[int]] | None = None,
    eos: int | None = None,
    max_length: int = 0,
) -> PairData:
    """The pairs as token ids that fit, without and counting those that became the same.

    A prompt loses its beginning, the same for both of its completions, then a completion its end.
    ``encode_pairs`` of the result makes tensors of it, a row for each pair that is left.

    Args:
        data: the pairs.
        encode: text to token ids, without special tokens; not needed where data hold ids.
        eos: ends each completion that does not end so already.
        max_length: of a sequence, 0 for none.

    Raises:
        DataError: naming the row of a prompt that leaves no room for a completion.

    Example:
        >>> from rewardzoo.rlhf.data import Pair
        >>> data = PairData([Pair([1], [2, 3], [2, 4]), Pair([1], [5, 6], [7])])
        >>> truncate_pairs(data, max_length=2).dropped
        {'identical as tokens': 1}
    """
    ids, ended = encoder(encode, eos)
    kept = []
    for i, pair in enumerate(data.pairs):
        row = pair.origin or f"row {i}"
        prompt = ids(row, "prompt", pair.prompt)
        check_room(row, prompt, max_length)
        chosen = ended(ids(row, "chosen", pair.chosen))
        rejected = ended(ids(row, "rejected", pair.rejected))
        if max_length and prompt:
            prompt = prompt[-max(1, max_length - max(len(chosen), len(rejected))) :]
        if max_length:
            room = max_length - len(prompt)
            chosen, rejected = chosen[:room], rejected[:room]
        if chosen != rejected:
            kept.append(replace(pair, prompt=prompt, chosen=chosen, rejected=rejected))
    same = len(data) - len(kept)
    return PairData(kept, {**data.dropped, **({"identical as tokens": same} if same else {})})


def encode_pairs(
    data: PairData,
    encode: Callable[[str], list[int]] | None = None,
    eos: int | None = None,
    max_length: int = 0,
) -> PairBatch:
    """Tensors of all pairs that differ within ``max_length``; arguments as for ``truncate_pairs``.

    Warns of the pairs that it leaves out; who needs the others by row takes ``truncate_pairs``
    first.

    Raises:
        DataError: naming the row of a prompt that leaves no room for a completion; if no pair is
            left.
    """
    fitting = truncate_pairs(data, encode, eos, max_length)
    pairs, left_out = fitting.pairs, len(data) - len(fitting)
    if not pairs:
        raise DataError(f"data: no pair is left, {dict(fitting.dropped)} dropped")
    if left_out:
        warnings.warn(
            f"{left_out} of {len(data)} pairs left out: as tokens, cut to max_length={max_length}, "
            "their responses are the same",
            stacklevel=2,
        )
    ids, _ = encoder(None, None)  # they are ids already
    prompts = [ids("", "prompt", p.prompt) for p in pairs]
    strengths = [1.0 if p.strength is None else p.strength for p in pairs]
    return PairBatch(
        pack(prompts, [ids("", "chosen", p.chosen) for p in pairs]),
        pack(prompts, [ids("", "rejected", p.rejected) for p in pairs]),
        torch.tensor(strengths),
        torch.tensor([p.weight for p in pairs]),
    )


def encode_responses(
    rows: Sequence[tuple[str, Text, Text]],
    encode: Callable[[str], list[int]] | None = None,
    eos: int | None = None,
    max_length: int = 0,
) -> Sequences:
    """A batch of (where the row is from, prompt, response); arguments as for ``truncate_pairs``.

    Raises:
        DataError: naming the row of a prompt that leaves no room for a completion.
    """
    ids, ended = encoder(encode, eos)
    prompts, responses = [], []
    for i, (origin, prompt, response) in enumerate(rows):
        row = origin or f"row {i}"
        prompts.append(ids(row, "prompt", prompt))
        check_room(row, prompts[-1], max_length)
        responses.append(ended(ids(row, "response", response)))
    return pack(prompts, responses, max_length)


def check_room(row: str, prompt: Sequence[int], max_length: int) -> None:
    """Raise ``DataError`` if a prompt leaves no token of ``max_length`` for its completion."""
    if max_length and len(prompt) >= max_length:
        raise DataError(
            f"{row}, field 'prompt': {len(prompt)} tokens, expected fewer than "
            f"max_length={max_length}; raise it or leave the row out"
        )


def encoder(
    encode: Callable[[str], list[int]] | None, eos: int | None
) -> tuple[Callable[[str, str, Text], list[int]], Callable[[list[int]], list[int]]]:
    """From (row, field, text) to token ids, and what ends a completion with ``eos``."""

    def ids(row: str, field: str, text: Text) -> list[int]:
        if isinstance(text, str):
            if encode is None:
                raise DataError(f"{row}, field {field!r}: text; give encode=, a tokenizer")
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
