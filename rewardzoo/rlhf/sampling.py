"""Sampling completions in batches, from a key-value cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .decoder import LanguageModel, evaluating
from .sequences import Sequences, moved

# n prompts (n, P), or those and their mask (n, P) where some are padded on the left.
Prompts = Callable[[int, torch.Generator], Tensor | tuple[Tensor, Tensor]]


def repeated(found: Tensor | tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor | None]:
    """Every prompt ``k`` times, one copy next to the other, and the mask if there is one."""
    prompts, mask = found if isinstance(found, tuple) else (found, None)
    if mask is not None:
        mask = mask.repeat_interleave(k, 0)
    return prompts.repeat_interleave(k, 0), mask


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
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a number > 0")
    b, p = prompts.shape
    if model.max_length and p + new_tokens > model.max_length:
        raise ValueError(
            f"new_tokens={new_tokens}: with {p} tokens of prompt the model's max_length="
            f"{model.max_length} is exceeded"
        )
    device = model.device
    prompts = moved(prompts, device)
    if prompt_mask is not None:
        prompt_mask = moved(prompt_mask, device)
    ids = torch.cat([prompts, prompts.new_full((b, new_tokens), model.eos)], 1)
    ended = torch.zeros(b, dtype=torch.bool, device=ids.device)
    noise = None
    if generator is not None:
        noise = moved(gumbel_noise((new_tokens, b, model.vocab_size), generator), device)
    used = new_tokens
    with evaluating(model):
        if cached:
            hidden, cache = model.start(prompts, prompt_mask, new_tokens)
        for t in range(new_tokens):
            if not cached:
                seen = None
                if prompt_mask is not None:
                    seen = torch.nn.functional.pad(prompt_mask, (0, t), value=True)
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
    return Sequences(ids[:, : p + used], mask, prompt_mask)
