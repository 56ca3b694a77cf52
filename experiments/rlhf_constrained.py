"""Constraints instead of weights: hold each reward model where it stops being a proxy of gold.

Moskovitz et al. (2024): a sum of reward models with fixed weights is overoptimised; if each is held
at the value where gold peaked (its proxy point, found by a pilot that may look at gold) by a
multiplier that can turn negative, gold stays at its peak. Where the proxy points are depends on how
reward models correlate. Scaled down: the gold laboratory, with two reward models fitted to
different pairs; for the last question, gold with errors of known correlation.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rewardzoo.checkpoint import load_checkpoint, save_checkpoint
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.constrained import ConstrainedReward
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.reward_models import train_reward_model
from rewardzoo.rlhf.world import Formula
from rewardzoo.verdicts import within

from .common.rlhf import SEEDS, TUNING_SEEDS, draw_kl, every_seed, exceeds, laboratory, optimise

FIXED, INEQUALITY, EQUALITY = "fixed weights", "inequality", "equality"
RATE = 5e-4
CLOSE = 0.1  # base standard deviations, to a threshold
CORRELATIONS = (-0.5, 0.0, 0.8)  # of two reward models, on base samples
ERROR = 2.0  # standard deviations of their errors, in those of gold


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
    """The mean of the components: fixed weights.

    Attributes:
        means: of each component over the batch scored last, (M,).
    """

    def __init__(self, models: list[Any]) -> None:
        self.models = models
        self.means = torch.zeros(len(models))

    def __call__(self, batch: Any) -> torch.Tensor:
        """Scores (B,)."""
        scores = torch.stack([model(batch) for model in self.models])
        self.means = scores.detach().mean(1)
        return scores.mean(0)

    def each(self) -> dict[str, float]:
        """The components' means by name."""
        return {f"component {i}": float(mean) for i, mean in enumerate(self.means)}


def violations(curves: dict[str, np.ndarray], thresholds: list[float]) -> dict[str, float]:
    """The worst of the last third: ``missed`` to either side of a threshold, ``short`` below it."""
    third = max(1, len(curves["kl"]) // 3)
    late = np.stack([curves[f"component {i}"][-third:] for i in range(len(thresholds))])
    short = np.array(thresholds)[:, None] - late
    return {"missed": float(np.abs(short).max()), "short": float(short.max())}


def train(trial: Any, kind: str) -> dict[str, float]:
    """RLOO on two reward models, summed or constrained; the proxy shown is their mean."""
    lab = laboratory(trial)
    models = components(lab)
    thresholds = pilot(trial, lab, models)
    if kind == "fixed":
        reward: Any = Mean(models)
    else:
        reward = ConstrainedReward(models, thresholds, kind)
    shown = Mean(models)
    return optimise(
        trial,
        lab,
        reward,
        shown,
        shown.each,
        functools.partial(violations, thresholds=thresholds),
        learning_rate=RATE,
    )


def correlated(lab: Any, correlation: float) -> list[Any]:
    """Gold with two errors such that the two sums correlate so on the base policy's samples.

    An error is what another human would say, made to correlate with neither gold nor the other
    error.
    """
    c, base = lab.config, lab.base
    directions, others = [lab.gold(base)], []
    for i in range(2):
        other = Formula(c.vocab_size, c.bend, 1_000 * (lab.world + 1) + i)
        x = other(base)
        mean, x = x.mean(), x - x.mean()
        shares = torch.stack([x @ d / (d @ d) for d in directions])
        x = x - shares @ torch.stack(directions)
        directions.append(x / x.std())
        others.append((other, mean, shares, x.std()))

    def both(batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = [lab.gold(batch)]
        for other, mean, shares, std in others:
            found.append((other(batch) - mean - shares @ torch.stack(found)) / std)
        return found[0], found[1], found[2]

    rho = (correlation * (1 + ERROR**2) - 1) / ERROR**2  # of the errors

    def component(batch: Any, own: float, shared: float) -> torch.Tensor:
        gold, first, second = both(batch)
        error = shared * first + own * second
        return (gold + ERROR * error) / float(np.sqrt(1 + ERROR**2))

    return [
        functools.partial(component, own=0.0, shared=1.0),
        functools.partial(component, own=float(np.sqrt(1 - rho**2)), shared=rho),
    ]


def proxy_point(trial: Any, correlation: float) -> dict[str, float]:
    """The pilot's thresholds where two reward models correlate so."""
    lab = laboratory(trial)
    models = correlated(lab, correlation)
    thresholds = pilot(trial, lab, models)
    on_base = torch.corrcoef(torch.stack([model(lab.base) for model in models]))[0, 1]
    final = {"threshold": float(np.mean(thresholds)), "correlation": float(on_base)}
    trial.log(trial.budget.total_timesteps, **final)
    return final


def _correlated(correlation: float) -> str:
    return f"pilot, correlation {correlation:g}"


def thresholds_move(results: Results) -> Verdict:
    """The mean threshold at the least correlation minus that at the largest, to either side."""
    ends = CORRELATIONS[0], CORRELATIONS[-1]
    low, high = (results[_correlated(x)].final["threshold"] for x in ends)
    same = within(
        "Where gold peaks depends on the correlation of the reward models.",
        paired_difference(low, high),
        "mean threshold where reward models correlate by -.5 minus that where by .8, base standard "
        "deviations, paired by seed; holds if the interval is outside +-.1, fails if inside",
        CLOSE,
    )
    turned = {"holds": "fails", "fails": "holds", "inconclusive": "inconclusive"}
    return replace(same, outcome=turned[same.outcome])


EXPERIMENT = Experiment(
    name="rlhf_constrained",
    title="Reward models as constraints",
    paper="Moskovitz et al. (2024), Confronting reward model overoptimization with constrained "
    "RLHF, ICLR",
    grid=[
        Measure(FIXED, functools.partial(train, kind="fixed")),
        Measure(INEQUALITY, functools.partial(train, kind="inequality")),
        Measure(EQUALITY, functools.partial(train, kind="equality")),
        *(
            Measure(_correlated(x), functools.partial(proxy_point, correlation=x))
            for x in CORRELATIONS
        ),
    ],
    budgets={
        "smoke": Budget(total_timesteps=10, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=180, num_envs=0, eval_episodes=512, seeds=10),
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
                "Over the last third of training each component's mean is within .1 of its "
                "threshold.",
                EQUALITY,
                ".1 minus the largest distance (base standard deviations)",
                lambda final: CLOSE - final["missed"],
            ),
        ),
        Claim(
            "Inequality constraints do not overshoot either",
            every_seed(
                "With inequality constraints gold ends at .95 of its peak or more.",
                INEQUALITY,
                "end minus .95 of the peak",
                lambda final: final["end"] - 0.95 * final["peak"],
            ),
        ),
        Claim(
            "Inequality constraints are met",
            every_seed(
                "Over the last third of training no component's mean is more than .1 below its "
                "threshold.",
                INEQUALITY,
                ".1 minus the largest shortfall (base standard deviations)",
                lambda final: CLOSE - final["short"],
            ),
        ),
        Claim(
            "Pushing back is what helps",
            exceeds(
                "Equality constraints end with more gold than inequality constraints.",
                EQUALITY,
                INEQUALITY,
                "end",
            ),
        ),
        Claim("Thresholds move with the correlation", thresholds_move),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "peak": "peak gold",
        "end": "final gold",
        "end_kl": "final KL",
        "proxy_end": "proxy",
        "missed": "farthest from a threshold",
        "short": "farthest below one",
        "threshold": "mean threshold",
        "correlation": "correlation",
    },
    figures=[
        Figure(
            "Gold over KL",
            "Gold (solid), the mean of the components (dotted) and the fit of gold (dashed), mean "
            "over seeds.",
            functools.partial(draw_kl, (FIXED, INEQUALITY, EQUALITY)),
        )
    ],
)
