"""ONI: intrinsic rewards for messages, learned online from a language model's feedback.

Zheng et al. (2024). A judge in the background says which messages report something helpful; a
reward model is fitted to what it has said so far; a message pays less every time it comes again
within an episode. Three reward models: a table (retrieval), here; a classifier and a ranking of
pairs in ``oni_learned``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..llm.judges import Judge, make_judge
from ..llm.queue import Queue, queue_for
from ..llm.tasks import Task
from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, env_reward, number
from .captions import EpisodeCounts, caption_width, captions, decode
from .clip import Clip
from .lookup import Lookup, hash_rows

_KEPT = 1 << 18  # rows of messages kept between two updates


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
        self._rows: dict[str, int] = {}  # of ``seen``, by text
        self._known: dict[int, int] = {}  # the same by hash
        self._buffer: list[tuple[Tensor, Tensor, Tensor]] = []  # messages, hashes, valid
        self._buffered = 0
        self._hashed: tuple[Tensor, Tensor] | None = None

    def reset(self, mask: Tensor, obs: Obs) -> None:
        """Forget the counts of the rows in ``mask``, and count their first message."""
        self.counts.clear(mask)
        self.counts.visit(hash_rows(captions(obs)), mask)

    def __call__(self, t: Transition) -> Tensor:
        """The intrinsic reward of each row, (N,) float32."""
        message = captions(t.next_obs)
        hashes = hash_rows(message)
        self._hashed = (message, hashes)
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
        if self._hashed is not None and self._hashed[0] is message:  # the step just paid
            hashes = self._hashed[1]
        else:
            hashes = hash_rows(message)
        self._buffer.append((message, hashes, transition.valid))
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
        """What to put to the judge: what has no label yet (it is asked about none twice)."""
        texts = list(self._rows)
        return [texts[i] for i in self.labels.isnan().nonzero().flatten().tolist()]

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
        """Enter what is new of the buffer into ``seen``; returns the rows shown, one a step."""
        buffer, self._buffer, self._buffered = self._buffer, [], 0
        if not buffer:
            return torch.zeros(0, dtype=torch.int64)
        hashes = torch.stack([h for _, h, _ in buffer])
        valid = torch.stack([v for _, _, v in buffer])
        distinct, where = torch.unique(hashes[valid], return_inverse=True)
        keys = distinct.tolist()
        if new := [key for key in keys if key not in self._known]:
            # Where each new message was shown first; few are new, however many are shown.
            places = [((hashes == key) & valid).nonzero()[0].tolist() for key in new]
            self._enter(new, torch.stack([buffer[t][0][row] for t, row in places]))
        rows = torch.tensor([self._known[key] for key in keys], dtype=torch.int64)
        return rows[where.cpu()]

    def _enter(self, keys: list[int], messages: Tensor) -> None:
        """New messages (K, L) with their hashes; bytes behind the text's end tell none apart."""
        kept = []
        for i, (key, text) in enumerate(zip(keys, decode(messages), strict=True)):
            if text not in self._rows:
                self._rows[text] = len(self._rows)
                kept.append(i)
            self._known[key] = self._rows[text]
        self.seen = torch.cat([self.seen, messages[kept]])
        self.labels = torch.cat([self.labels, self.labels.new_full((len(kept),), torch.nan)])

    def _fill(self, scores: Tensor) -> None:
        """Put ``scores`` (K,), one a row of ``seen``, into the table."""
        rows = torch.tensor(list(self._known.values()), device=scores.device)
        self.table.set(torch.tensor(list(self._known)), scores[rows].unsqueeze(1))

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
        self._known = {key: i for i, key in enumerate(hash_rows(self.seen).tolist())}
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
        helpful = (self.labels > 0.5).to(torch.float32)  # without a label: 0
        if news:
            self._fill(helpful)
        return {"labelled": float(len(self._labelled())), "helpful": float(helpful.sum())}


def mixed(
    intrinsic: RewardFunction,
    extrinsic_coef: float = 0.1,
    intrinsic_coef: float = 0.4,
    scale: float = 1.0,
) -> RewardFunction:
    """``extrinsic_coef * clip(scale * r, -10, 10) + intrinsic_coef * intrinsic``.

    Only the environment's own reward is scaled and clipped. ``PPO(intrinsic="oni_retrieval")``
    gives the other part a value head and a discount of its own.
    """
    extrinsic = Clip(number("scale", scale) * env_reward, -10.0, 10.0)
    return extrinsic_coef * extrinsic + intrinsic_coef * intrinsic
