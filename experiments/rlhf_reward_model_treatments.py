"""What can be done about preference data before a policy sees it, and which measure tells.

Wang, Zheng et al. (2024): the margin of reward models that did not see a pair finds wrong labels;
exchanging or smoothing the doubtful ones, or asking for a margin where they are certain, does no
harm and some good. Wang, Bukharin et al. (2025): strength of preference scales the loss better than
it shifts it, and scaling does best from a regression on ratings. Kim et al. (2024): a right answer
against nine wrong ones predicts what a reward model is worth better than against one. Shen et al.
(2024): an ordinary reward model hardly notices that two similar instructions have exchanged their
responses; it does after pairs that contrast them.

Scaled down: the gold laboratory with a one-layer transformer and 4,000 pairs, a quarter of them
mislabelled; ratings are gold with noise, rounded to 0 to 4; instructions differ in a token, and
responses in the place where one repeats it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.checkpoint import load_checkpoint, save_checkpoint
from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.calibration import fit_temperature, preference_calibration
from rewardzoo.rlhf.denoising import preference_strength, treat
from rewardzoo.rlhf.evaluation import (
    accuracy,
    auroc,
    bon_curve,
    contrast_consistency,
    one_to_many,
)
from rewardzoo.rlhf.pairs import PairBatch, RatingBatch
from rewardzoo.rlhf.reward_models import margins, train_reward_model
from rewardzoo.rlhf.sampling import sample
from rewardzoo.rlhf.sequences import Sequences, concatenate
from rewardzoo.verdicts import above, below, within

from .common.rlhf import SEEDS, TUNING_SEEDS, exceeds, laboratory

PLAIN, FLIP, SMOOTH, MARGIN, DROP = "as labelled", "flip", "smooth", "margin", "drop"
WEAKEST, CONTRASTED = "the weakest fifth alone", "contrasting pairs"
BT, SHIFTED, SCALED, REGRESSION, BOTH = (
    "ratings: BT",
    "ratings: margin",
    "ratings: scaled BT",
    "ratings: regression",
    "ratings: regression, then scaled BT",
)
PREDICTORS = "eighteen reward models"
BEST_OF, WRONG = 64, 9
SIZES, NOISES = (60, 125, 250, 500, 1000, 2000), (0.0, 0.25, 0.4)
RATING_NOISE = 0.5  # gold's standard deviations
WORLD = {"n_pairs": 4_000}
SHARE = 0.2  # of pairs that contrast instructions
FINDS = 0.75


def labelled(trial: Any) -> tuple[Any, PairBatch, Tensor]:
    """The world, its noisy pairs, and which of them are flipped, (N,) bool."""
    lab = laboratory(trial, **WORLD)
    return lab, *lab.pairs(lab.config.n_pairs, lab.config.noise)


def strengths(trial: Any, lab: Any, data: PairBatch) -> Tensor:
    """Cross-fitted margins (N,) of the pairs; all arms of a seed share them."""
    file = trial.folder.parents[1] / "strength" / f"{trial.seed}.pt"
    if file.is_file():
        return torch.as_tensor(load_checkpoint(file, "strength")["mean"])
    mean, _ = preference_strength(data, lab.policy)
    save_checkpoint(file, "strength", {"mean": mean})
    return mean


def treated(trial: Any, how: str) -> dict[str, float]:
    """A reward model on noisy pairs after a treatment by their strength."""
    lab, data, flipped = labelled(trial)
    strength = strengths(trial, lab, data)
    final = {"flip AUC": auroc(-strength.numpy(), flipped.numpy())}
    loss = "bt"
    if how == WEAKEST:
        data = data.take(strength.argsort()[: len(data) // 5])
    elif how != PLAIN:
        data, loss = treat(data, strength, how)
    return {**judged(trial, lab, train_reward_model(data, lab.policy, loss)), **final}


def contrasted(trial: Any) -> dict[str, float]:
    """A reward model on noisy pairs of which some contrast two instructions."""
    lab, data, _ = labelled(trial)
    items = round(SHARE * len(data)) // 2
    grid = contrasts(lab, items, stream=31)
    first, second = (grid.rows(torch.arange(i, 4 * items, 4)) for i in (0, 1))
    third, fourth = (grid.rows(torch.arange(i, 4 * items, 4)) for i in (3, 2))
    right, other = concatenate(first, third), concatenate(second, fourth)
    better = lab.gold(right) >= lab.gold(other)
    # Labelled by gold as all pairs are, and with as many mistakes.
    wrong = torch.rand(2 * items, generator=lab.generator(32)) < lab.config.noise
    at = torch.arange(2 * items)
    swapped = at + 2 * items * (~better ^ wrong)
    both = concatenate(right, other)
    ones = torch.ones(2 * items)
    pairs = PairBatch(
        both.rows(swapped), both.rows((swapped + 2 * items) % (4 * items)), ones, ones
    )
    kept = data.take(torch.arange(len(data) - 2 * items))
    mixed = PairBatch(
        concatenate(kept.chosen, pairs.chosen),
        concatenate(kept.rejected, pairs.rejected),
        torch.cat([kept.strength, pairs.strength]),
        torch.cat([kept.weight, pairs.weight]),
    )
    return judged(trial, lab, train_reward_model(mixed, lab.policy))


def rated(trial: Any, how: str) -> dict[str, float]:
    """A reward model on ratings of both responses of a pair, or on what the ratings prefer."""
    lab = laboratory(trial, **WORLD)
    pairs, ratings = ratings_of(lab)
    both = RatingBatch(pairs.both, ratings.T.reshape(-1, 1) - 2.0, torch.ones(2 * len(pairs)))
    if how == REGRESSION:
        return judged(trial, lab, train_reward_model(both, lab.policy, "regression"))
    first, second = ratings.T
    order = torch.where(first >= second, 0, len(pairs)) + torch.arange(len(pairs))
    other = (order + len(pairs)) % (2 * len(pairs))
    strength = (first - second).abs()
    told = (strength > 0).nonzero().squeeze(1)  # a tie prefers nothing
    preferred = PairBatch(
        both.responses.rows(order[told]),
        both.responses.rows(other[told]),
        strength[told].clamp(max=3.0),
        torch.ones(len(told)),
    )
    start: Any = lab.policy
    if how == BOTH:
        start = train_reward_model(both, lab.policy, "regression")
    loss = {BT: "bt", SHIFTED: "margin", SCALED: "scaled_bt", BOTH: "scaled_bt"}[how]
    return judged(trial, lab, train_reward_model(preferred, start, loss))


def ratings_of(lab: Any) -> tuple[PairBatch, Tensor]:
    """Pairs, and ratings (N, 2) of their responses: gold with noise in whole steps of 0 to 4."""
    pairs, _ = lab.pairs(lab.config.n_pairs, 0.0)
    gold = torch.stack([lab.gold(pairs.chosen), lab.gold(pairs.rejected)], 1)
    noise = RATING_NOISE * torch.randn(gold.shape, generator=lab.generator(33))
    return pairs, (2 + gold + noise).round().clamp(0, 4)


@torch.no_grad()
def judged(trial: Any, lab: Any, model: Any) -> dict[str, float]:
    """What a reward model is worth: on clean pairs, in words of probability, to best-of-n."""
    n = trial.budget.eval_episodes
    clean = margins(model, lab.pairs(n, 0.0, stream=11)[0]).numpy()
    fit, test = (
        margins(model, lab.pairs(n // 2, lab.config.noise, stream=i)[0]).numpy() for i in (34, 35)
    )
    temperature = min(fit_temperature(fit), 1e6)
    batch, gold = answers(lab, max(4, n // BEST_OF), BEST_OF, stream=36)
    scores = model.raw(batch).view(gold.shape).numpy()
    of_contrasts = model.raw(contrasts(lab, max(8, n // 4), stream=37)).view(-1, 2, 2)
    consistency = contrast_consistency(of_contrasts.numpy())
    final = {
        "accuracy": accuracy(clean),
        "ece": preference_calibration(clean)["ece"],
        "log loss": preference_calibration(test)["log_loss"],
        "log loss, rescaled": preference_calibration(test, temperature)["log_loss"],
        "gold": float(bon_curve(gold, scores, [BEST_OF]).mean()),
        "consistent responses": consistency["response"],
        "consistent instructions": consistency["instruction"],
    }
    trial.log(trial.budget.total_timesteps, **final)
    return final


def answers(lab: Any, prompts: int, k: int, stream: int) -> tuple[Sequences, np.ndarray]:
    """K base answers to each of fresh prompts, next to each other, and their gold (prompts, k)."""
    generator = lab.generator(stream)
    ids = lab.language.prompts(prompts, generator)
    batch = sample(lab.policy, ids, lab.config.new_tokens, generator, copies=k)
    return batch, lab.gold(batch).view(prompts, k).numpy()


def contrasts(lab: Any, items: int, stream: int) -> Sequences:
    """Two instructions that differ in a token, each with both of two responses: (4 items) rows.

    The responses differ in one place, where each repeats the token of its own instruction, which is
    what gold pays for. Rows of an item: first instruction with either response, then the second.
    """
    generator = lab.generator(stream)
    prompts = lab.language.prompts(items, generator)
    batch = sample(lab.policy, prompts, lab.config.new_tokens, generator)
    # The last token of a prompt decides how the language goes on; the one before it is exchanged.
    own = prompts[:, -2]
    content = lab.config.vocab_size - 2
    step = torch.randint(1, content, (items,), generator=generator)
    tokens = torch.stack([own, 2 + (own - 2 + step) % content], 1)  # (items, 2)
    place = (torch.rand(items, generator=generator) * (batch.lengths - 1).clamp(min=1)).long()
    rows = torch.arange(4 * items) // 4
    instruction, response = torch.arange(4 * items) // 2 % 2, torch.arange(4 * items) % 2
    ids = batch.ids[rows].clone()
    at = torch.arange(4 * items)
    ids[at, batch.prompt_length - 2] = tokens[rows, instruction]
    ids[at, batch.prompt_length + place[rows]] = tokens[rows, response]
    return batch.rows(rows)._replace(ids=ids)


@torch.no_grad()
def predictors(trial: Any) -> dict[str, float]:
    """Reward models of many sizes and kinds of data: what predicts the gold that each one picks."""
    from scipy.stats import spearmanr

    lab = laboratory(trial, **WORLD)
    n = trial.budget.eval_episodes
    problems, gold = answers(lab, max(16, n // 4), 1 + WRONG, stream=38)
    # The answer of most gold is the right one, the others in the order in which they were sampled.
    best = gold.argmax(1)
    others = [[i for i in range(1 + WRONG) if i != b] for b in best]
    order = np.concatenate([best[:, None], np.array(others)], 1)
    picked, of_picked = answers(lab, max(4, n // BEST_OF), BEST_OF, stream=36)
    found = []
    for size in SIZES:
        for noise in NOISES:
            data, _ = lab.pairs(size, noise)
            with torch.enable_grad():
                model = train_reward_model(data, lab.policy, batch_size=min(128, size))
            scores = model.raw(problems).view(gold.shape).numpy()
            metrics = one_to_many(np.take_along_axis(scores, order, 1))
            scores = model.raw(picked).view(of_picked.shape).numpy()
            worth = float(bon_curve(of_picked, scores, [BEST_OF]).mean())
            found.append((worth, metrics["accuracy"], metrics["one_to_one"], metrics["mrr"]))
    worth, many, one, mrr = np.array(found).T
    final = {
        name: _number(spearmanr(x, worth).statistic)
        for name, x in (("one-to-many", many), ("one-to-one", one), ("mrr", mrr))
    }
    trial.save_arrays(worth=worth, many=many, one=one)
    trial.log(trial.budget.total_timesteps, **final)
    return final


def _number(rho: float) -> float:
    """A rank correlation, 0 where all ranks are the same."""
    return float(np.nan_to_num(rho))


def differs_from(sentence: str, label: str, key: str, value: float, how: Any, detail: str) -> Any:
    """A check of one number of an arm minus ``value``; ``how`` is ``above`` or ``below``."""

    def check(results: Results) -> Verdict:
        x = results[label].final[key] - value
        verdict: Verdict = how(sentence, paired_difference(x, np.zeros_like(x)), detail)
        return verdict

    return check


def regression_does_as_well(results: Results) -> Verdict:
    """Regression's accuracy within .01 of Bradley-Terry's."""
    d = paired_difference(results[REGRESSION].final["accuracy"], results[BT].final["accuracy"])
    detail = "accuracy on clean pairs, regression minus BT, paired by seed; holds within .01"
    return within("On the same ratings regression is as accurate as BT.", d, detail, 0.01)


def rescaling_helps(results: Results) -> Verdict:
    """Log-loss on fresh noisy pairs before a temperature minus that after."""
    final = results[PLAIN].final
    return above(
        "A temperature fitted to held-out pairs lowers the log-loss on others.",
        paired_difference(final["log loss"], final["log loss, rescaled"]),
        "log-loss without minus log-loss with it, nats a pair, paired by seed",
    )


def one_to_many_predicts_better(results: Results) -> Verdict:
    """The difference of two rank correlations with gold of best-of-n, a seed at a time."""
    final = results[PREDICTORS].final
    return above(
        "One-to-many accuracy ranks reward models by the gold that they pick better than "
        "one-to-one accuracy.",
        paired_difference(final["one-to-many"], final["one-to-one"]),
        f"difference of rank correlations over eighteen reward models, paired by seed; means "
        f"{final['one-to-many'].mean():.3g} and {final['one-to-one'].mean():.3g}",
    )


def draw_predictors(figure: Any, results: Results) -> None:
    """Gold of the best of 64 over either accuracy, every reward model of every seed."""
    axes = figure.subplots()
    saved = results.arrays(PREDICTORS)
    for i, (key, label) in enumerate((("many", "one against nine"), ("one", "one against one"))):
        x, y = (np.concatenate([s[name] for s in saved]) for name in (key, "worth"))
        axes.plot(x, y, "o", ms=3, alpha=0.5, color=colour(i), label=label)
    axes.set_xlabel("accuracy")
    axes.set_ylabel("gold of the best of 64 (base std)")
    axes.legend(fontsize=8)


def draw_treatments(figure: Any, results: Results) -> None:
    """Accuracy on clean pairs of every arm minus that as labelled, with bootstrap intervals."""
    axes = figure.subplots()
    labels = (FLIP, SMOOTH, MARGIN, DROP, CONTRASTED)
    before = results[PLAIN].final["accuracy"]
    found = [paired_difference(results[x].final["accuracy"], before) for x in labels]
    point, low, high = (np.array([getattr(d, k) for d in found]) for k in ("point", "low", "high"))
    error = np.abs(np.stack([point - low, high - point]))
    axes.errorbar(range(len(labels)), point, error, fmt="o", color=colour(0), capsize=3)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel("accuracy over BT as labelled")


EXPERIMENT = Experiment(
    name="rlhf_reward_model_treatments",
    title="Treatments of preference data, strengths of preference, and what predicts their worth",
    paper="Wang, Zheng et al. (2024), Secrets of RLHF in large language models part II; Wang, "
    "Bukharin et al. (2025), HelpSteer2-Preference; Kim et al. (2024), Evaluating robustness of "
    "reward models for mathematical reasoning; Shen et al. (2024), The trickle-down impact of "
    "reward (in-)consistency on RLHF",
    grid=[
        *(
            Measure(how, functools.partial(treated, how=how))
            for how in (PLAIN, FLIP, SMOOTH, MARGIN, DROP, WEAKEST)
        ),
        Measure(CONTRASTED, contrasted),
        *(
            Measure(how, functools.partial(rated, how=how))
            for how in (BT, SHIFTED, SCALED, REGRESSION, BOTH)
        ),
        Measure(PREDICTORS, predictors),
    ],
    budgets={
        "smoke": Budget(total_timesteps=1, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=1, num_envs=0, eval_episodes=2_048, seeds=10),
        "full": Budget(total_timesteps=1, num_envs=0, eval_episodes=16_384, seeds=20),
    },
    claims=[
        Claim(
            "Margins find flipped labels",
            differs_from(
                "Cross-fitted margins tell flipped labels from others, AUC above .75.",
                PLAIN,
                "flip AUC",
                FINDS,
                above,
                "AUC of minus the mean margin - .75",
            ),
        ),
        Claim(
            "The weakest pairs mislead",
            differs_from(
                "A reward model on the fifth of least margin is wrong more often than right.",
                WEAKEST,
                "accuracy",
                0.5,
                below,
                "accuracy on clean pairs - .5",
            ),
        ),
        Claim(
            "Flipping helps",
            exceeds(
                "Exchanging the weakest fifth raises accuracy on clean pairs by .02 or more.",
                FLIP,
                PLAIN,
                "accuracy",
                slack=-0.02,
            ),
        ),
        *(
            Claim(
                f"{how.capitalize()} costs no gold",
                exceeds(
                    f"{words} picks at most .05 less gold of 64 answers.", how, PLAIN, "gold", 0.05
                ),
            )
            for how, words in (
                (FLIP, "With the weakest exchanged a reward model"),
                (SMOOTH, "With doubtful labels smoothed a reward model"),
                (MARGIN, "With a margin for certain labels a reward model"),
            )
        ),
        Claim(
            "Flipping calibrates",
            exceeds(
                "As labelled, probabilities of clean preferences are farther off than after "
                "exchanging the weakest.",
                PLAIN,
                FLIP,
                "ece",
            ),
        ),
        Claim("A temperature calibrates", rescaling_helps),
        Claim(
            "Scaling beats a margin",
            exceeds(
                "Strength as a factor is more accurate than as a margin.",
                SCALED,
                SHIFTED,
                "accuracy",
            ),
        ),
        Claim(
            "A margin beats neither",
            exceeds(
                "Strength as a margin is more accurate than plain BT.", SHIFTED, BT, "accuracy"
            ),
        ),
        Claim("Regression does as well", regression_does_as_well),
        Claim(
            "Both are best",
            exceeds(
                "Scaled BT from a regression is more accurate than from the base policy.",
                BOTH,
                SCALED,
                "accuracy",
            ),
        ),
        Claim("One-to-many predicts better", one_to_many_predicts_better),
        Claim(
            "One-to-many predicts well",
            differs_from(
                "Its rank correlation with the gold of best-of-n is above .8.",
                PREDICTORS,
                "one-to-many",
                0.8,
                above,
                "rank correlation over eighteen reward models - .8",
            ),
        ),
        Claim(
            "Instructions are hardly read",
            differs_from(
                "An ordinary reward model prefers the right one of two similar instructions in "
                "less than .6.",
                PLAIN,
                "consistent instructions",
                0.6,
                below,
                "consistency of instructions - .6; .5 is chance",
            ),
        ),
        Claim(
            "Contrasting pairs help",
            exceeds(
                "It does so more often after a fifth of its pairs contrast responses to similar "
                "instructions.",
                CONTRASTED,
                PLAIN,
                "consistent instructions",
            ),
        ),
        Claim(
            "Contrasting pairs cost nothing",
            exceeds(
                "And is at most .02 less accurate on ordinary pairs.",
                CONTRASTED,
                PLAIN,
                "accuracy",
                slack=0.02,
            ),
        ),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "accuracy": "accuracy",
        "ece": "ECE",
        "log loss": "log-loss",
        "gold": "gold, best of 64",
        "consistent responses": "consistent responses",
        "consistent instructions": "consistent instructions",
        "flip AUC": "AUC of flips",
        "one-to-many": "one-to-many, rank correlation",
        "one-to-one": "one-to-one, rank correlation",
    },
    figures=[
        Figure(
            "Treatments",
            "Accuracy on clean pairs minus that of plain Bradley-Terry on the labels as they are, "
            "with 95 % bootstrap intervals over seeds.",
            draw_treatments,
        ),
        Figure(
            "What predicts a reward model's worth",
            "Gold of the best of 64 answers by each reward model over its accuracy against nine "
            "wrong answers and against one, all seeds.",
            draw_predictors,
        ),
    ],
)
