"""Language models that judge: client, embedded model, local server, queue and cache."""

from __future__ import annotations

from .cache import JudgementCache, default_cache
from .client import ChatClient, LLMError, Reply
from .judges import (
    EmbeddedJudge,
    Judge,
    PairJudge,
    RandomJudge,
    RuleJudge,
    ServerJudge,
    TableJudge,
    make_judge,
)
from .labels import LabelError, read_labels, shipped_messages
from .queue import AnnotationQueue, InlineQueue, queue_for
from .tasks import PAIR, Task

__all__ = [
    "PAIR",
    "AnnotationQueue",
    "ChatClient",
    "EmbeddedJudge",
    "InlineQueue",
    "Judge",
    "JudgementCache",
    "LLMError",
    "LabelError",
    "PairJudge",
    "RandomJudge",
    "Reply",
    "RuleJudge",
    "ServerJudge",
    "TableJudge",
    "Task",
    "default_cache",
    "make_judge",
    "queue_for",
    "read_labels",
    "shipped_messages",
]
