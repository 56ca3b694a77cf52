"""The client against a server that does everything wrong."""

from __future__ import annotations

import logging
import socket
import time

import pytest

from rewardzoo.llm import ChatClient, LLMError

ASK = [{"role": "user", "content": "Is it helpful?"}]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def client(url, **kwargs):
    return ChatClient(url, **{"timeout": 0.3, "retries": 1, **kwargs})


def test_a_completion_and_its_log_probabilities_come_back(faulty):
    server, url = faulty("yes")
    reply = client(url).ask(ASK, max_tokens=3, temperature=0.5, top_logprobs=7)
    assert reply.text == "Yes" and reply.first == {"Yes": -0.1, "No": -3.0}
    assert server.asked == [
        {
            "model": "faulty", "messages": ASK, "max_tokens": 3, "temperature": 0.5,
            "logprobs": True, "top_logprobs": 7,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("500", "server error"), ("429", "busy"), ("garbage", "not json"), ("html", "not json"),
        ("empty", "not json"), ("wrong json", "wrong json"), ("list", "wrong json"),
        ("number", "wrong json"), ("huge", "too large"), ("hang", "timeout"),
        ("break off", "broken off"), ("404", "bad request"),
    ],
)  # fmt: skip
def test_every_fault_becomes_an_error_of_its_kind_after_bounded_attempts(faulty, fault, kind):
    server, url = faulty(fault)
    asks = client(url)
    with pytest.raises(LLMError) as error:
        asks.ask(ASK)
    attempts = 1 if kind == "bad request" else 2
    assert error.value.kind == kind and asks.failures == {kind: attempts}
    assert len(server.asked) == attempts


@pytest.mark.parametrize("fault", ["500", "429", "garbage", "hang", "huge", "break off"])
def test_a_fault_that_passes_is_retried(faulty, fault):
    _, url = faulty(fault, "yes")
    assert client(url).ask(ASK).text == "Yes"


def test_a_server_that_refuses_is_named():
    with pytest.raises(LLMError, match="is the server running") as error:
        client(f"http://127.0.0.1:{free_port()}/v1", model="m").ask(ASK)
    assert error.value.kind == "refused"


def test_retry_after_is_obeyed_and_bounded(faulty, monkeypatch):
    waits = []
    _, url = faulty("429", "yes")
    asks = client(url)
    monkeypatch.setattr(asks._closed, "wait", lambda s: waits.append(s) or False)
    asks.ask(ASK)
    assert waits == [0.05]
    assert asks._pause(0, LLMError("busy", "", wait=1e9)) == 0.2  # the most, in tests


def test_the_key_comes_from_the_environment_and_is_never_logged(faulty, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    server, url = faulty("yes")
    client(url).ask(ASK)
    assert "Authorization" not in server.headers[0]
    monkeypatch.setenv("REWARDZOO_LLM_API_KEY", "s3cret")
    asks = client(url)
    asks.ask(ASK)
    assert server.headers[1]["Authorization"] == "Bearer s3cret"
    with pytest.raises(LLMError) as error:
        client(faulty("500")[1]).ask(ASK)
    assert "s3cret" not in caplog.text + repr(error.value) + repr(vars(asks))


def test_closing_ends_the_wait_between_attempts(faulty):
    _, url = faulty("500")
    asks = client(url, model="m", retries=50)
    asks._closed.set()
    start = time.monotonic()
    with pytest.raises(LLMError):
        asks.ask(ASK)
    assert asks.failures == {"server error": 1} and time.monotonic() - start < 10


@pytest.mark.parametrize(
    "bad", [{"base_url": "localhost"}, {"timeout": 0}, {"retries": -1}, {"max_concurrency": 0}]
)
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
        ChatClient(**{"base_url": "http://x", **bad})
