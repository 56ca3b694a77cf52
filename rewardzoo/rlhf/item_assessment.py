"""A scorer measured on files of many answers, or of contrasting instructions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .answers import Answers, encode_answers, load_answers
from .contrast import encode_contrast, load_contrast
from .evaluation import Array, bon_curve, contrast_consistency, kl_bon
from .scorer import Scorer


def assess_answers(
    data: Path, scorer: Scorer | None, max_length: int, split: str | None = None
) -> dict[str, float]:
    """Gold and proxy of the best of n answers by proxy, and the KL, for n = 1, 2, 4 to N.

    Means over the instructions; N is the least number of answers that one has.

    Args:
        data: file of answers with gold scores.
        scorer: gives the proxy; None takes the file's ``proxy_scores``.
        max_length: of a sequence.
        split: of a folder.

    Raises:
        ValueError: for rows without ``proxy_scores`` where there is no scorer.
    """
    size = None if scorer is None else scorer.text.model.vocab_size
    rows = load_answers(data, None, size, split)
    if scorer is None:
        for row in rows:
            if not row.proxy:
                raise ValueError(
                    f"{row.origin}, field 'proxy_scores': missing; give --reward, which scores "
                    "the answers"
                )
        proxies = [np.array(row.proxy, np.float64) for row in rows]
    else:
        proxies = _scored(rows, scorer, max_length)
    most = min(len(row.gold) for row in rows)
    ns = [2**i for i in range(most.bit_length())]
    golds = [np.array(row.gold, np.float64) for row in rows]
    gold, proxy = _mean_curve(golds, proxies, ns), _mean_curve(proxies, proxies, ns)
    found = {"prompts": float(len(rows)), "answers": float(sum(map(len, golds)))}
    for n, g, p, kl in zip(ns, gold, proxy, kl_bon(ns), strict=True):
        found.update({f"best of {n}, gold": g, f"best of {n}, proxy": p, f"best of {n}, KL": kl})
    return {name: float(value) for name, value in found.items()}


def assess_contrast(
    data: Path, scorer: Scorer, max_length: int, split: str | None = None
) -> dict[str, float]:
    """Consistency of responses and of instructions, .5 for a random scorer.

    Args:
        data: file of contrasting instructions.
        scorer: what is measured.
        max_length: of a sequence.
        split: of a folder.
    """
    model = scorer.text.model
    rows = load_contrast(data, None, model.vocab_size, split)
    batch = encode_contrast(rows, scorer.text.encode, model.eos, max_length)
    found = contrast_consistency(scorer.scores(batch).view(-1, 2, 2).numpy())
    named = {f"consistency, {name}": value for name, value in found.items()}
    return {"pairs of instructions": float(len(rows)), **named}


def _scored(rows: Sequence[Answers], scorer: Scorer, max_length: int) -> list[Array]:
    batch = encode_answers(rows, scorer.text.encode, scorer.text.model.eos, max_length)
    counts = np.cumsum([len(row.answers) for row in rows])
    return np.split(scorer.scores(batch).double().numpy(), counts[:-1])


def _mean_curve(gold: Sequence[Array], proxy: Sequence[Array], ns: Sequence[int]) -> Array:
    """Mean over the instructions of ``bon_curve``, (len(ns),)."""
    curves = [bon_curve(g, p, ns) for g, p in zip(gold, proxy, strict=True)]
    mean: Array = np.stack(curves).mean(0)
    return mean
