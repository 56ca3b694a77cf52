"""Preference data: the field's formats read into one, split by prompt, noise added to labels.

Formats, told apart by their columns: ``prompt, chosen, rejected`` (text, messages or token ids);
``chosen, rejected`` of whole conversations (Anthropic's HH as text with turns, or messages), whose
common beginning is the prompt; ranked ``prompt, responses, ranks | scores``; UltraFeedback
``instruction, completions``; HelpSteer2 ``prompt, response_1, response_2, preference_strength``;
one-to-many ``problem, chosen, rejected [k]`` (RewardMATH). A column ``subset`` (RewardBench) is
kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .records import DataError, Record, read_records

Text = str | list[int]  # text, or token ids
_TURN = "\n\nAssistant:"
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt, the better one first.

    Args:
        prompt: text, or token ids.
        chosen: the better response.
        rejected: the other.
        strength: of the preference (HelpSteer2's 1 to 3, or a difference of scores); a margin.
        weight: of the row.
        flipped: whether noise exchanged the two.
        subset: category of the pair, as in RewardBench.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    strength: float = 1.0
    weight: float = 1.0
    flipped: bool = False
    subset: str = ""


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
        lengths = sorted(len(y) for p in self.pairs for y in (p.chosen, p.rejected))
        quantile = {f"length q{q}": lengths[(len(lengths) - 1) * q // 100] for q in (5, 50, 95)}
        longer = sum(len(p.chosen) > len(p.rejected) for p in self.pairs) / len(self.pairs)
        dropped = {f"dropped, {cause}": n for cause, n in self.dropped.items()}
        return {"rows": len(self), **dropped, **quantile, "chosen longer": longer}


def load_pairs(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    template: Callable[[list[dict[str, str]]], str] | None = None,
    on_identical: str = "raise",
    vocab_size: int | None = None,
) -> PairData:
    """Read preference data of any of the formats above.

    Args:
        path: file or folder.
        columns: from this project's column names to the file's.
        template: writes the messages of a prompt as text, with the turn of the assistant opened;
            ``ChatTemplate`` makes one.
        on_identical: "raise" or "drop", for rows whose two responses are the same.
        vocab_size: of the model that token ids are for.

    Raises:
        DataError: naming file, line and field of the first row that cannot be used.
    """
    if on_identical not in ("raise", "drop"):
        raise ValueError(f"on_identical={on_identical!r}: expected raise or drop")
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for record in read_records(path, columns):
        found = list(_pairs(record, template))
        dropped["no preference"] += not found
        for pair in found:
            for name in ("prompt", "chosen", "rejected"):
                check_text(record, name, getattr(pair, name), vocab_size)
            if pair.chosen == pair.rejected:
                if on_identical == "raise":
                    raise record.error("rejected", "equals chosen (on_identical='drop' leaves out)")
                dropped["identical"] += 1
                continue
            pairs.append(pair)
    return PairData(pairs, {cause: n for cause, n in dropped.items() if n})


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
    """Write jsonl with the columns that TRL and ``load_pairs`` read."""
    lines = []
    for p in data.pairs:
        row = {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
        lines.append(json.dumps({**row, "margin": p.strength, "flipped": p.flipped}))
    Path(path).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def number(record: Record, name: str) -> float:
    """A field as a finite number, or a ``DataError`` that names it."""
    try:
        value = float(record[name])
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise record.error(name, f"{record[name]!r}: expected a number") from None
    _check_finite(record, name, [value])
    return value


def check_text(record: Record, name: str, value: Any, vocab_size: int | None) -> None:
    """Raise ``DataError`` unless ``value`` is text, or token ids of the vocabulary."""
    if isinstance(value, list) and all(type(x) is int for x in value):
        wrong = [x for x in value if x < 0 or (vocab_size is not None and x >= vocab_size)]
        if wrong:
            raise record.error(name, f"token {wrong[0]}: expected 0 to {vocab_size or 'any'}")
    elif not isinstance(value, str):
        raise record.error(name, f"expected text or token ids, not {type(value).__name__}")
    if not value or (isinstance(value, str) and not value.strip()):
        raise record.error(name, "empty")


def _pairs(record: Record, template: Any) -> Iterator[Pair]:
    if "preference_strength" in record:
        yield from _helpsteer(record)
    elif "responses" in record:
        yield from _ranked(record, record["responses"])
    elif "completions" in record and "instruction" in record:
        yield from _ultrafeedback(record)
    elif isinstance(record.fields.get("rejected"), list) and "problem" in record:
        for rejected in record["rejected"]:
            yield Pair(record["problem"], record["chosen"], rejected)
    else:
        yield _pair(record, template)


def _pair(record: Record, template: Any) -> Pair:
    chosen, rejected = record["chosen"], record["rejected"]
    given = [name for name in ("margin", "strength") if name in record]
    strength = number(record, given[0]) if given else 1.0
    weight = number(record, "weight") if "weight" in record else 1.0
    flipped = bool(record.fields.get("flipped", False))
    subset = str(record.fields.get("subset") or "")
    if _is_messages(chosen) or _is_messages(rejected):
        prompt = list(record.fields.get("prompt") or [])
        turns = [[*prompt, *chosen], [*prompt, *rejected]]
        for name, messages in zip(("chosen", "rejected"), turns, strict=True):
            _check_roles(record, name, messages)
        if template is None:
            raise record.error("chosen", "holds messages: give template=ChatTemplate(...)")
        if turns[0][:-1] != turns[1][:-1]:
            raise record.error("rejected", "differs from chosen before the last message")
        question: Text = template(turns[0][:-1])
        best, other = turns[0][-1]["content"], turns[1][-1]["content"]
    elif "prompt" in record:
        question, best, other = record["prompt"], chosen, rejected
    else:
        question = _common_turns(record, chosen, rejected)
        best, other = chosen[len(question) :], rejected[len(question) :]
    return Pair(question, best, other, strength, weight, flipped, subset)


def _common_turns(record: Record, chosen: Any, rejected: Any) -> str:
    """The common beginning of two conversations, cut where the assistant's last turn opens."""
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise record.error("prompt", "missing; without it chosen and rejected must be text")
    end = chosen.rfind(_TURN)
    if end < 0 or chosen[:end] != rejected[: rejected.rfind(_TURN)]:
        raise record.error("chosen", f"no turns in common with rejected up to {_TURN.strip()!r}")
    return chosen[: end + len(_TURN)]


def _helpsteer(record: Record) -> Iterator[Pair]:
    strength = number(record, "preference_strength")
    if not -3 <= strength <= 3:
        raise record.error("preference_strength", f"{strength:g}: expected -3 to 3")
    first, second = record["response_1"], record["response_2"]
    if strength:  # positive: the second is better
        best, other = (second, first) if strength > 0 else (first, second)
        yield Pair(record["prompt"], best, other, strength=abs(strength))


def _ranked(record: Record, responses: Sequence[Text]) -> Iterator[Pair]:
    name = "scores" if "scores" in record else "ranks"
    values = [float(x) * (1 if name == "scores" else -1) for x in record[name]]
    if len(values) != len(responses) or len(values) < 2:
        raise record.error(name, f"{len(values)} of them for {len(responses)} responses")
    _check_finite(record, name, values)
    for i, best in enumerate(responses):
        for j, other in enumerate(responses):
            if values[i] > values[j]:
                gap = values[i] - values[j]
                weight = 1.0 / (len(responses) - 1)
                yield Pair(record["prompt"], best, other, strength=gap, weight=weight)


def _ultrafeedback(record: Record) -> Iterator[Pair]:
    rows = record["completions"]
    try:
        scores = [float(row["overall_score"]) for row in rows]
        answers = [row["response"] for row in rows]
    except (KeyError, TypeError, ValueError):
        raise record.error("completions", "expected response and overall_score in each") from None
    fields = {"prompt": record["instruction"], "scores": scores}
    yield from _ranked(Record(record.file, record.line, fields), answers)


def _check_finite(record: Record, name: str, values: Sequence[float]) -> None:
    for value in values:
        if not math.isfinite(value):
            raise record.error(name, f"{value}: expected a finite number")


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _check_roles(record: Record, name: str, messages: Sequence[Mapping[str, str]]) -> None:
    before = ""
    for message in messages:
        role = message.get("role")
        if role not in _ROLES or not isinstance(message.get("content"), str):
            raise record.error(name, f"message {message!r}: expected a role and a text content")
        if role == before and role != "tool":
            raise record.error(name, f"two messages of {role!r} in a row")
        before = role
    if before != "assistant":
        raise record.error(name, f"ends with a message of {before!r}, expected 'assistant'")
