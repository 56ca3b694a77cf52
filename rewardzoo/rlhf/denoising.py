"""Wrong and doubtful preference labels: found by cross-fitted reward models, then treated.

Paper: Wang et al. (2024), "Secrets of RLHF in large language models part II: reward modeling".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .decoder import LanguageModel
from .pairs import PairBatch
from .reward_models import margins, train_reward_model

TREATMENTS = ("flip", "drop", "smooth", "margin")


def preference_strength(
    data: PairBatch, backbone: LanguageModel, models: int = 10, folds: int = 5, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N,) of the margin over models that did not see the pair.

    Without cross-fitting every model would agree with the labels that it was trained on.

    Args:
        data: the pairs.
        backbone: where the models start.
        models: trained in all, at least one a fold.
        folds: parts of the data, each scored by models that were trained on the others.
        **kwargs: of ``train_reward_model``.
    """
    if folds < 2:
        raise ValueError(f"folds={folds}: expected at least 2, or a model scores its own pairs")
    per_fold = max(1, models // folds)
    found = torch.empty(per_fold, len(data))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    for i, held in enumerate(order.chunk(folds)):
        seen = torch.ones(len(data), dtype=torch.bool)
        seen[held] = False
        for j in range(per_fold):
            train = data.take(seen.nonzero().squeeze(1))
            model = train_reward_model(train, backbone, seed=i * per_fold + j, **kwargs)
            found[j, held] = margins(model, data.take(held))
    return found.mean(0), found.std(0) if per_fold > 1 else torch.zeros(len(data))


def treat(
    data: PairBatch, strength: Tensor, how: str, share: float = 0.2, smoothing: float = 0.1
) -> tuple[PairBatch, str]:
    """Pairs whose labels were treated, and the loss that reads them.

    Args:
        data: pairs.
        strength: (N,) of ``preference_strength``; below 0, the models contradict the label.
        how: "flip" exchanges the responses of the weakest ``share`` where below 0, "drop" leaves
            that share out, "smooth" smooths the labels of the ``share`` nearest to 0, "margin"
            asks for a margin as large as the strength, where it is above 0.
        share: of the pairs, in (0, 1).
        smoothing: probability that a smoothed label is wrong.

    Returns:
        The pairs, and the name of the loss to train with.
    """
    if how not in TREATMENTS:
        raise ValueError(f"how={how!r}: expected one of {', '.join(TREATMENTS)}")
    if not 0 < share < 1:
        raise ValueError(f"share={share}: expected a number in (0, 1)")
    count = round(share * len(data))
    if how == "drop":
        return data.take(strength.argsort()[count:].sort().values), "bt"
    if how == "margin":
        return replace(data, strength=strength.clamp(min=0.0)), "margin"
    certain = torch.ones(len(data))
    if how == "smooth":
        certain[strength.abs().argsort()[:count]] = 1 - smoothing
    else:
        weakest = strength.argsort()[:count]
        certain[weakest[strength[weakest] < 0]] = 0.0
    return replace(data, strength=certain), "soft_bt"
