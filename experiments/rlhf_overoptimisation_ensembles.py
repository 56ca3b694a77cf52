"""Overoptimisation of a learned reward, and whether ensembles of reward models prevent it.

Gao et al. (2023): optimised against a proxy, the gold reward rises and then falls while the proxy
goes on rising. Coste et al. (2024): conservative objectives over an ensemble prevent the fall in
best-of-n, and with a small KL penalty in reinforcement learning. Eisenstein et al. (2024): members
that were pretrained apart do better than members that were fine-tuned apart, and all are hacked in
the end. Scaled down: a language that a one-layer transformer learns, a known gold reward, 1,000
pairs, a quarter of them mislabelled; what is compared is the order of arms within one world.

In reinforcement learning every ensemble (mean, worst case, mean minus variance; members fine-tuned
or pretrained apart) is beside one reward model, with noisy and with clean labels, with and without
a KL penalty: a claim for each of the 24, and for each factor over all of them.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import torch

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.ensembles import OBJECTIVES, Ensemble
from rewardzoo.rlhf.evaluation import accuracy, bon_curve, fit_scaling_law, kl_bon
from rewardzoo.rlhf.reward_models import margins
from rewardzoo.rlhf.sampling import sample
from rewardzoo.verdicts import above

from .common.rlhf import (
    SEEDS,
    TUNING_SEEDS,
    draw_kl,
    exceeds,
    laboratory,
    members,
    optimise,
    overoptimises,
    proxy_of,
)

BON = "best of n"
KL = 0.05
# On the tuning seeds 80 updates at this rate go 20 to 60 nats away from the base policy.
LEARNING_RATE = 3e-3
NS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHOWN = ("single", "fine-tuned, wco", "fine-tuned, uwo", "pretrained, wco")  # of best of n
NAMES = {
    ("single", False): "single",
    ("mean", False): "mean",
    ("mean", True): "mean, pretrained apart",
    ("wco", False): "worst case",
    ("wco", True): "pretrained apart",
    ("uwo", False): "variance",
    ("uwo", True): "variance, pretrained apart",
}


class Cell(NamedTuple):
    """An arm of reinforcement learning: what pays, and where."""

    objective: str = "single"
    pretrained: bool = False
    kl: float = 0.0
    noise: float = 0.25

    @property
    def label(self) -> str:
        """Its name in tables."""
        words = [NAMES[self.objective, self.pretrained]]
        words += ["clean labels"] * (self.noise == 0) + ["KL .05"] * (self.kl > 0)
        return ", ".join(words)

    @property
    def beside(self) -> str:
        """The label of one reward model in the same place."""
        return Cell(kl=self.kl, noise=self.noise).label

    @property
    def given(self) -> dict[str, Any]:
        """Arguments of ``reinforce`` that are not its defaults."""
        usual = Cell()._asdict()
        return {name: x for name, x in self._asdict().items() if x != usual[name]}


PLACES = tuple((kl, noise) for noise in (0.25, 0.0) for kl in (0.0, KL))
SINGLES = tuple(Cell("single", False, *place) for place in PLACES)
ENSEMBLES = tuple(
    Cell(objective, pretrained, *place)
    for place in PLACES
    for objective in ("mean", "wco", "uwo")
    for pretrained in (False, True)
)
SINGLE, SINGLE_KL, CLEAN, _ = (cell.label for cell in SINGLES)
WCO, UWO, PRE_WCO = Cell("wco").label, Cell("uwo").label, Cell("wco", True).label
WCO_KL, UWO_KL, PRE_KL = (f"{x}, KL .05" for x in (WCO, UWO, PRE_WCO))


def reinforce(
    trial: Any,
    objective: str = "single",
    pretrained: bool = False,
    kl: float = 0.0,
    noise: float = 0.25,
) -> dict[str, float]:
    """RLOO on the proxy; gold is measured on fresh prompts."""
    lab = laboratory(trial, noise=noise)
    proxy = proxy_of(lab, objective, pretrained)
    return optimise(trial, lab, proxy, kl=kl, learning_rate=LEARNING_RATE)


def best_of_n(trial: Any) -> dict[str, float]:
    """Best of n by each proxy: gold in expectation over all subsets of the same answers."""
    lab = laboratory(trial)
    groups = {"fine-tuned": members(lab, False), "pretrained": members(lab, True)}
    clean, _ = lab.pairs(1000, 0.0, stream=11)
    answers, most = max(4, trial.budget.eval_episodes // 16), NS[-1]
    generator = lab.generator(6)
    prompts = lab.language.prompts(answers, generator)
    batch = sample(lab.policy, prompts, lab.config.new_tokens, generator, copies=most)
    gold = lab.gold(batch).view(answers, most).numpy()
    final, curves = {}, {}
    for group, found in groups.items():
        scores = _scores(found, batch)
        errors = scores - torch.from_numpy(gold).reshape(-1)
        r = np.corrcoef(errors.numpy())
        final[f"error correlation, {group}"] = float(r[np.triu_indices(len(found), 1)].mean())
        for objective in ("mean", "wco", "uwo"):
            combined = OBJECTIVES[objective](scores, 2.0).view(answers, most).numpy()
            curves[f"{group}, {objective}"] = bon_curve(gold, combined, NS).mean(0)
        if group == "fine-tuned":
            single = scores[0].view(answers, most).numpy()
            curves["single"] = bon_curve(gold, single, NS).mean(0)
            curves["single, proxy"] = bon_curve(single, single, NS).mean(0)
    final["accuracy"] = accuracy(margins(groups["fine-tuned"][0], clean))
    final["end"] = float(curves["single"][-1])
    final["end, worst case"] = float(curves["fine-tuned, wco"][-1])
    final["end, pretrained apart"] = float(curves["pretrained, wco"][-1])
    gap = curves["single, proxy"] - curves["single"]
    final["gap growth"] = float(gap[-1] - gap[1])
    trial.save_arrays(ns=np.array(NS), **curves)
    trial.log(trial.budget.total_timesteps, **final)
    return final


@torch.no_grad()
def _scores(found: list[Any], batch: Any) -> torch.Tensor:
    parts = torch.split(torch.arange(len(batch.ids)), 2048)
    ensemble = Ensemble(found, "mean")
    return torch.cat([ensemble.scores(batch.rows(part)) for part in parts], 1)


def of_best_of_n(sentence: str, better: str, worse: str | None) -> Any:
    """A check over numbers of the best-of-n arm: one exceeds the other, or 0."""

    def check(results: Results) -> Verdict:
        final = results[BON].final
        x = final[better]
        d = paired_difference(x, final[worse] if worse else np.zeros_like(x))
        detail = f"{better}{' minus ' + worse if worse else ''}, paired by seed"
        return above(sentence, d, detail)

    return check


def gain(results: Results, cell: Cell, key: str = "end") -> np.ndarray:
    """What an ensemble has more than one reward model in its place, (seeds,)."""
    return np.asarray(results[cell.label].final[key] - results[cell.beside].final[key])


def ends_above_one(cell: Cell) -> Claim:
    """The claim of one cell of the factorial."""
    sentence = (
        f"{cell.label[0].upper() + cell.label[1:]}: it ends with more gold than one reward model."
    )
    return Claim(sentence, exceeds(sentence, cell.label, cell.beside, "end"))


def over_all(sentence: str, detail: str, value: Any, bar: float = 0.0) -> Any:
    """A check that a number a seed, made of the results of many cells, is above ``bar``."""

    def check(results: Results) -> Verdict:
        x = np.asarray(value(results), np.float64)
        return above(sentence, paired_difference(x, np.zeros_like(x)), detail, bar)

    return check


def mean_gain(results: Results, key: str = "end", **of: Any) -> np.ndarray:
    """The mean of ``gain`` over the cells with these fields, (seeds,)."""
    cells = [c for c in ENSEMBLES if all(getattr(c, name) == x for name, x in of.items())]
    return np.mean([gain(results, cell, key) for cell in cells], 0)


def factor(name: str, better: Any, worse: Any) -> Any:
    """From results to ``mean_gain`` at one level of a factor minus that at another, (seeds,)."""
    return lambda results: (
        mean_gain(results, **{name: better}) - mean_gain(results, **{name: worse})
    )


def draw_gains(figure: Any, results: Results) -> None:
    """Final gold of every ensemble minus that of one reward model, with bootstrap intervals."""
    axes = figure.subplots()
    for i, (objective, pretrained) in enumerate(
        itertools.product(("mean", "wco", "uwo"), (False, True))
    ):
        cells = [Cell(objective, pretrained, *place) for place in PLACES]
        found = [paired_difference(x, 0 * x) for x in (gain(results, cell) for cell in cells)]
        point, low, high = (np.array([getattr(d, k) for d in found]) for k in _ENDS)
        at = np.arange(len(cells)) + 0.12 * (i - 2.5)
        error = np.abs(np.stack([point - low, high - point]))
        label = cells[0].label
        axes.errorbar(at, point, error, fmt="o", color=colour(i), capsize=3, label=label)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set_xticks(range(len(PLACES)), [cell.label for cell in SINGLES])
    axes.set_ylabel("final gold over one (base std)")
    axes.legend(fontsize=8, ncols=2)


def draw_best_of_n(figure: Any, results: Results) -> None:
    """Gold of the best of n over the square root of KL, mean over seeds, with Gao et al.'s fit."""
    axes = figure.subplots()
    saved = results.arrays(BON)
    kl = kl_bon(np.array(NS))
    d = np.sqrt(kl)
    x = np.linspace(0, d.max(), 100)
    for i, key in enumerate(SHOWN):
        gold = np.mean([s[key] for s in saved], 0)
        alpha, beta, r2 = fit_scaling_law(kl, gold, "bon")
        axes.plot(d, gold, "o", ms=4, color=colour(i), label=f"{key}, R2 of the fit {r2:.2f}")
        axes.plot(x, x * (alpha - beta * x), "--", lw=1.2, color=colour(i))
    proxy = np.mean([s["single, proxy"] for s in saved], 0)
    axes.plot(d, proxy, ":", color=colour(0), label="single: the proxy itself")
    axes.set_xlabel("square root of KL of best-of-n (nats a sequence)")
    axes.set_ylabel("reward (base standard deviations)")
    axes.legend(fontsize=8)


_ENDS = ("point", "low", "high")


def _arm(cell: Cell) -> Measure:
    return Measure(cell.label, functools.partial(reinforce, **cell.given))


EXPERIMENT = Experiment(
    name="rlhf_overoptimisation_ensembles",
    title="Overoptimisation of reward models, and ensembles against it",
    paper="Coste, Anwar, Kirk, Krueger (2024), Reward model ensembles help mitigate "
    "overoptimization, ICLR; Eisenstein et al. (2024), Helping or herding?; Gao, Schulman, Hilton "
    "(2023), Scaling laws for reward model overoptimization, ICML",
    grid=[
        *map(_arm, (*SINGLES, *ENSEMBLES)),
        Measure(BON, best_of_n),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=80, num_envs=0, eval_episodes=256, seeds=10),
        "full": Budget(total_timesteps=160, num_envs=0, eval_episodes=2_048, seeds=20),
    },
    claims=[
        *overoptimises(SINGLE, SINGLE_KL),
        *map(ends_above_one, ENSEMBLES),
        Claim(
            "Ensembles help without a KL penalty",
            over_all(
                "Without a KL penalty ensembles end above one reward model.",
                "final gold minus that of one, a mean over twelve cells, paired by seed",
                lambda results: mean_gain(results, kl=0.0),
            ),
        ),
        Claim(
            "Ensembles help with a KL penalty",
            over_all(
                "With a KL penalty ensembles end above one reward model.",
                "final gold minus that of one, a mean over twelve cells, paired by seed",
                lambda results: mean_gain(results, kl=KL),
            ),
        ),
        Claim(
            "Ensembles fall less",
            over_all(
                "Without a KL penalty gold falls less from its peak than with one reward model.",
                "fall with one minus fall, a mean over twelve cells, paired by seed",
                lambda results: -mean_gain(results, "fall", kl=0.0),
            ),
        ),
        Claim(
            "Pretraining apart helps more",
            over_all(
                "Members pretrained apart end above members fine-tuned apart.",
                "difference of final gold, a mean over twelve pairs of cells, paired by seed",
                factor("pretrained", True, False),
            ),
        ),
        Claim(
            "Caution helps more than the mean",
            over_all(
                "The worst case ends above the mean of the same members.",
                "difference of final gold, a mean over eight pairs of cells, paired by seed",
                factor("objective", "wco", "mean"),
            ),
        ),
        Claim(
            "So does the variance",
            over_all(
                "The mean minus the variance ends above the mean of the same members.",
                "difference of final gold, a mean over eight pairs of cells, paired by seed",
                factor("objective", "uwo", "mean"),
            ),
        ),
        Claim(
            "Noise makes ensembles help more",
            over_all(
                "Ensembles gain more over one where labels are noisy than where they are clean.",
                "difference of gains, a mean over twelve pairs of cells, paired by seed",
                factor("noise", 0.25, 0.0),
            ),
        ),
        Claim(
            "The worst case costs nothing with KL",
            exceeds(
                "With KL penalty the worst case ends no more than .1 below one.",
                WCO_KL,
                SINGLE_KL,
                "end",
                slack=0.1,
            ),
        ),
        Claim(
            "Noise makes it worse",
            exceeds(
                "With clean labels gold ends higher than with noisy ones.", CLEAN, SINGLE, "end"
            ),
        ),
        Claim(
            "Errors are shared less when pretrained apart",
            of_best_of_n(
                "Errors of members fine-tuned apart correlate more than of members pretrained "
                "apart.",
                "error correlation, fine-tuned",
                "error correlation, pretrained",
            ),
        ),
        Claim(
            "Best of n: the gap grows",
            of_best_of_n(
                "The gap between proxy and gold grows from n = 2 to n = 256.", "gap growth", None
            ),
        ),
        Claim(
            "Best of n: ensembles help",
            of_best_of_n(
                "At n = 256 the worst case of five has more gold than one.",
                "end, worst case",
                "end",
            ),
        ),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={"peak": "peak gold", "end": "final gold", "end_kl": "final KL", "proxy_end": "proxy"},
    figures=[
        Figure(
            "Gold and proxy without KL penalty",
            "Gold (solid), proxy (dotted) and the fit d (alpha - beta log d) of gold (dashed) over "
            "the square root of KL, mean over seeds.",
            functools.partial(draw_kl, (SINGLE, WCO, UWO, PRE_WCO)),
        ),
        Figure(
            "Gold and proxy with KL penalty",
            "The same with a KL penalty of .05.",
            functools.partial(draw_kl, (SINGLE_KL, WCO_KL, UWO_KL, PRE_KL)),
        ),
        Figure(
            "Every ensemble beside one reward model",
            "Final gold minus that of one reward model with the same labels and penalty, with 95 % "
            "bootstrap intervals over seeds.",
            draw_gains,
        ),
        Figure(
            "Best of n",
            "Gold of the best of n by each proxy (dots) and the fit d (alpha - beta d) (dashed), "
            "over the square root d of its KL, mean over seeds.",
            draw_best_of_n,
        ),
    ],
)
