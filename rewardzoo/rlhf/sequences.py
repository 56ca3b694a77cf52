"""Prompts with their completions as one batch, and log-probabilities of the completions.

Prompts are padded on the left and completions on the right, so that all completions begin at the
same column. Masks come from lengths, never from comparing with a pad id, which may be the id that
ends a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .decoder import LanguageModel
from .records import DataError


class Sequences(NamedTuple):
    """A batch of prompts and completions.

    ``prompt_mask`` is None where no prompt is padded, which is faster.
    """

    ids: Tensor  # (B, P + T) int64
    completion_mask: Tensor  # (B, T) bool, True up to and including the end
    prompt_mask: Tensor | None = None  # (B, P) bool

    @property
    def prompt_length(self) -> int:
        """P, the columns of the prompts."""
        return self.ids.shape[1] - self.completion_mask.shape[1]

    @property
    def completions(self) -> Tensor:
        """(B, T) int64."""
        return self.ids[:, self.prompt_length :]

    @property
    def prompts(self) -> Tensor:
        """(B, P) int64."""
        return self.ids[:, : self.prompt_length]

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, tokens of each completion."""
        return self.completion_mask.sum(1)

    @property
    def attention_mask(self) -> Tensor | None:
        """(B, P + T) bool for a model; None where no row is padded on the left."""
        if self.prompt_mask is None:
            return None
        return torch.cat([self.prompt_mask, self.completion_mask], 1)

    def rows(self, index: Tensor) -> Sequences:
        """Some of the rows."""
        mask = None if self.prompt_mask is None else self.prompt_mask[index]
        return Sequences(self.ids[index], self.completion_mask[index], mask)

    def to(self, device: torch.device | str) -> Sequences:
        """The batch on ``device``."""
        mask = None if self.prompt_mask is None else moved(self.prompt_mask, device)
        return Sequences(moved(self.ids, device), moved(self.completion_mask, device), mask)


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on ``device``, an accelerator's without waiting for it to arrive.

    A CPU has to wait, for it would read what has not arrived.
    """
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def pack(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], max_length: int = 0
) -> Sequences:
    """One batch of token lists.

    Args:
        prompts: (B) lists of ids.
        completions: (B) lists of ids, the last one being the end where there is one.
        max_length: of a sequence; a prompt loses its beginning, then a completion its end. 0 for
            none.

    Raises:
        DataError: naming the row of a completion that is empty, or of which nothing is left.

    Example:
        >>> pack([[5], [6, 7]], [[2, 1], [3]]).ids
        tensor([[0, 5, 2, 1],
                [6, 7, 3, 0]])
    """
    kept_prompts, kept = [], []
    for i, (x, y) in enumerate(zip(prompts, completions, strict=True)):
        if not len(y):
            raise DataError(f"row {i}, field 'completion': empty")
        if max_length and len(x) + len(y) > max_length:
            room = max(1, max_length - len(y))
            x = x[-room:]
            y = y[: max_length - len(x)]
            if not len(y):
                raise DataError(
                    f"row {i}, field 'completion': nothing is left of it at max_length={max_length}"
                )
        kept_prompts.append(list(x))
        kept.append(list(y))
    p, t = max(map(len, kept_prompts)), max(map(len, kept))
    ids = torch.zeros(len(kept), p + t, dtype=torch.int64)
    prompt_mask = torch.zeros(len(kept), p, dtype=torch.bool)
    completion_mask = torch.zeros(len(kept), t, dtype=torch.bool)
    for i, (x, y) in enumerate(zip(kept_prompts, kept, strict=True)):
        ids[i, p - len(x) : p] = torch.tensor(x, dtype=torch.int64)
        prompt_mask[i, p - len(x) :] = True
        ids[i, p : p + len(y)] = torch.tensor(y)
        completion_mask[i, : len(y)] = True
    return Sequences(ids, completion_mask, None if bool(prompt_mask.all()) else prompt_mask)


def concatenate(a: Sequences, b: Sequences) -> Sequences:
    """The rows of ``a``, then those of ``b``, with the same prompts; the shorter T is padded."""
    t = max(a.completion_mask.shape[1], b.completion_mask.shape[1])
    ids, masks = [], []
    for each in (a, b):
        extra = t - each.completion_mask.shape[1]
        ids.append(torch.nn.functional.pad(each.ids, (0, extra)))
        masks.append(torch.nn.functional.pad(each.completion_mask, (0, extra)))
    mask = None
    if a.prompt_mask is not None and b.prompt_mask is not None:
        mask = torch.cat([a.prompt_mask, b.prompt_mask])
    return Sequences(torch.cat(ids), torch.cat(masks), mask)


def completion_logits(model: LanguageModel, batch: Sequences) -> Tensor:
    """Logits (B, T, V) that predict the completions' tokens, from one pass."""
    mask = batch.attention_mask
    # The last token predicts nothing.
    hidden = model.hidden(batch.ids[:, :-1], None if mask is None else mask[:, :-1])
    return model.head(hidden[:, batch.prompt_length - 1 :])


def gather_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of ``tokens`` (...), given logits (..., V)."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def token_logps(model: LanguageModel, batch: Sequences) -> Tensor:
    """Log-probability of each token of the completions, (B, T); 0 after the end."""
    logps = gather_logps(completion_logits(model, batch), batch.completions)
    return logps.masked_fill(~batch.completion_mask, 0.0)


def sequence_logps(model: LanguageModel, batch: Sequences) -> Tensor:
    """Log-probability of each completion, (B,): a sum over its tokens, in nats."""
    return token_logps(model, batch).sum(1)


def sequence_kl(logits: Tensor, ref_logits: Tensor, mask: Tensor) -> Tensor:
    """KL(pi || ref) along each completion, (B,) in nats, from both models' logits (B, T, V).

    Its mean over completions of pi is the KL of the two distributions over sequences, with less
    variance than the mean log-ratio.
    """
    logp, ref = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    kl = (logp.exp() * (logp - ref)).sum(-1)
    return (kl * mask).sum(1)
