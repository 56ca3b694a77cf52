"""For those who are at home in TRL: reward functions as its callables, pairs as its data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..extras import require
from ..rewards.base import RewardFunction
from ..transition import Transition
from .data import PairData

Messages = Sequence[Mapping[str, str]]


def as_reward_function(
    fn: RewardFunction,
    encode: Callable[[str], Sequence[int]],
    eos: int,
    template: Callable[[Messages], str] | None = None,
) -> Callable[..., list[float]]:
    """A reward function on token sequences as one of TRL's ``reward_funcs``.

    TRL passes the tokens of a completion, which say whether it ended or was cut off: one that was
    cut off is truncated, not terminated. A completion that comes as text alone is taken for whole.

    Args:
        fn: takes prompts as ``obs`` and completions as ``action``, as ``SequenceReward`` does.
        encode: text to token ids, without special tokens.
        eos: ends completions.
        template: writes a prompt's messages as text, with the turn of the assistant opened;
            ``ChatTemplate`` makes one. Not needed where prompts are text.
    """

    def tokens(prompt: str | Messages) -> list[int]:
        if not isinstance(prompt, str):
            if template is None:
                raise ValueError("prompts: hold messages; give template=ChatTemplate(...)")
            prompt = template(prompt)
        return list(encode(prompt))

    def whole(completion: str | Messages) -> list[int]:
        if not isinstance(completion, str):
            if len(completion) != 1:
                raise ValueError(
                    f"completions: {len(completion)} messages in one, expected 1 where there are "
                    "no completion_ids"
                )
            completion = completion[0]["content"]
        return [*encode(completion), eos]

    def reward(
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        ids = completion_ids or [whole(completion) for completion in completions]
        return [
            float(fn(transition(tokens(prompt), list(answer), eos)))
            for prompt, answer in zip(prompts, ids, strict=True)
        ]

    reward.__name__ = fn.name
    return reward


def transition(prompt: Sequence[int], completion: Sequence[int], eos: int) -> Transition:
    """A batch of one: it ended if ``eos`` is in it, else it was cut off."""
    obs = torch.tensor([list(prompt)])
    ended = torch.tensor([eos in completion])
    return Transition(
        obs=obs,
        action=torch.tensor([list(completion)]),
        next_obs=obs,
        reward=torch.zeros(1),
        terminated=ended,
        truncated=~ended,
        valid=torch.ones(1, dtype=torch.bool),
        episode_step=torch.zeros(1, dtype=torch.int64),
    )


def as_dataset(data: PairData) -> Any:
    """Pairs as a ``datasets.Dataset`` with the columns that TRL's trainers read.

    There is a column ``margin`` if the pairs have a strength, for TRL's ``RewardTrainer`` takes a
    margin off wherever there is one.

    Raises:
        ValueError: if some pairs have a strength and others do not.
    """
    datasets = require("datasets", "rlhf")

    unknown = [i for i, p in enumerate(data.pairs) if p.strength is None]
    if 0 < len(unknown) < len(data):
        raise ValueError(
            f"data, row {unknown[0]}: no strength, which others have; give all or none"
        )
    rows = [
        {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
        | ({} if unknown else {"margin": p.strength})
        for p in data.pairs
    ]
    return datasets.Dataset.from_list(rows)
