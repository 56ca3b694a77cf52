"""ONI's reward models that generalise: a classifier, and a ranking of pairs (Zheng et al. 2024)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..llm.judges import Judge
from ..llm.tasks import PAIR
from ..registration import register_reward
from .base import Spaces, integer, number
from .captions import caption_width
from .oni import Oni
from .oni_models import WIDTH, fit_labels, fit_pairs, make_network, predict

_ENOUGH = 25_000  # labelled messages, or pairs, after which the networks learn no more
_LEARNED = 0.02  # loss below which a network waits for new labels


class _Learned(Oni):
    """With a network; known messages are looked up, others are put through it."""

    outputs = 1

    def __init__(
        self,
        annotator: Judge | str = "rules",
        goal: str = "score",
        beta: float = 3.0,
        cache: str | Path | None = None,
        learning_rate: float = 1e-4,
        batch_size: int = 256,
        steps: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(annotator, goal, beta, cache)
        self.batch_size = integer("batch_size", batch_size, 1)
        self.steps = integer("steps", steps, 1)
        self.network = make_network(self.outputs, seed)
        rate = number("learning_rate", learning_rate, 0.0)
        self.optimizer = torch.optim.Adam(self.network.parameters(), rate)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """The network wants messages of NetHack's length."""
        width = caption_width(spaces)
        if width != WIDTH:
            raise ValueError(f"message: {width} bytes, expected {WIDTH} (the network's length)")
        self.loss = torch.full((), torch.inf)
        super().bind(num_envs, device, spaces)

    def score(self, message: Tensor, hashes: Tensor) -> Tensor:
        """By the table where the message was there at the last update, else by the network."""
        known_score, known = self.table.get(hashes)
        # On the CPU it costs nothing to see whether all are known, as nearly always.
        if self._device.type == "cpu" and bool(known.all()):
            return known_score.squeeze(1)
        return torch.where(known, known_score.squeeze(1), self.reward(self.network(message)))

    def reward(self, outputs: Tensor) -> Tensor:
        """``R``, (B,), of the network's outputs (B, outputs)."""
        raise NotImplementedError


@register_reward("oni_classification")
class OniClassification(_Learned):
    """ONI with a classifier: a message pays 1 where it is helpful with probability above ``eta``.

    It speaks about messages that nobody has judged. Until the first label it pays 0.

    Args:
        annotator: see ``Oni``.
        goal: see ``Oni``.
        beta: see ``Oni``.
        cache: see ``Oni``.
        learning_rate: step size of Adam.
        batch_size: messages a gradient step.
        steps: gradient steps an update; none while the loss is below .02 and no label came.
        seed: of the network.
        eta: threshold; at 1 nothing pays, below 0 everything.

    Paper: Zheng et al. (2024), section "classification".
    """

    outputs = 2

    def __init__(
        self,
        annotator: Judge | str = "rules",
        goal: str = "score",
        beta: float = 3.0,
        cache: str | Path | None = None,
        learning_rate: float = 1e-4,
        batch_size: int = 256,
        steps: int = 32,
        seed: int = 0,
        eta: float = 0.5,
    ) -> None:
        super().__init__(annotator, goal, beta, cache, learning_rate, batch_size, steps, seed)
        self.eta = number("eta", eta)

    def reward(self, outputs: Tensor) -> Tensor:
        """``1[P(helpful) > eta]``."""
        helpful = outputs.softmax(1)[:, 1] > self.eta
        return torch.where(self.loss < torch.inf, helpful.to(torch.float32), 0.0)

    def learn(
        self, shown: Tensor, news: bool, rng: np.random.Generator
    ) -> dict[str, float | Tensor]:
        """Fit the labels."""
        rows = self._labelled()
        labels = (self.labels[rows] > 0.5).to(torch.int64)
        learns = news or float(self.loss) > _LEARNED
        if learns and 0 < len(rows) < _ENOUGH:
            loss = fit_labels(
                self.network, self.optimizer, self.seen[rows], labels, self.steps,
                self.batch_size, rng,
            )  # fmt: skip
            self.loss = self.loss.new_tensor(loss)
        if len(self.seen):
            self._fill(self.reward(predict(self.network, self.seen)))
        return {
            "labelled": float(len(rows)),
            "helpful": float(labels.sum()),
            "loss": float(self.loss),
        }


@register_reward("oni_ranking")
class OniRanking(_Learned):
    """ONI with a ranking: a network whose differences of reward explain which of two is better.

    Its rewards are standardised by a running mean and variance over all messages shown, and those
    at most ``eps`` become 0. Pairs are drawn from the distinct messages seen so far. Until the
    first judgement it pays 0.

    Args:
        annotator: see ``Oni``.
        goal: see ``Oni``.
        beta: see ``Oni``.
        cache: see ``Oni``.
        learning_rate: step size of Adam.
        batch_size: pairs a gradient step.
        steps: gradient steps an update; none while the loss is within .02 of the least and no
            judgement came.
        seed: of the network.
        eps: threshold, in standard deviations.
        new_pairs: pairs put to the judge an update.

    Paper: Zheng et al. (2024), section "ranking"; Klissarov et al. (2023), "Motif".
    """

    pairs = True
    _growing = ("seen", "labels", "judged", "choices")

    def __init__(
        self,
        annotator: Judge | str = "rules",
        goal: str = "score",
        beta: float = 3.0,
        cache: str | Path | None = None,
        learning_rate: float = 1e-4,
        batch_size: int = 256,
        steps: int = 32,
        seed: int = 0,
        eps: float = -0.5,
        new_pairs: int = 64,
    ) -> None:
        super().__init__(annotator, goal, beta, cache, learning_rate, batch_size, steps, seed)
        self.eps = number("eps", eps)
        self.new_pairs = integer("new_pairs", new_pairs, 1)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """No pair was judged yet."""
        self.judged = torch.zeros(0, 2, dtype=torch.int64)
        """(P, 2) rows of ``seen``."""
        self.choices = torch.zeros(0)
        """(P,) 1, 0 or .5."""
        self.moments = torch.zeros(3, dtype=torch.float64)
        """Count, mean and sum of squares about it, of all rewards shown."""
        super().bind(num_envs, device, spaces)

    def ask(self, rng: np.random.Generator) -> list[str]:
        """Pairs of different messages, at random."""
        texts = list(self._rows)
        if len(texts) < 2:
            return []
        first = rng.integers(len(texts), size=self.new_pairs)
        second = (first + rng.integers(1, len(texts), size=self.new_pairs)) % len(texts)
        return [texts[i] + PAIR + texts[j] for i, j in zip(first, second, strict=True)]

    def answered(self, item: str, score: float) -> None:
        """Take in which of two is better."""
        rows = [self._rows.get(text) for text in item.split(PAIR, 1)]
        if None not in rows:
            pair = torch.tensor([rows], dtype=torch.int64, device=self.judged.device)
            self.judged = torch.cat([self.judged, pair])
            self.choices = torch.cat([self.choices, self.choices.new_tensor([score])])

    def reward(self, outputs: Tensor) -> Tensor:
        """Standardised, and 0 where at most ``eps``."""
        count, mean, squares = self.moments.to(torch.float32).unbind()
        scale = torch.rsqrt(squares / count.clamp(min=1.0) + 1e-8)
        standard = (outputs.squeeze(1) - mean) * scale
        kept = (standard > self.eps) & (self.loss < torch.inf) & (count > 0)
        return torch.where(kept, standard, 0.0)

    def learn(
        self, shown: Tensor, news: bool, rng: np.random.Generator
    ) -> dict[str, float | Tensor]:
        """Fit the judged pairs; count the shown messages' rewards into mean and variance."""
        pairs = len(self.choices)
        # What no network can go below: ties cost ln 2 each.
        floor = math.log(2.0) * float((self.choices == 0.5).sum()) / max(1, pairs)
        learns = news or float(self.loss) > floor + _LEARNED
        if learns and 0 < pairs < _ENOUGH:
            loss = fit_pairs(
                self.network, self.optimizer, self.seen, self.judged, self.choices, self.steps,
                self.batch_size, rng,
            )  # fmt: skip
            self.loss = self.loss.new_tensor(loss)
        if len(self.seen):
            outputs = predict(self.network, self.seen)
            if len(shown) and pairs:
                self.moments = merge(self.moments, outputs.squeeze(1)[shown.to(outputs.device)])
            self._fill(self.reward(outputs))
        return {"pairs": float(pairs), "loss": float(self.loss)}

    def _remember(self) -> None:
        texts = list(self._rows)
        self.queue.remember(texts[i] + PAIR + texts[j] for i, j in self.judged.tolist())


def merge(moments: Tensor, x: Tensor) -> Tensor:
    """Count, mean and sum of squares about it, with the numbers ``x`` added (Chan et al. 1979)."""
    x = x.to(torch.float64)
    count, mean, squares = moments.unbind()
    n, x_mean = float(len(x)), x.mean()
    total, delta = count + n, x_mean - mean
    between = delta**2 * count * n / total
    squares = squares + ((x - x_mean) ** 2).sum() + between
    return torch.stack((total, mean + delta * n / total, squares))
