"""Attention over short sequences without gradients, which samplers and scorers read with."""

from __future__ import annotations

import torch
from torch import Tensor

# Sums of exponentials between these have lost nothing of a float32's precision.
SMALLEST, LARGEST = 1e-30, 1e30


def scaled(qkv: Tensor, heads: int) -> Tensor:
    """Weights (3 * width, width) of queries, keys and values, the queries' over sqrt(d)."""
    width = qkv.shape[1]
    out = qkv.detach().clone()
    out[:width] *= (width // heads) ** -0.5
    return out


def sees(like: Tensor, length: int, mask: Tensor | None) -> Tensor:
    """What ``attend`` is to see, of dtype and device of ``like``.

    Returns:
        (L, L), or (B, L, L) given a mask (B, L) that is False on padding; 1 where a query (last
        axis) sees a key, else 0.
    """
    square = like.new_ones(length, length).triu()
    if mask is None:
        return square
    # A padded row sees itself, for a row that sees nothing has no softmax.
    return torch.maximum(square * mask.unsqueeze(-1), square.new_ones(length).diag())


def attend(qkv: Tensor, heads: int, visible: Tensor) -> Tensor:
    """Every query's mix of values, (B * L, width).

    Args:
        qkv: (B, L, 3 * width), of ``scaled`` weights.
        heads: of attention.
        visible: of ``sees``.
    """
    b, n, _ = qkv.shape
    q, k, v = qkv.view(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4).reshape(3, b * heads, n, -1)
    if visible.dim() == 3:
        visible = visible.unsqueeze(1)
    weights = softmax(torch.bmm(k, q.mT).view(b, heads, n, n), visible, 2)
    mixed = torch.bmm(weights.view(-1, n, n).mT, v)
    return mixed.view(b, heads, n, -1).transpose(1, 2).reshape(b * n, -1)


def softmax(scores: Tensor, visible: Tensor, dim: int) -> Tensor:
    """Softmax over what is visible (1) and not hidden (0).

    On a CPU torch's is slow on axes as short as these, and its exponential of -inf ten times as
    slow as any other. So exponentials are taken as they are, unless one overflows or all of a row
    vanish.
    """
    if scores.device.type == "cpu":
        weights = scores.exp() * visible
        total = weights.sum(dim, keepdim=True)
        least, most = total.aminmax()
        if float(least) > SMALLEST and float(most) < LARGEST:
            return weights.div_(total)
    return torch.softmax(scores.masked_fill(visible == 0, -torch.inf), dim)
