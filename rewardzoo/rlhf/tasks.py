"""Verifiable tasks: a prompt, steps that lead to an answer, and exact checks of all of them.

A completion writes step after step and then its answer, each in a place of its own, so that a check
is a comparison of tensors. A base policy learns a task from a corpus with *systematic* errors: in
some cells (a state and an operand) the corpus mostly gives one fixed wrong result. Errors at random
would be sharpened away by any method that lowers the policy's entropy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .decoder import LanguageModel
from .evaluation import pass_at_k
from .sampling import sample
from .sequences import Sequences, completion_logits, sequence_kl

PLUS, EQUALS, STEP, ANSWER, EOS = range(10, 15)  # the digits come before them
SYMBOLS = "0123456789+=;#$"


class Steps(NamedTuple):
    """What is right about the steps of B completions."""

    ends: Tensor  # (S,) int64, column of each step's last token in the completions
    local: Tensor  # (B, S) bool, right given what the step before it wrote
    prefix: Tensor  # (B, S) bool, right, and all steps before it too


class VerifiableTask(ABC):
    """A value that begins in the prompt and that each step changes by the next operand.

    Args:
        n: digits of a prompt; there are n - 1 steps.
        wrong_cells: share of the cells in which the corpus errs.
        wrong_prob: how often it errs there.
        seed: of the wrong cells and of what they give.
    """

    vocab_size = len(SYMBOLS)
    eos = EOS

    def __init__(
        self, n: int = 8, wrong_cells: float = 0.3, wrong_prob: float = 0.6, seed: int = 0
    ) -> None:
        if not n >= 2:
            raise ValueError(f"n={n}: expected at least 2 digits, or there is nothing to do")
        for name, value in (("wrong_cells", wrong_cells), ("wrong_prob", wrong_prob)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: expected a number in [0, 1]")
        self.n, self.wrong_prob = n, wrong_prob
        generator = torch.Generator().manual_seed(seed * 7919 + 5)
        shape = self._cells()
        wrong = torch.zeros(shape.numel(), dtype=torch.bool)
        order = torch.randperm(shape.numel(), generator=generator)
        wrong[order[: round(wrong_cells * shape.numel())]] = True
        self.wrong = wrong.view(shape)
        self.slip = torch.rand(shape, generator=generator)  # which wrong result, of those there are
        self.ends = torch.tensor([self._length(j) for j in range(n - 1)]).cumsum(0) - 1
        self.new_tokens = int(self.ends[-1]) + 1 + self._width(n - 2) + 2

    @property
    def prompt_length(self) -> int:
        """Tokens of a prompt."""
        return self.prompts(1, torch.Generator()).shape[1]

    @property
    def max_length(self) -> int:
        """Tokens of a prompt and its completion."""
        return self.prompt_length + self.new_tokens

    def corpus(self, n: int, generator: torch.Generator) -> Sequences:
        """Prompts with completions that err in the wrong cells."""
        prompts = self.prompts(n, generator)
        return self._written(prompts, generator)

    def solutions(self, prompts: Tensor) -> Sequences:
        """Prompts with completions that are right."""
        return self._written(prompts, None)

    def verify(self, batch: Sequences) -> Tensor:
        """Whether the answer is right, stands where it belongs and ends the completion: (B,) bool.

        The steps are not looked at.
        """
        right = self.solutions(batch.prompts).completions
        at = int(self.ends[-1]) + 1
        return (self._completions(batch)[:, at:] == right[:, at:]).all(1)

    def verify_steps(self, batch: Sequences) -> Steps:
        """Whether each step is right."""
        completions = self._completions(batch)
        value = self._first(batch.prompts)
        begin, local = 0, []
        for j, end in enumerate(self.ends.tolist()):
            operand = self._operand(batch.prompts, j)
            # A value that is not made of digits is no state: nothing is right after it.
            readable = (value < PLUS).all(1)
            value = value.clamp(max=PLUS - 1)
            expected = self._step(value, operand, self._apply(value, operand))
            got = completions[:, begin : end + 1]
            local.append((got == expected).all(1) & readable)
            value = got[:, -1 - self._width(j) : -1]
            begin = end + 1
        found = torch.stack(local, 1)
        return Steps(self.ends, found, found.long().cumprod(1).bool())

    def text(self, ids: Tensor) -> str:
        """One row of ids as people write it, ``$`` being the end."""
        return "".join(SYMBOLS[int(i)] for i in ids)

    def _written(self, prompts: Tensor, generator: torch.Generator | None) -> Sequences:
        value = self._first(prompts)
        parts = [prompts]
        for j in range(self.n - 1):
            operand = self._operand(prompts, j)
            result = self._apply(value, operand)
            if generator is not None:
                wrong, other = self._misapply(value, operand, j)
                slips = torch.rand(len(prompts), generator=generator) < self.wrong_prob
                result = torch.where((wrong & slips).unsqueeze(1), other, result)
            parts.append(self._step(value, operand, result))
            value = result
        sign = torch.full_like(prompts[:, :1], ANSWER)
        ids = torch.cat([*parts, sign, value, torch.full_like(sign, EOS)], 1)
        return Sequences(ids, torch.ones(len(ids), self.new_tokens, dtype=torch.bool))

    def _completions(self, batch: Sequences) -> Tensor:
        """Completions (B, new_tokens): cut or filled up with ends, ends after the first."""
        y = batch.completions.masked_fill(~batch.completion_mask, EOS)
        return F.pad(y, (0, max(0, self.new_tokens - y.shape[1])), value=EOS)[:, : self.new_tokens]

    @abstractmethod
    def prompts(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, P) prompts."""

    @abstractmethod
    def _cells(self) -> torch.Size:
        """Shape of the table of cells."""

    @abstractmethod
    def _length(self, j: int) -> int:
        """Tokens of step j."""

    @abstractmethod
    def _width(self, j: int) -> int:
        """Digits of the value after step j."""

    @abstractmethod
    def _first(self, prompts: Tensor) -> Tensor:
        """The value that a prompt begins with, (B, W)."""

    @abstractmethod
    def _operand(self, prompts: Tensor, j: int) -> Tensor:
        """The operand of step j, (B,)."""

    @abstractmethod
    def _apply(self, value: Tensor, operand: Tensor) -> Tensor:
        """The right result (B, W') of a step."""

    @abstractmethod
    def _misapply(self, value: Tensor, operand: Tensor, j: int) -> tuple[Tensor, Tensor]:
        """Whether the cell is wrong (B,), and the wrong result (B, W') that it gives."""

    @abstractmethod
    def _step(self, value: Tensor, operand: Tensor, result: Tensor) -> Tensor:
        """The tokens (B, L) of a step, ``result`` and ``;`` being the last."""


class Arithmetic(VerifiableTask):
    """Running sums modulo ten: ``4+8+3=`` is completed by ``4+8=2;2+3=5;#5``.

    A cell is a pair of digits.

    Example:
        >>> task = Arithmetic(n=3)
        >>> task.text(task.solutions(torch.tensor([[4, 10, 8, 10, 3, 11]])).ids[0])
        '4+8+3=4+8=2;2+3=5;#5$'
    """

    def prompts(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2 n) uniform digits with signs between them."""
        digits = torch.randint(0, 10, (n, self.n), generator=generator)
        signs = torch.full_like(digits, PLUS)
        signs[:, -1] = EQUALS
        return torch.stack([digits, signs], 2).flatten(1)

    def _cells(self) -> torch.Size:
        return torch.Size((10, 10))

    def _length(self, j: int) -> int:
        return 6

    def _width(self, j: int) -> int:
        return 1

    def _first(self, prompts: Tensor) -> Tensor:
        return prompts[:, :1]

    def _operand(self, prompts: Tensor, j: int) -> Tensor:
        return prompts[:, 2 * (j + 1)]

    def _apply(self, value: Tensor, operand: Tensor) -> Tensor:
        return (value + operand.unsqueeze(1)) % 10

    def _misapply(self, value: Tensor, operand: Tensor, j: int) -> tuple[Tensor, Tensor]:
        cell = value[:, 0], operand
        other = 1 + (9 * self.slip[cell]).long()
        return self.wrong[cell], (self._apply(value, operand) + other.unsqueeze(1)) % 10

    def _step(self, value: Tensor, operand: Tensor, result: Tensor) -> Tensor:
        plus, equals, end = (torch.full_like(value, sign) for sign in (PLUS, EQUALS, STEP))
        return torch.cat([value, plus, operand.unsqueeze(1), equals, result, end], 1)


class Sorting(VerifiableTask):
    """Sorting by insertion: ``427=`` is completed by ``24;247;#247``.

    A cell is a digit to be inserted and the step in which it is.

    Example:
        >>> task = Sorting(n=3)
        >>> task.text(task.solutions(torch.tensor([[4, 2, 7, 11]])).ids[0])
        '427=24;247;#247$'
    """

    def prompts(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, n + 1) uniform digits and a sign."""
        digits = torch.randint(0, 10, (n, self.n), generator=generator)
        return F.pad(digits, (0, 1), value=EQUALS)

    def _cells(self) -> torch.Size:
        return torch.Size((10, self.n - 1))

    def _length(self, j: int) -> int:
        return j + 3

    def _width(self, j: int) -> int:
        return j + 2

    def _first(self, prompts: Tensor) -> Tensor:
        return prompts[:, :1]

    def _operand(self, prompts: Tensor, j: int) -> Tensor:
        return prompts[:, j + 1]

    def _apply(self, value: Tensor, operand: Tensor) -> Tensor:
        return _inserted(value, operand, _place(value, operand))

    def _misapply(self, value: Tensor, operand: Tensor, j: int) -> tuple[Tensor, Tensor]:
        cell = operand, torch.full_like(operand, j)
        other = 1 + ((j + 1) * self.slip[cell]).long()
        place = (_place(value, operand) + other) % (j + 2)
        return self.wrong[cell], _inserted(value, operand, place)

    def _step(self, value: Tensor, operand: Tensor, result: Tensor) -> Tensor:
        return F.pad(result, (0, 1), value=STEP)


def _place(value: Tensor, operand: Tensor) -> Tensor:
    return (value <= operand.unsqueeze(1)).sum(1)


def _inserted(value: Tensor, operand: Tensor, place: Tensor) -> Tensor:
    """``value`` (B, W) with ``operand`` (B,) at column ``place`` (B,): (B, W + 1)."""
    column = torch.arange(value.shape[1] + 1)
    place = place.unsqueeze(1)
    source = (column - (column > place).long()).clamp(max=value.shape[1] - 1)
    return torch.where(column == place, operand.unsqueeze(1), value.gather(1, source))


@torch.no_grad()
def evaluate(
    task: VerifiableTask,
    policy: LanguageModel,
    ref: LanguageModel,
    prompts: int,
    generator: torch.Generator,
    k: int = 8,
) -> dict[str, float]:
    """What a policy can do on fresh prompts.

    Args:
        task: what is to be done.
        policy: who does it.
        ref: what KL is measured from.
        prompts: how many.
        generator: of prompts and samples.
        k: samples a prompt.

    Returns:
        ``pass1`` (share of right answers), ``passk`` (of prompts with a right answer among k),
        ``greedy``, ``steps`` (share of steps that are right given the step before), ``kl`` (nats
        a sequence) and ``length`` (tokens).
    """
    asked = task.prompts(prompts, generator)
    batch = sample(policy, asked, task.new_tokens, generator, copies=k)
    right = task.verify(batch).view(prompts, k).sum(1).numpy()
    logits, ref_logits = completion_logits(policy, batch), completion_logits(ref, batch)
    return {
        "pass1": float(right.mean() / k),
        "passk": float(np.mean(pass_at_k(right, k, k))),
        "greedy": float(task.verify(sample(policy, asked, task.new_tokens)).float().mean()),
        "steps": float(task.verify_steps(batch).local.float().mean()),
        "kl": float(sequence_kl(logits, ref_logits, batch.completion_mask).mean()),
        "length": float(batch.lengths.float().mean()),
    }
