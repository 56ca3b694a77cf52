"""ONI: intrinsic rewards for messages, learned online from a language model's feedback.

Zheng et al. (2024). A judge in the background says which messages report something helpful; a
reward model is fitted to what it has said so far; a message pays less every time it comes again
within an episode. Three reward models: a table (retrieval), a classifier, and a ranking of pairs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..llm.judges import Judge, make_judge
from ..llm.queue import Queue, queue_for
from ..llm.tasks import PAIR, Task
from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, env_reward, integer, number
from .captions import EpisodeCounts, caption_width, captions, decode
from .clip import Clip
from .lookup import Lookup, hash_rows
from .oni_models import WIDTH, fit_labels, fit_pairs, make_network, predict

_KEPT = 1 << 18  # rows of messages kept between two updates
_ENOUGH = 25_000  # labelled messages, or pairs, after which the networks learn no more
_LEARNED = 0.02  # loss below which a network waits for new labels


class Oni(RewardFunction):
    """Pays ``R(c') / n(c')**beta`` for the message ``c'`` of the successor.

    ``n(c')`` counts how often exactly this message was shown in the row's episode, the reset's
    included. ``R`` is a subclass's reward model. Rewards are those of the model at the time of the
    step; labels are asked for and taken in at ``update``, once a rollout, and never waited for.

    Args:
        annotator: a ``Judge``; or ``rules``, ``random``, ``smollm2``, the address of a server
            (``http://127.0.0.1:8000/v1``), or a file of labels.
        goal: what helps: a key of ``rewardzoo.llm.tasks.WANTED``.
        beta: how fast a repeated message loses its reward, >= 0; at 0 the agent may farm one.
        cache: file in which a language model's judgements are kept; default: the user's.

    Paper: Zheng, Henaff, Zhang, Grover, Amos (2024), "Online intrinsic rewards for decision making
    agents from large language model feedback".
    """

    pairs = False

    def __init__(
        self,
        annotator: Judge | str = "rules",
        goal: str = "score",
        beta: float = 3.0,
        cache: str | Path | None = None,
    ) -> None:
        self.beta = number("beta", beta, 0.0)
        self.markov = self.beta == 0.0
        task = Task(goal, self.pairs)
        judge = make_judge(annotator, task) if isinstance(annotator, str) else annotator
        self.queue: Queue = queue_for(judge, cache)
        self._updates = torch.zeros((), dtype=torch.int64)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """No message was seen yet."""
        width = caption_width(spaces)
        self.seen = torch.zeros(0, width, dtype=torch.uint8)
        """Distinct messages, (K, L) uint8, in order of first sight."""
        self.labels = torch.zeros(0)
        """(K,) scores in [0, 1], NaN where there is none."""
        super().bind(num_envs, device, spaces)
        self.counts = EpisodeCounts(num_envs, device)
        self.table = Lookup()
        self.table.to(device)
        self._device = device
        self._rows: dict[str, int] = {}
        self._buffer: list[tuple[Tensor, Tensor]] = []
        self._buffered = 0

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Forget the counts of the rows in ``mask``, and count their first message."""
        self.counts.clear(mask)
        self.counts.visit(hash_rows(captions(obs)), mask)

    def __call__(self, t: Transition) -> Tensor:
        """The intrinsic reward of each row, (N,) float32."""
        message = captions(t.next_obs)
        hashes = hash_rows(message)
        count = self.counts.visit(hashes, t.valid)
        return self.score(message, hashes) * count.to(torch.float32).pow(-self.beta)

    def relabel(self, t: Transition) -> Tensor:
        """With ``beta = 0`` the score of the message; else refused: counts are memory."""
        if not self.markov:
            return super().relabel(t)
        message = captions(t.next_obs)
        return self.score(message, hash_rows(message))

    def score(self, message: Tensor, hashes: Tensor) -> Tensor:
        """``R``, (N,) float32, of messages (N, L) with their hashes."""
        return self.table.get(hashes)[0].squeeze(1)

    def observe(self, transition: Transition) -> None:
        """Keep the messages until the next update."""
        message = captions(transition.next_obs)
        self._buffer.append((message, transition.valid))
        self._buffered += len(message)
        while self._buffered > _KEPT:  # nobody calls update: keep the newest
            self._buffered -= len(self._buffer.pop(0)[0])

    def update(self) -> dict[str, float | Tensor]:
        """Ask about new messages, take in what was answered, improve the model."""
        shown = self._take_in()
        self._updates = self._updates + 1
        rng = np.random.default_rng([7, int(self._updates)])
        self.queue.submit(self.ask(rng))
        answers = self.queue.drain()
        for item, score in answers:
            self.answered(item, score)
        metrics = self.learn(shown, bool(answers), rng)
        self.version += 1
        stats = {f"llm/{k}": v for k, v in self.queue.stats().items()}
        return {"messages": float(len(self.seen)), **metrics, **stats}

    # ---- what a reward model adds ------------------------------------------------------------

    def ask(self, rng: np.random.Generator) -> list[str]:
        """What to put to the judge: every message (those it knows are not asked twice)."""
        return list(self._rows)

    def answered(self, item: str, score: float) -> None:
        """Take in a judgement."""
        row = self._rows.get(item)
        if row is not None:
            self.labels[row] = score

    def learn(
        self, shown: Tensor, news: bool, rng: np.random.Generator
    ) -> dict[str, float | Tensor]:
        """Improve the model; ``shown`` (S,) are the rows of ``seen`` of the steps since the last.

        ``news`` tells whether judgements came in.
        """
        raise NotImplementedError

    # ---- messages ----------------------------------------------------------------------------

    def _take_in(self) -> Tensor:
        """Enter the buffered messages into ``seen``; returns their rows, one a step."""
        if not self._buffer:
            return torch.zeros(0, dtype=torch.int64)
        messages = torch.cat([m[v] for m, v in self._buffer])
        self._buffer, self._buffered = [], 0
        distinct, where = torch.unique(hash_rows(messages), return_inverse=True)
        # One message of each hash: the last one written wins, and all are the same.
        example = torch.zeros(len(distinct), dtype=torch.int64, device=where.device)
        example[where] = torch.arange(len(where), device=where.device)
        rows = []
        new = []
        for text, row in zip(decode(messages[example]), example.tolist(), strict=True):
            if text not in self._rows:
                self._rows[text] = len(self._rows)
                new.append(row)
            rows.append(self._rows[text])
        if new:
            self.seen = torch.cat([self.seen, messages[torch.tensor(new, device=where.device)]])
            unknown = torch.full((len(new),), torch.nan, device=self.labels.device)
            self.labels = torch.cat([self.labels, unknown])
        return torch.tensor(rows, dtype=torch.int64)[where.cpu()]

    def _labelled(self) -> Tensor:
        """Rows of ``seen`` that were judged."""
        return (~self.labels.isnan()).nonzero().squeeze(1)

    def state_dict(self) -> dict[str, Any]:
        """Messages, labels, counts and the model; what waits for an answer is asked again."""
        state = super().state_dict()
        return {**state, "counts": self.counts.state_dict(), "table": self.table.state_dict()}

    def load_state_dict(self, state_dict: Any) -> None:
        """Continue; what was judged is not asked again."""
        for key in self._growing:
            if isinstance(state_dict.get(key), Tensor):
                like: Tensor = getattr(self, key)
                setattr(self, key, like.new_zeros(state_dict[key].shape))
        super().load_state_dict(state_dict)
        self._rows = {text: i for i, text in enumerate(decode(self.seen))}
        self._buffer, self._buffered = [], 0
        self._remember()

    _growing: tuple[str, ...] = ("seen", "labels")

    def _remember(self) -> None:
        texts = list(self._rows)
        self.queue.remember(texts[i] for i in self._labelled().tolist())


@register_reward("oni_retrieval")
class OniRetrieval(Oni):
    """ONI with a table: a message pays 1 if it was judged helpful, else 0; until then 0.

    Args:
        annotator: see ``Oni``.
        goal: see ``Oni``.
        beta: see ``Oni``.
        cache: see ``Oni``.

    Paper: Zheng et al. (2024), section "retrieval".
    """

    def learn(
        self, shown: Tensor, news: bool, rng: np.random.Generator
    ) -> dict[str, float | Tensor]:
        """Put the labels into the table."""
        rows = self._labelled()
        helpful = (self.labels[rows] > 0.5).to(torch.float32)
        if news:
            self.table.set(hash_rows(self.seen[rows]), helpful.unsqueeze(1))
        return {"labelled": float(len(rows)), "helpful": float(helpful.sum())}


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

    def _fill_table(self, outputs: Tensor) -> None:
        self.table.set(hash_rows(self.seen), self.reward(outputs).unsqueeze(1))


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
            self._fill_table(predict(self.network, self.seen))
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
            self._fill_table(outputs)
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


def mixed(
    intrinsic: RewardFunction,
    extrinsic_coef: float = 0.1,
    intrinsic_coef: float = 0.4,
    scale: float = 1.0,
) -> RewardFunction:
    """``extrinsic_coef * clip(scale * r, -10, 10) + intrinsic_coef * intrinsic``.

    Only the environment's own reward is scaled and clipped.
    """
    extrinsic = Clip(number("scale", scale) * env_reward, -10.0, 10.0)
    return extrinsic_coef * extrinsic + intrinsic_coef * intrinsic
