"""A debater trained alone loses to a confuser; one trained against an opponent plays the minimax.

Sukovic and Radanovic (2024), section 5: a debater that chose its evidence without an opponent is
the better one until somebody answers. Scaled down: a debate whose value is known by enumeration.
Of 44 features three speak for the agent, three against it twice as strongly, and one neutraliser,
which costs a little and exists in three cases of four, cancels the latter. Alone, showing it only
costs; in a debate it decides. A debater is held against the worst of all that a confuser can say,
taking turns (the precommitting one too, which was trained for other turns).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.agents.debate import score, train_confuser, train_debater
from rewardzoo.agents.debate_exact import solve_debate, worst_case
from rewardzoo.envs.debate_trap.dynamics import NEUTRALISER, TrapCases
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.jobs import Trial
from rewardzoo.metrics.statistics import paired_difference, stratified_bootstrap
from rewardzoo.random import Rng
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.evidence import hold_debate
from rewardzoo.verdicts import above, below, within

ENV, NUM_EVIDENCE = "rewardzoo/DebateTrap-v0", 6
CLOSE = 0.05  # of the minimax value; fixed before looking
ISOLATED, PRECOMMIT, SELFPLAY, MAXMIN = "isolated", "precommit", "self-play", "maxmin"
_CASES_SEED = 5_000_000


def cases(count: int) -> tuple[Tensor, Tensor]:
    """Features (N, F) and pairs (N, 2) of held-out cases, the same for all arms and seeds."""
    rows = torch.arange(count) + _CASES_SEED
    case = TrapCases().deal(Rng(rows, 0 * rows, 0))
    return case.features, torch.stack([case.preferred, case.rejected], 1)


def train(trial: Trial, mode: str) -> dict[str, float]:
    """Train a debater, then a confuser against it; compare both with exact play."""
    updates, debates = trial.budget.total_timesteps, trial.budget.num_envs
    given: dict[str, Any] = {"env": ENV, "num_debates": debates}

    def progress(update: int, metrics: dict[str, float]) -> None:
        if update % max(1, updates // 50) == 0:
            trial.log(update // 2, paid=metrics["rollout/ep_return"])

    agent = train_debater(
        mode, trial.seed, updates=updates, confuser_updates=10, progress=progress, **given
    )
    turns = "precommit" if mode == "precommit" else "alternate"
    confuser = train_confuser(
        agent, trial.seed + 500, updates=max(1, updates // 2), debate={"turns": turns}, **given
    )
    trial.log(updates, paid=float("nan"))
    judge = TrapCases().judge()
    features, pair = cases(trial.budget.eval_episodes)
    alone = score(features, pair, judge, agent)
    confused = score(features, pair, judge, agent, confuser, turns=turns)
    # Six idle features fill a debate: more change no score. Three are enough for one side.
    minimax = solve_debate(judge, features, pair, NUM_EVIDENCE, "margin", range(13)).mean()
    worst = worst_case(judge, agent, features, pair, NUM_EVIDENCE, "margin", range(10)).mean()
    first = torch.arange(len(features)) % 2
    end = hold_debate((agent, confuser), features, pair, first, NUM_EVIDENCE, turns)
    present = features[:, NEUTRALISER] > 0
    neutral = end.shown[present][:, NEUTRALISER].to(torch.float64).mean()
    return {
        "alone": alone.margin,
        "confused": confused.margin,
        "win alone": alone.win,
        "win confused": confused.win,
        "worst": float(worst),
        "minimax": float(minimax),
        "neutraliser": float(neutral),
    }


def reaches_minimax(label: str) -> Callable[[Results], Verdict]:
    """Against the worst of all confusers the value is the minimax one, within ``CLOSE``."""

    def check(results: Results) -> Verdict:
        final = results[label].final
        x = stratified_bootstrap(final["worst"] - final["minimax"])
        return within(
            f"The {label} debater has the minimax value within {CLOSE}.",
            x,
            "margin against the worst of all sequences that a confuser can show, minus the "
            f"enumerated minimax value ({final['minimax'].mean():.4f}); against its trained "
            f"confuser {final['confused'].mean():.4f}",
            CLOSE,
        )

    return check


def isolated_loses(results: Results) -> Verdict:
    """The isolated debater wins alone, and loses to its own confuser."""
    final = results[ISOLATED].final
    x, alone = stratified_bootstrap(final["confused"]), final["win alone"].mean()
    return below(
        "The isolated debater loses to its confuser.",
        x,
        f"margin; it wins {alone:.3f} of the debates alone, "
        f"{final['win confused'].mean():.3f} against its confuser",
    )


def debating_is_safer(results: Results) -> Verdict:
    """Debaters trained against an opponent win more against their confusers."""
    best = (results[SELFPLAY].final["win confused"] + results[MAXMIN].final["win confused"]) / 2
    d = paired_difference(best, results[ISOLATED].final["win confused"])
    return above(
        "Debaters trained against an opponent win more often against their confusers than "
        "the isolated one against its.",
        d,
        "share of debates won, mean of self-play and maxmin, paired by seed",
    )


def draw(figure: Any, results: Results) -> None:
    """Margins alone, against the confuser and in the worst case; how often it neutralises."""
    from rewardzoo.report import colour

    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    kinds = ("alone", "confused", "worst")
    for i, arm in enumerate(results.arms):
        place = np.arange(len(kinds)) + 0.2 * (i - 1.5)
        values = [arm.final[k] for k in kinds]
        left.bar(place, [v.mean() for v in values], 0.18, color=colour(i), label=arm.label)
        right.bar(i, arm.final["neutraliser"].mean(), 0.6, color=colour(i))
    left.axhline(float(results.arms[0].final["minimax"].mean()), ls=":", lw=1, color="gray")
    left.axhline(0, lw=0.8, color="gray")
    left.set_xticks(range(3), ["alone", "its confuser", "worst confuser"])
    left.set_ylabel("margin of the scores")
    left.legend(fontsize=7)
    right.set_xticks(range(len(results.arms)), [a.label for a in results.arms], rotation=30)
    right.set_ylabel("shows the neutraliser")
    right.set_ylim(0, 1)


def _measure(label: str, mode: str) -> Measure:
    return Measure(label, functools.partial(train, mode=mode))


EXPERIMENT = Experiment(
    name="debate_trap",
    title="A debater trained alone is fooled: a debate of known value",
    paper='Sukovic, Radanovic (2024), "Reward design for justifiable sequential decision-making"',
    grid=[
        _measure(ISOLATED, "isolated"),
        _measure(PRECOMMIT, "precommit"),
        _measure(SELFPLAY, "selfplay"),
        _measure(MAXMIN, "maxmin"),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4, num_envs=64, eval_episodes=8, seeds=2),
        "quick": Budget(total_timesteps=300, num_envs=512, eval_episodes=128, seeds=5),
        "full": Budget(total_timesteps=1_000, num_envs=512, eval_episodes=512, seeds=10),
    },
    claims=[
        Claim("Self-play reaches the minimax value", reaches_minimax(SELFPLAY)),
        Claim("Maxmin reaches the minimax value", reaches_minimax(MAXMIN)),
        Claim("The isolated debater loses to its confuser", isolated_loses),
        Claim("Debating is safer than isolation", debating_is_safer),
    ],
    seeds=tuple(range(100, 110)),
    tuning_seeds=(0,),
    references={"minimax": 0.0625, "alone, at best": 0.5},
    columns={
        "win alone": "wins alone",
        "win confused": "wins against its confuser",
        "confused": "margin against its confuser",
        "worst": "margin against the worst",
        "neutraliser": "shows the neutraliser",
    },
    figures=[
        Figure(
            "Alone, and answered",
            "Mean margin of the judge's scores for the agent's action: showing all evidence "
            "itself, against its own trained confuser, against the worst of all confusers. Dotted: "
            "the minimax value. Right: how often the neutraliser is shown where there is one.",
            draw,
        )
    ],
)
