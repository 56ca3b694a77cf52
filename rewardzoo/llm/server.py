"""``rewardzoo llm serve``: the embedded model as a chat-completions server on this machine.

It speaks the part of the OpenAI protocol that ``ChatClient`` uses: ``GET /v1/models`` and
``POST /v1/chat/completions`` with ``messages``, ``max_tokens``, ``temperature``, ``seed``,
``logprobs`` and ``top_logprobs`` (of the first token).
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .embedded import EmbeddedModel

_MAX_REQUEST = 1_000_000  # bytes
_ROLES = ("system", "user", "assistant")


class RequestError(ValueError):
    """A request that cannot be answered; the message says what was expected."""


def make_server(
    model: EmbeddedModel, host: str = "127.0.0.1", port: int = 0
) -> ThreadingHTTPServer:
    """A server that is bound and not yet answering: call ``serve_forever``.

    Args:
        model: what answers.
        host: address to listen on; the server has no passwords, so keep it to this machine.
        port: 0 for any free one.
    """

    class Handler(_Handler):
        embedded = model

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


@contextmanager
def running_server(model: EmbeddedModel, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve in a thread; gives the base URL."""
    server = make_server(model, host, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    embedded: EmbeddedModel
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            model = {"id": self.embedded.name, "object": "model", "owned_by": "rewardzoo"}
            self._send(200, {"object": "list", "data": [model]})
        else:
            self._error(404, f"there is no {self.path}; expected /v1/models")

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        if self.path.rstrip("/") != "/v1/chat/completions":
            self._error(404, f"there is no {self.path}; expected /v1/chat/completions")
            return
        try:
            self._send(200, answer(self.embedded, body))
        except (RequestError, ValueError) as error:
            self._error(400, str(error))

    def _body(self) -> bytes | None:
        try:
            length = int(self.headers.get("content-length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= _MAX_REQUEST:
            self.close_connection = True  # the body is not read
            self._error(413, f"content-length: expected 0 to {_MAX_REQUEST}")
            return None
        return self.rfile.read(length)

    def _error(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client did not wait

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: they may be many, and their content is the user's."""


def answer(model: EmbeddedModel, body: bytes) -> dict[str, Any]:
    """The response to the body of a chat-completions request.

    Raises:
        RequestError: for a body that is no such request.
    """
    request = _parse(body)
    prompt = model.chat_prompt(request["messages"])
    tokens = model.count(prompt)
    if tokens >= model.context:
        raise RequestError(f"messages: {tokens} tokens, expected fewer than {model.context}")
    choice: dict[str, Any] = {"index": 0, "logprobs": None}
    if request["logprobs"]:
        first = model.first_token(prompt, max(1, request["top_logprobs"]))
        listed = [{"token": t, "logprob": p, "bytes": None} for t, p in first.items()]
        choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
    text, choice["finish_reason"] = model.complete(
        prompt, request["max_tokens"], request["temperature"], request["seed"]
    )
    choice["message"] = {"role": "assistant", "content": text}
    return {
        "id": f"chatcmpl-{time.time_ns()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model.name,
        "choices": [choice],
        "usage": {"prompt_tokens": tokens},
    }


def _parse(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError("the body is not JSON") from None
    if not isinstance(request, dict):
        raise RequestError("the body is no JSON object")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: expected a list of {role, content}")
    for message in messages:
        fields = message if isinstance(message, dict) else {}
        if fields.get("role") not in _ROLES or not isinstance(fields.get("content"), str):
            raise RequestError(f"messages: expected a role of {', '.join(_ROLES)} and a text")
    if request.get("stream"):
        raise RequestError("stream: this server answers whole")
    return {
        "messages": messages,
        "max_tokens": _whole(request, "max_tokens", 256, 1, 4096),
        "temperature": _temperature(request.get("temperature")),
        "seed": _whole(request, "seed", 0, 0, 2**63 - 1),
        "logprobs": request.get("logprobs") is True,
        "top_logprobs": _whole(request, "top_logprobs", 0, 0, 20),
    }


def _whole(request: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = request.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise RequestError(f"{name}={value!r}: expected an integer in [{low}, {high}]")
    return value


def _temperature(value: Any) -> float:
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not (math.isfinite(value) and 0 <= value <= 2):
        raise RequestError(f"temperature={value!r}: expected a number in [0, 2]")
    return float(value)
