"""A compact decoder transformer, and the interface that every language model here has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import load_checkpoint, save_checkpoint
from .attention import attend, scaled, sees


class LanguageModel(nn.Module):
    """What trainers, samplers and reward models ask of a causal language model.

    Attributes:
        vocab_size: of its logits.
        width: of its hidden states.
        eos: id of the token that ends a sequence.
        max_length: longest sequence; 0 for no limit.
    """

    vocab_size: int
    width: int
    eos: int
    max_length: int = 0

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Last hidden states (B, L, width) of ids (B, L); ``mask`` (B, L) bool, False on padding.

        Without a mask no row is padded on the left; padding on the right never matters.
        """
        raise NotImplementedError

    def hidden_at(self, ids: Tensor, at: Tensor, mask: Tensor | None = None) -> Tensor:
        """Last hidden states (B, width) of one column a row, ``at`` (B,): what a score is read of.

        A model that can leave out what no other column needs overrides it.
        """
        return self.hidden(ids, mask)[torch.arange(len(at), device=at.device), at]

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) of hidden states (..., width)."""
        raise NotImplementedError

    def start(
        self, ids: Tensor, mask: Tensor | None, new_tokens: int, copies: int = 1
    ) -> tuple[Tensor, Any]:
        """Read prompts (B, P): the hidden states of their last tokens, and a key-value cache.

        Both are of ``B * copies`` rows, the copies of a prompt next to each other; each prompt is
        read once.
        """
        raise NotImplementedError

    def advance(self, ids: Tensor, cache: Any) -> Tensor:
        """Read one token more of each row, ids (B,): its hidden state (B, width)."""
        raise NotImplementedError

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, L, vocab_size)."""
        return self.head(self.hidden(ids, mask))

    @property
    def device(self) -> torch.device:
        """Where its weights are, and where what it reads must be."""
        return next(self.parameters()).device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off; afterwards every module's mode is what it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class DecoderConfig:
    """The size of a ``Decoder``.

    Args:
        vocab_size: tokens.
        max_length: longest sequence.
        width: of hidden states, a multiple of ``heads``.
        layers: blocks.
        heads: of attention.
        eos: id of the token that ends a sequence.
    """

    vocab_size: int = 32
    max_length: int = 32
    width: int = 64
    layers: int = 2
    heads: int = 4
    eos: int = 1

    def __post_init__(self) -> None:
        for name in ("vocab_size", "max_length", "width", "layers", "heads"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected an integer >= 1")
        if self.width % self.heads:
            raise ValueError(f"width={self.width}: expected a multiple of heads={self.heads}")
        if not 0 <= self.eos < self.vocab_size:
            raise ValueError(f"eos={self.eos}: expected 0 to {self.vocab_size - 1}")


class Block(nn.Module):
    """Attention and a perceptron, each behind a normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """New states (B, L, width)."""
        b, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        # Written out: on sequences this short it is no slower than the fused kernel, and unlike it
        # can be mapped over the members of an ensemble.
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.mT) + bias
        y = torch.matmul(torch.softmax(scores, -1), v)
        x = x + self.out(y.transpose(1, 2).reshape(b, length, width))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out

    def forward_at(self, x: Tensor, bias: Tensor, at: Tensor) -> Tensor:
        """New states (B, width) of one column a row, ``at`` (B,), alone; the last block's work.

        One query a row is too little for a matrix product, so attention is written elementwise.
        """
        b, length, width = x.shape
        rows = torch.arange(b, device=x.device)
        normed, chosen = self.norm1(x), x[rows, at]
        kv = F.linear(normed, self.qkv.weight[width:]).view(b, length, 2, self.heads, -1)
        q = F.linear(self.norm1(chosen), self.qkv.weight[:width]).view(b, 1, self.heads, -1)
        scores = (kv[:, :, 0] * (q * q.shape[-1] ** -0.5)).sum(-1)  # (B, L, heads)
        scores = scores + bias.expand(b, 1, length, length)[rows, 0, at].unsqueeze(-1)
        y = (torch.softmax(scores, 1).unsqueeze(-1) * kv[:, :, 1]).sum(1)
        chosen = chosen + self.out(y.reshape(b, width))
        out: Tensor = chosen + self.down(F.gelu(self.up(self.norm2(chosen))))
        return out

    def weights(self) -> Weights:
        """Its weights for ``step``, fetched once for all tokens."""
        return Weights.of(dict(self.named_parameters()), self.heads)


class Weights(NamedTuple):
    """A block's weights as its arithmetic without gradients wants them."""

    norm1: tuple[Tensor, Tensor]  # (width,) each
    norm2: tuple[Tensor, Tensor]
    qkv: Tensor  # (3 * width, width), queries over sqrt(d)
    out: Tensor  # (width, width), and these transposed: states come from the left
    up: Tensor  # (width, 4 * width)
    down: Tensor  # (4 * width, width)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], heads: int, prefix: str = "") -> Weights:
        """Those of a block whose parameters ``state`` holds under names that begin so."""

        def named(name: str) -> Tensor:
            return state[f"{prefix}{name}"]

        return cls(
            (named("norm1.weight"), named("norm1.bias")),
            (named("norm2.weight"), named("norm2.bias")),
            scaled(named("qkv.weight"), heads),
            named("out.weight").T,
            named("up.weight").T,
            named("down.weight").T,
        )


@dataclass
class Cache:
    """Keys and values of the columns read so far, in buffers as long as the sequence can get."""

    layers: list[Tensor]  # each (2, L, heads, d, B)
    weights: list[Weights]
    mask: Tensor | None  # (L, B) bool
    position: Tensor | int  # (B,) of the next token, or that of all rows
    at: int  # next column


def step(x: Tensor, weights: Weights, cache: Tensor, at: int, mask: Tensor | None) -> None:
    """What a block does, for one token a row: x (B, width), changed in place.

    Rows are the last axis of everything inside attention: a query is one column, too little
    for a matrix product a row and head, and elementwise products run along the rows.

    Args:
        x: states.
        weights: of the block.
        cache: (2, L, heads, d, B) keys and values; written at column ``at``.
        at: the token's column.
        mask: (L, B) bool, False on padding.
    """
    qkv = torch.mm(weights.qkv, norm(x, weights.norm1).T).view(3, *cache.shape[2:])
    cache[:, at] = qkv[1:]
    finish(x, qkv[0], weights, cache[:, : at + 1], mask)


def finish(x: Tensor, query: Tensor, weights: Weights, cache: Tensor, mask: Tensor | None) -> None:
    """The rest of ``step``: a query (heads, d, B) over a cache (2, L, heads, d, B), and so on."""
    keys, values = cache
    scores = (keys * query).sum(2)  # (L, heads, B)
    if mask is not None:
        scores = scores.masked_fill(~mask[: len(keys), None], -torch.inf)
    mixed = (torch.softmax(scores, 0).unsqueeze(2) * values).sum(0)
    x.addmm_(mixed.view(-1, len(x)).T, weights.out)
    perceptron(x, weights)


def perceptron(x: Tensor, weights: Weights) -> None:
    """Adds a block's perceptron to x (n, width), in place."""
    x.addmm_(F.gelu(torch.mm(norm(x, weights.norm2), weights.up)), weights.down)


def norm(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """What ``nn.LayerNorm`` of these weights makes of x (..., width)."""
    return F.layer_norm(x, weights[0].shape, *weights)


class Decoder(LanguageModel):
    """A transformer with learned positions and tied embeddings, small enough for one core.

    Args:
        config: its size.
        seed: of its initial weights.

    Example:
        >>> model = Decoder(DecoderConfig(vocab_size=8, width=16), seed=0)
        >>> model(torch.tensor([[0, 3, 2]])).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, config: DecoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size, self.width = config.vocab_size, config.width
        self.eos, self.max_length = config.eos, config.max_length
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(config.vocab_size, config.width)
            self.places = nn.Embedding(config.max_length, config.width)
            self.blocks = nn.ModuleList(
                Block(config.width, config.heads) for _ in range(config.layers)
            )
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    scale = 0.02 if "embed" in name or "places" in name else p.shape[1] ** -0.5
                    nn.init.normal_(p, std=scale)
        self.norm = nn.LayerNorm(config.width)

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Last hidden states (B, L, width)."""
        x, bias = self._begin(ids, mask)
        for block in self.blocks:
            x = block(x, bias)
        out: Tensor = self.norm(x)
        return out

    def hidden_at(self, ids: Tensor, at: Tensor, mask: Tensor | None = None) -> Tensor:
        """Last hidden states (B, width) of column ``at`` (B,) of each row."""
        x, bias = self._begin(ids, mask)
        *others, last = self.blocks
        for block in others:
            x = block(x, bias)
        assert isinstance(last, Block)
        out: Tensor = self.norm(last.forward_at(x, bias, at))
        return out

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size)."""
        return F.linear(hidden, self.embed.weight)

    @torch.no_grad()
    def start(
        self, ids: Tensor, mask: Tensor | None, new_tokens: int, copies: int = 1
    ) -> tuple[Tensor, Cache]:
        """Read prompts, without gradients; the cache has room for ``new_tokens`` more."""
        self.check_length(ids)
        b, length = ids.shape
        c = self.config
        places = self.places.weight[:length]
        if mask is not None:
            places = self.places((mask.cumsum(1) - 1).clamp(min=0))
        x = (F.embedding(ids, self.embed.weight) + places).view(b * length, -1)
        visible = sees(x, length, mask)
        seen = None
        if mask is not None:
            seen = mask.T.clone()
            seen[-1] = True  # an empty prompt sees its padding, for something must be seen
        all_weights = [block.weights() for block in self.blocks if isinstance(block, Block)]
        layers = []
        for i, weights in enumerate(all_weights):
            qkv = torch.mm(norm(x, weights.norm1), weights.qkv.T).view(b, length, -1)
            by_row = qkv.view(b, length, 3, c.heads, -1).permute(2, 1, 3, 4, 0)
            heads, d = by_row.shape[2:4]
            cache = x.new_empty(2, length + new_tokens, heads, d, b * copies)
            cache[:, :length].view(2, length, heads, d, b, copies)[:] = by_row[1:].unsqueeze(-1)
            layers.append(cache)
            if i + 1 < len(all_weights):
                x.addmm_(attend(qkv, c.heads, visible), weights.out)
                perceptron(x, weights)
            else:  # of the last block only the last token is asked for
                x = x.view(b, length, -1)[:, -1].contiguous()
                finish(x, by_row[0, -1], weights, cache[:, :length, ..., ::copies], seen)
        position: Tensor | int = length
        if mask is not None:
            mask = mask.repeat_interleave(copies, 0)
            position, mask = mask.sum(1), F.pad(mask, (0, new_tokens), value=True).T
        x = self.norm(x).repeat_interleave(copies, 0)
        return x, Cache(layers, all_weights, mask, position, length)

    @torch.no_grad()
    def advance(self, ids: Tensor, cache: Cache) -> Tensor:
        """Read one token more, without gradients; writes into the cache."""
        x = F.embedding(ids, self.embed.weight)
        x += self.places.weight[cache.position]
        for weights, layer in zip(cache.weights, cache.layers, strict=True):
            step(x, weights, layer, cache.at, cache.mask)
        cache.position = cache.position + 1
        cache.at += 1
        out: Tensor = self.norm(x)
        return out

    def check_length(self, ids: Tensor) -> None:
        """Refuse ids (B, L) that are longer than what the model reads."""
        length = ids.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"ids: {length} tokens, the model reads max_length={self.max_length}; shorten them"
            )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model into a folder, whole or not at all."""
        content = {"config": asdict(self.config), "weights": self.state_dict()}
        save_checkpoint(Path(folder) / "decoder.pt", "decoder", content)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Decoder:
        """Read what ``save_pretrained`` wrote."""
        content = load_checkpoint(Path(folder) / "decoder.pt", "decoder")
        model = cls(DecoderConfig(**content["config"]))
        model.load_state_dict(content["weights"])
        return model

    def _begin(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the first block reads (B, L, width), and what attention adds to its scores."""
        self.check_length(ids)
        length = ids.shape[1]
        square = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        if mask is None:
            x = self.embed(ids) + self.places.weight[:length]
        else:
            x = self.embed(ids) + self.places((mask.cumsum(1) - 1).clamp(min=0))
            # A padded row sees itself, for a row that sees nothing has no softmax.
            square = (mask[:, None, None, :] & square) | square.triu()
        bias = torch.zeros(square.shape, dtype=x.dtype, device=ids.device)
        return x, bias.masked_fill(~square, -torch.inf)
