"""Overoptimisation of a learned reward, and whether ensembles of reward models prevent it.

Gao et al. (2023): optimised against a proxy, the gold reward rises and then falls while the proxy
goes on rising. Coste et al. (2024): conservative objectives over an ensemble prevent the fall in
best-of-n, and with a small KL penalty in reinforcement learning. Eisenstein et al. (2024): members
that were pretrained apart do better than members that were fine-tuned apart, and all are hacked in
the end. Scaled down: a language that a one-layer transformer learns, a known gold reward, 1,000
pairs, a quarter of them mislabelled; what is compared is the order of arms within one world.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.ensembles import OBJECTIVES, Ensemble
from rewardzoo.rlhf.evaluation import accuracy, bon_curve, kl_bon
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

SINGLE, WCO, UWO, PRE_WCO = "single", "worst case", "variance", "pretrained apart"
CLEAN, CLEAN_WCO = "single, clean labels", "worst case, clean labels"
SINGLE_KL, WCO_KL, UWO_KL, PRE_KL = (f"{x}, KL .05" for x in (SINGLE, WCO, UWO, PRE_WCO))
BON = "best of n"
KL = 0.05
# On the tuning seeds 80 updates at this rate go 20 to 60 nats away from the base policy.
LEARNING_RATE = 3e-3
NS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


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
    prompts = lab.language.prompts(answers, generator).repeat_interleave(most, 0)
    batch = sample(lab.policy, prompts, lab.config.new_tokens, generator)
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


def draw_best_of_n(figure: Any, results: Results) -> None:
    """Gold of the best of n over the square root of KL, mean over seeds."""
    axes = figure.subplots()
    saved = results.arrays(BON)
    d = np.sqrt(kl_bon(np.array(NS)))
    for i, key in enumerate(("single", "fine-tuned, wco", "fine-tuned, uwo", "pretrained, wco")):
        axes.plot(d, np.mean([s[key] for s in saved], 0), "o-", ms=4, color=colour(i), label=key)
    proxy = np.mean([s["single, proxy"] for s in saved], 0)
    axes.plot(d, proxy, ":", color=colour(0), label="single: the proxy itself")
    axes.set_xlabel("square root of KL of best-of-n (nats a sequence)")
    axes.set_ylabel("reward (base standard deviations)")
    axes.legend(fontsize=8)


def _arm(label: str, **kwargs: Any) -> Measure:
    return Measure(label, functools.partial(reinforce, **kwargs))


EXPERIMENT = Experiment(
    name="rlhf_overoptimisation_ensembles",
    title="Overoptimisation of reward models, and ensembles against it",
    paper="Coste, Anwar, Kirk, Krueger (2024), Reward model ensembles help mitigate "
    "overoptimization, ICLR; Eisenstein et al. (2024), Helping or herding?; Gao, Schulman, Hilton "
    "(2023), Scaling laws for reward model overoptimization, ICML",
    grid=[
        _arm(SINGLE),
        _arm(SINGLE_KL, kl=KL),
        _arm(WCO, objective="wco"),
        _arm(WCO_KL, objective="wco", kl=KL),
        _arm(UWO, objective="uwo"),
        _arm(UWO_KL, objective="uwo", kl=KL),
        _arm(PRE_WCO, objective="wco", pretrained=True),
        _arm(PRE_KL, objective="wco", pretrained=True, kl=KL),
        _arm(CLEAN, noise=0.0),
        _arm(CLEAN_WCO, objective="wco", noise=0.0),
        Measure(BON, best_of_n),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=80, num_envs=0, eval_episodes=256, seeds=10),
        "full": Budget(total_timesteps=160, num_envs=0, eval_episodes=2_048, seeds=20),
    },
    claims=[
        *overoptimises(SINGLE, SINGLE_KL),
        Claim(
            "The worst case helps",
            exceeds(
                "Without KL penalty the worst case of five ends above one.", WCO, SINGLE, "end"
            ),
        ),
        Claim(
            "The variance helps",
            exceeds("So does the mean minus the variance.", UWO, SINGLE, "end"),
        ),
        Claim(
            "Pretraining apart helps more",
            exceeds(
                "Members pretrained apart end above members fine-tuned apart.", PRE_WCO, WCO, "end"
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
            "Best of n",
            "Gold of the best of n by each proxy, over the square root of its KL.",
            draw_best_of_n,
        ),
    ],
)
