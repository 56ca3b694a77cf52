"""Who judges a message: rules, chance, a file, a server's language model, the embedded one.

A judgement is a score in [0, 1]: 1 is helpful. Judges of pairs (``a + PAIR + b``) say 1 for the
first, 0 for the second, 0.5 for neither.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from .client import ChatClient, LLMError, Reply
from .labels import read_labels
from .rules import GOALS, RULES
from .tasks import PAIR, Question, Task, label_score

if TYPE_CHECKING:
    from .embedded import EmbeddedModel

_TOP = 20  # alternatives of the first token: what servers allow at most


class Judge:
    """Judges messages.

    Attributes:
        name: of the model, in the key of the cache.
        version: of what it is asked, in the key of the cache.
        instant: whether it answers at once, without waiting for anything.
        failures: failed attempts by kind.
    """

    name: str = ""
    version: str = ""
    instant: bool = True

    @property
    def failures(self) -> Counter[str]:
        """Failed attempts by kind; none unless a subclass can fail."""
        return Counter()

    def judge(self, messages: Sequence[str]) -> Iterator[tuple[str, float | None]]:
        """Yield (message, score) as answers arrive; None for an answer without a verdict.

        Messages that were not yielded were not answered and may be asked again.

        Raises:
            LLMError: when the judge is away.
        """
        for message in messages:
            yield message, self.score(message)

    def score(self, message: str) -> float | None:
        """The score of one message; for judges that need nothing more."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop whatever is going on."""


class RuleJudge(Judge):
    """The deterministic reference: regular expressions, ``rewardzoo.llm.rules``.

    Args:
        goal: what helps: a key of ``rules.GOALS``.
    """

    def __init__(self, goal: str = "score") -> None:
        if goal not in GOALS:
            raise ValueError(f"goal={goal!r}: the rules know {', '.join(GOALS)}")
        self.name = "rules"
        patterns = [pattern for kind, pattern in RULES if kind in GOALS[goal]]
        self.version = f"{goal}-{_digest(*patterns)}"
        self._pattern = re.compile("|".join(f"(?:{p})" for p in patterns))

    def score(self, message: str) -> float:
        """1 where a rule of the goal matches."""
        return 1.0 if self._pattern.search(message) else 0.0


class RandomJudge(Judge):
    """The negative control: labels by chance, always the same for the same message.

    Args:
        rate: share of messages called helpful.
        seed: another seed gives other labels.
    """

    def __init__(self, rate: float = 0.5, seed: int = 0) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate}: expected a share in [0, 1]")
        self.name, self.version = "random", f"{rate}-{seed}"
        self._rate, self._seed = rate, seed

    def score(self, message: str) -> float:
        """1 for a share ``rate`` of all messages."""
        digest = hashlib.sha256(f"{self._seed}:{message}".encode()).digest()
        return 1.0 if int.from_bytes(digest[:8], "big") < self._rate * 2**64 else 0.0


class TableJudge(Judge):
    """Labels from a file; a message that is not in it has no verdict.

    Args:
        source: a JSON or JSONL file of labels, or a mapping.
    """

    def __init__(self, source: str | Path | Mapping[str, float]) -> None:
        self.name = "table"
        self._table = dict(source) if isinstance(source, Mapping) else read_labels(source)
        self.version = _digest(*(f"{k}={v}" for k, v in sorted(self._table.items())))

    def score(self, message: str) -> float | None:
        """The label in the table."""
        return self._table.get(message)


class PairJudge(Judge):
    """Judges pairs by the scores that another judge gives to each of the two.

    Args:
        single: judge of single messages.
        margin: scores that differ by no more are a tie.
    """

    def __init__(self, single: Judge, margin: float = 0.05) -> None:
        self.single, self.margin = single, margin
        self.instant = single.instant
        self._scores: dict[str, float] = {}

    @property
    def name(self) -> str:  # type: ignore[override]
        """The single judge's."""
        return self.single.name

    @property
    def version(self) -> str:  # type: ignore[override]
        """The single judge's, marked."""
        return f"pairs-{self.margin}-{self.single.version}"

    @property
    def failures(self) -> Counter[str]:
        """The single judge's."""
        return self.single.failures

    def judge(self, messages: Sequence[str]) -> Iterator[tuple[str, float | None]]:
        """Ask the single judge about what it has not judged yet, and compare."""
        pairs = [tuple(pair.split(PAIR, 1)) for pair in messages]
        new = [m for m in dict.fromkeys(m for pair in pairs for m in pair) if m not in self._scores]
        for message, score in self.single.judge(new):
            if score is not None:
                self._scores[message] = score
        for key, (a, b) in zip(messages, pairs, strict=True):
            x, y = self._scores.get(a), self._scores.get(b)
            if x is None or y is None:
                yield key, None
            elif abs(x - y) <= self.margin:
                yield key, 0.5
            else:
                yield key, 1.0 if x > y else 0.0

    def close(self) -> None:
        """Close the single judge."""
        self.single.close()


class ServerJudge(Judge):
    """A language model behind a chat-completions server.

    Where the server tells log-probabilities, the score is the probability of the label ``Yes``
    against ``No`` as the first token of the answer; where it does not, the model writes a short
    analysis and a verdict, which is looked for in the text.

    Args:
        client: the server.
        task: what to ask.
        scoring: ``logprobs``, ``text``, or ``auto`` for the former where the server can.
    """

    instant = False

    def __init__(self, client: ChatClient, task: Question, scoring: str = "auto") -> None:
        if scoring not in ("auto", "logprobs", "text"):
            raise ValueError(f"scoring={scoring!r}: expected auto, logprobs or text")
        self.client, self.task, self.scoring = client, task, scoring
        self._closed = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """The server's model; asks the server."""
        return self.client.model

    @property
    def version(self) -> str:  # type: ignore[override]
        """The task's version and the way of scoring."""
        return f"{self.task.version}-{self.scoring}"

    @property
    def failures(self) -> Counter[str]:
        """The client's."""
        return self.client.failures

    def judge(self, messages: Sequence[str]) -> Iterator[tuple[str, float | None]]:
        """Ask about several messages at a time; stops at the first sign of an outage."""
        refused: list[str] = []
        error: LLMError | None = None
        answered = False
        waiting = iter(messages)
        with ThreadPoolExecutor(self.client.max_concurrency) as pool:
            running: dict[Future[float | None], str] = {}
            while True:
                while error is None and not self._closed and len(running) < pool._max_workers:
                    message = next(waiting, None)
                    if message is None:
                        break
                    running[pool.submit(self._ask, message)] = message
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    message = running.pop(future)
                    try:
                        score = future.result()
                    except LLMError as failure:
                        if failure.kind == "bad request":
                            refused.append(message)
                        else:
                            error = failure
                        last = failure
                        continue
                    answered = True
                    yield message, score
        if refused and not answered:
            raise last  # nothing gets through: not the messages' fault
        for message in refused:
            yield message, None
        if error is not None:
            raise error

    def _ask(self, message: str) -> float | None:
        task = self.task
        if self.scoring != "text":
            reply = self._ask_for_label(message)
            score = None if reply.first is None else label_score(reply.first, task.labels)
            if score is not None:
                return score
            if self.scoring == "logprobs":
                return None
        return task.parse(self.client.ask(task.analysis(message), max_tokens=512).text)

    def _ask_for_label(self, message: str) -> Reply:
        return self.client.ask(self.task.dialogue(message), max_tokens=1, top_logprobs=_TOP)

    def close(self) -> None:
        """Give up waiting for answers."""
        self._closed = True
        self.client.close()


class EmbeddedJudge(Judge):
    """The embedded model: the probability of ``Yes`` against ``No`` after a few examples.

    The model's leaning towards one label, whatever the message, is taken off: it is the mean of
    the log-odds for messages without content (Zhao et al. 2021, "Calibrate before use").

    Args:
        task: what to ask.
        model: a loaded model; None loads the default when first asked.
    """

    instant = False
    name = "SmolLM2-135M-Instruct"

    def __init__(self, task: Question, model: EmbeddedModel | None = None) -> None:
        self.task, self._model, self._closed = task, model, False
        self._leaning: float | None = None
        self.version = f"{task.version}-few-shot"
        if model is not None:
            self.name = model.name

    def judge(self, messages: Sequence[str]) -> Iterator[tuple[str, float | None]]:
        """One after the other, with the examples kept in the model's memory."""
        for message in messages:
            if self._closed:
                return
            yield message, self.score(message)

    def score(self, message: str) -> float:
        """The probability of the helpful label, of the two."""
        if self._leaning is None:
            odds = [self._log_odds(text) for text in self.task.empty]
            self._leaning = sum(odds) / len(odds)
        return 1.0 / (1.0 + math.exp(self._leaning - self._log_odds(message)))

    def _log_odds(self, message: str) -> float:
        if self._model is None:
            from .embedded import EmbeddedModel

            self._model = EmbeddedModel()
        return self._model.log_odds(self.task.few_shot(message), self.task.labels)

    def close(self) -> None:
        """Stop after the present message."""
        self._closed = True


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _seed(text: str) -> int:
    """The number after the colon of ``random:7``, 0 without one."""
    _, colon, number = text.partition(":")
    if colon and not number.isdecimal():
        raise ValueError(f"annotator={text!r}: expected random or random:SEED")
    return int(number or 0)


def make_judge(text: str, task: Task) -> Judge:
    """A judge by name: what users and experiments write.

    Args:
        text: ``rules``, ``random`` or ``random:SEED``, ``smollm2``, the address of a server
            (``http://host:8000/v1``), or a file of labels.
        task: what is judged.

    Raises:
        ValueError: for anything else.
    """
    if text.startswith(("http://", "https://")):
        return ServerJudge(ChatClient(text), task)
    single: Judge
    if text == "rules":
        single = RuleJudge(task.goal)
    elif text.partition(":")[0] == "random":
        single = RandomJudge(seed=_seed(text))
    elif text == "smollm2":
        single = EmbeddedJudge(task.single)
    elif Path(text).is_file():
        single = TableJudge(text)
    else:
        raise ValueError(
            f"annotator={text!r}: expected rules, random, smollm2, http://HOST:PORT/v1 or a file "
            "of labels"
        )
    return PairJudge(single) if task.pairs else single
