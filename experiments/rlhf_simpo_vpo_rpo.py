"""Three answers to DPO's habits: SimPO on length, RPO and VPO on the fall of chosen responses.

Meng, Xia and Chen (2024): with log-probabilities averaged over tokens and no reference, length is
not exploited. Liu et al. (2024) and Cen et al. (2024): a likelihood term, from pessimism, keeps
chosen responses likely. (Offline and calibrated on the chosen, VPO has RPO's gradient: its arm must
be RPO's to the last digit, and is here to show it.) Scaled down: the gold laboratory, with labels
that also pay .15 for every token, which gold does not, so that longer responses are chosen for no
good reason.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.results import Results, Verdict
from rewardzoo.verdicts import above

from .common.rlhf import (
    SEEDS,
    TUNING_SEEDS,
    align,
    at_kl,
    draw_kl,
    every_seed,
    exceeds,
    laboratory,
)

DPO, SIMPO, SUMS, RPO, RPO_WEAK, VPO = (
    "DPO",
    "SimPO",
    "SimPO without averaging",
    "RPO, eta .2",
    "RPO, eta .02",
    "VPO, alpha .2",
)
LENGTH_BIAS = 0.15
LEVEL = 3.0  # nats, where arms are compared


def train(trial: Any, loss: str, **kwargs: float) -> dict[str, float]:
    """A preference loss on pairs whose labels favour length; gold does not."""
    return align(trial, laboratory(trial, length_bias=LENGTH_BIAS), loss, **kwargs)


def _arm(label: str, loss: str, **kwargs: float) -> Measure:
    return Measure(label, functools.partial(train, loss=loss, **kwargs))


def at_equal_kl(results: Results, label: str, other: str, key: str) -> np.ndarray:
    """A curve of two arms (2, seeds) where both reach a KL of 3, or the largest that both do."""
    curves = [results[x].curves for x in (label, other)]
    values = []
    for i in range(len(curves[0]["kl"])):
        level = min(LEVEL, *(float(c["kl"][i].max()) for c in curves))
        values.append([at_kl(c["kl"][i], c[key][i], level) for c in curves])
    return np.array(values).T


def chosen_stay(sentence: str, label: str) -> Any:
    """A check that at DPO's KL an arm's chosen responses are at most a nat below the base's."""

    def check(results: Results) -> Verdict:
        chosen, of_dpo = at_equal_kl(results, label, DPO, "chosen")
        return above(
            sentence,
            paired_difference(chosen, np.zeros_like(chosen)),
            f"mean log-ratio of chosen responses (nats) at equal KL; holds above -1; DPO's is "
            f"{of_dpo.mean():.3g}",
            -1.0,
        )

    return check


def chosen_likelier(sentence: str, label: str) -> Any:
    """A check that at DPO's KL an arm's chosen responses are likelier than DPO's."""

    def check(results: Results) -> Verdict:
        chosen, of_dpo = at_equal_kl(results, label, DPO, "chosen")
        return above(
            sentence,
            paired_difference(chosen, of_dpo),
            f"chosen log-ratio of {label!r} minus that of {DPO!r} at equal KL, paired by seed",
        )

    return check


EXPERIMENT = Experiment(
    name="rlhf_simpo_vpo_rpo",
    title="SimPO, RPO and VPO against DPO: length, and the fate of chosen responses",
    paper="Meng, Xia, Chen (2024), SimPO, NeurIPS; Liu et al. (2024), Provably mitigating "
    "overoptimization in RLHF, NeurIPS; Cen et al. (2024), Value-incentivized preference "
    "optimization",
    grid=[
        _arm(DPO, "dpo", beta=0.05),
        _arm(SIMPO, "simpo", beta=2.0, gamma=1.0),
        _arm(SUMS, "cpo", beta=0.05),
        _arm(RPO, "rpo", beta=0.05, eta=0.2),
        _arm(RPO_WEAK, "rpo", beta=0.05, eta=0.02),
        _arm(VPO, "vpo", beta=0.05, alpha=0.2),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=160, num_envs=0, eval_episodes=512, seeds=8),
        "full": Budget(total_timesteps=320, num_envs=0, eval_episodes=2_048, seeds=20),
    },
    claims=[
        Claim(
            "SimPO stays shorter",
            exceeds("At KL 3 DPO's responses are longer than SimPO's.", DPO, SIMPO, "length_at_3"),
        ),
        Claim(
            "Averaging is what does it",
            exceeds("At KL 3 responses are longer without averaging.", SUMS, SIMPO, "length_at_3"),
        ),
        Claim(
            "DPO makes chosen responses unlikely",
            every_seed(
                "Under DPO chosen responses end more than 3 nats below the base policy's.",
                DPO,
                "minus the mean log-ratio of chosen responses, minus 3 nats",
                lambda final: -final["chosen"] - 3,
            ),
        ),
        Claim(
            "RPO does not",
            every_seed(
                "Under RPO with eta .2 they end at most 1 nat below it.",
                RPO,
                "mean log-ratio of chosen responses, plus 1 nat",
                lambda final: final["chosen"] + 1,
            ),
        ),
        Claim(
            "At equal KL they fall under DPO",
            every_seed(
                "At KL 3 chosen responses are less likely under DPO than under the base policy.",
                DPO,
                "minus the mean log-ratio of chosen responses at KL 3",
                lambda final: -final["chosen_at_3"],
            ),
        ),
        Claim(
            "At equal KL RPO keeps them",
            chosen_stay(
                "At the KL of DPO they are at most a nat below the base policy's under RPO.", RPO
            ),
        ),
        Claim(
            "At equal KL VPO keeps them",
            chosen_stay(
                "At the KL of DPO they are at most a nat below the base policy's under VPO.", VPO
            ),
        ),
        Claim(
            "At equal KL RPO keeps them likelier",
            chosen_likelier("At equal KL they are likelier under RPO than under DPO.", RPO),
        ),
        Claim(
            "So does VPO",
            chosen_likelier("At equal KL they are likelier under VPO than under DPO.", VPO),
        ),
        Claim(
            "RPO's gold is no lower at equal KL",
            exceeds(
                "At KL 3 gold under RPO is at most .1 below DPO's.",
                RPO,
                DPO,
                "gold_at_3",
                slack=0.1,
            ),
        ),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "peak": "peak gold",
        "end": "final gold",
        "end_kl": "final KL",
        "length": "tokens",
        "chosen": "chosen (nats)",
    },
    figures=[
        Figure(
            "Gold over KL",
            "Gold (solid), the implicit reward (dotted) and the fit d (alpha - beta log d) of gold "
            "(dashed), mean over seeds.",
            functools.partial(draw_kl, (DPO, SIMPO, RPO, VPO)),
        )
    ],
)
