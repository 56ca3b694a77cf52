"""Reward functions of texts, in the form that TRL's users know, as rewards of token sequences."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .sequences import Sequences

# (prompts=, completions=, completion_ids=, **columns) to a number a completion.
TextRewardFunction = Callable[..., Sequence[float]]


class CallableReward:
    """A function ``(prompts, completions, **columns) -> list[float]`` as a reward of ``Sequences``.

    It is called by keyword, as TRL calls its ``reward_funcs``: with the texts, with
    ``completion_ids`` (each with its end, where it has one), and with ``columns``.

    Args:
        function: takes lists of B texts, returns B numbers.
        decode: token ids to text; a completion's end is left out before.
        eos: id of the token that ends a completion.
        columns: the other columns of a prompt's row, by the prompt's token ids; each reaches the
            function as a list of B values. None for none.

    Raises:
        ValueError: if the function returns something else than a number a completion, or a prompt
            has no columns.

    Example:
        >>> reward = CallableReward(
        ...     lambda completions, **columns: [float(len(c)) for c in completions],
        ...     decode=lambda ids: "".join("ab"[i - 2] for i in ids),
        ...     eos=1,
        ... )
        >>> from rewardzoo.rlhf.sequences import pack
        >>> reward(pack([[2], [3]], [[2, 3, 1], [2, 1]]))
        tensor([2., 1.])
    """

    def __init__(
        self,
        function: TextRewardFunction,
        decode: Callable[[list[int]], str],
        eos: int,
        columns: Mapping[tuple[int, ...], Mapping[str, Any]] | None = None,
    ) -> None:
        self.function, self.decode, self.eos, self.columns = function, decode, eos, columns
        self.name = getattr(function, "__name__", type(function).__name__)

    def __call__(self, batch: Sequences) -> Tensor:
        """Scores (B,) float32, on the batch's device."""
        prompts, completions = _rows(batch)
        found = self.function(
            prompts=[self.decode(ids) for ids in prompts],
            completions=[self.decode([i for i in ids if i != self.eos]) for ids in completions],
            completion_ids=completions,
            **self._columns(prompts),
        )
        try:
            paid = [float(x) for x in found]
        except (TypeError, ValueError):
            paid = []
        if len(paid) != len(prompts):
            raise ValueError(
                f"reward {self.name}: returned {found!r:.60}, expected a list of {len(prompts)} "
                "numbers, one a completion"
            )
        return torch.tensor(paid, device=batch.ids.device)

    def _columns(self, prompts: list[list[int]]) -> dict[str, list[Any]]:
        if self.columns is None:
            return {}
        for ids in prompts:
            if tuple(ids) not in self.columns:
                raise ValueError(
                    f"columns: none of the prompt {self.decode(ids)!r:.60}; give each prompt's"
                )
        rows = [self.columns[tuple(ids)] for ids in prompts]
        return {name: [row[name] for row in rows] for name in rows[0]}


def load_callable(name: str) -> Any:
    """What ``module:name`` names; modules of the working directory are found too.

    Raises:
        ValueError: if there is no such module, or nothing of that name that can be called.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{name!r}: expected module:function, as rewards:length")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name!r}: {error}; expected module:function") from None
    if not callable(found):
        raise ValueError(f"{name!r}: {module} has no function {attribute!r}")
    return found


def _rows(batch: Sequences) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of prompts and of completions, without padding."""
    prompts = batch.prompts.tolist()
    if batch.prompt_mask is not None:
        prompts = [
            [i for i, seen in zip(ids, mask, strict=True) if seen]
            for ids, mask in zip(prompts, batch.prompt_mask.tolist(), strict=True)
        ]
    masks = batch.completion_mask.tolist()
    completions = [
        [i for i, inside in zip(ids, mask, strict=True) if inside]
        for ids, mask in zip(batch.completions.tolist(), masks, strict=True)
    ]
    return prompts, completions
