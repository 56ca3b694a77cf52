"""Three answers to DPO's habits: SimPO on length, RPO and VPO on the fall of chosen responses.

Meng, Xia and Chen (2024): with log-probabilities averaged over tokens and no reference, length is
not exploited. Liu et al. (2024) and Cen et al. (2024): a likelihood term, from pessimism, keeps
chosen responses likely. Scaled down: the gold laboratory, with labels that also pay .15 for every
token, which gold does not, so that longer responses are chosen for no good reason.
"""

from __future__ import annotations

import functools
from typing import Any

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure

from .rlhf_common import (
    SEEDS,
    TUNING_SEEDS,
    align,
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


def train(trial: Any, loss: str, **kwargs: float) -> dict[str, float]:
    """A preference loss on pairs whose labels favour length; gold does not."""
    return align(trial, laboratory(trial, length_bias=LENGTH_BIAS), loss, **kwargs)


def _arm(label: str, loss: str, **kwargs: float) -> Measure:
    return Measure(label, functools.partial(train, loss=loss, **kwargs))


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
            "At equal KL RPO keeps them likelier",
            exceeds(
                "At KL 3 chosen responses are likelier under RPO than under DPO.",
                RPO,
                DPO,
                "chosen_at_3",
            ),
        ),
        Claim(
            "So does VPO",
            exceeds(
                "At KL 3 chosen responses are likelier under VPO than under DPO.",
                VPO,
                DPO,
                "chosen_at_3",
            ),
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
