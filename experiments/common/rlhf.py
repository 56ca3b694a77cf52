"""What the experiments on language models share: worlds, training with measurements, verdicts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rewardzoo.checkpoint import latest_checkpoint, save_keeping_previous
from rewardzoo.experiment import Claim
from rewardzoo.files import write_atomic
from rewardzoo.metrics.statistics import paired_difference, stratified_bootstrap
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.ensembles import Ensemble
from rewardzoo.rlhf.evaluation import (
    fit_scaling_law,
    overoptimisation,
    scaling_law_intervals,
)
from rewardzoo.rlhf.laboratory import Laboratory, LaboratoryConfig
from rewardzoo.rlhf.offline import OfflineTrainer
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.reward_models import RewardModel
from rewardzoo.rlhf.sequences import Sequences, sequence_logps
from rewardzoo.verdicts import above

# One layer of width 32 learns the chain to .1 nat a token in four seconds of one core. What is
# studied is the gap between a proxy and gold, which a small model has no less of.
SMALL = {"width": 32, "layers": 1}
SEEDS, TUNING_SEEDS = tuple(range(100, 120)), tuple(range(3))
MEMBERS = 5
SMOKE = 64  # fresh prompts of a smoke run's measurements
Summary = Callable[[dict[str, np.ndarray]], dict[str, float]]


def laboratory(trial: Any, world: int | None = None, **config: Any) -> Laboratory:
    """The world of a trial's seed, or another; base policies are shared by all arms of the run."""
    cache = trial.folder.parents[1] / "laboratory"
    # A smoke run shows that everything runs; its base policies are hardly taught.
    taught = {"sft_steps": 20} if trial.budget.eval_episodes <= SMOKE else {}
    return Laboratory(trial.seed, LaboratoryConfig(**{**SMALL, **taught, **config}), cache, world)


def proxy_of(lab: Laboratory, objective: str, pretrained: bool = False, coef: float = 2.0) -> Any:
    """A single reward model, or an ensemble of five.

    Args:
        lab: the world.
        objective: "single", or an objective of ``Ensemble``.
        pretrained: members begin at base policies of their own, not at one.
        coef: of the objective.
    """
    if objective == "single":
        return lab.reward_model()
    return Ensemble(members(lab, pretrained), objective, coef)


def members(lab: Laboratory, pretrained: bool) -> list[RewardModel]:
    """Five reward models on the same pairs."""
    return [lab.reward_model(i, pretrained=i if pretrained else 0) for i in range(MEMBERS)]


def optimise(
    trial: Any,
    lab: Laboratory,
    reward: Any,
    shown: Any = None,
    more: Callable[[], dict[str, float]] = dict,
    summary: Summary = lambda curves: {},
    **config: Any,
) -> dict[str, float]:
    """Train on ``reward``, measure gold along the way; goes on from its checkpoint.

    ``shown`` is the proxy that is measured, where it is not ``reward``; ``more`` and ``summary``
    are those of ``measured``. The budget's ``total_timesteps`` are updates of 32 prompts,
    ``eval_episodes`` fresh prompts of each of the twenty measurements.
    """
    hyperparameters = OnlineConfig(**{"learning_rate": 5e-4, "seed": trial.seed, **config})
    policy = copy.deepcopy(lab.policy)
    trainer = OnlineTrainer(policy, lab.policy, reward, lab.language.prompts, hyperparameters)
    return measured(trial, lab, trainer, policy, shown or reward, more, summary)


def align(
    trial: Any,
    lab: Laboratory,
    loss: str | Callable[..., torch.Tensor],
    learning_rate: float = 2e-3,
    **loss_kwargs: Any,
) -> dict[str, float]:
    """Train on the world's pairs by a preference loss, measure gold along the way.

    The proxy is what the loss takes for the reward of the policy's own samples: the log-ratio to
    the base policy, in nats. ``chosen`` is the mean log-ratio of chosen responses.
    """
    pairs, _ = lab.pairs(lab.config.n_pairs, lab.config.noise)
    policy = copy.deepcopy(lab.policy)
    trainer = OfflineTrainer(
        policy,
        lab.policy,
        pairs,
        loss,
        learning_rate=learning_rate,
        batch_size=min(64, len(pairs)),
        seed=trial.seed,
        **loss_kwargs,
    )

    def log_ratio(batch: Sequences) -> torch.Tensor:
        return sequence_logps(policy, batch) - sequence_logps(lab.policy, batch)

    @torch.no_grad()
    def chosen() -> dict[str, float]:
        ratio = sequence_logps(policy, pairs.chosen) - trainer.ref_chosen
        return {"chosen": float(ratio.mean())}

    return measured(trial, lab, trainer, policy, log_ratio, chosen)


def measured(
    trial: Any,
    lab: Laboratory,
    trainer: Any,
    policy: Any,
    reward: Callable[..., Any],
    more: Callable[[], dict[str, float]] = dict,
    summary: Summary = lambda curves: {},
) -> dict[str, float]:
    """Train in twenty parts; where gold peaked and ended, and values at a KL of 3.

    ``more`` is measured after each of the laboratory's own measurements, and what ``summary`` makes
    of all curves is among the final numbers.
    """

    def evaluate() -> dict[str, float]:
        return {**lab.evaluate(policy, reward, trial.budget.eval_episodes), **more()}

    curves = curves_of(trial, trainer, evaluate)
    gold, proxy, kl = (curves[name] for name in ("gold", "proxy", "kl"))
    at = int(gold.argmax())
    others = [name for name in curves if name not in ("proxy", "kl", "entropy")]
    return {
        **overoptimisation(kl, gold),
        "proxy_end": float(proxy[-1]),
        "proxy_rise": float(proxy[-1] - proxy[at]),
        **{name: float(curves[name][-1]) for name in others if name != "gold"},
        **{f"{name}_at_3": at_kl(kl, curves[name], 3.0) for name in others},
        **summary(curves),
    }


def curves_of(
    trial: Any, trainer: Any, evaluate: Callable[[], dict[str, float]], parts: int = 20
) -> dict[str, np.ndarray]:
    """Train in parts with a measurement before each and at the end; goes on from its checkpoint."""
    total = trial.budget.total_timesteps
    checkpoint = trial.folder / "checkpoint.pt"
    curve_file = trial.folder / "curve.json"
    curve: list[dict[str, float]] = []
    saved_last = latest_checkpoint(checkpoint)
    if saved_last is not None:
        trainer.load(saved_last)
        # Of a run that was killed between the two files, the curve is a measurement ahead.
        saved = json.loads(curve_file.read_text())
        curve = [numbers for numbers in saved if numbers["step"] < trainer.num_steps]
    while True:
        numbers = evaluate()
        trial.log(trainer.num_steps, **numbers)
        curve.append({"step": trainer.num_steps, **numbers})
        if trainer.num_steps >= total:
            break
        trainer.train(min(max(1, total // parts), total - trainer.num_steps))
        write_atomic(curve_file, json.dumps(curve))
        save_keeping_previous(trainer.save, checkpoint)
    return {name: np.array([x[name] for x in curve]) for name in numbers}


def at_kl(kl: np.ndarray, values: np.ndarray, level: float) -> float:
    """Values where a run first crosses a KL, interpolated; its end if it stays below."""
    above = np.flatnonzero(kl >= level)
    if not len(above) or above[0] == 0:
        return float(values[-1])
    i = above[0]
    share = (level - kl[i - 1]) / (kl[i] - kl[i - 1])
    return float(values[i - 1] + share * (values[i] - values[i - 1]))


def exceeds(sentence: str, better: str, worse: str, key: str, slack: float = 0.0) -> Any:
    """A check that an arm's final number exceeds another's minus ``slack``, paired by seed."""

    def check(results: Results) -> Verdict:
        d = paired_difference(results[better].final[key], results[worse].final[key])
        return above(
            sentence,
            d,
            f"{key} of {better!r} minus that of {worse!r}, paired by seed"
            + (f"; holds above -{slack:g}" if slack else ""),
            -slack,
        )

    return check


def every_seed(sentence: str, label: str, detail: str, value: Callable[[Any], Any]) -> Any:
    """A check that ``value(final)`` (seeds,) is positive in every seed; fails if in none or few.

    It holds where it is in all, fails where it is in at most half, and is inconclusive between.
    """

    def check(results: Results) -> Verdict:
        x = np.asarray(value(results[label].final), np.float64)
        interval = stratified_bootstrap(x)
        share = float((x > 0).mean())
        outcome = "holds" if share == 1 else "fails" if share <= 0.5 else "inconclusive"
        return Verdict(
            claim=sentence,
            outcome=outcome,
            effect=interval.point,
            low=interval.low,
            high=interval.high,
            n=len(x),
            detail=f"{detail}; positive in {int((x > 0).sum())} of {len(x)} seeds, "
            f"least {x.min():.3g}",
        )

    return check


def overoptimises(free: str, held: str, where: str = "") -> list[Claim]:
    """That one proxy is overoptimised without KL penalty, and not with a small one.

    Args:
        free: label of the arm without penalty.
        held: of the arm with a penalty of .05.
        where: words to begin with, where an experiment claims it twice.
    """
    return [
        Claim(
            f"{where}Gold falls while the proxy rises",
            every_seed(
                f"{where}Without a KL penalty gold ends at least .3 below its peak while the proxy "
                "rises.",
                free,
                "the smaller of (fall of gold - .3) and the proxy's rise since gold's peak",
                lambda final: np.minimum(final["fall"] - 0.3, final["proxy_rise"]),
            ),
        ),
        Claim(
            f"{where}A small KL penalty prevents it",
            every_seed(
                f"{where}With a KL penalty of .05 gold ends at .8 of its peak or more.",
                held,
                "end minus .8 of the peak",
                lambda final: final["end"] - 0.8 * final["peak"],
            ),
        ),
    ]


def draw_kl(labels: tuple[str, ...], figure: Any, results: Results) -> None:
    """Gold and proxy over the square root of KL, mean over seeds, with Gao et al.'s fit."""
    axes = figure.subplots()
    for i, label in enumerate(labels):
        curves = results[label].curves
        kl, gold, proxy = (curves[k].mean(0) for k in ("kl", "gold", "proxy"))
        d = np.sqrt(np.clip(kl, 0, None))
        axes.plot(d, gold, "-", color=colour(i), lw=1.7, label=f"{label}: gold")
        axes.plot(d, proxy, ":", color=colour(i), lw=1.2)
        if (kl > 1e-6).sum() > 3:
            draw_fit(axes, curves["kl"], curves["gold"], ls="--", color=colour(i), lw=0.8)
    axes.set_xlabel("square root of KL from the base policy (nats a sequence)")
    axes.set_ylabel("reward (base standard deviations)")
    axes.legend(fontsize=8)


def draw_fit(axes: Any, kl: np.ndarray, gold: np.ndarray, **style: Any) -> None:
    """Gao et al.'s ``d (alpha - beta log d)``, fitted to the mean over runs, and its legend.

    Args:
        axes: of Matplotlib.
        kl: (runs, points).
        gold: (runs, points).
        **style: of the line.
    """
    mean = kl.mean(0)
    alpha, beta, r2 = fit_scaling_law(mean, gold.mean(0))
    around = scaling_law_intervals(kl, gold, reps=200)
    numbers = ", ".join(
        f"{name} {value:.2f} [{around[name][0]:.2f}, {around[name][1]:.2f}]"
        for name, value in (("alpha", alpha), ("beta", beta))
    )
    positive = mean[mean > 1e-6]
    d = np.sqrt(np.linspace(positive.min(), positive.max(), 100))
    axes.plot(d, d * (alpha - beta * np.log(d)), label=f"{numbers}, R2 {r2:.2f}", **style)
