"""Process rewards that cost no labels of steps: implicit reward models, and PRIME.

Yuan et al. (2024): a model trained to tell right from wrong answers as a log-ratio to a reference
knows, token by token, where an answer went wrong, and picks among samples no worse than an outcome
reward model. Cui et al. (2025): trained online beside the policy, it speeds reinforcement learning
from outcomes; frozen, it is overoptimised. Scaled down: chains of seven sums modulo ten, of which
a base policy was taught three cells in ten wrong, so that its answers are right between .2 and .4
of the time; what is left to learn is systematic, and one wrong step in seven spoils an answer. The
task and the base policy are one, as a pretrained model is; seeds are those of what follows.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference, stratified_bootstrap
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.evaluation import auroc, bon_curve
from rewardzoo.rlhf.laboratory import fitted
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.process_rewards import (
    ImplicitReward,
    Prime,
    TokenRewardModel,
    aggregate,
    fit_outcomes,
    step_rewards,
)
from rewardzoo.rlhf.sampling import sample
from rewardzoo.rlhf.sequences import Sequences
from rewardzoo.rlhf.tasks import EOS, Arithmetic, evaluate
from rewardzoo.verdicts import above

from .common.rlhf import SEEDS, TUNING_SEEDS, curves_of, every_seed, exceeds

OUTCOME, PRIME, FROZEN, EXACT = "outcome", "PRIME", "frozen implicit", "exact steps"
IMPLICIT, HEAD = "best of n, implicit", "best of n, outcome model"
TRAINED = (OUTCOME, PRIME, FROZEN, EXACT)
PARTS, LEVEL, FASTER, FINDS = 8, 0.5, 1.3, 0.7
COUNTS = (1, 2, 4, 8, 16, 32, 64)  # of samples that the best is chosen from
SAMPLES, LABELLED = COUNTS[-1], 1024
START = 1024  # prompts of the base policy's measurement: its standard error is .014
# The papers' .05 is for answers of a thousand tokens; log-ratios of 45 have to say as much.
BETA = 1.0
WEIGHT = 0.3  # of process rewards; at 1 PRIME did worse on the tuning seed


class World:
    """The task and its base policy, and a seed's randomness."""

    def __init__(self, trial: Any) -> None:
        self.seed = trial.seed
        self.task = Arithmetic(n=8, wrong_cells=0.3, wrong_prob=0.6)
        task = self.task
        size = DecoderConfig(task.vocab_size, task.max_length, width=64, layers=1, eos=EOS)
        # A smoke run's base policy has to be right now and then, or there is nothing to tell apart.
        steps = 400 if trial.budget.total_timesteps > 10 else 100
        file = trial.folder.parents[1] / "base" / f"{steps}.pt"
        generator = torch.Generator().manual_seed(0)
        self.base = fitted(Decoder(size, seed=0), task.corpus, steps, generator, file)

    def generator(self, stream: int) -> torch.Generator:
        """Randomness of this world's own; streams do not overlap."""
        return torch.Generator().manual_seed(self.seed * 7919 + 100 + stream)

    def samples(self, prompts: int, k: int, stream: int) -> tuple[Sequences, Tensor]:
        """The base policy's completions, k a prompt, and which are right."""
        generator = self.generator(stream)
        asked = self.task.prompts(prompts, generator)
        batch = sample(self.base, asked, self.task.new_tokens, generator, copies=k)
        return batch, self.task.verify(batch)

    def fit(self, reward: Any, learning_rate: float = 3e-4) -> None:
        """Train a reward on outcomes of base samples, one a prompt."""
        batch, right = self.samples(LABELLED, 1, stream=1)
        fit_outcomes(reward, batch, right, 4, learning_rate=learning_rate, seed=self.seed)


class Outcome:
    """The answer is checked, and nothing else is paid."""

    def __init__(self, task: Arithmetic) -> None:
        self.task = task

    def __call__(self, batch: Sequences) -> Tensor:
        """1 for right answers, (B,)."""
        return self.task.verify(batch).float()

    def token_rewards(self, batch: Sequences) -> Tensor:
        """No process rewards, (B, T)."""
        return torch.zeros(batch.completion_mask.shape)


class ExactSteps(Outcome):
    """Each step that is right, like all before it, pays 1 at its end: what a perfect judge sees."""

    def token_rewards(self, batch: Sequences) -> Tensor:
        """Process rewards (B, T)."""
        paid = torch.zeros(batch.completion_mask.shape)
        steps = self.task.verify_steps(batch)
        inside = steps.ends < paid.shape[1]
        paid[:, steps.ends[inside]] = steps.prefix[:, inside].float()
        return paid


def reward_of(world: World, kind: str) -> Any:
    """The reward of a trained arm."""
    task, base = world.task, world.base
    if kind == OUTCOME:
        return Outcome(task)
    if kind == EXACT:
        return ExactSteps(task)
    implicit = ImplicitReward(base, base, BETA)
    if kind == PRIME:
        return Prime(task.verify, implicit, learning_rate=3e-4)
    world.fit(implicit)
    return Prime(task.verify, implicit, learning_rate=0.0)


def train(trial: Any, kind: str) -> dict[str, float]:
    """Policy gradient on outcomes and, by arm, on process rewards; PRIME's advantages in all."""
    world = World(trial)
    config = OnlineConfig(
        algorithm="prime",
        k=4,
        prompts=16,
        new_tokens=world.task.new_tokens,
        process=WEIGHT,
        learning_rate=5e-4,
        seed=trial.seed,
    )
    policy = copy.deepcopy(world.base)
    reward = reward_of(world, kind)
    trainer = OnlineTrainer(policy, world.base, reward, world.task.prompts, config)

    def measure() -> dict[str, float]:
        n = trial.budget.eval_episodes
        return evaluate(world.task, policy, world.base, n, world.generator(2))

    curves = curves_of(trial, trainer, measure, PARTS)
    pass1 = curves["pass1"]
    step = np.linspace(0, trial.budget.total_timesteps, len(pass1))
    start = evaluate(world.task, world.base, world.base, START, world.generator(4), k=1)
    return {
        "base": start["pass1"],
        "base_greedy": start["greedy"],
        "mean": float(pass1[1:].mean()),
        "to_half": first_at(step, pass1, LEVEL),
        **{name: float(values[-1]) for name, values in curves.items()},
    }


def first_at(step: np.ndarray, values: np.ndarray, level: float) -> float:
    """Where a curve first reaches a level, interpolated; its last step if it never does."""
    reached = np.flatnonzero(values >= level)
    if not len(reached):
        return float(step[-1])
    i = int(reached[0])
    if i == 0:
        return float(step[0])
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(step[i - 1] + share * (step[i] - step[i - 1]))


@torch.no_grad()
def choose(trial: Any, kind: str) -> dict[str, float]:
    """Train a reward on outcomes of base samples; how it chooses among fresh ones, by steps too."""
    world = World(trial)
    reward: Any
    if kind == IMPLICIT:
        reward = ImplicitReward(world.base, world.base, BETA)
    else:
        reward = TokenRewardModel(world.base, seed=trial.seed)
    with torch.enable_grad():  # a fresh head needs larger steps than a policy
        world.fit(reward, 3e-4 if kind == IMPLICIT else 1e-3)
    batch, right = world.samples(trial.budget.eval_episodes, SAMPLES, stream=3)
    found = world.task.verify_steps(batch)
    steps = step_rewards(reward.token_rewards(batch), found.ends)
    scores = {how: aggregate(steps, how) for how in ("sum", "min")}
    steps = steps[:, :-1]
    gold = right.view(-1, SAMPLES).numpy()
    curves = {
        name: bon_curve(gold, score.view(-1, SAMPLES).numpy(), COUNTS).mean(0)
        for name, score in scores.items()
    }
    trial.log(trial.budget.total_timesteps, best=float(curves["sum"][-1]))
    trial.save_arrays(n=np.array(COUNTS), **curves)
    return {
        "base": float(gold.mean()),
        "best": float(curves["sum"][-1]),
        "best_min": float(curves["min"][-1]),
        "auc": auroc(scores["sum"].numpy(), right.numpy()),
        "step_auc": first_error_auc(steps.numpy(), found.local.numpy(), found.prefix.numpy()),
    }


def first_error_auc(steps: np.ndarray, local: np.ndarray, prefix: np.ndarray) -> float:
    """How well scores of steps tell first errors from right steps; what follows is left out."""
    reached = np.concatenate([np.ones_like(prefix[:, :1]), prefix[:, :-1]], 1)
    return auroc(steps[reached], local[reached])


def start_is_fair(results: Results) -> Verdict:
    """The base policy is right between .2 and .4, greedily at most .1 more, in every seed."""
    pass1 = results[OUTCOME].final["base"]
    greedy = results[OUTCOME].final["base_greedy"]
    fair = (pass1 >= 0.2) & (pass1 <= 0.4) & (greedy <= pass1 + 0.1)
    interval = stratified_bootstrap(pass1)
    return Verdict(
        claim="The base policy starts between .2 and .4, and is no better when greedy.",
        outcome="holds" if fair.all() else "fails" if fair.mean() <= 0.5 else "inconclusive",
        effect=interval.point,
        low=interval.low,
        high=interval.high,
        n=len(pass1),
        detail=f"pass@1 of the base policy on {START:,} prompts; greedy {greedy.mean():.3g}; fair "
        f"in {int(fair.sum())} of {len(fair)} seeds",
    )


def reaches_half_sooner(results: Results) -> Verdict:
    """Ratio of updates to pass@1 .5, outcome over PRIME, on a log scale."""
    slow, fast = (results[label].final["to_half"] for label in (OUTCOME, PRIME))
    ratio = paired_difference(np.log(np.maximum(slow, 1)), np.log(np.maximum(fast, 1)))
    return above(
        "PRIME reaches pass@1 .5 in fewer updates than outcome rewards, by a factor of 1.3.",
        ratio,
        f"log of the ratio of updates, outcome over PRIME; holds above log 1.3; means "
        f"{slow.mean():.3g} and {fast.mean():.3g}",
        float(np.log(FASTER)),
    )


def draw_training(figure: Any, results: Results) -> None:
    """Pass@1 over updates: mean over seeds, and each seed."""
    axes = figure.subplots()
    for i, label in enumerate(TRAINED):
        curves = results[label].curves
        axes.plot(curves["step"][0], curves["pass1"].T, color=colour(i), lw=0.5, alpha=0.4)
        axes.plot(curves["step"][0], curves["pass1"].mean(0), color=colour(i), lw=2, label=label)
    axes.set_xlabel("updates of 16 prompts, 4 samples each")
    axes.set_ylabel("pass@1 on fresh prompts")
    axes.legend(fontsize=8)


def draw_choices(figure: Any, results: Results) -> None:
    """Share of right answers among the best of n, mean over seeds."""
    axes = figure.subplots()
    lines = [(label, how) for label in (IMPLICIT, HEAD) for how in ("sum", "min")]
    for i, (label, how) in enumerate(lines):
        arrays = results.arrays(label)
        shown = np.mean([a[how] for a in arrays], 0)
        axes.plot(arrays[0]["n"], shown, "o-", color=colour(i), label=f"{label}, {how}")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("samples n")
    axes.set_ylabel("share of right answers")
    axes.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="rlhf_process_rewards",
    title="Process rewards from outcomes: implicit reward models and PRIME",
    paper="Yuan et al. (2024), Free process rewards without process labels; Cui et al. (2025), "
    "Process reinforcement through implicit rewards",
    grid=[
        *(Measure(label, functools.partial(train, kind=label)) for label in TRAINED),
        *(Measure(label, functools.partial(choose, kind=label)) for label in (IMPLICIT, HEAD)),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4, num_envs=0, eval_episodes=8, seeds=2),
        "quick": Budget(total_timesteps=40, num_envs=0, eval_episodes=32, seeds=10),
        "full": Budget(total_timesteps=160, num_envs=0, eval_episodes=256, seeds=20),
    },
    claims=[
        Claim("The start is fair", start_is_fair),
        Claim(
            "PRIME learns more",
            exceeds(
                "Over training PRIME's mean pass@1 exceeds that of outcome rewards.",
                PRIME,
                OUTCOME,
                "mean",
            ),
        ),
        Claim("PRIME learns faster", reaches_half_sooner),
        Claim(
            "Exact steps bound it",
            exceeds(
                "Over training exact process rewards' mean pass@1 exceeds PRIME's.",
                EXACT,
                PRIME,
                "mean",
            ),
        ),
        Claim(
            "Frozen rewards are overoptimised",
            exceeds(
                "PRIME ends with a higher pass@1 than with a frozen implicit reward.",
                PRIME,
                FROZEN,
                "pass1",
            ),
        ),
        Claim(
            "Implicit rewards find first errors",
            every_seed(
                "Trained on outcomes alone, implicit rewards tell first wrong steps from right "
                "ones, AUC above .7.",
                IMPLICIT,
                "AUC - .7",
                lambda final: final["step_auc"] - FINDS,
            ),
        ),
        Claim(
            "Implicit rewards choose as well",
            exceeds(
                "Of 64 samples the implicit reward picks right ones at least as often as an "
                "outcome reward model, within .02.",
                IMPLICIT,
                HEAD,
                "best",
                slack=0.02,
            ),
        ),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "base": "pass@1 of the base",
        "mean": "mean pass@1",
        "to_half": "updates to .5",
        "pass1": "final pass@1",
        "greedy": "final greedy",
        "steps": "steps right",
        "kl": "final KL",
        "best": "best of 64",
        "best_min": "best of 64, by least step",
        "step_auc": "AUC of first errors",
    },
    figures=[
        Figure("Training", "Pass@1 over updates; thin lines are seeds.", draw_training),
        Figure("Best of n", "Right answers among the best of n, mean over seeds.", draw_choices),
    ],
)
