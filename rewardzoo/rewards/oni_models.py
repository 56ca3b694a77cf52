"""ONI's caption network and its two losses (Zheng et al. 2024; Klissarov et al. 2023)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 256
"""Bytes of a message; the convolutions are cut for it."""


class CaptionNetwork(nn.Module):
    """A convolutional network on the bytes of a message.

    Embedding 256 x 32 with 0 as padding; convolutions 7, 7 and four of 3 with 64 channels, pooled
    by 3 after the first, the second and the last; 128, 512 hidden units; dropout .1.

    Args:
        outputs: 2 logits for classification, 1 reward for ranking.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(32, 64, 7), nn.ReLU(), nn.MaxPool1d(3)]
        layers += [nn.Conv1d(64, 64, 7), nn.ReLU(), nn.MaxPool1d(3)]
        for _ in range(4):
            layers += [nn.Conv1d(64, 64, 3), nn.ReLU()]
        self.embedding = nn.Embedding(256, 32, padding_idx=0)
        self.convolutions = nn.Sequential(*layers, nn.MaxPool1d(3), nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(320, 128), nn.ReLU(), nn.Linear(128, 512), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(512, outputs),
        )  # fmt: skip

    def forward(self, messages: Tensor) -> Tensor:
        """(B, 256) uint8 to (B, outputs)."""
        x = self.embedding(messages.to(torch.int64)).transpose(1, 2)
        out: Tensor = self.head(self.convolutions(x))
        return out


def bradley_terry_loss(first: Tensor, second: Tensor, choice: Tensor) -> Tensor:
    """``-mean(y log P(first > second) + (1 - y) log P(second > first))``.

    ``P(a > b) = sigmoid(a - b)``.

    Args:
        first: (B,) rewards of the first messages.
        second: (B,) of the second.
        choice: (B,) y: 1 where the first is preferred, 0 the second, .5 neither.
    """
    return functional.binary_cross_entropy_with_logits(first - second, choice)


def make_network(outputs: int, seed: int) -> CaptionNetwork:
    """A network whose first parameters depend on the seed alone; not trained by others' losses.

    Its parameters ask for no gradient outside ``fit``: the rewards made of its outputs are
    thresholded or stand still between updates, so there is none to give.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CaptionNetwork(outputs)
    return network.requires_grad_(False).eval()


def fit_labels(
    network: CaptionNetwork,
    optimizer: torch.optim.Optimizer,
    messages: Tensor,
    labels: Tensor,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
) -> float:
    """Cross-entropy on labelled messages; returns the mean loss.

    Args:
        network: with 2 outputs.
        optimizer: of its parameters.
        messages: (K, 256) uint8.
        labels: (K,) int64, 0 or 1.
        steps: gradient steps.
        batch_size: messages a step, drawn without replacement.
        rng: draws them.
    """

    def loss(rows: Tensor) -> Tensor:
        return functional.cross_entropy(network(messages[rows]), labels[rows])

    return _fit(network, optimizer, loss, len(labels), steps, batch_size, rng)


def fit_pairs(
    network: CaptionNetwork,
    optimizer: torch.optim.Optimizer,
    messages: Tensor,
    pairs: Tensor,
    choices: Tensor,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
) -> float:
    """Bradley-Terry loss on judged pairs; returns the mean loss.

    Args:
        network: with 1 output.
        optimizer: of its parameters.
        messages: (K, 256) uint8.
        pairs: (P, 2) int64, rows of ``messages``.
        choices: (P,) float32; see ``bradley_terry_loss``.
        steps: gradient steps.
        batch_size: pairs a step.
        rng: draws them.
    """

    def loss(rows: Tensor) -> Tensor:
        shown, where = torch.unique(pairs[rows], return_inverse=True)  # each message once
        reward = network(messages[shown]).squeeze(1)
        return bradley_terry_loss(reward[where[:, 0]], reward[where[:, 1]], choices[rows])

    return _fit(network, optimizer, loss, len(choices), steps, batch_size, rng)


def _fit(
    network: CaptionNetwork,
    optimizer: torch.optim.Optimizer,
    loss: object,
    count: int,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
) -> float:
    assert callable(loss)
    device = next(network.parameters()).device
    network.requires_grad_(True).train()
    total = 0.0
    # Dropout draws from torch's generator: its state is kept for whoever else uses it.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(int(rng.integers(2**31)))
        for _ in range(steps):
            rows = rng.permutation(count)[:batch_size]
            value = loss(torch.from_numpy(rows).to(device))
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            total += float(value.detach())
    network.requires_grad_(False).eval()
    return total / max(1, steps)


@torch.no_grad()
def predict(network: CaptionNetwork, messages: Tensor, part: int = 512) -> Tensor:
    """(K, outputs) in evaluation mode, part by part."""
    rows = [messages[i : i + part] for i in range(0, len(messages), part)]
    return torch.cat([network(x) for x in rows])
