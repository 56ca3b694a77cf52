"""Justifiable treatment, exactly: the paper's whole study on tables, in seconds.

Sukovic and Radanovic (2024): an agent that is paid a little for actions that win a debate against
a baseline's takes more justifiable actions and hardly treats worse. Scaled down: clinicians are
the ICU-Sepsis tables, the judge is the least-squares fit to what 5,000 of their patients were
given, the debater looks one feature ahead; every policy is the exact optimum of its reward, every
number of it a linear solve. Seeds are cohorts: they decide what the judge has seen. The debate
reward is a table of 713 x 25 outcomes against the optimal treatment, and ``lambda`` mixes it with
survival.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rewardzoo.agents.common.logged import log_episodes
from rewardzoo.agents.tabular import (
    TabularMDP,
    expected_return,
    mdp_of,
    occupancy,
    policy_iteration,
)
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.jobs import Trial
from rewardzoo.metrics.statistics import paired_difference, stratified_bootstrap
from rewardzoo.results import Results, Verdict
from rewardzoo.rewards.debate import DebateReward
from rewardzoo.rewards.judge import LinearJudge
from rewardzoo.rewards.wrappers import VectorRewardWrapper
from rewardzoo.verdicts import above, decided, within

ENV = "rewardzoo/SepsisICU-v0"
GAMMA, SCALE, ALPHA = 0.99, 15.0, 5.0
LAMBDAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
EXPERT = 0.781845  # clinicians' survival, exact
KEPT = 0.95  # the share of the gap between clinicians and the optimum that must remain
TOLERANCE = 0.005  # of survival; fixed before looking
EQUAL = 0.02  # of survival and of justifiability
BALANCED, SIGN, POPULAR, FULL = (
    "debate, 0/1",
    "debate, sign",
    "debate, judge of popularity",
    "full state, 0/1",
)


class Outcome(NamedTuple):
    """The optimal policy of one reward."""

    survival: float  # undiscounted
    justified: float  # of the visited states where it differs from the baseline, it wins so many
    differs: float  # of the visited states
    length: float  # mean stay, in windows of four hours
    policy: Tensor  # (S, A)


@functools.cache
def model() -> TabularMDP:
    """The exact model of the patients."""
    return mdp_of(ENV)


@functools.cache
def baseline() -> Tensor:
    """The optimal actions at ``lambda=0``, (S,)."""
    _, policy = policy_iteration(model().with_reward(SCALE * model().reward), GAMMA)
    return policy.argmax(1)


def measure(policy: Tensor, wins: Tensor, rival: Tensor) -> Outcome:
    """Exact survival, justifiability and length of a policy (S, A).

    Args:
        policy: to measure.
        wins: (S, A), the chance to win the debate against the baseline.
        rival: (S,), the baseline's actions.
    """
    mdp = model()
    visits = occupancy(mdp, policy, 1.0)
    other = torch.arange(visits.shape[1]) != rival.unsqueeze(1)
    differs = visits * other
    share = float(differs.sum())
    return Outcome(
        survival=float(expected_return(mdp, policy, 1.0)),
        justified=float((differs * wins).sum()) / share if share > 0 else float("nan"),
        differs=share / float(visits.sum()),
        length=float(visits.sum()),
        policy=policy,
    )


def optimum(paid: Tensor, wins: Tensor, rival: Tensor, lam: float) -> Outcome:
    """The exact optimum of ``(1 - lam) * SCALE * survival + lam * ALPHA * paid``."""
    mdp = model()
    reward = (1.0 - lam) * SCALE * mdp.reward + lam * ALPHA * paid.to(torch.float64)
    reward = torch.where(mdp.terminal.unsqueeze(1), 0.0, reward)
    _, policy = policy_iteration(mdp.with_reward(reward), GAMMA)
    return measure(policy, wins, rival)


def locate(survival: Callable[[float], float], high: float, steps: int = 8) -> float:
    """The largest ``lambda`` up to ``high`` that keeps ``KEPT`` of the gap, by bisection."""
    best = survival(0.0)

    def kept(lam: float) -> bool:
        return survival(lam) - EXPERT >= KEPT * (best - EXPERT)

    if kept(high):
        return high
    low = 0.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def cohort_judge(trial: Trial, balanced: bool) -> LinearJudge:
    """The judge that has seen the treatment of ``eval_episodes`` patients."""
    func = gymnasium.make_vec(ENV, num_envs=1).func
    envs = gymnasium.make_vec(ENV, num_envs=trial.budget.eval_episodes)
    logged = log_episodes(envs, torch.tensor(func.expert_policy), seed=1000 * trial.seed)
    seen = logged.obs[:, :-1][logged.valid] * 25 + logged.action[logged.valid]
    counts = torch.bincount(seen, minlength=716 * 25).reshape(716, 25).to(torch.float64)
    visits = counts.sum(1)
    policy = counts / visits.clamp(min=1.0).unsqueeze(1)
    return LinearJudge.of_policy(torch.tensor(func.evidence_table), policy, visits, balanced)


def tables_of(fn: DebateReward) -> tuple[Tensor, Tensor]:
    """(S, A): what each debate pays, and the chance to win it."""
    envs = gymnasium.make_vec(ENV, num_envs=1)
    VectorRewardWrapper(envs, fn)
    assert fn.table is not None
    return fn.table, fn.tabulate("win01")


def sweep(trial: Trial, utility: str, feedback: str, balanced: bool) -> dict[str, float]:
    """Exact optima of the debate reward for every lambda."""
    judge = cohort_judge(trial, balanced)
    fn = DebateReward(judge, "greedy", baseline(), utility=utility, feedback=feedback)
    paid, wins = tables_of(fn)
    solve = functools.cache(lambda lam: optimum(paid, wins, baseline(), lam))
    outcomes = [solve(lam) for lam in LAMBDAS]
    for i, (lam, found) in enumerate(zip(LAMBDAS, outcomes, strict=True)):
        trial.log(
            (i + 1) * trial.budget.total_timesteps // len(LAMBDAS),
            weight=lam, survival=found.survival, justified=found.justified, length=found.length,
        )  # fmt: skip
    kept = locate(lambda lam: solve(lam).survival, 0.25)
    return summary(trial, outcomes, wins, kept, solve(kept))


def summary(
    trial: Trial, outcomes: Sequence[Outcome], wins: Tensor, kept: float, at: Outcome
) -> dict[str, float]:
    """The final numbers of a sweep; keeps its arrays for the figures."""
    visits = [occupancy(model(), o.policy, 1.0).sum(0) for o in outcomes]
    trial.save_arrays(
        weight=np.array(LAMBDAS),
        survival=np.array([o.survival for o in outcomes]),
        justified=np.array([o.justified for o in outcomes]),
        length=np.array([o.length for o in outcomes]),
        doses=torch.stack(visits).numpy(),
    )
    final = {
        f"{name}@{lam:g}": getattr(o, name)
        for lam, o in zip(LAMBDAS, outcomes, strict=True)
        for name in ("survival", "justified", "differs", "length")
    }
    del final["justified@0"]  # the baseline itself differs nowhere
    return {
        **final,
        "kept lambda": kept,
        "kept survival": at.survival,
        "kept justified": at.justified,
    }


# ---- claims ----------------------------------------------------------------------------------


def justified_everywhere(
    label: str, low: float = 0.05, lambdas: Sequence[float] = LAMBDAS
) -> Callable[[Results], Verdict]:
    """Justifiability above one half, with its interval, for every lambda from ``low`` on."""

    def check(results: Results) -> Verdict:
        final = results[label].final
        found = {
            lam: stratified_bootstrap(final[f"justified@{lam:g}"]) for lam in lambdas if lam >= low
        }
        worst = min(found, key=lambda lam: found[lam].low)
        x = found[worst]
        each = ", ".join(f"{lam:g}: {i.point:.3f}" for lam, i in found.items())
        return above(
            f"The policy's actions win their debates in more than half of the states where "
            f"they differ from the baseline's, for every lambda >= {low:g} ({label}).",
            x,
            f"share of visited states, at the worst lambda ({worst:g}); by lambda: {each}",
            0.5,
        )

    return check


def justification_rises(label: str, low: float = 0.05) -> Callable[[Results], Verdict]:
    """The paper's order: the more the debate counts, the more justified the policy."""

    def check(results: Results) -> Verdict:
        final = results[label].final
        shown = [lam for lam in LAMBDAS if lam >= low]
        curve = np.stack([final[f"justified@{lam:g}"] for lam in shown], 1)
        d = stratified_bootstrap(curve[:, -1] - curve[:, 0])
        return above(
            f"Justifiability does not fall as lambda grows from {low:g} to 1 ({label}).",
            d,
            f"justifiability at 1 minus that at {low:g}, within {EQUAL}; at a small lambda "
            "the policy leaves the baseline only where a win is sure",
            -EQUAL,
        )

    return check


def survival_falls(label: str) -> Callable[[Results], Verdict]:
    """Survival never rises with lambda by more than ``TOLERANCE``."""

    def check(results: Results) -> Verdict:
        final = results[label].final
        curve = np.stack([final[f"survival@{lam:g}"] for lam in LAMBDAS], 1)
        rise = np.max(curve[:, 1:] - np.minimum.accumulate(curve, 1)[:, :-1], 1)
        worst = float(rise.max())
        points = ", ".join(
            f"{lam:g}: {y:.4f}" for lam, y in zip(LAMBDAS, curve.mean(0), strict=True)
        )
        return Verdict(
            claim=f"Survival does not rise with lambda ({label}).",
            outcome="holds" if worst <= TOLERANCE else "fails",
            effect=worst,
            low=float(rise.min()),
            high=worst,
            n=len(rise),
            detail=f"largest rise above the lowest so far, in any seed; allowed {TOLERANCE}; "
            f"mean survival by lambda: {points}",
        )

    return check


def gap_is_kept(label: str) -> Callable[[Results], Verdict]:
    """There is a lambda that keeps the gap and whose policy is justified more often than not."""

    def check(results: Results) -> Verdict:
        final = results[label].final
        justified = stratified_bootstrap(final["kept justified"])
        weights, survival = final["kept lambda"], final["kept survival"]
        if (weights > 0).all() and justified.low > 0.5:
            outcome = "holds"
        elif (weights == 0).all() or justified.high < 0.5:
            outcome = "fails"
        else:
            outcome = "inconclusive"
        return decided(
            "At some lambda > 0 the policy keeps 95 % of the survival gap between clinicians "
            f"and the optimum, and its actions win more than half of their debates ({label}).",
            outcome,
            justified,
            f"justifiability there; located at lambda {weights.mean():.4f} "
            f"({weights.min():.4f} to {weights.max():.4f}), survival {survival.mean():.4f}",
        )

    return check


def wins_lengthen_stays(results: Results) -> Verdict:
    """At lambda 1, the 0/1 reward keeps patients longer than the signed one."""
    key = "length@1"
    d = paired_difference(results[BALANCED].final[key], results[SIGN].final[key])
    base = float(results[BALANCED].final["length@0"].mean())
    return above(
        "A 0/1 reward in every step lengthens stays: with it patients stay longer than with "
        "a signed one.",
        d,
        "windows at lambda 1, paired by seed; means "
        f"{results[BALANCED].final[key].mean():.2f} (0/1), "
        f"{results[SIGN].final[key].mean():.2f} (sign), {base:.2f} at lambda 0",
    )


def debate_equals_full_state(results: Results) -> Verdict:
    """Survival at lambda .25 by debate and by full-state feedback agree within .02."""
    key = "survival@0.25"
    d = paired_difference(results[BALANCED].final[key], results[FULL].final[key])
    return within(
        "Feedback by six features of a debate costs as much survival as feedback by the "
        "full state.",
        d,
        f"difference of survival at lambda .25, paired by seed; equal means within {EQUAL}",
        EQUAL,
    )


# ---- figures ---------------------------------------------------------------------------------


def draw_tradeoff(figure: Any, results: Results) -> None:
    """Justifiability and survival over lambda, and one against the other."""
    from rewardzoo.report import colour

    left, middle, right = figure.subplots(1, 3)
    place = np.arange(len(LAMBDAS))
    for i, arm in enumerate(results.arms):
        stored = results.arrays(arm.label)
        survival = np.stack([x["survival"] for x in stored])
        justified = np.stack([x["justified"] for x in stored])
        for axes, values in ((left, survival), (middle, justified)):
            axes.plot(place, values.mean(0), color=colour(i), marker="o", ms=3, label=arm.label)
            axes.fill_between(
                place, values.min(0), values.max(0), color=colour(i), alpha=0.16, lw=0
            )
        right.plot(justified.mean(0), survival.mean(0), color=colour(i), marker="o", ms=3)
    for axes, name in ((left, "survival"), (middle, "justified")):
        axes.set_xticks(place, [f"{lam:g}" for lam in LAMBDAS], rotation=60)
        axes.set_xlabel("lambda")
        axes.set_ylabel(name)
    left.axhline(EXPERT, ls=":", lw=1, color="gray")
    middle.axhline(0.5, ls=":", lw=1, color="gray")
    right.set_xlabel("justified")
    right.set_ylabel("survival")
    left.legend(fontsize=7)


def draw_doses(figure: Any, results: Results, label: str = BALANCED) -> None:
    """How often each of the 25 doses is given, by lambda."""
    shown = [i for i, lam in enumerate(LAMBDAS) if lam in (0.0, 0.05, 0.25, 1.0)]
    stored = results.arrays(label)
    doses = np.mean([x["doses"] / x["doses"].sum(1, keepdims=True) for x in stored], 0)
    panels = figure.subplots(1, len(shown), sharey=True)
    for axes, i in zip(panels, shown, strict=True):
        heat = doses[i].reshape(5, 5)
        axes.imshow(heat, origin="lower", cmap="Blues", vmin=0, vmax=doses.max())
        for fluids, vasopressor in np.ndindex(5, 5):
            share = heat[fluids, vasopressor]
            if share >= 0.005:
                ink = "white" if share > 0.6 * doses.max() else "black"
                axes.text(
                    vasopressor, fluids, f"{100 * share:.0f}", ha="center", va="center",
                    fontsize=7, color=ink,
                )  # fmt: skip
        axes.set_title(f"lambda {LAMBDAS[i]:g}", fontsize=9)
        axes.set_xlabel("vasopressor level")
        axes.set_xticks(range(5))
        axes.set_yticks(range(5))
    panels[0].set_ylabel("fluids level")


def _measure(label: str, utility: str, feedback: str, balanced: bool) -> Measure:
    run = functools.partial(sweep, utility=utility, feedback=feedback, balanced=balanced)
    return Measure(label, run)


EXPERIMENT = Experiment(
    name="sepsis_debate_tabular",
    title="Justifiable sepsis treatment: exact optima of a debate reward",
    paper='Sukovic, Radanovic (2024), "Reward design for justifiable sequential decision-making"',
    grid=[
        _measure(BALANCED, "win01", "debate", True),
        _measure(SIGN, "sign", "debate", True),
        _measure(POPULAR, "win01", "debate", False),
        _measure(FULL, "win01", "full_state", True),
    ],
    budgets={
        "smoke": Budget(total_timesteps=8, num_envs=0, eval_episodes=500, seeds=2),
        "quick": Budget(total_timesteps=8, num_envs=0, eval_episodes=5_000, seeds=5),
        "full": Budget(total_timesteps=8, num_envs=0, eval_episodes=20_000, seeds=10),
    },
    claims=[
        Claim("Actions are justified for lambda >= .05", justified_everywhere(BALANCED)),
        Claim("Justifiability rises with lambda", justification_rises(BALANCED)),
        Claim("Survival falls with lambda", survival_falls(BALANCED)),
        Claim("95 % of the survival gap can be kept", gap_is_kept(BALANCED)),
        Claim("0/1 rewards lengthen stays", wins_lengthen_stays),
        Claim("Debate is as good as full-state feedback", debate_equals_full_state),
    ],
    seeds=tuple(range(100, 110)),
    tuning_seeds=(0,),
    references={"optimal": 0.875142, "clinicians": EXPERT},
    columns={
        "survival@0.05": "survival at .05",
        "justified@0.05": "justified at .05",
        "survival@0.25": "survival at .25",
        "justified@0.25": "justified at .25",
        "length@0.25": "stay at .25 (windows)",
        "kept lambda": "lambda that keeps 95 % of the gap",
        "kept justified": "justified there",
    },
    figures=[
        Figure(
            "Justifiability against survival",
            "Exact survival and share of justified actions of the optimal policy of every lambda, "
            "mean over seeds, band from the lowest to the highest. Dotted: clinicians; one half.",
            draw_tradeoff,
        ),
        Figure(
            "Doses",
            "How often each of the 25 treatments is given, in percent of windows, as the debate "
            "counts more (0/1 reward).",
            draw_doses,
            size=(9.0, 2.8),
        ),
    ],
)
