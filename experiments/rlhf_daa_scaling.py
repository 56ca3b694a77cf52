"""Direct alignment overoptimises too: gold over KL rises and falls without any reward model.

Rafailov et al. (2024): as the penalty beta falls, DPO, IPO and SLiC reach further from the base
policy, gold rises and then falls, Gao et al.'s law fits, and IPO deteriorates least; the
log-probability of chosen responses falls meanwhile; regularising length moves the curve and leaves
the hump. Huang et al. (2025): with a chi-squared penalty beside KL, which bounds how likely a
response can become, it deteriorates less at one and the same beta. Scaled down: the gold laboratory
with a one-layer transformer, 1,000 pairs, a quarter of them mislabelled, ten epochs.

Whether the law fits is asked of what it was not fitted to: all of a seed's betas but one, then the
one, against a line with as many parameters.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.losses import Scores
from rewardzoo.verdicts import above

from .common.rlhf import SEEDS, TUNING_SEEDS, align, draw_fit, every_seed, exceeds, laboratory

BETAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TAUS = (0.02, 0.1, 0.5)
OF_SLIC = (0.01, 0.05, 0.2, 1.0)
OF_LENGTH = OF_CHI2 = (0.01, 0.05, 0.2)
NATS = 0.5  # that a token costs, where length is regularised


def train(trial: Any, loss: str, **kwargs: float) -> dict[str, float]:
    """A preference loss on noisy pairs; gold is measured on fresh prompts."""
    return align(trial, laboratory(trial), loss, **kwargs)


def length_regularised(s: Scores, beta: float = 0.1, nats: float = NATS) -> Tensor:
    """DPO for a reward that pays ``beta * nats`` less for every token.

    ``-log sigmoid(beta * (delta + nats * (n_w - n_l)))``: where the chosen is longer, length
    already explains a part of the preference.

    Paper: Park et al. (2024), "Disentangling length from quality in direct preference
    optimization", eq. 9, whose alpha is ``beta * nats``.
    """
    return -F.logsigmoid(beta * (s.delta + nats * (s.n_chosen - s.n_rejected)))


def train_regularised(trial: Any, beta: float) -> dict[str, float]:
    """DPO with length regularised, on noisy pairs; gold is measured on fresh prompts."""
    return align(trial, laboratory(trial), length_regularised, beta=beta)


def _dpo(beta: float) -> str:
    return f"DPO, beta {beta:g}"


def _ipo(tau: float) -> str:
    return f"IPO, tau {tau:g}"


def _slic(beta: float) -> str:
    return f"SLiC, beta {beta:g}"


def _chi2(beta: float) -> str:
    return f"chi2 and KL, beta {beta:g}"


def _regularised(beta: float) -> str:
    return f"DPO, length regularised, beta {beta:g}"


def hump_over_beta(results: Results) -> Verdict:
    """Mean final gold at the middle betas of DPO minus the higher of those at both ends.

    The higher one, seed by seed, so that noise speaks against the claim.
    """
    end = np.stack([results[_dpo(beta)].final["end"] for beta in BETAS])
    d = paired_difference(end[1:-1].mean(0), np.maximum(end[0], end[-1]))
    kl = ", ".join(f"{results[_dpo(beta)].final['end_kl'].mean():.3g}" for beta in BETAS)
    return above(
        "Over beta DPO's final gold has a hump: in the middle it is above both ends.",
        d,
        f"mean of the middle betas minus the higher of both ends, paired by seed; KL at the end "
        f"falls with beta: {kl}",
    )


def law(d: np.ndarray) -> np.ndarray:
    """Regressors (points, 2) of ``d (alpha - beta log d)``."""
    return np.stack([d, -d * np.log(d)], 1)


def line(d: np.ndarray) -> np.ndarray:
    """Regressors (points, 2) of ``a + b d``."""
    return np.stack([np.ones_like(d), d], 1)


def held_out_error(form: Any, curves: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Squared error of a form on each curve, fitted to the others by least squares.

    Args:
        form: from d (points,) to regressors (points, parameters).
        curves: d > 0 and gold, both (points,), of each run.

    Returns:
        A mean over all points, in units of gold's variance: 1 is what a constant would have.
    """
    errors = []
    for i, (d, gold) in enumerate(curves):
        others = [np.concatenate(x) for x in zip(*curves[:i], *curves[i + 1 :], strict=True)]
        parameters, *_ = np.linalg.lstsq(form(others[0]), others[1], rcond=None)
        errors.append((gold - form(d) @ parameters) ** 2)
    variance = np.concatenate([gold for _, gold in curves]).var()
    return float(np.concatenate(errors).mean() / variance)


def law_fits_better_than_a_line(results: Results) -> Verdict:
    """The line's error on betas that it was not fitted to minus the law's, a seed at a time."""
    runs = [results[_dpo(beta)].curves for beta in BETAS]
    errors: dict[Any, list[float]] = {law: [], line: []}
    for i in range(len(results[_dpo(BETAS[0])].seeds)):
        curves = []
        for run in runs:
            moved = run["kl"][i] > 1e-6
            curves.append((np.sqrt(run["kl"][i][moved]), run["gold"][i][moved]))
        for form, found in errors.items():
            found.append(held_out_error(form, curves))
    return above(
        "On betas left out d (alpha - beta log d) predicts DPO's gold better than a line a + b d.",
        paired_difference(errors[line], errors[law]),
        f"held-out squared error of the line minus that of the law, both with two parameters, in "
        f"units of gold's variance; means {np.mean(errors[line]):.3g} and "
        f"{np.mean(errors[law]):.3g}",
    )


def draw_points(figure: Any, results: Results) -> None:
    """Gold against the square root of KL: every measurement of every beta, mean over seeds."""
    axes = figure.subplots()
    families = [
        ("DPO", [_dpo(b) for b in BETAS]),
        ("IPO", [_ipo(t) for t in TAUS]),
        ("SLiC", [_slic(b) for b in OF_SLIC]),
        ("DPO, length regularised", [_regularised(b) for b in OF_LENGTH]),
        ("chi2 and KL", [_chi2(b) for b in OF_CHI2]),
    ]
    for i, (name, labels) in enumerate(families):
        kl, gold = (
            np.concatenate([results[x].curves[key] for x in labels], 1) for key in ("kl", "gold")
        )
        d = np.sqrt(np.clip(kl.mean(0), 0, None))
        axes.plot(d, gold.mean(0), "o", ms=3, color=colour(i), label=name)
        draw_fit(axes, kl, gold, color=colour(i))
    axes.set_xlabel("square root of KL from the base policy (nats a sequence)")
    axes.set_ylabel("gold (base standard deviations)")
    axes.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="rlhf_daa_scaling",
    title="Overoptimisation in direct alignment: DPO, IPO and SLiC over their penalties",
    paper="Rafailov et al. (2024), Scaling laws for reward model overoptimization in direct "
    "alignment algorithms, NeurIPS; Park et al. (2024), Disentangling length from quality in "
    "direct preference optimization; Huang et al. (2025), Correcting the mythos of "
    "KL-regularization: direct alignment without overoptimization via chi-squared preference "
    "optimization",
    grid=[
        *(Measure(_dpo(b), functools.partial(train, loss="dpo", beta=b)) for b in BETAS),
        *(Measure(_ipo(t), functools.partial(train, loss="ipo", tau=t)) for t in TAUS),
        *(Measure(_slic(b), functools.partial(train, loss="slic", beta=b)) for b in OF_SLIC),
        *(
            Measure(_regularised(b), functools.partial(train_regularised, beta=b))
            for b in OF_LENGTH
        ),
        *(Measure(_chi2(b), functools.partial(train, loss="chi_po", beta=b)) for b in OF_CHI2),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=160, num_envs=0, eval_episodes=512, seeds=10),
        "full": Budget(total_timesteps=320, num_envs=0, eval_episodes=2_048, seeds=20),
    },
    claims=[
        Claim(
            "DPO overoptimises at a small beta",
            every_seed(
                "At beta .01 gold ends at least .1 below its peak.",
                _dpo(BETAS[0]),
                "fall from the peak - .1",
                lambda final: final["fall"] - 0.1,
            ),
        ),
        Claim(
            "A larger beta ends higher",
            exceeds("Gold ends higher at beta .2 than at beta .01.", _dpo(0.2), _dpo(0.01), "end"),
        ),
        Claim("Gold over beta has a hump", hump_over_beta),
        Claim(
            "Too large a beta gains less",
            exceeds(
                "The peak at beta .05 is above that at beta 1: a hump over beta.",
                _dpo(0.05),
                _dpo(1.0),
                "peak",
            ),
        ),
        Claim("Gao et al.'s law predicts better than a line", law_fits_better_than_a_line),
        Claim(
            "The chosen become unlikely",
            every_seed(
                "Under DPO the log-probability of chosen responses ends below the base policy's.",
                _dpo(BETAS[0]),
                "minus the mean log-ratio of chosen responses (nats)",
                lambda final: -final["chosen"],
            ),
        ),
        Claim(
            "IPO deteriorates least",
            exceeds(
                "From its peak DPO at its smallest beta falls further than IPO at its smallest "
                "tau.",
                _dpo(BETAS[0]),
                _ipo(TAUS[0]),
                "fall",
            ),
        ),
        Claim(
            "So it does beside SLiC",
            exceeds(
                "From its peak SLiC at its smallest beta falls further than IPO at its smallest "
                "tau.",
                _slic(OF_SLIC[0]),
                _ipo(TAUS[0]),
                "fall",
            ),
        ),
        Claim(
            "Regularised length leaves the hump",
            every_seed(
                "At beta .01 gold still ends at least .1 below its peak where length is "
                "regularised.",
                _regularised(OF_LENGTH[0]),
                "fall from the peak - .1",
                lambda final: final["fall"] - 0.1,
            ),
        ),
        Claim(
            "Regularised length is shorter",
            exceeds(
                "At KL 3 responses are shorter where length is regularised.",
                _dpo(OF_LENGTH[0]),
                _regularised(OF_LENGTH[0]),
                "length_at_3",
            ),
        ),
        Claim(
            "chi2 deteriorates less",
            exceeds(
                "From its peak DPO at its smallest beta falls further than with chi2 beside KL.",
                _dpo(OF_CHI2[0]),
                _chi2(OF_CHI2[0]),
                "fall",
            ),
        ),
        Claim(
            "chi2 ends higher",
            exceeds(
                "At beta .01 gold ends higher with chi2 beside KL than DPO's.",
                _chi2(OF_CHI2[0]),
                _dpo(OF_CHI2[0]),
                "end",
            ),
        ),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "peak": "peak gold",
        "end": "final gold",
        "end_kl": "final KL",
        "chosen": "chosen",
        "length": "tokens",
    },
    figures=[
        Figure(
            "Gold over KL",
            "Every measurement along training at every penalty, mean over seeds, and the fit of "
            "d (alpha - beta log d) for each loss.",
            draw_points,
        )
    ],
)
