"""A reward model, or a policy's implicit reward, measured on a file of preferences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .calibration import preference_calibration
from .data import load_pairs
from .evaluation import accuracy, by_subset, one_to_many, wilson
from .folders import TextModel, load_model, load_reward_model
from .offline import reference_logps
from .pairs import PairBatch, encode_pairs
from .records import read_records
from .reward_models import margins
from .templates import ChatTemplate


def assess(
    data: Path,
    reward: Path | None,
    model: str | None,
    ref: str | None,
    max_length: int,
    template: Callable[[TextModel], ChatTemplate],
) -> dict[str, float]:
    """Metrics by name: accuracy, calibration, categories, one-to-many.

    Args:
        data: file of pairs.
        reward: folder of a reward model; or
        model: a policy, whose log-ratio to
        ref: the reference policy is the reward.
        max_length: of a sequence.
        template: of the rows' messages, given the model.

    Raises:
        ValueError: unless either ``reward``, or ``model`` and ``ref``, are given.
    """
    if (reward is None) == (model is None) or (model is None) != (ref is None):
        raise ValueError("--reward: expected a folder, or else --model and --ref")
    score: Callable[[PairBatch], torch.Tensor]
    if reward is not None:
        learned, text, trained_with = load_reward_model(reward)
        score = lambda batch: margins(learned, batch)  # noqa: E731
        trained_with.check_same(template(text))
    else:
        text, other = load_model(str(model)), load_model(str(ref))
        score = lambda batch: _implicit(text, other, batch)  # noqa: E731
    pairs = load_pairs(
        data, template=template(text), on_identical="drop", vocab_size=text.model.vocab_size
    )
    batch = encode_pairs(pairs, text.encode, text.model.eos, max_length)
    found = score(batch).numpy()
    correct = (found > 0) + 0.5 * (found == 0)
    low, high = wilson(float(correct.sum()), len(correct))
    metrics = {
        "pairs": float(len(found)),
        "accuracy": accuracy(found),
        "accuracy, low": low,
        "accuracy, high": high,
        **preference_calibration(found),
        "mean margin": float(found.mean()),
    }
    lengths = batch.chosen.lengths - batch.rejected.lengths
    metrics["accuracy where chosen is shorter"] = _mean(correct[(lengths < 0).numpy()])
    if any(pair.subset for pair in pairs.pairs):
        by = by_subset(correct, [pair.subset for pair in pairs.pairs])
        metrics.update({f"subset {k}" if k != "score" else k: v for k, v in by.items()})
    first = read_records(data)[0].fields
    if "problem" in first and isinstance(first.get("rejected"), list):
        wrong = len(first["rejected"])
        if len(found) % wrong:
            raise ValueError(f"data={str(data)!r}: expected {wrong} wrong answers in every row")
        # Only differences to the correct answer count, so its own score may be called 0.
        against = -found.reshape(-1, wrong)
        many = one_to_many(np.concatenate([np.zeros((len(against), 1)), against], 1))
        metrics.update({f"one-to-many {k}": v for k, v in many.items()})
    return metrics


def _implicit(text: TextModel, ref: TextModel, batch: PairBatch) -> torch.Tensor:
    now, before = reference_logps(text.model, batch), reference_logps(ref.model, batch)
    return (now[0] - before[0]) - (now[1] - before[1])


def _mean(x: Any) -> float:
    return float(x.mean()) if len(x) else float("nan")
