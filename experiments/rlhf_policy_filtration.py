"""Policy filtration: learn only from samples whose reward can be trusted.

Shen and Zhang (2024): a reward model is unreliable for middling responses; keeping the best and the
worst, or the best and a random one, of a prompt's samples raises the correlation of reward and
truth on what is learned from, and the policy with it, while keeping only the best does not. Scaled
down: the gold laboratory, where the proxy is gold with noise that is large in the middle, a fixed
function of the response; eight samples a prompt.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.evaluation import grouped_r2
from rewardzoo.rlhf.policy_gradient import kept_by_filter
from rewardzoo.rlhf.sampling import sample
from rewardzoo.rlhf.sequences import Sequences
from rewardzoo.verdicts import above

from .common.rlhf import SEEDS, TUNING_SEEDS, draw_kl, exceeds, laboratory, optimise

ALL, BEST, BEST_RANDOM, BEST_WORST = "all", "best", "best and random", "best and worst"
KEEP = {ALL: "all", BEST: "best", BEST_RANDOM: "best_random", BEST_WORST: "best_worst"}
K, NOISE = 8, 2.0


class UnreliableInTheMiddle:
    """Gold with noise of standard deviation ``NOISE * exp(-gold**2)``, fixed for each response.

    Args:
        gold: the truth.
        seed: of the noise.
    """

    def __init__(self, gold: Any, seed: int) -> None:
        self.gold = gold
        generator = torch.Generator().manual_seed(seed)
        self.keys = torch.randint(1, 2**31, (64,), generator=generator)

    def __call__(self, batch: Sequences) -> Tensor:
        """The proxy, (B,)."""
        gold = self.gold(batch)
        mask = torch.cat([torch.ones_like(batch.prompts), batch.completion_mask.long()], 1)
        digest = ((batch.ids + 1) * mask * self.keys[: batch.ids.shape[1]]).sum(1)
        # Two uniform numbers from one hash, and a normal one from them.
        u = ((digest * 2654435761) % 1_000_003 + 0.5) / 1_000_003
        v = ((digest * 40503) % 999_983 + 0.5) / 999_983
        normal = torch.sqrt(-2 * torch.log(u)) * torch.cos(2 * torch.pi * v)
        return gold + NOISE * torch.exp(-(gold**2)) * normal


@torch.no_grad()
def reliability(lab: Any, proxy: Any, keep: str, prompts: int = 256) -> dict[str, float]:
    """R^2 of gold and proxy on what a filter keeps of the base policy's samples.

    ``r2`` is that of samples, ``r2_groups`` that of means of tenths of them in the proxy's order.
    """
    generator = lab.generator(7)
    ids = lab.language.prompts(prompts, generator)
    batch = sample(lab.policy, ids, lab.config.new_tokens, generator, copies=K)
    scores = proxy(batch)
    kept = kept_by_filter(scores, K, keep, generator)
    x, y = scores[kept].numpy(), lab.gold(batch)[kept].numpy()
    return {"r2": float(np.corrcoef(x, y)[0, 1] ** 2), "r2_groups": grouped_r2(x, y)}


def train(trial: Any, keep: str) -> dict[str, float]:
    """RLOO on what the filter keeps; advantages are those of all samples."""
    lab = laboratory(trial)
    proxy = UnreliableInTheMiddle(lab.gold, trial.seed)
    reliable = reliability(lab, proxy, keep)
    final = optimise(trial, lab, proxy, keep=keep, k=K, prompts=16, kl=0.02)
    return {**final, **reliable}


def order_of_r2_is_the_order_of_gold(results: Results) -> Verdict:
    """Spearman's correlation over the four filters, a seed at a time."""
    from scipy.stats import spearmanr

    r2 = np.stack([results[label].final["r2"] for label in KEEP])
    end = np.stack([results[label].final["end"] for label in KEEP])
    rho = np.array([spearmanr(r2[:, i], end[:, i]).statistic for i in range(r2.shape[1])])
    d = paired_difference(rho, np.zeros_like(rho))
    return above(
        "R^2 of proxy and gold on kept base samples predicts which filter ends highest.",
        d,
        "rank correlation of R^2 and final gold over four filters; holds above .5",
        0.5,
    )


EXPERIMENT = Experiment(
    name="rlhf_policy_filtration",
    title="Policy filtration: which samples to learn from when rewards are unreliable",
    paper="Shen, Zhang (2024), Policy filtration in RLHF to fine-tune LLM for code generation",
    grid=[Measure(label, functools.partial(train, keep=keep)) for label, keep in KEEP.items()],
    budgets={
        "smoke": Budget(total_timesteps=4, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=180, num_envs=0, eval_episodes=512, seeds=5),
        "full": Budget(total_timesteps=300, num_envs=0, eval_episodes=2_048, seeds=20),
    },
    claims=[
        Claim(
            "Best and worst are reliable",
            exceeds("R^2 on best and worst exceeds R^2 on all.", BEST_WORST, ALL, "r2"),
        ),
        Claim(
            "The best alone are not",
            exceeds("R^2 on all exceeds R^2 on the best alone.", ALL, BEST, "r2"),
        ),
        Claim(
            "Best and worst end higher",
            exceeds("Best and worst end with more gold than all.", BEST_WORST, ALL, "end"),
        ),
        Claim(
            "Best and random end higher",
            exceeds("Best and random end with more gold than all.", BEST_RANDOM, ALL, "end"),
        ),
        Claim("R^2 predicts gold", order_of_r2_is_the_order_of_gold),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "r2": "R^2 on kept samples",
        "r2_groups": "of tenths",
        "end": "final gold",
        "end_kl": "final KL",
    },
    figures=[
        Figure(
            "Gold over KL",
            "Gold (solid), proxy (dotted) and the fit of gold (dashed), mean over seeds.",
            functools.partial(draw_kl, tuple(KEEP)),
        )
    ],
)
