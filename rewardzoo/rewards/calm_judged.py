"""A detector that asks a language model, in the background: CALM with its judge in the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..llm.client import ChatClient
from ..llm.judges import EmbeddedJudge, Judge, ServerJudge
from ..llm.queue import Queue, queue_for
from ..transition import Transition
from .base import Spaces
from .calm_detectors import Detector, check_key_room, hash_transition
from .calm_prompts import Prompt, pack
from .calm_transitions import SUBGOALS, AnnotatedTransition, Seen, lines_of
from .captions import decode
from .lookup import Lookup, hash_rows

_KEPT = 4096  # steps kept between two updates


class JudgedDetector(Detector):
    """Finds what a language model says; a transition that it has not judged yet achieves nothing.

    What looks the same to the model is asked about once: with ``observation="none"`` that is the
    action and the two messages, some dozens in a key room; with the window it is thousands.

    Args:
        judge: a judge made for ``prompt``; or ``smollm2``, or the address of a server.
        prompt: what the model is shown; ``gamescreen`` is for files of transitions only.
        cache: file in which judgements are kept; default: the user's.

    Raises:
        ValueError: for an unknown judge, or a prompt that needs the whole screen.
    """

    subgoals = SUBGOALS

    def __init__(
        self,
        judge: Judge | str = "smollm2",
        prompt: Prompt | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.prompt = prompt or Prompt(observation="none")
        if self.prompt.observation == "gamescreen":
            raise ValueError("observation='gamescreen': expected crop or none, while training")
        found = _judge(judge, self.prompt) if isinstance(judge, str) else judge
        self.queue: Queue = queue_for(found, cache)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Nothing was judged yet."""
        check_key_room(spaces)
        self._table = Lookup(len(self.subgoals))
        self._table.to(device)
        self._buffer: list[tuple[Tensor, Transition]] = []
        self._items: dict[str, tuple[int, int]] = {}  # to the transition's hash and the subgoal
        self._scores: dict[int, list[float | None]] = {}

    def detect(self, t: Transition) -> Tensor:
        """(N, 2) float32, 0 or 1."""
        return self._table.get(self._hash(t))[0]

    def observe(self, t: Transition) -> None:
        """Keep the step until the next update."""
        self._buffer.append((self._hash(t), t))
        del self._buffer[:-_KEPT]

    def update(self) -> dict[str, float]:
        """Ask about what is new; take in what was answered."""
        buffer, self._buffer = self._buffer, []
        for hashes, t in buffer:
            for row, key in enumerate(hashes.tolist()):
                if key not in self._scores and bool(t.valid[row]):
                    self._enter(key, _row(t, row))
        self.queue.submit([i for i, (k, g) in self._items.items() if self._scores[k][g] is None])
        answers = self.queue.drain()
        for item, score in answers:
            key, goal = self._items[item]
            self._scores[key][goal] = score
        if answers:
            self._fill()
            self.version += 1
        judged = sum(None not in scores for scores in self._scores.values())
        stats = {f"llm/{name}": value for name, value in self.queue.stats().items()}
        return {"transitions": float(len(self._scores)), "judged": float(judged), **stats}

    def _enter(self, key: int, t: AnnotatedTransition) -> None:
        self._scores[key] = [None] * len(self.subgoals)
        for i, goal in enumerate(self.subgoals):
            self._items[pack(goal, t if self.prompt.observation == "crop" else _blank(t))] = key, i

    def _fill(self) -> None:
        known = {k: s for k, s in self._scores.items() if None not in s}
        if known:
            values = torch.tensor([[float(x or 0.0) for x in s] for s in known.values()])
            self._table.set(torch.tensor(list(known)), (values > 0.5).to(torch.float32))

    def _hash(self, t: Transition) -> Tensor:
        if self.prompt.observation == "crop":
            return hash_transition(t)
        return hash_rows(t.action.reshape(-1, 1), t.obs["message"], t.next_obs["message"])

    def state_dict(self) -> dict[str, Any]:
        """What was judged; what waits is asked again when it is seen again."""
        return dict(self._table.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue."""
        self._table.load_state_dict(state)
        rows = zip(self._table.keys.tolist()[:-1], self._table.values.tolist(), strict=False)
        self._scores = {key: list(values) for key, values in rows}


def _judge(text: str, prompt: Prompt) -> Judge:
    if text == "smollm2":
        return EmbeddedJudge(prompt)
    if text.startswith(("http://", "https://")):
        return ServerJudge(ChatClient(text), prompt)
    raise ValueError(f"judge={text!r}: expected smollm2 or http://HOST:PORT/v1")


def _row(t: Transition, row: int) -> AnnotatedTransition:
    before, after = (
        Seen(lines_of(obs["chars_crop"][row].cpu()), decode(obs["message"][row : row + 1])[0])
        for obs in (t.obs, t.next_obs)
    )
    return AnnotatedTransition("", int(t.action[row]), before, after, {}, "human")


def _blank(t: AnnotatedTransition) -> AnnotatedTransition:
    """Without the windows, which the prompt does not show."""
    nothing = (" " * 9,) * 9
    before, after = (Seen(nothing, seen.message) for seen in (t.obs, t.next_obs))
    return AnnotatedTransition("", t.action, before, after, {}, "human")
