"""A cost that correlates with health is hacked by giving no insulin; near the PID base it is not.

Laidlaw, Singhal, Dragan (2024), the glucose task: what treatment costs the patient correlates with
their health under a sensible controller, and is least when a diabetic gets no insulin. Optimised
near the base policy, in occupancy rather than in actions, it should improve health. Scaled down:
one virtual patient, days instead of twenty of them, nine rates instead of a continuum, an hour of
history, and a few coefficients of each regulariser. All arms start
from a clone of the base, a PID controller with a tenth of its rates at random. Each regulariser is
judged at its best coefficient, chosen for each seed on the other seeds; the theory's coefficient is
judged besides.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rewardzoo.agents.orpo import play_base
from rewardzoo.envs.glucose.dynamics import RATES, Glucose
from rewardzoo.envs.glucose.policies import NoisyPID
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.jobs import make_envs
from rewardzoo.metrics.occupancy import theory_coefficient
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.verdicts import above, below

from .correlated_proxies import ACTION_KL, HACKED, HONEST, SQRT_CHI2, alarm_in_time, train

ENV, DAY, GAMMA = "rewardzoo/Glucose-v0", 288, 0.99
PATIENT = {"levels": RATES, "history_hours": 1.0}
KL = "occupancy KL"
DIVERGENCES = {SQRT_CHI2: "sqrt_chi2", KL: "kl", ACTION_KL: "action_kl"}
FACTORS = {SQRT_CHI2: (0.3, 1.0), KL: (0.3, 1.0), ACTION_KL: (0.3, 1.0)}
"""Coefficients, in units of the theory's for sqrt(chi2), for the others of the proxy's standard
deviation under the base."""
THEORY = 1.0


def arm(name: str, factor: float) -> str:
    """The label of a regulariser at a coefficient."""
    return f"{name}, {factor:g}"


def learn(
    trial: Any, reward: str, regulariser: str | None = None, factor: float = 0.0
) -> dict[str, float]:
    """PPO on a reward, from a clone of the PID controller, watched by the hacking monitor."""

    def make(pays: str = reward) -> Any:
        return make_envs(ENV, pays, trial.budget.num_envs, trial.device, **PATIENT)

    base = NoisyPID(Glucose(trial.device, **PATIENT))
    # What the proxy is under the base, for the coefficients: other rows than any used later.
    device = torch.device(trial.device)
    seen = play_base(make("glucose_cost"), base, DAY, trial.seed + 900_000, device)
    sigma = float(seen.reward.std())
    r = float(torch.corrcoef(torch.stack([seen.reward.flatten(), seen.objective.flatten()]))[0, 1])
    unit = theory_coefficient(sigma, r) if regulariser == SQRT_CHI2 else sigma
    found = train(
        trial,
        make,
        base,
        DIVERGENCES.get(regulariser or ""),
        factor * unit,
        DAY,
        base_steps=DAY,
        every=trial.budget.total_timesteps // 5,
        watched=DAY,
        num_steps=96,
        num_epochs=10,
        num_minibatches=8,
        learning_rate=2e-3,
        gamma=GAMMA,
    )
    return {**found, "r": r, "sigma": sigma}


# ---- claims --------------------------------------------------------------------------------------


def best_of_others(results: Results, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Objectives (seeds,) of the arm that is best on the other seeds, and which arm that is."""
    found = np.stack([results[label].final["objective"] for label in labels])
    others = (found.sum(1, keepdims=True) - found) / max(1, found.shape[1] - 1)
    chosen = others.argmax(0)
    return found[chosen, np.arange(found.shape[1])], [labels[i] for i in chosen]


def compared(claim: str, one: Sequence[str], other: Sequence[str] | None) -> Any:
    """A check that one set of arms, at its best, ends above another's, or above the base."""

    def check(results: Results) -> Verdict:
        ours, chosen = best_of_others(results, one)
        if other is None:
            theirs, against = results[one[0]].final["base"], "the base"
        else:
            theirs, rival = best_of_others(results, other)
            against = ", ".join(sorted(set(rival)))
        return above(
            claim,
            paired_difference(ours, theirs),
            "objective a step at the end of training, paired by seed: "
            f"{', '.join(sorted(set(chosen)))} {ours.mean():.5f}, {against} {theirs.mean():.5f}",
        )

    return check


def hacked(results: Results) -> Verdict:
    """The unregularised proxy: below the base."""
    final = results[HACKED].final
    return below(
        "Optimised as it is, the cost brings health below the base policy's.",
        paired_difference(final["objective"], final["base"]),
        f"objective a step, paired by seed: {final['objective'].mean():.5f} against "
        f"{final['base'].mean():.5f}; the cost's correlation with it under the base is "
        f"{final['r'].mean():.2f}",
    )


# ---- pictures ------------------------------------------------------------------------------------


def draw(figure: Any, results: Results) -> None:
    """Objective over the coefficient, and while learning."""
    left, right = figure.subplots(1, 2)
    for i, name in enumerate(DIVERGENCES):
        found = [results[arm(name, f)].final["objective"] for f in FACTORS[name]]
        left.plot(FACTORS[name], [x.mean() for x in found], color=colour(i), marker="o", label=name)
        for f, x in zip(FACTORS[name], found, strict=True):
            left.plot([f] * len(x), x, ".", color=colour(i), ms=4)
    for i, label in ((3, HACKED), (4, HONEST)):
        left.axhline(results[label].final["objective"].mean(), color=colour(i), ls=":", label=label)
    left.axhline(results[HACKED].final["base"].mean(), color=colour(5), ls="--", label="base")
    left.set_xscale("log")
    left.set_xlabel("coefficient, in its unit")
    left.set_ylabel("objective a step")
    left.legend(fontsize=7)
    for i, label in enumerate((HACKED, HONEST, arm(SQRT_CHI2, THEORY))):
        curves = results[label].curves
        for row, (x, y) in enumerate(zip(curves["step"], curves["objective"], strict=True)):
            known = np.isfinite(y)
            right.plot(x[known], y[known], color=colour(3 + i), label=None if row else label)
    right.set_xlabel("environment steps")
    right.set_ylabel("objective of a day")
    right.legend(fontsize=7)


EXPERIMENT = Experiment(
    name="correlated_proxies_glucose",
    title="Optimising what diabetes costs, near a PID controller",
    paper="Laidlaw, Singhal, Dragan (2024), Correlated Proxies: A New Definition and Improved "
    "Mitigation for Reward Hacking",
    grid=[
        Measure(HACKED, functools.partial(learn, reward="glucose_cost")),
        Measure(HONEST, functools.partial(learn, reward="objective")),
        *(
            Measure(
                arm(name, factor),
                functools.partial(learn, reward="glucose_cost", regulariser=name, factor=factor),
            )
            for name in DIVERGENCES
            for factor in FACTORS[name]
        ),
    ],
    # Whole days, so that the last iteration, of a third of a day, ends one.
    budgets={
        "smoke": Budget(total_timesteps=4_608, num_envs=16, eval_episodes=0, seeds=2),
        "quick": Budget(total_timesteps=221_184, num_envs=128, eval_episodes=0, seeds=5),
        "full": Budget(total_timesteps=2_949_120, num_envs=256, eval_episodes=0, seeds=10),
    },
    claims=[
        Claim("The cost is hacked", hacked),
        Claim(
            "sqrt(chi2) beats the base",
            compared(
                "At its best coefficient sqrt(chi2) of occupancies ends above the base policy.",
                [arm(SQRT_CHI2, f) for f in FACTORS[SQRT_CHI2]],
                None,
            ),
        ),
        Claim(
            "sqrt(chi2) beats action KL",
            compared(
                "At each one's best coefficient sqrt(chi2) of occupancies ends above action KL.",
                [arm(SQRT_CHI2, f) for f in FACTORS[SQRT_CHI2]],
                [arm(ACTION_KL, f) for f in FACTORS[ACTION_KL]],
            ),
        ),
        Claim(
            "Occupancy KL beats action KL",
            compared(
                "At each one's best coefficient KL of occupancies ends above action KL.",
                [arm(KL, f) for f in FACTORS[KL]],
                [arm(ACTION_KL, f) for f in FACTORS[ACTION_KL]],
            ),
        ),
        Claim(
            "The theory's coefficient improves on the base",
            compared(
                "With the theory's coefficient, unseen, sqrt(chi2) ends above the base policy.",
                [arm(SQRT_CHI2, THEORY)],
                None,
            ),
        ),
        Claim("The monitor is in time", alarm_in_time),
    ],
    seeds=tuple(range(100, 110)),
    tuning_seeds=(0,),
    columns={
        "objective": "objective a step",
        "base": "base policy",
        "r": "r",
        "score": "monitor's highest score",
    },
    figures=[
        Figure(
            "Health over the coefficient",
            "Left: the objective at the end of training, a dot a seed, for each regulariser of the "
            "cost; sqrt(chi2)'s coefficient in units of the theory's, the others' in standard "
            "deviations of the cost. Right: the objective while learning, a line a seed.",
            draw,
        )
    ],
)
