"""A chat-completions server that misbehaves on request."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rewardzoo.llm import client


def completion(text, first=None):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    if first is not None:
        listed = [{"token": t, "logprob": p} for t, p in first.items()]
        choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
    return json.dumps({"choices": [choice]}).encode()


ESSAY = "The message is interesting. It may be helpful or not, who is to say? " * 60
ANSWERS = {
    "helpful": (200, {}, completion("It died. VERDICT: HELPFUL")),
    "neutral": (200, {}, completion("A wall. VERDICT: NEUTRAL")),
    "yes": (200, {}, completion("Yes", {"Yes": -0.1, "No": -3.0})),
    "500": (500, {}, b"oops"),
    "429": (429, {"Retry-After": "0.05"}, b"{}"),
    "404": (404, {}, b'{"error": "no such model"}'),
    "garbage": (200, {}, bytes(range(256))),
    "html": (200, {}, b"<html><body>Please log in</body></html>"),
    "essay": (200, {}, completion(ESSAY)),
    "empty": (200, {}, b""),
    "empty string": (200, {}, completion("")),
    "wrong json": (200, {}, b'{"choices": [{"text": "Yes"}]}'),
    "list": (200, {}, b"[1, 2]"),
    "number": (200, {}, completion(7)),
    "huge": (200, {}, b"x" * 10_000_000),
    "code": (200, {}, completion("__import__('os').abort()")),
}


class Faulty:
    """Counts what it was asked; ``plan`` says how to answer, the last entry for ever."""

    def __init__(self, *plan):
        self.plan = list(plan)
        self.asked = []
        self.headers = []
        self.released = threading.Event()
        self.lock = threading.Lock()

    def next(self, body, headers):
        with self.lock:
            self.asked.append(body)
            self.headers.append(headers)
            return self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]


@contextmanager
def serving(faulty, port=0):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(200, {}, json.dumps({"data": [{"id": "faulty"}]}).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            how = faulty.next(body, dict(self.headers))
            how = how(body) if callable(how) else how
            if how == "hang":
                faulty.released.wait(20)
            elif how == "break off":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
            else:
                self.answer(*ANSWERS[how])

        def answer(self, status, headers, content):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        faulty.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def faulty():
    """``faulty(*plan)`` gives (server, base URL)."""
    open_servers = []

    def start(*plan, port=0):
        state = Faulty(*plan)
        context = serving(state, port)
        url = context.__enter__()
        open_servers.append(context)
        return state, url

    yield start
    for context in open_servers:
        context.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def quick_and_private(monkeypatch, tmp_path):
    """Short pauses between attempts, and a cache of the test's own."""
    monkeypatch.setattr(client, "_BACKOFF", (0.01, 0.2))
    monkeypatch.setenv("REWARDZOO_CACHE", str(tmp_path / "cache"))
