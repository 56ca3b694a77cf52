"""The debate game on a batch of states: two sides show features in turn, a judge sees only those.

Sukovic, Radanovic (2024), "Reward design for justifiable sequential decision-making". A state is a
vector of F features. Side 0 argues for one action, side 1 for another; they alternate, each turn
shows one feature that was not shown yet, and after L features the judge scores both actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Judging = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(evidence (B, F), shown (B, F) bool, action (B,)) to scores (B,)."""

Debater = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(features (B, F), shown (B, F) bool, own action (B,)) to the feature to show next (B,)."""

UTILITIES = ("sign", "win01", "margin")
TURNS = ("alternate", "precommit")


class Debate(NamedTuple):
    """The end of B debates."""

    shown: Tensor  # (B, F) bool, exactly L a row
    order: Tensor  # (B, L) int64, the features in the order in which they were shown
    speaker: Tensor  # (B, L) int64, which side showed them


def reveal(shown: Tensor, item: Tensor) -> Tensor:
    """``shown`` with ``item`` (B,) added to each row."""
    return shown.scatter(1, item.unsqueeze(1), True)


def evidence_of(features: Tensor, shown: Tensor) -> Tensor:
    """What the judge reads: the features where shown, 0 elsewhere, (B, F)."""
    return torch.where(shown, features, 0.0)


def random_evidence(
    count: int, num_features: int, num_evidence: int, generator: torch.Generator
) -> Tensor:
    """``num_evidence`` of ``num_features``, uniformly without replacement, (count, F) bool."""
    if num_evidence == num_features:
        return torch.ones(count, num_features, dtype=torch.bool)
    keys = torch.rand(count, num_features, generator=generator)
    items = keys.topk(num_evidence, 1, sorted=False).indices
    return torch.zeros(count, num_features, dtype=torch.bool).scatter_(1, items, True)


def observation(features: Tensor, shown: Tensor, action: Tensor, num_actions: int) -> Tensor:
    """What a debater sees, (B, 2 F + A) float32: features, what is shown, its own action.

    The other side's action is not part of it.
    """
    own = torch.nn.functional.one_hot(action, num_actions)
    return torch.cat([features, shown.to(features.dtype), own.to(features.dtype)], 1)


def hold_debate(
    debaters: tuple[Debater, Debater],
    features: Tensor,
    actions: Tensor,
    first: Tensor,
    num_evidence: int,
    turns: str = "alternate",
) -> Debate:
    """Play whole debates.

    Args:
        debaters: of side 0 and of side 1; the same object may argue for both.
        features: (B, F).
        actions: (B, 2) int64, what each side argues for.
        first: (B,) int64, the side that begins, 0 or 1.
        num_evidence: L, even.
        turns: ``alternate``, or ``precommit``: the side that begins shows its half at once.

    Raises:
        ValueError: if L is odd or larger than F, or for other ``turns``.
    """
    check_num_evidence(num_evidence, features.shape[1])
    if turns not in TURNS:
        raise ValueError(f"turns={turns!r}: expected one of {', '.join(TURNS)}")
    shown = torch.zeros_like(features, dtype=torch.bool)
    order, speakers = [], []
    for turn in range(num_evidence):
        moved = turn if turns == "alternate" else int(turn >= num_evidence // 2)
        side = (first + moved) % 2
        own = actions.gather(1, side.unsqueeze(1)).squeeze(1)
        item = debaters[0](features, shown, own)
        if debaters[1] is not debaters[0]:
            item = torch.where(side == 0, item, debaters[1](features, shown, own))
        shown = reveal(shown, item)
        order.append(item)
        speakers.append(side)
    return Debate(shown, torch.stack(order, 1), torch.stack(speakers, 1))


def utility(judge: Judging, features: Tensor, shown: Tensor, actions: Tensor, kind: str) -> Tensor:
    """What side 0 gets at the end, (B,) float32; side 1 gets the negative (``win01``: none).

    ``sign`` is the sign of the scores' difference, ``win01`` 1 where side 0 scores higher,
    ``margin`` the difference itself. Equal actions give exactly 0.
    """
    difference = margin(judge, features, shown, actions)
    if kind == "margin":
        return difference
    return difference.sign() if kind == "sign" else (difference > 0).to(torch.float32)


def margin(judge: Judging, features: Tensor, shown: Tensor, actions: Tensor) -> Tensor:
    """Score of side 0's action minus that of side 1's, (B,) float32."""
    evidence = evidence_of(features, shown)
    both = judge(
        torch.cat([evidence, evidence]), torch.cat([shown, shown]), torch.cat(actions.unbind(1))
    )
    ours, theirs = both.chunk(2)
    # A batched product may round equal rows differently: equal actions are a tie by definition.
    return torch.where(actions[:, 0] == actions[:, 1], 0.0, ours - theirs)


def check_num_evidence(num_evidence: int, num_features: int) -> None:
    """Raise unless both sides can show equally many of the features."""
    if num_evidence % 2 or not 2 <= num_evidence <= num_features:
        raise ValueError(
            f"num_evidence={num_evidence}: expected an even number from 2 to {num_features}, "
            "the number of features"
        )


def check_utility(kind: str) -> str:
    """``kind``, or a ValueError that lists ``UTILITIES``."""
    if kind not in UTILITIES:
        raise ValueError(f"utility={kind!r}: expected one of {', '.join(UTILITIES)}")
    return kind


def random_debater(generator: torch.Generator) -> Debater:
    """Shows any feature that was not shown yet."""

    def choose(features: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        return torch.rand(shown.shape, generator=generator).masked_fill_(shown, -1.0).argmax(1)

    return choose


class GreedyDebater:
    """Shows what raises the judge's score of its own action most, one feature at a time.

    It looks one move ahead and knows no opponent: a strong single debater, and an easy prey.

    Args:
        judge: whose score it raises; one with a method ``gains(features, action)`` (B, F), by how
            much each feature raises it, is asked once and not for every candidate.
    """

    def __init__(self, judge: Judging) -> None:
        self.judge = judge

    @torch.no_grad()
    def __call__(self, features: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        """The best next feature of each row; all F candidates are judged in one batch."""
        gains = getattr(self.judge, "gains", None)
        if gains is not None:
            best: Tensor = gains(features, action).masked_fill(shown, -torch.inf).argmax(1)
            return best
        count, size = features.shape
        candidates = shown.unsqueeze(1) | torch.eye(size, dtype=torch.bool, device=shown.device)
        rows = candidates.reshape(-1, size)
        evidence = evidence_of(features.repeat_interleave(size, 0), rows)
        scores = self.judge(evidence, rows, action.repeat_interleave(size)).view(count, size)
        return scores.masked_fill(shown, -torch.inf).argmax(1)
