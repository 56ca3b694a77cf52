"""What the tasks of correlated proxies share: their arms, how these are judged, the picture.

Each regulariser is judged at its best coefficient, chosen for each seed on the other seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rewardzoo.agents.orpo import play_base
from rewardzoo.experiment import Claim, Figure, Measure
from rewardzoo.figures import colour, draw_runs
from rewardzoo.metrics.occupancy import theory_coefficient
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.results import Results, Verdict
from rewardzoo.verdicts import above, below

from ..correlated_proxies import ACTION_KL, HACKED, HONEST, SQRT_CHI2, train
from .monitoring import monitor_claims


class Regulariser(NamedTuple):
    """A divergence from the base policy, and the coefficients that it is tried with.

    They are in units of the theory's for sqrt(chi2), for the others of the proxy's standard
    deviation under the base.
    """

    divergence: str
    factors: tuple[float, ...] = (0.3, 1.0)
    on: str = "state_action"


KL = "occupancy KL"
REGULARISERS = {
    SQRT_CHI2: Regulariser("sqrt_chi2"),
    KL: Regulariser("kl"),
    ACTION_KL: Regulariser("action_kl"),
}
Regularisers = Mapping[str, Regulariser]
Best = Callable[[Results, Sequence[str]], tuple[np.ndarray, list[str]]]
THEORY = 1.0
GAMMA = 0.99
COLUMNS = {
    "objective": "objective a step",
    "base": "base policy",
    "r": "r",
    "score": "monitor's highest score",
}


def arm(name: str, factor: float) -> str:
    """The label of a regulariser at a coefficient."""
    return f"{name}, {factor:g}"


def every(name: str, regularisers: Regularisers = REGULARISERS) -> list[str]:
    """The labels of a regulariser at all its coefficients."""
    return [arm(name, factor) for factor in regularisers[name].factors]


def optimise(
    trial: Any,
    make: Callable[..., Any],
    proxy: str,
    base: Any,
    episode: int,
    regulariser: str | None,
    factor: float,
    **hyperparameters: Any,
) -> dict[str, float]:
    """PPO from a clone of the base policy, watched by the hacking monitor.

    Args:
        trial: one seed's.
        make: vector environments that pay what it is called with, or else what is to be optimised.
        proxy: a reward expression, whose spread under the base is the coefficients' unit.
        base: the policy to stay near: observations to probabilities.
        episode: steps of one.
        regulariser: of ``REGULARISERS``; None for none.
        factor: the coefficient, in its unit.
        **hyperparameters: of PPO.
    """
    # Under the base on other rows than any used later.
    device = torch.device(trial.device)
    seen = play_base(make(proxy), base, episode, trial.seed + 900_000, device)
    sigma = float(seen.reward.std())
    r = float(torch.corrcoef(torch.stack([seen.reward.flatten(), seen.objective.flatten()]))[0, 1])
    unit = theory_coefficient(sigma, r) if regulariser == SQRT_CHI2 else sigma
    found = train(
        trial,
        make,
        base,
        REGULARISERS[regulariser].divergence if regulariser else None,
        factor * unit,
        episode,
        base_steps=episode,
        every=trial.budget.total_timesteps // 5,
        watched=episode,
        num_epochs=10,
        num_minibatches=8,
        gamma=GAMMA,
        **hyperparameters,
    )
    return {**found, "r": r, "sigma": sigma}


def arms(
    learn: Callable[..., Any], proxy: str, regularisers: Regularisers = REGULARISERS
) -> list[Measure]:
    """The proxy as it is, the objective, and the proxy under each regulariser.

    Args:
        learn: of a trial, ``reward``, ``regulariser`` and ``factor``.
        proxy: a reward expression.
        regularisers: by their names.
    """
    return [
        Measure(HACKED, functools.partial(learn, reward=proxy)),
        Measure(HONEST, functools.partial(learn, reward="objective")),
        *(
            Measure(
                arm(name, factor),
                functools.partial(learn, reward=proxy, regulariser=name, factor=factor),
            )
            for name, regulariser in regularisers.items()
            for factor in regulariser.factors
        ),
    ]


# ---- claims --------------------------------------------------------------------------------------


def best_of_others(results: Results, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Objectives (seeds,) of the arm that is best on the other seeds, and which arm that is."""
    found = np.stack([results[label].final["objective"] for label in labels])
    others = (found.sum(1, keepdims=True) - found) / max(1, found.shape[1] - 1)
    chosen = others.argmax(0)
    return found[chosen, np.arange(found.shape[1])], [labels[i] for i in chosen]


def best_of_all(results: Results, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Objectives (seeds,) of the arm that is best in the mean over the same seeds, and which."""
    best = max(labels, key=lambda label: results[label].final["objective"].mean())
    return results[best].final["objective"], [best]


def compared(
    claim: str, one: Sequence[str], other: Sequence[str] | None, best: Best = best_of_others
) -> Any:
    """A check that one set of arms, at its best, ends above another's, or above the base."""

    def check(results: Results) -> Verdict:
        ours, chosen = best(results, one)
        if other is None:
            theirs, against = results[one[0]].final["base"], "the base"
        else:
            theirs, rival = best(results, other)
            against = ", ".join(sorted(set(rival)))
        return above(
            claim,
            paired_difference(ours, theirs),
            "objective a step at the end of training, paired by seed: "
            f"{', '.join(sorted(set(chosen)))} {ours.mean():.5f}, {against} {theirs.mean():.5f}",
        )

    return check


def hacked(results: Results, claim: str, proxy: str) -> Verdict:
    """The unregularised proxy, ``proxy`` in words: below the base."""
    final = results[HACKED].final
    return below(
        claim,
        paired_difference(final["objective"], final["base"]),
        f"objective a step, paired by seed: {final['objective'].mean():.5f} against "
        f"{final['base'].mean():.5f}; the {proxy}'s correlation with it under the base is "
        f"{final['r'].mean():.2f}",
    )


def claims(sentence: str, claim: str, proxy: str) -> list[Claim]:
    """That the proxy is hacked, as ``claim`` says, what regularisers do about it, and the monitor.

    The monitor is asked of runs that begin at the base policy.
    """
    return [
        *regulariser_claims(sentence, claim, proxy, REGULARISERS),
        *monitor_claims(HACKED, HONEST),
    ]


def regulariser_claims(
    sentence: str, claim: str, proxy: str, regularisers: Regularisers
) -> list[Claim]:
    """That the proxy is hacked, as ``claim`` says, and what regularisers do about it."""
    return [
        Claim(sentence, functools.partial(hacked, claim=claim, proxy=proxy)),
        Claim(
            "sqrt(chi2) beats the base",
            compared(
                "At its best coefficient sqrt(chi2) of occupancies ends above the base policy.",
                every(SQRT_CHI2, regularisers),
                None,
            ),
        ),
        *(
            Claim(
                f"{short} beats action KL",
                compared(
                    f"At each one's best coefficient {long} of occupancies ends above action KL.",
                    every(name, regularisers),
                    every(ACTION_KL, regularisers),
                ),
            )
            for name, short, long in (
                (SQRT_CHI2, "sqrt(chi2)", "sqrt(chi2)"),
                (KL, "Occupancy KL", "KL"),
            )
        ),
        Claim(
            "The theory's coefficient improves on the base",
            compared(
                "With the theory's coefficient, unseen, sqrt(chi2) ends above the base policy.",
                [arm(SQRT_CHI2, THEORY)],
                None,
            ),
        ),
    ]


# ---- pictures ------------------------------------------------------------------------------------


def picture(
    title: str, proxy: str, episode: str, regularisers: Regularisers = REGULARISERS
) -> Figure:
    """``draw``, with what is seen; ``proxy`` and ``episode`` in words."""
    return Figure(
        title,
        "Left: the objective at the end of training, a dot a seed, for each regulariser of the "
        f"{proxy}; sqrt(chi2)'s coefficient in units of the theory's, the others' in standard "
        f"deviations of the {proxy}. Right: the objective while learning, a line a seed.",
        functools.partial(draw, episode=episode, regularisers=regularisers),
    )


def draw(
    figure: Any, results: Results, episode: str, regularisers: Regularisers = REGULARISERS
) -> None:
    """Objective over the coefficient, and while learning; ``episode`` in words."""
    left, right = figure.subplots(1, 2)
    n = len(regularisers)
    for i, (name, regulariser) in enumerate(regularisers.items()):
        factors = regulariser.factors
        found = [results[arm(name, f)].final["objective"] for f in factors]
        left.plot(factors, [x.mean() for x in found], color=colour(i), marker="o", label=name)
        for f, x in zip(factors, found, strict=True):
            left.plot([f] * len(x), x, ".", color=colour(i), ms=4)
    for i, label in ((n, HACKED), (n + 1, HONEST)):
        left.axhline(results[label].final["objective"].mean(), color=colour(i), ls=":", label=label)
    left.axhline(results[HACKED].final["base"].mean(), color=colour(n + 2), ls="--", label="base")
    left.set_xscale("log")
    left.set_xlabel("coefficient, in its unit")
    left.set_ylabel("objective a step")
    left.legend(fontsize=7)
    for i, label in enumerate((HACKED, HONEST, arm(SQRT_CHI2, THEORY))):
        draw_runs(right, results[label].curves, "objective", n + i, label)
    right.set_xlabel("environment steps")
    right.set_ylabel(f"objective of {episode}")
    right.legend(fontsize=7)
