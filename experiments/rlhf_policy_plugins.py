"""Four ways to learn from a reward model that PPO is compared with, each a plug-in of a trainer.

Wu et al. (2023): P3O compares the two answers to a prompt, so that a reward that pays every answer
to a prompt the same more changes nothing, where PPO's critic has to learn it. Mukobi et al. (2023):
SuperHF, which imitates the best of its own samples, gets as much reward with less spread over seeds
and stays nearer to what is meant. Rosset et al. (2024): by DNO each iterate is preferred to the one
before. Gao et al. (2024): paid for every right step, a policy writes steps that add nothing; Clip
and Delta leave it no gain from them.

Scaled down: the gold laboratory with a one-layer transformer, one reward model on 1,000 pairs, a
quarter of them mislabelled, 128 samples an update. For steps, running sums modulo ten, which a base
policy was taught with errors and, now and then, with steps that add nothing.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.metrics.statistics import paired_difference, stratified_bootstrap
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.fitting import Cloning, Contrast
from rewardzoo.rlhf.iterative import IterativeTrainer
from rewardzoo.rlhf.laboratory import fitted
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.policy_gradient import clip_steps, delta_steps
from rewardzoo.rlhf.sampling import sample
from rewardzoo.rlhf.selecting import Duels, best
from rewardzoo.rlhf.sequences import Sequences, pack
from rewardzoo.rlhf.step_rewards import StepReward
from rewardzoo.rlhf.tasks import ANSWER, EOS, EQUALS, PLUS, STEP, Arithmetic
from rewardzoo.verdicts import above, decided

from .common.rlhf import (
    SEEDS,
    TUNING_SEEDS,
    at_kl,
    curves_of,
    draw_kl,
    every_seed,
    exceeds,
    laboratory,
    measured,
    optimise,
)

PPO, PPO_SHIFTED, P3O, P3O_SHIFTED = "PPO", "PPO, shifted", "P3O", "P3O, shifted"
SUPERHF, DNO = "SuperHF", "DNO"
LEVELS = (2.0, 4.0, 6.0, 8.0)  # nats, where PPO and P3O are compared
FINE = 1024  # parts of a standard deviation that rewards are rounded to
SHIFT = 10.0  # standard deviations, of what a prompt's answers are all paid more
FELL = 0.05  # of the mean reward between measurements of DNO, which the samples may explain

OUTCOME, SUM, CLIP, DELTA, BOTH = "outcome", "sum of steps", "clip", "delta", "clip and delta"
SHAPES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], ...]] = {
    OUTCOME: (),
    SUM: (),
    CLIP: (clip_steps,),
    DELTA: (delta_steps,),
    BOTH: (clip_steps, delta_steps),
}
WEIGHT = 0.5  # of steps
# At 1e-3 outcomes alone lost what the base policy could do on a tuning seed.
RATE = 5e-4
DIGITS, MORE, BLOCK = 5, 14, 6  # of a prompt; steps beyond those; tokens of a step


class Shifted:
    """A proxy in rounded numbers, and for each prompt what all its answers are paid more.

    All are whole multiples of 1 / 1024, of which sums and differences are exact: what a difference
    of two answers does not see it does not see to the last bit.

    Args:
        proxy: scores (B,).
        scale: standard deviation of what is paid more; 0 for nothing.
        lab: the world, for the size of prompts and its randomness.
    """

    def __init__(self, proxy: Callable[[Sequences], Tensor], scale: float, lab: Any) -> None:
        c = lab.config
        drawn = torch.randn(c.prompt_length, c.vocab_size, generator=lab.generator(50))
        self.proxy = proxy
        self.table = (scale / c.prompt_length**0.5 * drawn * FINE).round() / FINE

    def __call__(self, batch: Sequences) -> Tensor:
        """The rewards, (B,)."""
        place = torch.arange(batch.prompt_length)
        rounded = (self.proxy(batch) * FINE).round() / FINE
        return rounded + self.table[place, batch.prompts].sum(1)


def reinforce(trial: Any, algorithm: str, shift: float = 0.0) -> dict[str, float]:
    """PPO or P3O on the proxy, the answers to a prompt all paid more or not; gold on the way."""
    lab = laboratory(trial)
    proxy = lab.reward_model()
    k = 2 if algorithm == "p3o" else 4
    return optimise(
        trial,
        lab,
        Shifted(proxy, shift, lab),
        proxy,
        algorithm=algorithm,
        k=k,
        prompts=128 // k,
        epochs=4,
        learning_rate=1e-3,
    )


def iterate(trial: Any, method: str) -> dict[str, float]:
    """Rounds of SuperHF or DNO on the proxy; gold on the way."""
    lab = laboratory(trial)
    proxy = lab.reward_model()
    policy = copy.deepcopy(lab.policy)
    arguments: dict[str, Any] = {"n": 16, "select": best}
    if method == SUPERHF:
        arguments["fit"] = Cloning(policy, lab.policy, learning_rate=2e-3, kl=0.35)
    else:
        fit = Contrast(policy, loss="dno", seed=trial.seed, beta=0.1, learning_rate=5e-4)
        arguments = {"n": 4, "select": Duels(), "fit": fit}
    trainer = IterativeTrainer(
        policy,
        proxy,
        lab.language.prompts,
        batch_size=128 // arguments["n"],
        new_tokens=lab.config.new_tokens,
        seed=trial.seed,
        **arguments,
    )
    return measured(trial, lab, trainer, policy, proxy, summary=kept_up)


def kept_up(curves: dict[str, np.ndarray]) -> dict[str, float]:
    """The share of measurements at which the mean proxy is no lower than at the one before."""
    return {"kept up": float((np.diff(curves["proxy"]) >= -FELL).mean())}


class Redundant:
    """Running sums whose solutions may hold steps that add nothing, as ``7+0=7;``."""

    def __init__(self) -> None:
        self.task = Arithmetic(n=DIGITS, wrong_cells=0.5, wrong_prob=0.6)
        self.prompts, self.vocab_size = self.task.prompts, self.task.vocab_size
        self.steps = DIGITS - 1 + MORE
        self.new_tokens = BLOCK * self.steps + 3
        self.max_length = self.task.prompt_length + self.new_tokens

    def corpus(self, n: int, generator: torch.Generator) -> Sequences:
        """Prompts with completions that err in the wrong cells.

        In 3 of 10 there are one to three steps that add nothing, behind some step.
        """
        plain = self.task.corpus(n, generator)
        after = torch.randint(DIGITS - 1, (n,), generator=generator) + 1
        more = torch.randint(1, 4, (n,), generator=generator)
        more *= torch.rand(n, generator=generator) < 0.3
        rows = plain.completions.tolist()
        for row, at, count in zip(rows, (BLOCK * after).tolist(), more.tolist(), strict=True):
            value = row[at - 2]
            row[at:at] = count * [value, PLUS, 0, EQUALS, value, STEP]
        return pack(plain.prompts.tolist(), rows)

    def read(self, batch: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        """What a judge of single steps says of each: 1 where it is right, given the one before.

        Whether it is of any use the judge does not ask.

        Returns:
            Scores (B, S), columns (S,) of the last tokens, and mask (B, S) of steps that are there.
        """
        y = self._completions(batch)
        blocks = y[:, : BLOCK * self.steps].view(-1, self.steps, BLOCK)
        value, plus, operand, equals, result, end = blocks.unbind(2)
        written = (plus == PLUS) & (equals == EQUALS) & (end == STEP)
        written &= (value < PLUS) & (operand < PLUS) & (result < PLUS)
        there = written.long().cumprod(1).bool()
        before = torch.cat([batch.prompts[:, :1], result[:, :-1]], 1)
        right = (value == before) & ((value + operand) % 10 == result) & there
        ends = BLOCK * (torch.arange(self.steps) + 1) - 1
        return right.float(), ends, there

    def verify(self, batch: Sequences) -> Tensor:
        """Whether the answer is right and ends the completion after its steps, (B,) bool."""
        y = self._completions(batch)
        at = BLOCK * self.read(batch)[2].sum(1, keepdim=True)
        total = batch.prompts[:, : 2 * DIGITS : 2].sum(1) % 10
        expected = torch.stack([torch.full_like(total, ANSWER), total, torch.full_like(total, EOS)])
        return (y.gather(1, at + torch.arange(3)) == expected.T).all(1)

    def _completions(self, batch: Sequences) -> Tensor:
        y = batch.completions.masked_fill(~batch.completion_mask, EOS)
        short = self.new_tokens - y.shape[1]
        return torch.nn.functional.pad(y, (0, max(0, short)), value=EOS)[:, : self.new_tokens]


def reason(trial: Any, how: str) -> dict[str, float]:
    """Policy gradient on outcomes and, by arm, on the judge's word for each step."""
    world = Redundant()
    size = DecoderConfig(world.vocab_size, world.max_length, width=64, layers=1, eos=EOS)
    steps = 400 if trial.budget.total_timesteps > 10 else 40
    file = trial.folder.parents[1] / "base" / f"{steps}.pt"
    generator = torch.Generator().manual_seed(0)
    base = fitted(Decoder(size, seed=0), world.corpus, steps, generator, file)
    policy = copy.deepcopy(base)
    config = OnlineConfig(
        k=4, prompts=16, new_tokens=world.new_tokens, learning_rate=RATE, seed=trial.seed
    )
    weight = 0.0 if how == OUTCOME else WEIGHT
    reward = StepReward(world.verify, world.read, weight, SHAPES[how])
    trainer = OnlineTrainer(policy, base, reward, world.prompts, config)

    @torch.no_grad()
    def measure() -> dict[str, float]:
        generator = torch.Generator().manual_seed(trial.seed * 7919 + 102)
        asked = world.prompts(trial.budget.eval_episodes, generator)
        batch = sample(policy, asked, world.new_tokens, generator)
        right, _, there = world.read(batch)
        return {
            "right": float(world.verify(batch).float().mean()),
            "steps": float(there.sum(1).float().mean()),
            "right steps": float(right.sum(1).mean()),
        }

    curves = curves_of(trial, trainer, measure, 8)
    return {
        "base right": float(curves["right"][0]),
        "growth": float(curves["steps"][-1] / curves["steps"][0]),
        **{name: float(values[-1]) for name, values in curves.items()},
    }


def shifts_change_nothing(results: Results) -> Verdict:
    """The largest change of gold along training, P3O with every prompt's answers paid more."""
    changed = np.abs(results[P3O].curves["gold"] - results[P3O_SHIFTED].curves["gold"]).max(1)
    interval = stratified_bootstrap(changed)
    outcome = "holds" if changed.max() <= 1e-6 else "fails"
    return decided(
        "Paying all answers to a prompt more changes nothing under P3O.",
        outcome,
        interval,
        f"largest change of gold at any measurement; holds if at most 1e-6 in every seed; largest "
        f"{changed.max():.3g}; under PPO "
        f"{np.abs(results[PPO].curves['gold'] - results[PPO_SHIFTED].curves['gold']).max():.3g}",
    )


def frontier_is_above(results: Results) -> Verdict:
    """The second least of P3O's gains in gold over PPO at four levels of KL, a seed at a time."""
    gains = []
    for level in LEVELS:
        at = []
        for label in (P3O, PPO):
            curves = results[label].curves
            pairs = zip(curves["kl"], curves["gold"], strict=True)
            at.append([at_kl(kl, gold, level) for kl, gold in pairs])
        gains.append(np.subtract(*at))
    third = np.sort(gains, 0)[1]
    return above(
        "At three of four levels of KL P3O has more gold than PPO.",
        paired_difference(third, np.zeros_like(third)),
        "the second least of four differences of gold, at KL 2, 4, 6 and 8, paired by seed",
    )


def spread_is_less(results: Results) -> Verdict:
    """Distances of final gold from an arm's median: PPO's minus SuperHF's.

    Paper: Brown, Forsythe (1974), "Robust tests for the equality of variances".
    """
    far = []
    for label in (PPO, SUPERHF):
        end = results[label].final["end"]
        far.append(np.abs(end - np.median(end)))
    return above(
        "Over seeds SuperHF's final gold is spread less than PPO's.",
        paired_difference(*far),
        "distance of final gold from its median over seeds, PPO minus SuperHF",
    )


def gap_is_less(results: Results) -> Verdict:
    """What the proxy says more than gold at the end, PPO's minus SuperHF's."""
    ppo, superhf = (results[x].final["proxy_end"] - results[x].final["end"] for x in (PPO, SUPERHF))
    return above(
        "At the end proxy and gold are less apart under SuperHF than under PPO.",
        paired_difference(ppo, superhf),
        "proxy minus gold at the end, PPO's minus SuperHF's, paired by seed",
    )


def growth(sentence: str, label: str, detail: str, value: Callable[[np.ndarray], Any]) -> Any:
    """A check of ``value`` of how many times the base policy's steps a policy writes."""

    def check(results: Results) -> Verdict:
        x = np.asarray(value(results[label].final["growth"]), np.float64)
        mean = results[label].final["growth"].mean()
        detailed = f"{detail}; steps over the base policy's, mean {mean:.3g}"
        return above(sentence, paired_difference(x, np.zeros_like(x)), detailed)

    return check


def draw_steps(figure: Any, results: Results) -> None:
    """Steps of a solution, and right answers, over updates: mean over seeds."""
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.3})
    for i, label in enumerate(SHAPES):
        curves = results[label].curves
        left.plot(curves["step"][0], curves["steps"].mean(0), color=colour(i), label=label)
        right.plot(curves["step"][0], curves["right"].mean(0), color=colour(i), label=label)
    left.set_ylabel("steps of a solution")
    right.set_ylabel("share of right answers")
    for axes in (left, right):
        axes.set_xlabel("updates of 16 prompts, 4 samples each")
    left.legend(fontsize=8)


EXPERIMENT = Experiment(
    name="rlhf_policy_plugins",
    title="P3O, SuperHF, DNO, and Clip and Delta",
    paper="Wu et al. (2023), Pairwise proximal policy optimization; Mukobi et al. (2023), SuperHF; "
    "Rosset et al. (2024), Direct Nash optimization; Gao et al. (2024), On designing effective RL "
    "reward at training time for LLM reasoning",
    grid=[
        Measure(PPO, functools.partial(reinforce, algorithm="ppo")),
        Measure(PPO_SHIFTED, functools.partial(reinforce, algorithm="ppo", shift=SHIFT)),
        Measure(P3O, functools.partial(reinforce, algorithm="p3o")),
        Measure(P3O_SHIFTED, functools.partial(reinforce, algorithm="p3o", shift=SHIFT)),
        *(Measure(x, functools.partial(iterate, method=x)) for x in (SUPERHF, DNO)),
        *(Measure(how, functools.partial(reason, how=how)) for how in SHAPES),
    ],
    budgets={
        "smoke": Budget(total_timesteps=4, num_envs=0, eval_episodes=64, seeds=2),
        "quick": Budget(total_timesteps=80, num_envs=0, eval_episodes=256, seeds=10),
        "full": Budget(total_timesteps=240, num_envs=0, eval_episodes=2_048, seeds=20),
    },
    claims=[
        Claim("P3O does not see what all answers are paid", shifts_change_nothing),
        Claim(
            "PPO does",
            exceeds(
                "Paying all answers to a prompt more lowers the peak of gold under PPO.",
                PPO,
                PPO_SHIFTED,
                "peak",
            ),
        ),
        Claim("P3O's frontier is above PPO's", frontier_is_above),
        Claim(
            "SuperHF gets as much reward",
            exceeds(
                "SuperHF ends with at most .1 less of the proxy than PPO.",
                SUPERHF,
                PPO,
                "proxy_end",
                slack=0.1,
            ),
        ),
        Claim("SuperHF overdoes it less", gap_is_less),
        Claim("SuperHF's seeds are closer", spread_is_less),
        Claim(
            "DNO does not go back",
            every_seed(
                "Under DNO nine of ten iterates are paid no less than the one before.",
                DNO,
                "share of measurements at which the mean proxy fell by no more than .05, minus .9",
                lambda final: final["kept up"] - 0.9,
            ),
        ),
        Claim(
            "DNO raises gold",
            every_seed(
                "DNO ends with at least .3 more gold than the base policy.",
                DNO,
                "final gold - .3",
                lambda final: final["end"] - 0.3,
            ),
        ),
        Claim(
            "A sum of steps is hacked",
            growth(
                "Paid for every right step a policy ends with three times as many steps.",
                SUM,
                "growth - 3",
                lambda x: x - 3,
            ),
        ),
        Claim(
            "Which costs answers",
            exceeds(
                "And with fewer right answers than paid for outcomes alone.",
                OUTCOME,
                SUM,
                "right",
            ),
        ),
        *(
            Claim(
                f"Not with {how}",
                growth(
                    f"With {how} it ends within a fifth of the base policy's steps.",
                    how,
                    ".2 minus the distance of growth from 1",
                    lambda x: 0.2 - np.abs(x - 1),
                ),
            )
            for how in (CLIP, DELTA, BOTH)
        ),
        *(
            Claim(
                f"{how.capitalize()} costs no answers",
                exceeds(
                    f"With {how} the share of right answers is at most .02 below that of outcomes "
                    "alone.",
                    how,
                    OUTCOME,
                    "right",
                    slack=0.02,
                ),
            )
            for how in (CLIP, DELTA, BOTH)
        ),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "peak": "peak gold",
        "end": "final gold",
        "end_kl": "final KL",
        "proxy_end": "proxy",
        "right": "right answers",
        "steps": "steps",
        "right steps": "right steps",
    },
    figures=[
        Figure(
            "Gold over KL",
            "Gold (solid), proxy (dotted) and the fit of gold (dashed), mean over seeds.",
            functools.partial(draw_kl, (PPO, PPO_SHIFTED, P3O, SUPERHF, DNO)),
        ),
        Figure(
            "Steps and answers",
            "Steps of a solution and right answers over training, mean over seeds.",
            draw_steps,
        ),
    ],
)
