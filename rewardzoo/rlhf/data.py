"""Preference data: the field's formats read into one, split by prompt, noise added to labels.

Formats, told apart by their columns: ``prompt, chosen, rejected`` (text, messages or token ids, the
last as ``prompt_ids, chosen_ids, rejected_ids`` too; the prompt as text and the responses as
messages, as UltraFeedback's pairs are, or the other way round); ``chosen, rejected`` of whole
conversations (Anthropic's HH as text with turns, or messages), whose common beginning is the
prompt; ranked ``prompt, responses, ranks | scores``; UltraFeedback ``instruction, completions``;
HelpSteer2 ``prompt, response_1, response_2, preference_strength``; one-to-many
``problem, chosen, rejected [k]`` (RewardMATH). Columns ``subset`` (RewardBench), ``id``, ``weight``
and ``flipped`` are kept.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .conversations import (
    Messages,
    Template,
    is_messages,
    read_instruction,
    read_prompt,
    read_responses,
)
from .fields import (
    Text,
    as_number,
    check_text,
    has_text,
    items,
    number,
    numbers,
    shown,
    tag,
    text,
    texts,
    truth,
    whole,
)
from .records import DataError, Record, read_records

_TURN = "\n\nAssistant:"


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt, the better one first.

    Args:
        prompt: text, or token ids.
        chosen: the better response.
        rejected: the other.
        strength: of the preference (HelpSteer2's 1 to 3, or a difference of scores), the margin of
            losses that have one; None where it is not known, which counts as 1.
        weight: of the row, >= 0.
        flipped: whether noise exchanged the two.
        subset: category of the pair, as in RewardBench.
        id: of the row.
        origin: file and line of the row, for errors and to find the pairs of one row again.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    strength: float | None = None
    weight: float = 1.0
    flipped: bool = False
    subset: str = ""
    id: str = ""
    origin: str = field(default="", compare=False)


@dataclass(frozen=True)
class PairData:
    """Pairs, and what became of the rows that they were read from.

    Args:
        pairs: the rows kept.
        dropped: how many were not, by cause.
    """

    pairs: list[Pair]
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def report(self) -> dict[str, float]:
        """Rows, dropped rows by cause, quantiles of length, and how often chosen is longer."""
        dropped = {f"dropped, {cause}": n for cause, n in self.dropped.items()}
        if not self.pairs:
            return {"rows": 0, **dropped}
        lengths = sorted(len(y) for p in self.pairs for y in (p.chosen, p.rejected))
        quantile = {f"length q{q}": lengths[(len(lengths) - 1) * q // 100] for q in (5, 50, 95)}
        longer = sum(len(p.chosen) > len(p.rejected) for p in self.pairs) / len(self.pairs)
        return {"rows": len(self), **dropped, **quantile, "chosen longer": longer}


def load_pairs(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    template: Callable[[Messages], str] | None = None,
    on_identical: str = "raise",
    vocab_size: int | None = None,
    split: str | None = None,
) -> PairData:
    """Read preference data of any of the formats above.

    Args:
        path: file or folder.
        columns: from this project's column names to the file's.
        template: writes the messages of a prompt as text, with the turn of the assistant opened;
            ``ChatTemplate`` makes one.
        on_identical: "raise" or "drop", for rows whose two responses are the same.
        vocab_size: of the model that token ids are for.
        split: of a folder that has several; without it, ``train``.

    Raises:
        DataError: naming file, line and field of the first row that cannot be used.
    """
    if on_identical not in ("raise", "drop"):
        raise ValueError(f"on_identical={on_identical!r}: expected raise or drop")
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for record in read_records(path, columns, split):
        found = list(_pairs(record, template, vocab_size))
        dropped["no preference"] += not found
        weight = number(record, "weight", 0.0) if "weight" in record else 1.0
        about: dict[str, Any] = {
            "flipped": truth(record, "flipped") if "flipped" in record else False,
            "subset": tag(record, "subset"),
            "id": tag(record, "id"),
            "origin": record.origin,
        }
        for pair in found:
            if pair.chosen == pair.rejected:
                if on_identical == "raise":
                    raise record.error(
                        "rejected",
                        f"{shown(pair.rejected)}: equals chosen (on_identical='drop' leaves out)",
                    )
                dropped["identical"] += 1
                continue
            pairs.append(replace(pair, weight=pair.weight * weight, **about))
    return PairData(pairs, {cause: n for cause, n in dropped.items() if n})


def load_prompts(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    template: Callable[[Messages], str] | None = None,
    vocab_size: int | None = None,
    split: str | None = None,
) -> list[Text]:
    """Read the prompts of rows of any format, as ``load_pairs`` and ``load_ratings`` have them.

    Args:
        path: file or folder.
        columns: from this project's column names to the file's.
        template: writes messages as text.
        vocab_size: of the model that token ids are for.
        split: of a folder that has several; without it, ``train``.

    Raises:
        DataError: naming file, line and field of the first row that cannot be used.
    """
    records = read_records(path, columns, split)
    return [_prompt(record, template, vocab_size) for record in records]


def split(data: PairData, share: float, seed: int = 0) -> tuple[PairData, PairData]:
    """Train and test parts by a hash of the prompt, so that no prompt is in both.

    Args:
        data: what to split.
        share: of the prompts that go into the test part, in (0, 1).
        seed: another seed is another split.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share}: expected a number in (0, 1)")
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in data.pairs:
        digest = hashlib.sha256(json.dumps([seed, pair.prompt]).encode()).digest()
        parts[int.from_bytes(digest[:8], "big") < share * 2**64].append(pair)
    return PairData(parts[0]), PairData(parts[1])


def check_disjoint(train: PairData, test: PairData) -> None:
    """Raise DataError if a prompt is in both."""
    prompts = {json.dumps(pair.prompt) for pair in train.pairs}
    for i, pair in enumerate(test.pairs):
        if json.dumps(pair.prompt) in prompts:
            raise DataError(f"test, row {i}, field 'prompt': it is in the training part too")


def flip(data: PairData, probability: float, seed: int = 0) -> PairData:
    """Exchange chosen and rejected at random; ``flipped`` says where."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability}: expected a number in [0, 1]")
    rng = random.Random(seed)
    pairs = [
        replace(p, chosen=p.rejected, rejected=p.chosen, flipped=not p.flipped)
        if rng.random() < probability
        else p
        for p in data.pairs
    ]
    return PairData(pairs, data.dropped)


def save_pairs(data: PairData, path: str | Path) -> None:
    """Write jsonl with the columns that TRL and ``load_pairs`` read.

    A row has a ``margin`` only where the pair's strength is known, because TRL's reward trainer
    subtracts every margin that it finds.
    """
    lines = []
    for p in data.pairs:
        row: dict[str, Any] = {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
        if p.strength is not None:
            row["margin"] = p.strength
        row.update(weight=p.weight, flipped=p.flipped, subset=p.subset, id=p.id)
        lines.append(json.dumps(row))
    Path(path).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _pairs(record: Record, template: Template | None, vocab_size: int | None) -> Iterator[Pair]:
    if "preference_strength" in record:
        yield from _helpsteer(record, template, vocab_size)
    elif "responses" in record:
        yield from _ranked(record, template, vocab_size)
    elif "completions" in record and "instruction" in record:
        yield from _ultrafeedback(record, vocab_size)
    elif isinstance(record.fields.get("rejected"), list) and "problem" in record:
        yield from _one_to_many(record, template, vocab_size)
    else:
        yield _pair(record, template, vocab_size)


def _prompt(record: Record, template: Template | None, vocab_size: int | None) -> Text:
    if "problem" in record:
        return read_prompt(record, template, vocab_size, "problem")
    if "instruction" in record and not has_text(record, "prompt"):
        return read_instruction(record, vocab_size)
    conversations = is_messages(record.fields.get("chosen")) or not has_text(record, "prompt")
    if "chosen" in record and conversations:  # which hold the prompt
        return _pair(record, template, vocab_size).prompt
    return read_prompt(record, template, vocab_size)


def _pair(record: Record, template: Template | None, vocab_size: int | None) -> Pair:
    names = ("chosen", "rejected")
    implicit = not has_text(record, "prompt")
    if implicit and not any(is_messages(record.fields.get(name)) for name in names):
        prompt, best, other = _common_turns(record, *(record[name] for name in names))
    else:
        prompt, (best, other) = read_responses(record, names, template, vocab_size)
    given = [name for name in ("margin", "strength") if name in record]
    return Pair(prompt, best, other, number(record, given[0]) if given else None)


def _common_turns(record: Record, chosen: Any, rejected: Any) -> tuple[Text, Text, Text]:
    """The common beginning of two conversations, cut where the assistant's last turn opens."""
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, str):
            raise record.error(
                "prompt", f"missing; without it {name} must be text, not {shown(value)}"
            )
    end = chosen.rfind(_TURN)
    if end < 0 or rejected.rfind(_TURN) != end or rejected[:end] != chosen[:end]:
        raise record.error(
            "chosen",
            f"{shown(chosen)}: no turns in common with rejected up to {_TURN.strip()!r}; give "
            "a column prompt",
        )
    end += len(_TURN)
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        check_text(record, name, value[end:])
    return chosen[:end], chosen[end:], rejected[end:]


def _helpsteer(record: Record, template: Template | None, vocab_size: int | None) -> Iterator[Pair]:
    strength = whole(record, "preference_strength", -3, 3)
    names = ("response_1", "response_2")
    prompt, (first, second) = read_responses(record, names, template, vocab_size)
    if strength:  # positive: the second is better
        best, other = (second, first) if strength > 0 else (first, second)
        yield Pair(prompt, best, other, float(abs(strength)))


def _ranked(record: Record, template: Template | None, vocab_size: int | None) -> Iterator[Pair]:
    prompt = read_prompt(record, template, vocab_size)
    responses = texts(record, "responses", vocab_size)
    name = "scores" if "scores" in record else "ranks"
    values = numbers(record, name, len(responses), "responses")
    if len(responses) < 2:
        raise record.error("responses", f"{shown(responses)}: expected at least two")
    best_first = values if name == "scores" else [-x for x in values]
    yield from _all_pairs(prompt, responses, best_first)


def _ultrafeedback(record: Record, vocab_size: int | None) -> Iterator[Pair]:
    answers, scores = [], []
    for i, row in enumerate(items(record, "completions")):
        if not isinstance(row, Mapping) or not {"response", "overall_score"} <= set(row):
            raise record.error(
                "completions", f"item {i}, {shown(row)}: expected response and overall_score"
            )
        where = f"item {i}, "
        answers.append(check_text(record, "completions", row["response"], vocab_size, where))
        scores.append(as_number(record, "completions", row["overall_score"], where=where))
    yield from _all_pairs(read_instruction(record, vocab_size), answers, scores)


def _one_to_many(
    record: Record, template: Template | None, vocab_size: int | None
) -> Iterator[Pair]:
    prompt = read_prompt(record, template, vocab_size, "problem")
    best = text(record, "chosen", vocab_size)
    for other in texts(record, "rejected", vocab_size):
        yield Pair(prompt, best, other)


def _all_pairs(prompt: Text, responses: list[Text], values: list[float]) -> Iterator[Pair]:
    """Pairs of unequal values, each weighted so that a response counts once."""
    for i, best in enumerate(responses):
        for j, other in enumerate(responses):
            if values[i] > values[j]:
                weight = 1.0 / (len(responses) - 1)
                yield Pair(prompt, best, other, values[i] - values[j], weight)
