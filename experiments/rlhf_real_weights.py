"""Real weights: a small language model learns to answer in plain words, on a CPU.

Ahmadian et al. (2024) and Hu et al. (2022): leave-one-out policy gradient on low-rank adapters is
all that is needed to move a pretrained model towards a reward that a program computes. The model is
SmolLM2-135M-Instruct (Allal et al. 2025) out of a package's GGUF file; the reward is minus the mean
number of letters of a word. Few updates of few short answers: what is shown is that the path from
weights to a policy that earns more on questions it has not seen is whole, and what it costs. The
control is paid the same rewards in a random order, so that what drifts without a reason shows.
"""

from __future__ import annotations

import functools
import os
import re
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardzoo.experiment import Budget, Claim, Experiment, Figure, Measure
from rewardzoo.extras import require
from rewardzoo.llm.embedded import default_model
from rewardzoo.metrics.statistics import paired_difference, stratified_bootstrap
from rewardzoo.report import colour
from rewardzoo.results import Results, Verdict
from rewardzoo.rlhf.huggingface import HuggingFaceModel, import_gguf
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.sampling import sample
from rewardzoo.rlhf.sequences import Sequences, pack
from rewardzoo.rlhf.templates import ChatTemplate
from rewardzoo.verdicts import above, below

from .common.rlhf import SEEDS, TUNING_SEEDS, curves_of, exceeds

PLAIN, CONTROL = "plain words", "same rewards, shuffled"
NEW_TOKENS, LONGEST, PARTS = 24, 12, 4
MEMORY_GB = 3.0

TRAIN = (
    "Why is the sky blue?",
    "How do I make tea?",
    "What is a good way to learn chess?",
    "Why do cats purr?",
    "How does a bicycle stay upright?",
    "What should I pack for a hike?",
    "Why is bread soft?",
    "How do birds find their way?",
    "What makes a good friend?",
    "How can I sleep better?",
    "Why do leaves fall in autumn?",
    "How does soap clean hands?",
    "What is a river delta?",
    "How do I grow tomatoes?",
    "Why do we dream?",
    "What is a good breakfast?",
)
HELD_OUT = (
    "Why is the sea salty?",
    "How do I bake a cake?",
    "What is a good way to learn to swim?",
    "Why do dogs bark?",
    "How does a boat float?",
    "What should I take to the beach?",
    "Why is ice slippery?",
    "How do bees make honey?",
)


def plain_words(text: str) -> float:
    """Minus the mean number of letters of the words, each at most 12; -12 without words.

    Example:
        >>> plain_words("It is an omelette.")
        -3.5
    """
    words = re.findall(r"[^\W\d_]+", text)
    if not words:
        return -float(LONGEST)
    return -sum(min(len(word), LONGEST) for word in words) / len(words)


class TextReward:
    """A function of text as a reward of completions.

    Args:
        score: text to reward.
        decode: ids to text, without special tokens.
        shuffled: pay each completion what another one earned, at random: the control.
        seed: of the shuffling.
    """

    def __init__(
        self,
        score: Callable[[str], float],
        decode: Callable[[list[int]], str],
        shuffled: bool = False,
        seed: int = 0,
    ) -> None:
        self.score, self.decode, self.shuffled, self.seed = score, decode, shuffled, seed

    def __call__(self, batch: Sequences) -> Tensor:
        """Rewards (B,)."""
        pairs = zip(batch.completions, batch.completion_mask, strict=True)
        rewards = torch.tensor([self.score(self.decode(y[m].tolist())) for y, m in pairs])
        if not self.shuffled:
            return rewards
        # The order follows from the batch, so that a run that goes on draws the same.
        generator = torch.Generator().manual_seed(self.seed + int(batch.ids.sum()))
        return rewards[torch.randperm(len(rewards), generator=generator)]


class Questions:
    """Questions as prompts of a chat, padded on the left.

    Args:
        tokenizer: of the model.
        questions: the texts.
    """

    def __init__(self, tokenizer: Any, questions: tuple[str, ...]) -> None:
        template = ChatTemplate()
        texts = [template([{"role": "user", "content": q}]) for q in questions]
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        batch = pack(ids, [[0]] * len(ids))
        mask = batch.prompt_mask
        self.ids = batch.prompts
        self.mask = torch.ones_like(self.ids, dtype=torch.bool) if mask is None else mask

    def __call__(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Some of them (n, P), and their mask."""
        rows = torch.randint(0, len(self.ids), (n,), generator=generator)
        return self.ids[rows], self.mask[rows]


def imported(trial: Any) -> Path:
    """The model as a folder of ``transformers``, converted once for all jobs of the run."""
    folder: Path = trial.folder.parents[1] / "model"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = import_gguf(default_model(), Path(scratch) / "model")
            try:
                os.rename(made, folder)
            except OSError:  # another job was faster
                if not folder.is_dir():
                    raise
    return folder


def train(trial: Any, shuffled: bool) -> dict[str, float]:
    """Leave-one-out policy gradient on LoRA adapters; held-out reward, speed and memory."""
    transformers = require("transformers", "rlhf")

    folder = imported(trial)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(trial.seed)  # of the adapters
    policy = HuggingFaceModel.from_pretrained(folder).add_lora(rank=8)
    decode = functools.partial(tokenizer.decode, skip_special_tokens=True)
    held_out = Questions(tokenizer, HELD_OUT[: trial.budget.eval_episodes])
    measured = TextReward(plain_words, decode)
    config = OnlineConfig(
        k=4, prompts=2, new_tokens=NEW_TOKENS, learning_rate=1e-3, seed=trial.seed
    )
    reward = TextReward(plain_words, decode, shuffled, trial.seed)
    questions = Questions(tokenizer, TRAIN)
    trainer = OnlineTrainer(policy, policy.reference(), reward, questions, config)
    trainer.parts["policy"] = policy.adapters()
    speed = {"sampling": 0.0, "training": 0.0}

    def measure() -> dict[str, float]:
        generator = torch.Generator().manual_seed(trial.seed)
        start = time.perf_counter()
        batch = sample(policy, held_out.ids, NEW_TOKENS, generator, held_out.mask)
        speed["sampling"] = int(batch.lengths.sum()) / (time.perf_counter() - start)
        return {
            "held_out": float(measured(batch).mean()),
            "length": float(batch.lengths.float().mean()),
        }

    curves = curves_of(trial, trainer, measure, PARTS)
    speed["training"] = training_speed(policy, held_out, trial.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "before": float(curves["held_out"][0]),
        "after": float(curves["held_out"][-1]),
        "rise": float(curves["held_out"][-1] - curves["held_out"][0]),
        "length": float(curves["length"][-1]),
        **{f"{name}_speed": value for name, value in speed.items()},
        "memory_gb": peak / 1e9,
    }


def training_speed(policy: HuggingFaceModel, questions: Questions, seed: int) -> float:
    """Tokens a second, read forward and backward, of prompts and completions."""
    from rewardzoo.rlhf.sequences import sequence_logps

    generator = torch.Generator().manual_seed(seed)
    batch = sample(policy, questions.ids, NEW_TOKENS, generator, questions.mask)
    tokens = int(batch.lengths.sum()) + int(questions.mask.sum())
    start = time.perf_counter()
    sequence_logps(policy, batch).sum().backward()
    seconds = time.perf_counter() - start
    policy.zero_grad(set_to_none=True)
    return tokens / seconds


def earns_more(results: Results) -> Verdict:
    """Held-out reward after training minus before, paired by seed."""
    final = results[PLAIN].final
    d = paired_difference(final["after"], final["before"])
    return above(
        "Training raises the reward on questions that were not trained on.",
        d,
        "letters a word fewer, after minus before, paired by seed",
    )


def fits_in_memory(results: Results) -> Verdict:
    """The most memory that a job took."""
    peak = stratified_bootstrap(results[PLAIN].final["memory_gb"])
    return below(
        "Training takes less than 3 GB.", peak, "gigabytes at the peak of a job", MEMORY_GB
    )


def draw_rewards(figure: Any, results: Results) -> None:
    """Held-out reward over updates, mean over seeds, and each seed."""
    axes = figure.subplots()
    for i, label in enumerate((PLAIN, CONTROL)):
        curves = results[label].curves
        axes.plot(curves["step"][0], curves["held_out"].T, color=colour(i), lw=0.5, alpha=0.5)
        mean = np.mean(curves["held_out"], 0)
        axes.plot(curves["step"][0], mean, "o-", color=colour(i), label=label)
    axes.set_xlabel("updates of 2 questions, 4 answers each")
    axes.set_ylabel("minus letters a word, held-out questions")
    axes.legend(fontsize=8)


def draw_speed(figure: Any, results: Results) -> None:
    """Tokens a second and gigabytes, one point a seed."""
    axes = figure.subplots(1, 3)
    shown = (("sampling_speed", "sampling, tokens/s"), ("training_speed", "training, tokens/s"))
    for ax, (name, title) in zip(axes, (*shown, ("memory_gb", "peak memory, GB")), strict=True):
        for i, label in enumerate((PLAIN, CONTROL)):
            values = results[label].final[name]
            ax.plot([i] * len(values), values, "o", color=colour(i))
        ax.set_xticks([0, 1], ["plain", "control"])
        ax.set_xlim(-0.5, 1.5)
        ax.set_ylim(bottom=0)
        ax.set_title(title, fontsize=9)


EXPERIMENT = Experiment(
    name="rlhf_real_weights",
    title="Real weights: SmolLM2-135M learns plain words through LoRA",
    paper="Ahmadian et al. (2024), Back to basics; Hu et al. (2022), LoRA; Allal et al. (2025), "
    "SmolLM2",
    grid=[
        Measure(PLAIN, functools.partial(train, shuffled=False)),
        Measure(CONTROL, functools.partial(train, shuffled=True)),
    ],
    budgets={
        "smoke": Budget(total_timesteps=1, num_envs=0, eval_episodes=2, seeds=1),
        "quick": Budget(total_timesteps=12, num_envs=0, eval_episodes=8, seeds=3),
        "full": Budget(total_timesteps=100, num_envs=0, eval_episodes=8, seeds=10),
    },
    claims=[
        Claim("It learns", earns_more),
        Claim(
            "It learns from the reward",
            exceeds(
                "The held-out reward rises more than when rewards are shuffled.",
                PLAIN,
                CONTROL,
                "rise",
            ),
        ),
        Claim("It fits", fits_in_memory),
    ],
    seeds=SEEDS,
    tuning_seeds=TUNING_SEEDS,
    columns={
        "before": "reward before",
        "after": "reward after",
        "length": "tokens an answer",
        "sampling_speed": "sampling, tokens/s",
        "training_speed": "training, tokens/s",
        "memory_gb": "peak memory, GB",
    },
    figures=[
        Figure("Held-out reward", "Thin lines are seeds, thick ones means.", draw_rewards),
        Figure("Speed and memory", "Of one thread; a point a seed.", draw_speed, (9.0, 3.0)),
    ],
)
