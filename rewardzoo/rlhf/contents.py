"""What a file of language-model data holds, told by its first row, and a summary of it."""

from __future__ import annotations

from pathlib import Path

from .answers import load_answers
from .contrast import load_contrast
from .data import load_pairs, load_prompts
from .fields import has_text
from .inputs import some_pairs
from .ratings import load_ratings
from .records import Record, read_records
from .stepwise import load_stepwise
from .templates import ChatTemplate


def kind_of(row: Record) -> str:
    """``pairs``, ``ratings``, ``answers``, ``contrast``, ``steps``, or ``prompts`` alone."""
    if "answers" in row:
        return "answers"
    if "query" in row:
        return "contrast"
    if "labels" in row and "completions" in row:
        return "steps"
    compared = ("preference_strength", "responses", "completions")
    if has_text(row, "chosen") or any(name in row for name in compared):
        return "pairs"
    if has_text(row, "response") or has_text(row, "completion"):
        return "ratings"
    return "prompts"


def summary(
    path: Path, template: ChatTemplate, vocab_size: int | None = None, split: str | None = None
) -> dict[str, float]:
    """Numbers by name of a file whose every row can be used.

    Args:
        path: file or folder.
        template: writes messages as text.
        vocab_size: of the model that token ids are for.
        split: of a folder that has several; without it, ``train``.

    Raises:
        ValueError: naming file, line and field of the first row that cannot be used; or where no
            row of pairs is left.
    """
    kind = kind_of(read_records(path, split=split)[0])
    if kind == "pairs":
        data = load_pairs(path, None, template, "drop", vocab_size, split)
        return some_pairs(path, data).report()
    if kind == "ratings":
        rated = load_ratings(path, (), None, vocab_size, template, split)
        return {"rated responses": len(rated), "ratings each": len(rated[0].ratings)}
    if kind == "answers":
        answers = load_answers(path, None, vocab_size, split)
        return {"prompts": len(answers), "answers": sum(len(x.answers) for x in answers)}
    if kind == "contrast":
        return {"pairs of instructions": len(load_contrast(path, None, vocab_size, split))}
    if kind == "steps":
        steps = load_stepwise(path, None, template, vocab_size, split)
        return {"completions": len(steps), "steps": sum(len(x.steps) for x in steps)}
    return {"prompts": len(load_prompts(path, None, template, vocab_size, split))}
