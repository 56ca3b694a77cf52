"""Scores of several reward models on one compact decoder each, read together and fast on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import attend, sees, softmax
from .decoder import Decoder, Weights, norm, perceptron
from .sequences import Sequences

# Widest states of the rows that are read at once, in numbers: with their neighbours they fit into
# a core's own cache, which the states of a whole batch do not.
AT_ONCE = 2**18


class _Part(NamedTuple):
    """Rows of similar length, cut off behind the longest."""

    rows: Tensor  # (b,) of the batch
    pairs: Tensor  # (b, l) rows of the table of what the first block reads
    ends: Tensor  # (b,) rows of (b * l): the tokens that scores are read of
    visible: Tensor  # (l, l) or (b, l, l) float, 1 where a query (last axis) sees a key
    visible_ends: Tensor  # (b, l, 1) float, the same for the tokens of ``ends``


def decoder_scores(template: Decoder, members: Mapping[str, Tensor], batch: Sequences) -> Tensor:
    """Standardised scores (k, B) of k reward models whose backbones are decoders of one size.

    The same numbers as ``RewardModel.forward`` gives, without gradients and with less work:

    - Rows are sorted by length and read a few at a time, so that no padding is read and
      everything stays in the cache; the sorting is done once for all members.
    - A token at a place enters the first block the same way in every row. Where there are fewer
      tokens in the vocabulary than rows, what it reads is computed once a pair of both.
    - Of the last block only the last token's output is asked for. Its query is brought to the
      states, not the states to their keys, and the values are made of the states' mean:
      ``q . (K h) = (K' q) . h`` and ``sum_l p_l (V h_l) = V (sum_l p_l h_l)``.

    Args:
        template: gives sizes, not weights.
        members: every parameter and buffer of a ``RewardModel`` by name, with a leading axis k.
        batch: what is scored.
    """
    template.check_length(batch.ids)
    like = members["backbone.embed.weight"]
    tokens, places, parts = _prepare(template, batch, like)
    heads, layers = template.config.heads, range(template.config.layers)
    scores = []
    for state in _each(members):
        blocks = [Weights.of(state, heads, f"backbone.blocks.{i}.") for i in layers]
        table = F.embedding(tokens, state["backbone.embed.weight"])
        table += F.embedding(places, state["backbone.places.weight"])
        first = norm(table, blocks[0].norm1)
        if len(blocks) > 1:  # the last block makes no keys and values
            first = torch.mm(first, blocks[0].qkv.T)
        x = torch.cat([_read(table, first, blocks, heads, part) for part in parts])
        perceptron(x, blocks[-1])
        x = norm(x, (state["backbone.norm.weight"], state["backbone.norm.bias"]))
        score = F.linear(x, state["value.weight"]) @ state["weights"]
        scores.append((score - state["mean"]) / state["std"])
    found = torch.stack(scores)
    out = torch.empty_like(found)
    out[:, torch.cat([part.rows for part in parts])] = found
    return out


def _prepare(
    template: Decoder, batch: Sequences, like: Tensor
) -> tuple[Tensor, Tensor, list[_Part]]:
    """Tokens (R,) and places (R,) of the first block's table, and the rows in parts."""
    ids, mask = batch.ids, batch.attention_mask
    last, order = (batch.prompt_length + batch.lengths - 1).sort(descending=True)
    ends = last.tolist()
    length = ends[0] + 1
    ids = ids[order, :length]
    columns = torch.arange(length, device=ids.device)
    place = columns.expand_as(ids)
    if mask is not None:
        mask = mask[order, :length]
        place = (mask.cumsum(1) - 1).clamp(min=0)
    if template.vocab_size < len(ids):
        tokens = torch.arange(template.vocab_size, device=ids.device).repeat_interleave(length)
        places = columns.repeat(template.vocab_size)
        pairs = ids * length + place
    else:
        tokens, places = ids.flatten(), place.flatten()
        pairs = torch.arange(ids.numel(), device=ids.device).view(ids.shape)
    visible = sees(like, length, mask)
    widest = template.width * (4 if len(template.blocks) > 1 else 1)
    parts = []
    start = 0
    while start < len(ids):
        n = ends[start] + 1
        stop = start + max(1, AT_ONCE // (widest * n))
        here = slice(start, stop)
        seen = columns[:n] <= last[here, None]
        if mask is not None:
            seen = seen & mask[here, :n]
        rows = torch.arange(len(seen), device=ids.device)
        parts.append(
            _Part(
                order[here],
                pairs[here, :n],
                rows * n + last[here],
                visible[:n, :n] if mask is None else visible[here, :n, :n],
                seen.unsqueeze(-1).to(visible.dtype),
            )
        )
        start = stop
    return tokens, places, parts


def _each(members: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state of each member."""
    for values in zip(*(tensor.unbind(0) for tensor in members.values()), strict=True):
        yield dict(zip(members, values, strict=True))


def _read(
    table: Tensor, first: Tensor, blocks: Sequence[Weights], heads: int, part: _Part
) -> Tensor:
    """States (b, width) of the last tokens, after attention of the last block.

    Args:
        table: (R, width) what the first block reads.
        first: (R, ...) what attention of the first block reads.
        blocks: of the decoder.
        heads: of attention.
        part: the rows.
    """
    b, n = part.pairs.shape
    *others, last = blocks
    h = F.embedding(part.pairs, first)
    if others:
        x = F.embedding(part.pairs.flatten(), table)
        for i, weights in enumerate(others):
            if i:
                h = torch.mm(norm(x, weights.norm1), weights.qkv.T)
            x.addmm_(attend(h.view(b, n, -1), heads, part.visible), weights.out)
            perceptron(x, weights)
        h = norm(x, last.norm1).view(b, n, -1)
        x = x.index_select(0, part.ends)
    else:
        x = F.embedding(part.pairs.flatten().index_select(0, part.ends), table)
    query = h.view(b * n, -1).index_select(0, part.ends)
    return x.addmm_(_attend_once(h, query, last.qkv, heads, part.visible_ends), last.out)


def _attend_once(h: Tensor, query: Tensor, qkv: Tensor, heads: int, visible: Tensor) -> Tensor:
    """Attention (b, width) of one state a row, ``query`` (b, width), over all, h (b, n, width)."""
    q, k, v = qkv.view(3, heads, -1, h.shape[2])
    q = torch.matmul(query, q.mT)  # (heads, b, d)
    scores = torch.bmm(h, torch.bmm(q, k).permute(1, 2, 0))  # (b, n, heads)
    mean = torch.bmm(softmax(scores, visible, 1).mT, h)  # (b, heads, width)
    return torch.bmm(mean.transpose(0, 1), v.mT).transpose(0, 1).reshape(query.shape)
