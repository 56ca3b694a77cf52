"""For those who are at home in TRL: reward functions as its callables, pairs as its data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..extras import require
from ..rewards.base import RewardFunction
from ..transition import Transition
from .data import PairData


def as_reward_function(
    fn: RewardFunction, encode: Callable[[str], Sequence[int]], eos: int
) -> Callable[..., list[float]]:
    """A reward function on token sequences as one of TRL's ``reward_funcs``.

    Args:
        fn: takes prompts as ``obs`` and completions as ``action``, as ``SequenceReward`` does.
        encode: text to token ids, without special tokens.
        eos: ends completions, and pads the shorter ones.
    """

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        paid = []
        for prompt, completion in zip(prompts, completions, strict=True):
            obs = torch.tensor([list(encode(prompt))])
            action = torch.tensor([[*encode(completion), eos]])
            yes = torch.ones(1, dtype=torch.bool)
            transition = Transition(
                obs=obs,
                action=action,
                next_obs=obs,
                reward=torch.zeros(1),
                terminated=yes,
                truncated=~yes,
                valid=yes,
                episode_step=torch.zeros(1, dtype=torch.int64),
            )
            paid.append(float(fn(transition)))
        return paid

    reward.__name__ = fn.name
    return reward


def as_dataset(data: PairData) -> Any:
    """Pairs as a ``datasets.Dataset`` with the columns that TRL's trainers read."""
    datasets = require("datasets", "rlhf")

    rows = [
        {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "margin": p.strength}
        for p in data.pairs
    ]
    return datasets.Dataset.from_list(rows)
