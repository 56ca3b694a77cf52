"""A reward model, or a policy's implicit reward, measured on a file of preferences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rewardzoo.metrics.statistics import wilson

from .calibration import preference_calibration
from .data import load_pairs
from .evaluation import (
    REWARD_BENCH,
    accuracy,
    by_subset,
    one_to_many_margins,
    reward_bench,
)
from .folders import TextModel, load_model, load_reward_model
from .offline import reference_logps
from .pairs import PairBatch, encode_pairs, truncate_pairs
from .records import Record, read_records
from .reward_models import margins
from .templates import ChatTemplate


def assess(
    data: Path,
    reward: Path | None,
    model: str | None,
    ref: str | None,
    max_length: int,
    template: Callable[[TextModel], ChatTemplate],
    split: str | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Metrics by name: accuracy, calibration, categories, one-to-many.

    Args:
        data: file of pairs.
        reward: folder of a reward model; or
        model: a policy, whose log-ratio to
        ref: the reference policy is the reward.
        max_length: of a sequence.
        template: of the rows' messages, given the model.
        split: of a folder that has several.
        device: where the models compute.

    Raises:
        ValueError: unless either ``reward``, or ``model`` and ``ref``, are given; for a margin
            that is no finite number.
    """
    if (reward is None) == (model is None) or (model is None) != (ref is None):
        raise ValueError("--reward: expected a folder, or else --model and --ref")
    score: Callable[[PairBatch], torch.Tensor]
    if reward is not None:
        learned, text, trained_with = load_reward_model(reward)
        learned.to(device)
        score = lambda batch: margins(learned, batch)  # noqa: E731
        trained_with.check_same(template(text))
    else:
        text, other = load_model(str(model)), load_model(str(ref))
        text.model.to(device)
        other.model.to(device)
        score = lambda batch: _implicit(text, other, batch)  # noqa: E731
    size = text.model.vocab_size
    read = load_pairs(data, None, template(text), "drop", size, split)
    pairs = truncate_pairs(read, text.encode, text.model.eos, max_length)
    batch = encode_pairs(pairs)
    found = score(batch.to(device)).cpu().numpy()
    share = accuracy(found)
    correct = (found > 0) + 0.5 * (found == 0)
    low, high = wilson(float(correct.sum()), len(correct))
    metrics = {
        "pairs": float(len(found)),
        **{f"dropped, {cause}": float(n) for cause, n in pairs.dropped.items()},
        "accuracy": share,
        "accuracy, low": low,
        "accuracy, high": high,
        **preference_calibration(found),
        "mean margin": float(found.mean()),
    }
    lengths = batch.chosen.lengths - batch.rejected.lengths
    metrics["accuracy where chosen is shorter"] = _mean(correct[(lengths < 0).numpy()])
    if any(pair.subset for pair in pairs.pairs):
        metrics.update(_categories(correct, [pair.subset for pair in pairs.pairs]))
    # Which pairs are of one problem is known by their row, for not all of its pairs may be left.
    rows = {record.origin for record in read_records(data, split=split) if _one_to_many(record)}
    at = [i for i, pair in enumerate(pairs.pairs) if pair.origin in rows]
    if at:
        many = one_to_many_margins(found[at], [pairs.pairs[i].origin for i in at])
        metrics.update({f"one-to-many {k}": v for k, v in many.items()})
    return metrics


def _categories(correct: Any, subsets: list[str]) -> dict[str, float]:
    """Accuracy by category; of RewardBench's categories, by its sections too."""
    known = {name for names in REWARD_BENCH.values() for name in names}
    if not set(subsets) <= known:
        by = by_subset(correct, subsets)
        return {f"subset {k}" if k != "score" else k: v for k, v in by.items()}
    kinds = {**dict.fromkeys(known, "subset "), **dict.fromkeys(REWARD_BENCH, "section ")}
    return {kinds.get(k, "") + k: v for k, v in reward_bench(correct, subsets).items()}


def _one_to_many(record: Record) -> bool:
    return "problem" in record and isinstance(record.fields.get("rejected"), list)


def _implicit(text: TextModel, ref: TextModel, batch: PairBatch) -> torch.Tensor:
    now, before = reference_logps(text.model, batch), reference_logps(ref.model, batch)
    return (now[0] - before[0]) - (now[1] - before[1])


def _mean(x: Any) -> float:
    return float(x.mean()) if len(x) else float("nan")
