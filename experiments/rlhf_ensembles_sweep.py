"""Where ensembles of reward models begin to help: noise, data and size of the proxies.

Coste et al. (2024) find that conservative objectives prevent overoptimisation in best-of-n;
Eisenstein et al. (2024) that members pretrained apart do better than members fine-tuned apart.
Here one thing at a time is changed, and the best of 256 answers by the worst case of five members
is compared with the best by one; then, in fewer settings, what reinforcement learning without a KL
penalty makes of either. Scaled down: a language that a one-layer transformer learns.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.ensembles import OBJECTIVES, Ensemble
from rewardzoo.rlhf.evaluation import bon_curve
from rewardzoo.rlhf.sampling import sample
from rewardzoo.verdicts import above

from .common.rlhf import (
    SEEDS,
    SMOKE,
    TUNING_SEEDS,
    exceeds,
    laboratory,
    members,
    optimise,
    proxy_of,
)

BEST_OF = 256
FEW, BASE, MANY = "250 pairs", "1,000 pairs", "2,000 pairs"
CLEAN, NOISY = "clean labels", "35 % flipped"
LARGE = "proxies of width 64, two layers"
SETTINGS: dict[str, dict[str, Any]] = {
    BASE: {},
    FEW: {"n_pairs": 250},
    MANY: {"n_pairs": 2_000},
    CLEAN: {"noise": 0.0},
    NOISY: {"noise": 0.35},
    LARGE: {"width": 64, "layers": 2},
}
# Of reinforcement learning, as in rlhf_overoptimisation_ensembles; the size is the proxies' alone.
UPDATES, LEARNING_RATE = 80, 3e-3
IN_RL = (BASE, FEW, NOISY, LARGE)
PROXIES: dict[str, dict[str, Any]] = {
    "one": {"objective": "single"},
    "worst case, tuned apart": {"objective": "wco"},
    "worst case, pretrained apart": {"objective": "wco", "pretrained": True},
}


def best_of_n(trial: Any, **config: Any) -> dict[str, float]:
    """Gold of the best of 256 answers by one proxy and by ensembles of five."""
    lab = laboratory(trial, **config)
    answers = max(4, trial.budget.eval_episodes // BEST_OF)
    generator = lab.generator(6)
    prompts = lab.language.prompts(answers, generator)
    batch = sample(lab.policy, prompts, lab.config.new_tokens, generator, copies=BEST_OF)
    gold = lab.gold(batch).view(answers, BEST_OF).numpy()
    parts = torch.split(torch.arange(len(batch.ids)), 2_048)
    final = {}
    for name, apart in (("tuned apart", False), ("pretrained apart", True)):
        ensemble = Ensemble(members(lab, apart), "mean")
        with torch.no_grad():
            scores = torch.cat([ensemble.scores(batch.rows(part)) for part in parts], 1)
        errors = scores - torch.from_numpy(gold).reshape(-1)
        r = np.corrcoef(errors.numpy())
        final[f"shared error, {name}"] = float(r[np.triu_indices(len(scores), 1)].mean())
        for objective in ("mean", "wco", "uwo"):
            combined = OBJECTIVES[objective](scores, 2.0).view(answers, BEST_OF).numpy()
            end = bon_curve(gold, combined, [BEST_OF]).mean()
            final[f"{objective}, {name}"] = float(end)
        if not apart:
            each = [s.view(answers, BEST_OF).numpy() for s in scores]
            # The expectation over which of the members is the one.
            final["single"] = float(np.mean([bon_curve(gold, s, [BEST_OF]) for s in each]))
    for name in ("tuned apart", "pretrained apart"):
        final[f"gain, {name}"] = final[f"wco, {name}"] - final["single"]
        final[f"caution, {name}"] = final[f"wco, {name}"] - final[f"mean, {name}"]
    trial.log(trial.budget.total_timesteps, **final)
    return final


def reinforce(
    trial: Any, setting: str, objective: str, pretrained: bool = False
) -> dict[str, float]:
    """RLOO on one proxy or the worst case of five; gold is measured on fresh prompts."""
    config = SETTINGS[setting]
    of_proxies = laboratory(trial, **config)
    # Larger proxies are those of a larger laboratory; policy, human and prompts are not.
    lab = laboratory(trial) if setting == LARGE else of_proxies
    shorter = copy.copy(trial)
    smoke = trial.budget.eval_episodes <= SMOKE
    shorter.budget = replace(
        trial.budget,
        total_timesteps=4 if smoke else UPDATES,
        eval_episodes=max(SMOKE, trial.budget.eval_episodes // 32),
    )
    proxy = proxy_of(of_proxies, objective, pretrained)
    return optimise(shorter, lab, proxy, learning_rate=LEARNING_RATE)


def in_rl(setting: str, proxies: str) -> str:
    """The label of an arm of reinforcement learning."""
    return f"RL, {setting}: {proxies}"


def gains_in_rl(setting: str, proxies: str) -> Claim:
    """The claim that an ensemble's policy ends with more gold than one proxy's."""
    name = f"In RL, {setting}: the {proxies}, helps"
    sentence = f"In RL with {setting} the {proxies}, ends with more gold than one."
    return Claim(name, exceeds(sentence, in_rl(setting, proxies), in_rl(setting, "one"), "end"))


def helps_more_in_rl(sentence: str, more: str, less: str, key: str, sign: float = 1.0) -> Any:
    """A check that both ensembles, a mean, gain more over one proxy in a setting than in another.

    Args:
        sentence: the claim.
        more: where they should gain more.
        less: where less.
        key: of the final numbers.
        sign: -1 where less of it is better.
    """

    def gain(results: Results, setting: str) -> np.ndarray:
        one, *five = (results[in_rl(setting, x)].final[key] for x in PROXIES)
        return sign * (np.mean(five, 0) - one)

    def check(results: Results) -> Verdict:
        d = paired_difference(gain(results, more), gain(results, less))
        detail = f"gain in {key} over one proxy with {more} minus that with {less}, paired by seed"
        return above(sentence, d, detail)

    return check


def gains(sentence: str, setting: str, key: str) -> Any:
    """A check that a difference within a setting is above 0."""

    def check(results: Results) -> Verdict:
        x = results[setting].final[key]
        detail = f"{key} in {setting!r}, gold in base standard deviations, paired by seed"
        return above(sentence, paired_difference(x, np.zeros_like(x)), detail)

    return check


def pretraining_apart_beats_tuning_apart(results: Results) -> Verdict:
    """The mean over all settings of the difference of the two gains."""
    apart, together = (
        np.mean([results[s].final[f"gain, {name} apart"] for s in SETTINGS], 0)
        for name in ("pretrained", "tuned")
    )
    return above(
        "Members pretrained apart gain more than members fine-tuned apart.",
        paired_difference(apart, together),
        "difference of gains, a mean over the settings, paired by seed",
    )


def draw_rl(figure: Any, results: Results) -> None:
    """Final gold of ensembles minus that of one proxy in every setting, with intervals."""
    axes = figure.subplots()
    for i, name in enumerate(list(PROXIES)[1:]):
        found = []
        for setting in IN_RL:
            ends = (results[in_rl(setting, x)].final["end"] for x in (name, "one"))
            found.append(paired_difference(*ends))
        _points(axes, found, 0.1 * (2 * i - 1), i, name)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set_xticks(range(len(IN_RL)), [s.replace(" of width", "\nof width") for s in IN_RL])
    axes.set_ylabel("final gold over one proxy (base std)")
    axes.legend(fontsize=8)


def draw(figure: Any, results: Results) -> None:
    """Gains over one proxy in every setting, with bootstrap intervals."""
    axes = figure.subplots()
    names = ("gain, tuned apart", "gain, pretrained apart", "caution, pretrained apart")
    labels = ("worst case, tuned apart", "worst case, pretrained apart", "of it beyond the mean")
    for i, (key, label) in enumerate(zip(names, labels, strict=True)):
        found = []
        for setting in SETTINGS:
            x = results[setting].final[key]
            found.append(paired_difference(x, np.zeros_like(x)))
        _points(axes, found, 0.2 * (i - 1), i, label)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set_xticks(range(len(SETTINGS)), [s.replace(" of width", "\nof width") for s in SETTINGS])
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylabel("gold over one proxy (base std)")
    axes.legend(fontsize=8)


def _points(axes: Any, found: list[Any], shift: float, i: int, label: str) -> None:
    point, low, high = (np.array([getattr(d, k) for d in found]) for k in ("point", "low", "high"))
    error = np.abs(np.stack([point - low, high - point]))
    at = np.arange(len(found)) + shift
    axes.errorbar(at, point, error, fmt="o", color=colour(i), capsize=3, label=label)


EXPERIMENT = Experiment(
    name="rlhf_ensembles_sweep",
    title="Where ensembles of reward models begin to help: a sweep in best-of-n and RL",
    paper="Coste, Anwar, Kirk, Krueger (2024), Reward model ensembles help mitigate "
    "overoptimization, ICLR; Eisenstein et al. (2024), Helping or herding?",
    grid=[
        *(Measure(label, functools.partial(best_of_n, **c)) for label, c in SETTINGS.items()),
        *(
            Measure(in_rl(setting, name), functools.partial(reinforce, setting=setting, **kwargs))
            for setting in IN_RL
            for name, kwargs in PROXIES.items()
        ),
    ],
    budgets={
        "smoke": Budget(total_timesteps=1, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=1, num_envs=0, eval_episodes=8_192, seeds=10),
        "full": Budget(total_timesteps=1, num_envs=0, eval_episodes=65_536, seeds=20),
    },
    claims=[
        Claim(
            "An ensemble helps",
            gains("The worst case of five has more gold than one.", BASE, "gain, tuned apart"),
        ),
        Claim(
            "Caution is what helps",
            gains(
                "The worst case has more gold than the mean of the same members.",
                BASE,
                "caution, tuned apart",
            ),
        ),
        Claim(
            "It helps with larger proxies",
            gains(
                "So does the worst case of five proxies of width 64.", LARGE, "gain, tuned apart"
            ),
        ),
        Claim(
            "Noise makes it help more",
            exceeds(
                "It gains more with 35 % of labels flipped than with clean labels.",
                NOISY,
                CLEAN,
                "gain, tuned apart",
            ),
        ),
        Claim(
            "Data make it help less",
            exceeds(
                "It gains more with 250 pairs than with 2,000.", FEW, MANY, "gain, tuned apart"
            ),
        ),
        Claim(
            "Pretraining apart helps more",
            pretraining_apart_beats_tuning_apart,
        ),
        *(gains_in_rl(setting, name) for setting in IN_RL for name in list(PROXIES)[1:]),
        *(
            Claim(
                f"In RL {cause} makes ensembles help more",
                helps_more_in_rl(
                    f"In RL ensembles gain more over one proxy with {more} than with {BASE}.",
                    more,
                    BASE,
                    "end",
                ),
            )
            for cause, more in (("noise", NOISY), ("want of data", FEW), ("size", LARGE))
        ),
        Claim(
            "In RL ensembles fall less where labels are noisier",
            helps_more_in_rl(
                "In RL ensembles lessen gold's fall from its peak more with 35 % of labels flipped "
                "than with 25 %.",
                NOISY,
                BASE,
                "fall",
                -1.0,
            ),
        ),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "single": "gold, one",
        "wco, tuned apart": "gold, worst case",
        "gain, tuned apart": "gain",
        "gain, pretrained apart": "gain, pretrained apart",
        "shared error, tuned apart": "shared error",
        "shared error, pretrained apart": "shared error, pretrained apart",
        "peak": "RL: peak gold",
        "end": "RL: final gold",
        "end_kl": "RL: final KL",
    },
    figures=[
        Figure(
            "Gain over one proxy",
            "Gold of the best of 256 by the worst case of five members minus by one of them, with "
            "95 % bootstrap intervals over seeds.",
            draw,
        ),
        Figure(
            "Gain over one proxy in reinforcement learning",
            "Final gold after 80 updates on the worst case of five members minus that on one, with "
            "95 % bootstrap intervals over seeds.",
            draw_rl,
        ),
    ],
)
