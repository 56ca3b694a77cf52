"""Who can tell whether an action achieved a subgoal? Judges of transitions in the key room.

Pignatelli et al. (2024) ask language models, without examples or training, which of a task's
subgoals a transition achieves, and find that larger models can and the smallest are near chance.
Scaled down: the embedded model (135 million parameters), with the window around the hero and with
messages alone, against the rules that are the truth, judges that always say the same, and chance;
50 transitions of random play, balanced over key, door and neither, fresh for every seed, and 20
hand-labelled hard cases. With that many positives F1 praises whoever always says yes: the balanced
accuracy is what counts.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.llm.judges import EmbeddedJudge
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.calm_detectors import KeyRoomOracle
from rewardzoo.rewards.calm_evaluation import (
    always,
    by_chance,
    by_detector,
    by_judge,
    evaluate_findings,
)
from rewardzoo.rewards.calm_prompts import Prompt
from rewardzoo.rewards.calm_transitions import collect_transitions, shipped_transitions

ORACLE, YES, NO, CHANCE, CROP, MESSAGES = (
    "rule oracle",
    "always yes",
    "always no",
    "chance",
    "SmolLM2, window",
    "SmolLM2, messages alone",
)


def judge_of(label: str, seed: int) -> Any:
    """What finds subgoals, by arm."""
    if label in (CROP, MESSAGES):
        prompt = Prompt(observation="crop" if label == CROP else "none")
        return by_judge(EmbeddedJudge(prompt))
    return {
        ORACLE: by_detector(KeyRoomOracle()),
        YES: always(True),
        NO: always(False),
        CHANCE: by_chance(0.5, seed),
    }[label]


def measure(trial: Any, label: str) -> dict[str, float]:
    """Judge played transitions and the hard cases."""
    played = collect_transitions(trial.budget.total_timesteps, trial.seed, keep_screen=False)
    hard = [t for t in shipped_transitions() if t.source == "human"]
    scores = evaluate_findings(label, played + hard, judge_of(label, trial.seed))
    of_hard = evaluate_findings(label, hard, judge_of(label, trial.seed))
    trial.log(trial.budget.total_timesteps, f1=scores.f1)
    return {
        "f1": scores.f1,
        "precision": scores.precision,
        "recall": scores.recall,
        "accuracy": scores.accuracy,
        "balanced": scores.balanced_accuracy,
        "balanced_low": scores.balanced_low,
        "balanced_high": scores.balanced_high,
        "balanced_hard": of_hard.balanced_accuracy,
        "f1_key": scores.by_subgoal["pick up the key"],
        "f1_door": scores.by_subgoal["unlock the door"],
        "unparsed": float(scores.unparsed),
        "rate": scores.n / max(scores.seconds, 1e-9),
        "n": float(scores.n),
    }


def oracle_is_the_truth(results: Results) -> Verdict:
    """The rules find every subgoal and nothing else, hand-labelled cases included."""
    worst = float(results[ORACLE].final["f1"].min())
    return Verdict(
        claim="The rule oracle's F1 is 1, on played transitions and on hand-labelled hard cases.",
        outcome="holds" if worst == 1.0 else "fails",
        effect=worst,
        low=None,
        high=None,
        n=len(results[ORACLE].seeds),
        detail="exact: the lowest F1 over seeds",
    )


def f1_misleads(results: Results) -> Verdict:
    """Always saying yes has a high F1 and a balanced accuracy of one half."""
    f1 = results[YES].final["f1"]
    balanced = results[YES].final["balanced"]
    return Verdict(
        claim="On this set F1 praises a judge that always says yes: above .65, at a balanced "
        "accuracy of .5.",
        outcome="holds" if f1.min() > 0.65 and abs(balanced - 0.5).max() < 1e-9 else "fails",
        effect=float(f1.mean()),
        low=float(f1.min()),
        high=float(f1.max()),
        n=len(f1),
        detail="exact: mean F1 of always yes, lowest and highest over seeds",
    )


def embedded_is_no_judge(label: str) -> Any:
    """A check that an arm's balanced accuracy stays below what shaping needs."""

    def check(results: Results) -> Verdict:
        final = results[label].final
        value = float(final["balanced"].mean())
        # Each seed has transitions of its own, so the intervals' widths add as errors do.
        half = float(((final["balanced_high"] - final["balanced_low"]) / 2).mean())
        half /= len(final["balanced"]) ** 0.5
        low, high = value - half, value + half
        if high < 0.85:
            outcome = "holds"
        elif low >= 0.85:
            outcome = "fails"
        else:
            outcome = "inconclusive"
        return Verdict(
            claim=f"{label} is no judge to shape rewards with: balanced accuracy below .85.",
            outcome=outcome,
            effect=value,
            low=low,
            high=high,
            n=len(final["balanced"]),
            detail=f"mean balanced accuracy; F1 {final['f1'].mean():.3f} against "
            f"{results[YES].final['f1'].mean():.3f} of always yes",
        )

    return check


def bars(figure: Any, results: Results) -> None:
    """F1 beside balanced accuracy."""
    from rewardzoo.report import colour

    axes = figure.subplots()
    labels = [arm.label for arm in results.arms]
    for i, (key, name) in enumerate((("f1", "F1"), ("balanced", "balanced accuracy"))):
        values = [arm.final[key].mean() for arm in results.arms]
        places = [x + (i - 0.5) * 0.35 for x in range(len(labels))]
        axes.bar(places, values, 0.35, color=colour(i), label=name)
    axes.axhline(0.5, color="0.5", linewidth=1, linestyle=":")
    axes.set_xticks(range(len(labels)), labels, rotation=15)
    axes.set(ylim=(0, 1.05))
    axes.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="calm_eval",
    title="Who can tell whether an action achieved a subgoal?",
    paper="Pignatelli et al. (2024), Assessing the zero-shot capabilities of LLMs for action "
    "evaluation in RL",
    grid=[
        Measure(label, partial(measure, label=label))
        for label in (ORACLE, YES, NO, CHANCE, MESSAGES, CROP)
    ],
    budgets={
        "smoke": Budget(total_timesteps=6, num_envs=1, eval_episodes=0, seeds=1),
        "quick": Budget(total_timesteps=50, num_envs=1, eval_episodes=0, seeds=3),
        "full": Budget(total_timesteps=300, num_envs=1, eval_episodes=0, seeds=10),
    },
    claims=[
        Claim("The oracle is the truth", oracle_is_the_truth),
        Claim("F1 misleads on a balanced set", f1_misleads),
        Claim("The embedded model is no judge, with messages", embedded_is_no_judge(MESSAGES)),
        Claim("The embedded model is no judge, with the window", embedded_is_no_judge(CROP)),
    ],
    seeds=tuple(range(400, 410)),
    columns={
        "f1": "F1",
        "balanced": "balanced accuracy",
        "precision": "precision",
        "recall": "recall",
        "balanced_hard": "on hard cases",
        "rate": "transitions/s",
    },
    figures=[
        Figure(
            "F1 and balanced accuracy",
            "Mean over seeds; the dotted line is chance for the balanced accuracy.",
            bars,
        )
    ],
)
