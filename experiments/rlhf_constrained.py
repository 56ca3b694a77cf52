"""Constraints instead of weights: hold each reward model where it stops being a proxy of gold.

Moskovitz et al. (2024): a sum of reward models with fixed weights is overoptimised; if each is held
at the value where gold peaked (its proxy point, found by a pilot that may look at gold) by a
multiplier that can turn negative, gold stays at its peak. Scaled down: the gold laboratory, with
two reward models fitted to different pairs.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch

from rewardzoo.checkpoint import load_checkpoint, save_checkpoint
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.rlhf.constrained import ConstrainedReward
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.reward_models import train_reward_model

from .common.rlhf import SEEDS, TUNING_SEEDS, draw_kl, every_seed, exceeds, laboratory, optimise

FIXED, INEQUALITY, EQUALITY = "fixed weights", "inequality", "equality"
RATE = 5e-4


def components(lab: Any) -> list[Any]:
    """Two reward models, each on pairs of its own."""
    found = []
    for i in range(2):
        data, _ = lab.pairs(lab.config.n_pairs, lab.config.noise, stream=40 + i)
        model = train_reward_model(data, lab.policy, seed=i)
        model.fit_normaliser(lab.base)
        found.append(model)
    return found


def pilot(trial: Any, lab: Any, models: list[Any]) -> list[float]:
    """Means of the components where gold peaks, under fixed weights; kept beside the checkpoint."""
    file = trial.folder / "pilot.pt"
    if file.is_file():
        return [float(x) for x in load_checkpoint(file, "pilot")["thresholds"]]
    policy = copy.deepcopy(lab.policy)
    config = OnlineConfig(learning_rate=RATE, seed=trial.seed + 1_000)
    trainer = OnlineTrainer(policy, lab.policy, Mean(models), lab.language.prompts, config)
    best, thresholds = -np.inf, [0.0, 0.0]
    total = trial.budget.total_timesteps
    for _ in range(10):
        trainer.train(max(1, total // 10))
        batch = lab.sample(policy, trial.budget.eval_episodes, stream=8)
        gold = float(lab.gold(batch).mean())
        if gold > best:
            with torch.no_grad():
                best, thresholds = gold, [float(m(batch).mean()) for m in models]
    save_checkpoint(file, "pilot", {"thresholds": thresholds})
    return thresholds


class Mean:
    """The mean of the components: fixed weights."""

    def __init__(self, models: list[Any]) -> None:
        self.models = models

    def __call__(self, batch: Any) -> torch.Tensor:
        """Scores (B,)."""
        return torch.stack([model(batch) for model in self.models]).mean(0)


def train(trial: Any, kind: str) -> dict[str, float]:
    """RLOO on two reward models, summed or constrained; the proxy shown is their mean."""
    lab = laboratory(trial)
    models = components(lab)
    thresholds = pilot(trial, lab, models)
    if kind == "fixed":
        reward: Any = Mean(models)
    else:
        reward = ConstrainedReward(models, thresholds, kind)
    final = optimise(trial, lab, reward, learning_rate=RATE, shown=Mean(models))
    return {**final, "missed": abs(final["proxy_end"] - float(np.mean(thresholds)))}


EXPERIMENT = Experiment(
    name="rlhf_constrained",
    title="Reward models as constraints",
    paper="Moskovitz et al. (2024), Confronting reward model overoptimization with constrained "
    "RLHF, ICLR",
    grid=[
        Measure(FIXED, functools.partial(train, kind="fixed")),
        Measure(INEQUALITY, functools.partial(train, kind="inequality")),
        Measure(EQUALITY, functools.partial(train, kind="equality")),
    ],
    budgets={
        "smoke": Budget(total_timesteps=10, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=180, num_envs=0, eval_episodes=512, seeds=5),
        "full": Budget(total_timesteps=300, num_envs=0, eval_episodes=2_048, seeds=20),
    },
    claims=[
        Claim(
            "Fixed weights overshoot",
            every_seed(
                "With fixed weights gold ends below .95 of its peak.",
                FIXED,
                ".95 of the peak minus the end",
                lambda final: 0.95 * final["peak"] - final["end"],
            ),
        ),
        Claim(
            "Constraints do not",
            every_seed(
                "With equality constraints gold ends at .95 of its peak or more.",
                EQUALITY,
                "end minus .95 of the peak",
                lambda final: final["end"] - 0.95 * final["peak"],
            ),
        ),
        Claim(
            "Constraints end higher",
            exceeds(
                "Equality constraints end with more gold than fixed weights.",
                EQUALITY,
                FIXED,
                "end",
            ),
        ),
        Claim(
            "Constraints are met",
            every_seed(
                "At the end the components' mean is within .1 of the thresholds' mean.",
                EQUALITY,
                ".1 minus the distance (base standard deviations)",
                lambda final: 0.1 - final["missed"],
            ),
        ),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={"peak": "peak gold", "end": "final gold", "end_kl": "final KL", "proxy_end": "proxy"},
    figures=[
        Figure(
            "Gold over KL",
            "Gold (solid), the mean of the components (dotted) and the fit of gold (dashed), mean "
            "over seeds.",
            functools.partial(draw_kl, (FIXED, INEQUALITY, EQUALITY)),
        )
    ],
)
