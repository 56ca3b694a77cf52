"""Overoptimisation itself: gold falls while the proxy rises, and a small KL penalty prevents it.

Gao, Schulman and Hilton (2023). The gold laboratory at its full width: a policy and a proxy of two
layers and width 64, 1,000 pairs, a quarter of them mislabelled. Ensembles are compared on a smaller
model in ``rlhf_overoptimisation_ensembles``.

Asked twice: in worlds of the seeds' own (language and gold too), and in one world, where seeds are
those of base policy, pairs, proxy and optimisation, as where there is one human to please. The one
world is that of seed 0, on which the settings were tuned, and which was known to show it.

It is not so in every run. Gold is overdone by answers as long as they may be, in which one good
token is repeated. Of the tuning seeds 0, 1, 4, 5 and 6, each with 320 updates at this rate and at
twice this rate, three fall so (by .8 to 6.6); in seed 4 the policy learns to say nothing, 2.5 nats
from the base, and stays there, and in seed 5 it ends at eight tokens, gold at its peak at 39 nats.
Nor is it the world alone that decides: in the one world some seeds never fall, and some fall by one
to two standard deviations and come back. Nor a good proxy: on a quarter of the pairs three of the
tuning seeds 0, 1, 4 and 5 fall, with 35 % of the labels flipped one does.

So it is asked what the proxy itself would have: its best answers to 32 prompts, by hill climbing
from random answers. On tuning seeds 0, 1, 4 and 5 they were worth 3.5, 3.0, 1.8 and 1.9 of gold.
What is overdone is then not the proxy alone, but the proxy as far as a policy gets that sticks to
the first good thing it finds.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.reward_models import sequences_of
from rewardzoo.rlhf.world import EOS
from rewardzoo.verdicts import above

from .common.rlhf import TUNING_SEEDS, draw_kl, laboratory, optimise, overoptimises

FREE, HELD = "no penalty", "KL .05"
FREE_ONE, HELD_ONE = "one world, no penalty", "one world, KL .05"
SEARCHED = "the proxy's best answers"
WORLD = 0
PROMPTS, STARTS = 32, 64  # of the search
# On tuning seeds 0, 4 and 5, after 320 updates, what the penalty holds ends at .82 to 1.0 of its
# peak (at 8e-4: .78 to 1.0), and without it as many fall. At 2e-4 few get far in 160 updates.
LEARNING_RATE = 4e-4
# Seeds 100 to 104 and 120 to 124 were looked at with other settings; nobody has seen these.
SEEDS = tuple(range(125, 145))


def reinforce(trial: Any, kl: float = 0.0, world: int | None = None) -> dict[str, float]:
    """RLOO on one proxy; gold is measured on fresh prompts."""
    lab = laboratory(trial, world, width=64, layers=2)
    return optimise(trial, lab, lab.reward_model(), kl=kl, learning_rate=LEARNING_RATE)


def search(trial: Any) -> dict[str, float]:
    """Hill climbing on the proxy, one token at a time: of 64 answers a prompt, the best."""
    lab = laboratory(trial, width=64, layers=2)
    proxy, c, generator = lab.reward_model(), lab.config, lab.generator(20)
    prompts = lab.language.prompts(PROMPTS, generator).repeat_interleave(STARTS, 0)
    n, steps = len(prompts), 2 * trial.budget.total_timesteps

    @torch.no_grad()
    def score(answers: Tensor) -> Tensor:
        scores: Tensor = proxy(sequences_of(prompts, answers, EOS))
        return scores

    answers = torch.randint(EOS, c.vocab_size, (n, c.new_tokens), generator=generator)
    best = score(answers)
    for _ in range(steps):
        at = torch.randint(c.new_tokens, (n, 1), generator=generator)
        token = torch.randint(EOS, c.vocab_size, (n, 1), generator=generator)
        changed = answers.scatter(1, at, token)
        new = score(changed)
        answers = torch.where((new > best).unsqueeze(1), changed, answers)
        best = torch.maximum(new, best)
    first = torch.arange(PROMPTS) * STARTS + best.view(PROMPTS, STARTS).argmax(1)
    found = sequences_of(prompts[first], answers[first], EOS)
    gold, length = float(lab.gold(found).mean()), float(found.lengths.float().mean())
    trial.log(steps, gold=gold)
    return {"end": gold, "proxy_end": float(best[first].mean()), "length": length}


def path(results: Results) -> Verdict:
    """The searched answers against where the policy ends."""
    found = paired_difference(results[SEARCHED].final["end"], results[FREE].final["end"])
    sentence = "The answers that the proxy likes best are worth more gold than the policy's last."
    return above(sentence, found, "gold, paired by seed", 0.0)


EXPERIMENT = Experiment(
    name="rlhf_overoptimisation",
    title="Overoptimisation of one reward model, with and without a KL penalty",
    paper="Gao, Schulman, Hilton (2023), Scaling laws for reward model overoptimization, ICML",
    grid=[
        Measure(FREE, reinforce),
        Measure(HELD, functools.partial(reinforce, kl=0.05)),
        Measure(FREE_ONE, functools.partial(reinforce, world=WORLD)),
        Measure(HELD_ONE, functools.partial(reinforce, kl=0.05, world=WORLD)),
        Measure(SEARCHED, search),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=320, num_envs=0, eval_episodes=1_024, seeds=5),
        "full": Budget(total_timesteps=320, num_envs=0, eval_episodes=2_048, seeds=20),
    },
    claims=[
        *overoptimises(FREE, HELD),
        *overoptimises(FREE_ONE, HELD_ONE, "In one world: "),
        Claim("It is the policy's path that overdoes it", path),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "peak": "peak gold",
        "end": "final gold",
        "end_kl": "final KL",
        "proxy_end": "proxy",
        "length": "tokens",
    },
    figures=[
        Figure(
            "Gold and proxy",
            "Gold (solid), proxy (dotted) and the fit d (alpha - beta log d) of gold (dashed) over "
            "the square root of KL, mean over seeds.",
            functools.partial(draw_kl, (FREE, HELD, FREE_ONE, HELD_ONE)),
        )
    ],
)
