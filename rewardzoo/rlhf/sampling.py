"""Sampling completions in batches, from a key-value cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .decoder import LanguageModel, evaluating
from .sequences import Sequences, moved

# n prompts (n, P), or those and their mask (n, P) where some are padded on the left.
Prompts = Callable[[int, torch.Generator], Tensor | tuple[Tensor, Tensor]]


def with_mask(found: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    """What ``Prompts`` gave: prompts, and the mask if there is one."""
    return found if isinstance(found, tuple) else (found, None)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel numbers on the generator's device."""
    exponential = torch.empty(shape, device=generator.device).exponential_(generator=generator)
    return -exponential.log()


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompts: Tensor,
    new_tokens: int,
    generator: torch.Generator | None = None,
    prompt_mask: Tensor | None = None,
    temperature: float = 1.0,
    cached: bool = True,
    copies: int = 1,
) -> Sequences:
    """Complete each prompt until its end, or ``new_tokens`` tokens, on the model's device.

    Args:
        model: what to sample from.
        prompts: (B, P) int64, padded on the left; on any device, as their mask.
        new_tokens: T, the longest completion.
        generator: of the randomness, on any device: one of the CPU gives the same numbers
            whatever the model's. None takes the likeliest token at every step.
        prompt_mask: (B, P) bool, False on padding.
        temperature: of the softmax, > 0; log-probabilities of what comes out are those of
            logits / temperature.
        cached: False reads the whole sequence again for every token; for tests.
        copies: completions of each prompt, next to each other; the prompt is read once.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a number > 0")
    b, p = len(prompts) * copies, prompts.shape[1]
    if model.max_length and p + new_tokens > model.max_length:
        raise ValueError(
            f"new_tokens={new_tokens}: with {p} tokens of prompt the model's max_length="
            f"{model.max_length} is exceeded"
        )
    device = model.device
    prompts = moved(prompts, device)
    rows, rows_mask = prompts.repeat_interleave(copies, 0), None
    if prompt_mask is not None:
        prompt_mask = moved(prompt_mask, device)
        rows_mask = prompt_mask.repeat_interleave(copies, 0)
    ids = torch.cat([rows, rows.new_full((b, new_tokens), model.eos)], 1)
    ended = torch.zeros(b, dtype=torch.bool, device=ids.device)
    noise = None
    if generator is not None:
        noise = moved(gumbel_noise((new_tokens, b, model.vocab_size), generator), device)
    used = new_tokens
    with evaluating(model):
        if cached:
            hidden, cache = model.start(prompts, prompt_mask, new_tokens, copies)
        for t in range(new_tokens):
            if not cached:
                seen = None
                if rows_mask is not None:
                    seen = torch.nn.functional.pad(rows_mask, (0, t), value=True)
                hidden = model.hidden(ids[:, : p + t], seen)[:, -1]
            logits = model.head(hidden)
            scores = logits if noise is None else logits / temperature + noise[t]
            token = scores.argmax(-1).masked_fill_(ended, model.eos)
            ids[:, p + t] = token
            ended |= token == model.eos
            # Only a CPU can be asked for free whether all have ended.
            if ids.device.type == "cpu" and bool(ended.all()):
                used = t + 1
                break
            if cached and t + 1 < new_tokens:
                hidden = model.advance(token, cache)
    ends = ids[:, p : p + used] == model.eos
    mask = (ends.cumsum(1) - ends.to(torch.int64)) == 0
    return Sequences(ids[:, : p + used], mask, rows_mask)
