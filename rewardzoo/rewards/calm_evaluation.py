"""How well a judge finds subgoals in annotated transitions (Pignatelli et al. 2024, section 4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..llm.check import balanced_accuracy, precision_recall_f1
from ..llm.client import ChatClient
from ..llm.judges import Judge
from ..metrics.statistics import wilson
from .calm_detectors import Detector
from .calm_prompts import ANY, Prompt, pack
from .calm_transitions import SUBGOALS, AnnotatedTransition, as_batch

Findings = list[dict[str, bool] | None]
"""For each transition the subgoals found; None where the answer could not be read."""


@dataclass(frozen=True)
class Scores:
    """A line of the table.

    A transition counts as positive if any subgoal is found, whichever; one whose answer could not
    be read counts as negative.

    Args:
        name: of the judge.
        n: transitions.
        tp: found and true.
        tn: neither.
        fp: found and not true.
        fn: true and not found.
        precision: share of the found that are true.
        recall: share of the true that are found.
        f1: harmonic mean of the two.
        accuracy: share of right answers.
        accuracy_low: lower end of its 95 % interval.
        accuracy_high: upper end.
        balanced_accuracy: mean over the two classes; .5 is chance, whatever the share of positives.
        balanced_low: lower end of its 95 % interval.
        balanced_high: upper end.
        by_subgoal: F1 of each subgoal alone.
        unparsed: answers that could not be read.
        seconds: for all of them.
    """

    name: str
    n: int
    tp: int
    tn: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    balanced_low: float
    balanced_high: float
    by_subgoal: dict[str, float]
    unparsed: int
    seconds: float


def evaluate_findings(
    name: str,
    transitions: Sequence[AnnotatedTransition],
    find: Callable[[Sequence[AnnotatedTransition]], Findings],
) -> Scores:
    """Compare what is found with the annotations.

    Raises:
        ValueError: unless there are positive and negative transitions.
    """
    start = time.perf_counter()
    findings = find(transitions)
    seconds = time.perf_counter() - start
    truth = np.array([t.positive for t in transitions])
    found = np.array([any((f or {}).values()) for f in findings])
    precision, recall, f1 = precision_recall_f1(truth, found)
    right = int((truth == found).sum())
    balanced, low, high = balanced_accuracy(truth, found)
    by_subgoal = {}
    for goal in SUBGOALS:
        true_goal = [bool(t.subgoals.get(goal)) for t in transitions]
        found_goal = [bool((f or {}).get(goal)) for f in findings]
        by_subgoal[goal] = precision_recall_f1(true_goal, found_goal)[2]
    return Scores(
        name,
        len(transitions),
        int((truth & found).sum()),
        int((~truth & ~found).sum()),
        int((~truth & found).sum()),
        int((truth & ~found).sum()),
        precision,
        recall,
        f1,
        right / len(transitions),
        *wilson(right, len(transitions)),
        balanced,
        low,
        high,
        by_subgoal,
        sum(f is None for f in findings),
        seconds,
    )


def by_detector(detector: Detector) -> Callable[[Sequence[AnnotatedTransition]], Findings]:
    """Findings of a detector that works on tensors."""

    def find(transitions: Sequence[AnnotatedTransition]) -> Findings:
        flags = detector.detect(as_batch(transitions)) > 0
        return [dict(zip(detector.subgoals, row, strict=True)) for row in flags.tolist()]

    return find


def by_judge(
    judge: Judge, subgoals: Sequence[str] = SUBGOALS
) -> Callable[[Sequence[AnnotatedTransition]], Findings]:
    """Findings of a language model.

    Args:
        judge: made for a ``calm_prompts.Prompt``.
        subgoals: asked about one by one; empty to ask once whether any is achieved, with subgoals
            that the model identifies itself.
    """
    names = list(subgoals) or [ANY]

    def find(transitions: Sequence[AnnotatedTransition]) -> Findings:
        items = {(i, g): pack(g, t) for i, t in enumerate(transitions) for g in names}
        answers = dict(judge.judge(list(dict.fromkeys(items.values()))))
        findings: Findings = []
        for i in range(len(transitions)):
            scores = {g: answers.get(items[i, g]) for g in names}
            known = {g: score > 0.5 for g, score in scores.items() if score is not None}
            findings.append(known if len(known) == len(names) else None)
        return findings

    return find


def always(value: bool) -> Callable[[Sequence[AnnotatedTransition]], Findings]:
    """The judge that always says the same: what F1 must be compared with."""
    return lambda transitions: [dict.fromkeys(SUBGOALS, value) for _ in transitions]


def by_chance(rate: float, seed: int) -> Callable[[Sequence[AnnotatedTransition]], Findings]:
    """Yes with probability ``rate`` for a transition."""

    def find(transitions: Sequence[AnnotatedTransition]) -> Findings:
        drawn = np.random.default_rng(seed).random(len(transitions)) < rate
        return [dict.fromkeys(SUBGOALS, bool(x)) for x in drawn]

    return find


def propose_subgoals(client: ChatClient, prompt: Prompt | None = None, most: int = 8) -> list[str]:
    """Subgoals into which a language model splits the task: CALM's options.

    Args:
        client: the server.
        prompt: its role, symbols and task are used.
        most: further ones are cut off.

    Raises:
        LLMError: if the server is away.
        ValueError: for an answer that holds no list.
    """
    from .calm_prompts import ROLES, SYMBOLS, TASKS, read_list

    p = prompt or Prompt(task="explicit")
    request = "\n".join(
        text
        for text in (
            ROLES[p.role], SYMBOLS[p.symbols], TASKS[p.task],
            "Split the task into subgoals that are achieved one after the other, each in a few "
            'words. End with one list of texts, for example ["find the lamp", "light the lamp"].',
        )
        if text
    )  # fmt: skip
    answer = client.ask([{"role": "user", "content": request}]).text
    found = read_list(answer)
    if not found:
        raise ValueError(f"the model's answer holds no list of subgoals: {answer[:80]!r}")
    return found[:most]
