"""A compact decoder transformer, and the interface that every language model here has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import load_checkpoint, save_checkpoint


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

    def start(self, ids: Tensor, mask: Tensor | None, new_tokens: int) -> tuple[Tensor, Any]:
        """Read a prompt: the hidden state of its last token (B, width) and a key-value cache."""
        raise NotImplementedError

    def advance(self, ids: Tensor, cache: Any) -> Tensor:
        """Read one token more of each row, ids (B,): its hidden state (B, width)."""
        raise NotImplementedError

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, L, vocab_size)."""
        return self.head(self.hidden(ids, mask))


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

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """New states (B, L, width), and this block's keys and values (2, B, heads, L, d)."""
        b, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Written out: on sequences this short it is no slower than the fused kernel, and unlike it
        # can be mapped over the members of an ensemble.
        scores = torch.matmul(qkv[0] * qkv.shape[-1] ** -0.5, qkv[1].transpose(-1, -2)) + bias
        y = torch.matmul(torch.softmax(scores, -1), qkv[2])
        x = x + self.out(y.transpose(1, 2).reshape(b, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)))), qkv[1:]

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

    def step(self, x: Tensor, cache: Tensor, at: int, mask: Tensor | None) -> Tensor:
        """The same for one token (B, width), at column ``at`` of ``cache``.

        Rows are the last axis of everything inside attention: a query is one column, too little
        for a matrix product a row and head, and elementwise products run along the rows.
        """
        b, width = x.shape
        qkv = torch.mm(self.qkv.weight, self.norm1(x).T).view(3, self.heads, -1, b)
        q = qkv[0] * qkv.shape[2] ** -0.5
        cache[:, at] = qkv[1:]
        scores = (cache[0, : at + 1] * q).sum(2)  # (at + 1, heads, B)
        if mask is not None:
            scores = scores.masked_fill(~mask[: at + 1, None], -torch.inf)
        weights = torch.softmax(scores, 0).unsqueeze(2)
        y = (weights * cache[1, : at + 1]).sum(0)
        x = x + self.out(y.view(width, b).T)
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


@dataclass
class Cache:
    """Keys and values of the columns read so far, in buffers as long as the sequence can get."""

    layers: list[Tensor]  # each (2, L, heads, d, B)
    mask: Tensor | None  # (L, B) bool
    position: Tensor  # (B,) of the next token
    at: int  # next column


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
        return self._read(ids, mask)[0]

    def hidden_at(self, ids: Tensor, at: Tensor, mask: Tensor | None = None) -> Tensor:
        """Last hidden states (B, width) of column ``at`` (B,) of each row."""
        x, bias = self._begin(ids, mask)
        *others, last = self.blocks
        for block in others:
            x, _ = block(x, bias)
        assert isinstance(last, Block)
        out: Tensor = self.norm(last.forward_at(x, bias, at))
        return out

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size)."""
        return F.linear(hidden, self.embed.weight)

    def start(self, ids: Tensor, mask: Tensor | None, new_tokens: int) -> tuple[Tensor, Cache]:
        """Read a prompt; the cache has room for ``new_tokens`` more."""
        b, length = ids.shape
        room = length + new_tokens
        hidden, read = self._read(ids, mask)
        layers = []
        for kv in read:
            buffer = kv.new_empty(2, room, kv.shape[2], kv.shape[4], b)
            buffer[:, :length] = kv.permute(0, 3, 2, 4, 1)
            layers.append(buffer)
        if mask is not None:
            position = mask.sum(1)
            mask = F.pad(mask, (0, new_tokens), value=True).T
        else:
            position = ids.new_full((b,), length)
        return hidden[:, -1], Cache(layers, mask, position, length)

    def advance(self, ids: Tensor, cache: Cache) -> Tensor:
        """Read one token more; writes into the cache."""
        x = self.embed(ids) + self.places(cache.position)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            assert isinstance(block, Block)
            x = block.step(x, layer, cache.at, cache.mask)
        cache.position = cache.position + 1
        cache.at += 1
        out: Tensor = self.norm(x)
        return out

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
        length = ids.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"ids: {length} tokens, the model reads max_length={self.max_length}; shorten them"
            )
        square = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        if mask is None:
            x = self.embed(ids) + self.places.weight[:length]
        else:
            x = self.embed(ids) + self.places((mask.cumsum(1) - 1).clamp(min=0))
            # A padded row sees itself, for a row that sees nothing has no softmax.
            square = (mask[:, None, None, :] & square) | square.triu()
        bias = torch.zeros(square.shape, dtype=x.dtype, device=ids.device)
        return x, bias.masked_fill(~square, -torch.inf)

    def _read(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        x, bias = self._begin(ids, mask)
        read = []
        for block in self.blocks:
            x, kv = block(x, bias)
            read.append(kv)
        return self.norm(x), read
