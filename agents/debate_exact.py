"""Exact play of small debates, by enumeration: the minimax value and the worst confuser."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from rewardzoo.rewards.evidence import Debater, Judging, evidence_of, reveal, utility

_MOST = 16  # features: 2**16 sets of shown ones


@torch.no_grad()
def solve_debate(
    judge: Judging,
    features: Tensor,
    pair: Tensor,
    num_evidence: int,
    kind: str = "sign",
    items: Sequence[int] | None = None,
) -> Tensor:
    """What side 0 gets if both sides play perfectly, knowing each other's action.

    Args:
        judge: decides.
        features: (N, F).
        pair: (N, 2), what each side argues for.
        num_evidence: L, features shown in turn.
        kind: the utility, see ``rewards.evidence.utility``.
        items: the features that may be shown, at most 16; default: all. Features that change no
            score can be left out while L of them remain.

    Returns:
        (N, 2): the value if side 0 begins, and if side 1 does.
    """
    allowed = list(range(features.shape[1])) if items is None else list(items)
    if not num_evidence <= len(allowed) <= _MOST:
        raise ValueError(
            f"items: {len(allowed)} features, expected {num_evidence} to {_MOST}: the number of "
            "sets doubles with each"
        )
    # The sets of each size, as tuples of positions in ``allowed``.
    sets = [list(itertools.combinations(range(len(allowed)), k)) for k in range(num_evidence + 1)]
    number = [{s: i for i, s in enumerate(level)} for level in sets]
    value = torch.stack(
        [_outcome(judge, features, pair, [allowed[i] for i in s], kind) for s in sets[-1]], 1
    )
    values = torch.stack([value, value])  # (who began, N, sets)
    for size in range(num_evidence - 1, -1, -1):
        after = torch.tensor(
            [
                [
                    number[size + 1][tuple(sorted((*s, i)))]
                    for i in range(len(allowed))
                    if i not in s
                ]
                for s in sets[size]
            ]
        )
        options = values[..., after]  # (2, N, sets, moves)
        best, worst = options.amax(-1), options.amin(-1)
        mine = size % 2 == 0  # side 0 moves if it began
        values = torch.stack([(best if mine else worst)[0], (worst if mine else best)[1]])
    return values.squeeze(-1).T


def _outcome(judge: Judging, features: Tensor, pair: Tensor, items: list[int], kind: str) -> Tensor:
    shown = torch.zeros_like(features, dtype=torch.bool)
    shown[:, items] = True
    return utility(judge, evidence_of(features, shown), shown, pair, kind)


@torch.no_grad()
def worst_case(
    judge: Judging,
    agent: Debater,
    features: Tensor,
    pair: Tensor,
    num_evidence: int,
    kind: str = "sign",
    items: Sequence[int] | None = None,
    chunk: int = 16_384,
) -> Tensor:
    """What ``agent`` as side 0 gets against every sequence of features that the other can show.

    The other side tries all sequences of ``items`` (one that was shown already is passed over for
    the next in the list), so the result is the value against the best confuser that shows no other
    features.

    Returns:
        (N, 2): the worst outcome if the agent begins, and if the other does.
    """
    allowed = list(range(features.shape[1])) if items is None else list(items)
    lines = torch.tensor(list(itertools.permutations(allowed, num_evidence // 2)))
    count, width = len(features), features.shape[1]
    worst = torch.full((count, 2), torch.inf)
    spare = torch.full((width,), -1.0)
    spare[allowed] = torch.arange(len(allowed), 0, -1).to(torch.float32)
    step = max(1, chunk // count)
    for start in range(0, len(lines), step):
        part = lines[start : start + step]
        x = features.repeat(len(part), 1)
        both = pair.repeat(len(part), 1)
        plan = part.repeat_interleave(count, 0)
        for begins in (0, 1):
            shown = torch.zeros_like(x, dtype=torch.bool)
            for turn in range(num_evidence):
                if (turn + begins) % 2 == 0:
                    item = agent(x, shown, both[:, 0])
                else:
                    item = plan[:, turn // 2]
                    taken = shown.gather(1, item.unsqueeze(1)).squeeze(1)
                    other = spare.expand_as(x).masked_fill(shown, -2.0).argmax(1)
                    item = torch.where(taken, other, item)
                shown = reveal(shown, item)
            paid = utility(judge, x, shown, both, kind).reshape(len(part), count).amin(0)
            worst[:, begins] = torch.minimum(worst[:, begins], paid)
    return worst
