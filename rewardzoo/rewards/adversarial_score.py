"""The score of adversarial imitation, its loss and its rewards (Blondé et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .lipschitz import gradient_penalty

_CAP = -math.log(1e-8)  # 18.4: what ``-log(1 - D + 1e-8)`` cannot exceed

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "minimax": lambda f: functional.softplus(f).clamp(max=_CAP),
    "nonsaturating": lambda f: -functional.softplus(-f).clamp(max=_CAP),
    "airl": lambda f: f,
}
"""Rewards of a score f, with ``D = sigmoid(f)``.

``minimax`` is ``-log(1 - D)``, never negative: for tasks that are cut off on failure.
``nonsaturating`` is ``log D``, never positive: for tasks that are cut off on success. ``airl`` is
their sum, f itself. Each is 1-Lipschitz in f, so a bound of ``||grad f||`` is one of the reward's.
"""


class ScoreNetwork(nn.Module):
    """Leaky rectified layers to one number, all parameters in one tensor.

    With spectral normalisation the hidden layers, never the head, are divided by an estimate of
    their largest singular value, improved by one power iteration a gradient step. ``forward`` reads
    ``frozen``, which changes in ``freeze`` alone: paying twice gives the same reward.

    Args:
        width: of the input.
        hidden: widths of the hidden layers.
        spectral_norm: normalise the hidden layers.
        seed: of the first parameters.
    """

    flat: nn.Parameter
    frozen: Tensor
    directions: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, width: int, hidden: tuple[int, ...], spectral_norm: bool, seed: int) -> None:
        super().__init__()
        sizes = (width, *hidden, 1)
        self.shapes = [(b, a) for a, b in zip(sizes, sizes[1:], strict=False)]
        self.hidden, self.spectral_norm = hidden, spectral_norm
        pieces = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for shape in self.shapes:
                gain = math.sqrt(2.0) if shape[0] > 1 else 0.01
                pieces += [nn.init.orthogonal_(torch.empty(shape), gain), torch.zeros(shape[0])]
            directions = torch.randn(sum(hidden))
        # Gradients are taken of copies, in the loss: no others ever reach the parameters.
        self.flat = nn.Parameter(torch.cat([p.flatten() for p in pieces]), requires_grad=False)
        self.register_buffer("directions", directions)
        # What inputs are standardised by: here, so that programs that read them find them anew.
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        for _ in range(20):
            self.directions.copy_(self.weights(self.flat, self.directions)[1])
        self.register_buffer("frozen", self.flat.detach().clone())
        self.freeze()

    def weights(self, flat: Tensor, directions: Tensor) -> tuple[list[Tensor], Tensor]:
        """Weight and bias of each layer as they are used, and the improved directions.

        Args:
            flat: (P,) parameters.
            directions: (sum(hidden),) left singular vectors of the hidden layers.
        """
        parts, improved = self._layers(flat), []
        if not self.spectral_norm:
            return parts, directions
        for i, u in enumerate(torch.split(directions, list(self.hidden))):
            with torch.no_grad():
                weight = parts[2 * i].detach()
                v = functional.normalize(u @ weight, dim=0)
                u = functional.normalize(weight @ v, dim=0)
            improved.append(u)
            parts[2 * i] = parts[2 * i] / (u @ parts[2 * i] @ v)
        return parts, torch.cat(improved)

    @staticmethod
    def score(parts: list[Tensor], x: Tensor) -> Tensor:
        """The score (B,) of rows (B, width) under ``weights``."""
        for i in range(0, len(parts) - 2, 2):
            x = functional.leaky_relu(functional.linear(x, parts[i], parts[i + 1]), 0.1)
        return functional.linear(x, parts[-2], parts[-1]).squeeze(-1)

    def freeze(self) -> None:
        """Take the present parameters for paying."""
        with torch.no_grad():
            parts, _ = self.weights(self.flat, self.directions)
            self.frozen.copy_(torch.cat([part.flatten() for part in parts]))

    def forward(self, x: Tensor) -> Tensor:
        """The score (B,) that pays."""
        return self.score(self._layers(self.frozen), x)

    def _layers(self, flat: Tensor) -> list[Tensor]:
        parts, start = [], 0
        for rows, columns in self.shapes:
            for shape in ((rows, columns), (rows,)):
                end = start + math.prod(shape)
                parts.append(flat[start:end].view(shape))
                start = end
        return parts


class Minibatch(NamedTuple):
    """B rows of each side, as the network reads them."""

    agent: Tensor  # (B, D)
    expert: Tensor  # (B, D)
    labels: Tensor  # (B,), of the expert's rows
    points: Tensor  # (B, D), where the gradient is penalised


class LossWeights(NamedTuple):
    """What the loss is made of."""

    coef: float  # lambda
    k: float
    one_sided: bool
    entropy: float
    positive_share: float | None = None  # eta


def discriminator_loss(
    f: Callable[[Tensor], Tensor], batch: Minibatch, weights: LossWeights
) -> tuple[Tensor, Tensor]:
    """``BCE(f(x), 0) + BCE(f(x_E), y_E) - c_ent H + lambda GP``.

    The entropy is the Bernoulli's of ``D = sigmoid(f)``, mean over all rows; its gradient flows
    through the target too, without which it would be exactly 0. There is no penalty where
    ``coef`` is 0.

    With a ``positive_share`` eta, the agent's rows are a mixture of which that share is the
    expert's, and the first two terms are the non-negative risk of positive-unlabelled learning,
    ``eta BCE(f(x_E), y_E) + max(0, BCE(f(x), 0) - eta BCE(f(x_E), 0))``: its best score has
    ``sigmoid(f) = eta y_E p_E / p_agent``.

    Args:
        f: (B, D) to scores (B,).
        batch: rows, labels and points.
        weights: coefficients.

    Returns:
        The loss, and (6,) loss, penalty, accuracy on the agent's rows and on the expert's, mean
        score of the agent's rows and of the expert's.

    Paper: Blondé, Strasser, Kalousis (2022), with label smoothing of Salimans et al. (2016);
    positive and unlabelled: Xu, Denil (2019), "Positive-unlabeled reward learning".
    """
    score, expert = f(batch.agent), f(batch.expert)
    both = torch.cat([score, expert])
    fits = functional.softplus(score).mean()
    positive = (functional.softplus(expert) - batch.labels * expert).mean()
    share = weights.positive_share
    if share is None:
        fits = fits + positive
    else:
        fits = (fits - share * functional.softplus(expert).mean()).clamp(min=0.0) + share * positive
    entropy = (functional.softplus(both) - both.sigmoid() * both).mean()
    loss = fits - weights.entropy * entropy
    penalty = torch.zeros_like(loss)
    if weights.coef:
        penalty = gradient_penalty(f, batch.points, k=weights.k, one_sided=weights.one_sided)
        loss = loss + weights.coef * penalty
    with torch.no_grad():
        right = [(score < 0.0).to(loss.dtype).mean(), (expert > 0.0).to(loss.dtype).mean()]
        parts = torch.stack([loss, penalty, *right, score.mean(), expert.mean()])
    return loss, parts
