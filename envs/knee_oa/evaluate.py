"""Follow every patient of a cohort once under a policy; what that costs, finds and misses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardzoo.random import Rng

from .dynamics import VISIT, KneeOA, KneeOAState

Policy = Callable[[Tensor, KneeOAState], tuple[Tensor, Tensor]]
"""(observations (N, F), state) to (actions (N,) int64, how much it wants a visit (N,)). Only the
oracle looks at the state."""


class Course(NamedTuple):
    """What happened to N patients over T decisions."""

    action: Tensor  # (N, T) int64
    score: Tensor  # (N, T), how much the policy wanted a visit
    reward: Tensor  # (N, T) float64
    event: Tensor  # (N, T) int64, codes of rewards.active_sensing.EVENTS
    cost: Tensor  # (N, T) float64
    gain: Tensor  # (N, T) float64, mm
    progressed: Tensor  # (N, T) bool, a progression at the visit decided on
    obs: Tensor  # (N, T, F) float32, what the decision was based on


@torch.no_grad()
def follow(func: KneeOA, policy: Policy, patients: Tensor | None = None) -> Course:
    """Follow patients (all of the cohort by default) under a policy."""
    who = torch.arange(len(func.cohort)) if patients is None else patients
    who = who.to(func.device)
    zero = torch.zeros_like(who)
    state = func.admit(who)
    steps = []
    for k in range(func.params.horizon):
        rng = Rng(who, zero, k)
        obs = func.observation(state, rng)
        action, score = policy(obs, state)
        after = func.transition(state, action, rng)
        reward = func.reward(state, action, after, rng)
        info = func.transition_info(state, action, after)
        here = (func.events[who] == k + 1).any(1)
        steps.append(
            (action, score, reward, info["event"], info["cost"], info["medical_gain"], here, obs)
        )
        state = after
    return Course(*(torch.stack(column, 1) for column in zip(*steps, strict=True)))


def evaluate(func: KneeOA, policy: Policy, patients: Tensor | None = None) -> dict[str, float]:
    """The paper's measures of a policy on a cohort; see ``measures``."""
    return measures(follow(func, policy, patients))


def measures(course: Course) -> dict[str, float]:
    """Reward, cost and medical gain per patient, and how well visits meet progressions.

    Balanced accuracy ``ba``, ``precision``, ``recall``, ``roc_auc`` and average precision ``ap``
    compare at every visit whether it took place with whether there was a progression, and are
    averaged over visits (where one class is absent, a visit is passed over); ``hamming`` is the
    share of decisions that differ from it; ``tp`` to ``fn`` are counts.
    """
    y, a = course.progressed, course.action == VISIT
    tp, fp = (a & y).sum(0).double(), (a & ~y).sum(0).double()
    fn, tn = (~a & y).sum(0).double(), (~a & ~y).sum(0).double()
    recall, specificity = tp / (tp + fn), tn / (tn + fp)
    curves = [_ranking(course.score[:, k], y[:, k]) for k in range(y.shape[1])]
    return {
        "rpp": float(course.reward.sum(1).mean()),
        "cost": float(course.cost.sum(1).mean()),
        "medical_gain": float(course.gain.sum(1).mean()),
        "ba": _nanmean((recall + specificity) / 2),
        "recall": _nanmean(recall),
        "precision": _nanmean(torch.where(tp + fp > 0, tp / (tp + fp), 0.0)),
        "roc_auc": _nanmean(torch.tensor([roc for roc, _ in curves])),
        "ap": _nanmean(torch.tensor([ap for _, ap in curves])),
        "hamming": float((a != y).double().mean()),
        "tp": float(tp.sum()),
        "fp": float(fp.sum()),
        "tn": float(tn.sum()),
        "fn": float(fn.sum()),
    }


def _nanmean(x: Tensor) -> float:
    return float(x[~x.isnan()].mean())


def _ranking(score: Tensor, y: Tensor) -> tuple[float, float]:
    """Area under the ROC curve (ties count half) and average precision; nan with one class."""
    positive = int(y.sum())
    if positive in (0, len(y)):
        return float("nan"), float("nan")
    order = score.double().argsort(descending=True)
    ranked, hits = score.double()[order], y[order].double()
    # Equal scores are one threshold: count at the last of each.
    last = torch.ones_like(hits, dtype=torch.bool)
    last[:-1] = ranked[1:] != ranked[:-1]
    tp, count = hits.cumsum(0)[last], torch.arange(1, len(y) + 1)[last].double()
    zero = torch.zeros(1, dtype=torch.float64)
    tpr = torch.cat([zero, tp / positive])
    fpr = torch.cat([zero, (count - tp) / (len(y) - positive)])
    precision = tp / count
    return float(torch.trapezoid(tpr, fpr)), float((tpr.diff() * precision).sum())


@torch.no_grad()
def solve_patients(func: KneeOA, patients: Tensor | None = None) -> Tensor:
    """The greatest return that anyone who knew each patient's future could earn, (N,) float64.

    Backward induction over (last visit, settled progressions, decisions made), exact.
    """
    who = (torch.arange(len(func.cohort)) if patients is None else patients).to(func.device)
    horizon = func.params.horizon
    count, size = len(who), horizon + 1
    grid = torch.cartesian_prod(torch.arange(count), torch.arange(size), torch.arange(size))
    row, last, pointer = grid.to(func.device).unbind(1)
    rng = Rng(row, row, 0)
    value = torch.zeros(count, size, size, dtype=torch.float64, device=func.device)
    for k in reversed(range(horizon)):
        options = []
        for action in range(int(func.action_space.n)):  # type: ignore[attr-defined]
            state = func.admit(who[row])._replace(
                visit=torch.full_like(row, k),
                last=last,
                pointer=pointer,
                upcoming=func.events[who[row], pointer],
            )
            chosen = torch.full_like(row, action)
            after = func.transition(state, chosen, rng)
            future = value[row, after.last, after.pointer]
            over = func.terminal(after, rng)
            reward = func.reward(state, chosen, after, rng)
            options.append(reward + torch.where(over, 0.0, future))
        value = torch.stack(options).amax(0).reshape(count, size, size)
    return value[:, 0, 0]


def agent_policy(agent: Any) -> Policy:
    """The greedy policy of a trained agent without memory; its score is softmax(outputs)[1]."""

    def policy(obs: Tensor, state: KneeOAState) -> tuple[Tensor, Tensor]:
        out = agent.outputs(obs)
        action = out.argmax(1)
        return action, out.softmax(1)[:, VISIT]

    return policy
