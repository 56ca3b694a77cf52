"""A client for any chat-completions server: vLLM, llama.cpp, Ollama, or ``rewardzoo llm serve``.

Whatever a server does (refuse, hang, answer 500, HTML, an essay or ten megabytes), a call ends in a
``Reply`` or in an ``LLMError`` that names the kind of failure, within a bounded time.
"""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..extras import require
from ..rewards.base import integer, number

API_KEY = "REWARDZOO_LLM_API_KEY"
"""The environment variable from which the key is read; it is sent and never logged."""

Message = Mapping[str, str]  # {"role": "user", "content": "..."}
_MAX_BYTES = 1_000_000  # of an answer; a chat completion is some kilobytes
_BACKOFF = (0.5, 30.0)  # seconds before the second attempt, doubled each time, and the most


class LLMError(RuntimeError):
    """A call that failed.

    Args:
        kind: ``refused``, ``timeout``, ``busy`` (429), ``server error`` (5xx), ``bad request``
            (other 4xx), ``not json``, ``wrong json``, ``too large``, ``broken off``.
        message: what happened.
        wait: seconds that the server asked to be left alone (Retry-After), or None.
    """

    def __init__(self, kind: str, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Args:
        text: the completion.
        first: log-probabilities of the most likely first tokens, by token; None where the server
            does not tell.
    """

    text: str
    first: Mapping[str, float] | None = None


class ChatClient:
    """Asks one model on one server.

    Safe to use from several threads. The key, if the server wants one, is read from the
    environment variable ``REWARDZOO_LLM_API_KEY``.

    Args:
        base_url: for instance ``http://127.0.0.1:8000/v1``.
        model: the model's name on that server; None takes the first that the server lists.
        timeout: seconds without a byte from the server until a call is given up; a whole call
            takes at most four times as long.
        retries: further attempts after a failure that may pass.
        max_concurrency: calls at the same time.

    Raises:
        ValueError: for a bad argument.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        max_concurrency: int = 8,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"base_url={base_url!r}: expected an address such as http://127.0.0.1:8000/v1"
            )
        self.base_url = base_url.rstrip("/")
        self._model = model
        self.timeout = number("timeout", timeout, 1e-3)
        self.retries = integer("retries", retries, 0)
        self.max_concurrency = integer("max_concurrency", max_concurrency, 1)
        self.failures: Counter[str] = Counter()
        """Failed attempts by kind, retried ones included."""
        self._slots = threading.BoundedSemaphore(max_concurrency)
        self._closed = threading.Event()
        self._http = _http_client(self.timeout, max_concurrency)

    @property
    def model(self) -> str:
        """The model's name; asks the server if none was given.

        Raises:
            LLMError: if the server does not tell.
        """
        if self._model is None:
            listed = self._attempts("GET", "/models", None)
            try:
                self._model = str(listed["data"][0]["id"])
            except (KeyError, IndexError, TypeError):
                raise LLMError("wrong json", f"{self.base_url}/models: no list of models") from None
        return self._model

    def ask(
        self,
        messages: Sequence[Message],
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_logprobs: int = 0,
    ) -> Reply:
        """One completion.

        Args:
            messages: the conversation so far.
            max_tokens: the longest answer.
            temperature: 0 for the most likely answer.
            top_logprobs: ask for so many alternatives of the first token.

        Raises:
            LLMError: when all attempts failed.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(m) for m in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if top_logprobs:
            body.update(logprobs=True, top_logprobs=top_logprobs)
        return _reply(self._attempts("POST", "/chat/completions", body, _reply))

    def close(self) -> None:
        """Give up waiting and close connections."""
        self._closed.set()
        self._http.close()

    def _attempts(
        self, method: str, path: str, body: dict[str, Any] | None, check: Any = None
    ) -> dict[str, Any]:
        for attempt in range(self.retries + 1):
            try:
                with self._slots:
                    answer = self._once(method, path, body)
                if check is not None:
                    check(answer)
                return answer
            except LLMError as error:
                self.failures[error.kind] += 1
                if error.kind == "bad request" or attempt == self.retries or self._closed.is_set():
                    raise
                if self._closed.wait(self._pause(attempt, error)):
                    raise
        raise AssertionError  # the last attempt returns or raises

    def _pause(self, attempt: int, error: LLMError) -> float:
        first, most = _BACKOFF
        if error.wait is not None:
            return min(error.wait, most)
        # Half of it at random: clients that failed together do not come back together.
        return min(first * 2.0**attempt, most) * (0.5 + 0.5 * random.random())

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        import httpx

        url, key = self.base_url + path, os.environ.get(API_KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        deadline = time.monotonic() + 4.0 * self.timeout
        try:
            with self._http.stream(method, url, json=body, headers=headers) as response:
                content = _read(response, url, deadline)
                status, wait = response.status_code, _seconds(response.headers.get("retry-after"))
        except httpx.TimeoutException:
            raise LLMError("timeout", f"{url}: no answer in {self.timeout:g} s") from None
        except httpx.ConnectError:
            raise LLMError("refused", f"{url}: no connection; is the server running?") from None
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            if isinstance(error, LLMError):
                raise
            raise LLMError("broken off", f"{url}: {type(error).__name__}") from None
        if status != 200:
            raise LLMError(_kind(status), f"{url}: HTTP status {status}", wait)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise LLMError("not json", f"{url}: the answer is not JSON") from None
        if not isinstance(answer, dict):
            raise LLMError("wrong json", f"{url}: the answer is no JSON object")
        return answer


def _http_client(timeout: float, connections: int) -> Any:
    httpx = require("httpx", "llm")
    return httpx.Client(timeout=timeout, limits=httpx.Limits(max_connections=connections))


def _read(response: Any, url: str, deadline: float) -> bytes:
    """The body; a server that trickles or floods is cut off."""
    content = bytearray()
    for chunk in response.iter_bytes(65_536):
        content += chunk
        if len(content) > _MAX_BYTES:
            raise LLMError("too large", f"{url}: an answer of more than {_MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise LLMError("timeout", f"{url}: the answer does not end")
    return bytes(content)


def _kind(status: int) -> str:
    if status == 429:
        return "busy"
    if status >= 500 or status == 408:
        return "server error"
    return "bad request"


def _seconds(text: str | None) -> float | None:
    """The seconds of a Retry-After header; its other form, a date, is ignored."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _reply(answer: Mapping[str, Any]) -> Reply:
    """The completion in an answer.

    Raises:
        LLMError: unless the answer is a chat completion with a text.
    """
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise LLMError("wrong json", "the answer is no chat completion") from None
    if not isinstance(text, str):
        raise LLMError("wrong json", "the completion is no text")
    return Reply(text, _first_token(choice.get("logprobs")))


def _first_token(logprobs: Any) -> dict[str, float] | None:
    try:
        listed = logprobs["content"][0]["top_logprobs"]
        found = {str(entry["token"]): float(entry["logprob"]) for entry in listed}
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return found or None
