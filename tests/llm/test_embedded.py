"""The real model: in this process, behind its server, and as an annotator over HTTP."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("httpx")

from rewardzoo.llm import (  # noqa: E402
    AnnotationQueue,
    ChatClient,
    EmbeddedJudge,
    LLMError,
    ServerJudge,
    Task,
)
from rewardzoo.llm.embedded import EmbeddedModel, _choose  # noqa: E402
from rewardzoo.llm.server import running_server  # noqa: E402

KILL, WALL = "You kill the jackal!", "It's a wall."


@pytest.fixture(scope="module")
def model():
    return EmbeddedModel(threads=1, context=1024)


def test_what_prompts_have_in_common_is_not_computed_again_and_changes_nothing(model):
    task = Task()
    first = model.log_odds(task.few_shot(KILL), task.labels)
    held = model._llama.n_tokens
    model.log_odds(task.few_shot(WALL), task.labels)
    shared = model.count(task.few_shot("").split("Message: \n")[0])
    assert held > shared > 100  # the examples are the greater part
    assert model.log_odds(task.few_shot(KILL), task.labels) == pytest.approx(first, abs=0.05)


def test_log_probabilities_are_of_a_distribution(model):
    first = model.first_token("Once upon a", 5)
    assert max(first, key=first.get) == " time" and list(first.values()) == sorted(
        first.values(), reverse=True
    )


def test_completions_end_where_they_should(model):
    assert model.complete("1, 2, 3, 4, 5, 6,", 3)[1] == "length"
    prompt = model.chat_prompt([{"role": "user", "content": "Say hello."}])
    assert "<|im_start|>user" in prompt and prompt.rstrip().endswith("assistant")


def test_tokens_are_drawn_by_temperature_and_seed():
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))
    assert _choose(logits, 0.0, np.random.default_rng(0)) == 1
    for temperature, share in ((1.0, 0.6), (0.5, 0.36 / 0.46)):
        rng = np.random.default_rng(0)
        drawn = [_choose(logits, temperature, rng) for _ in range(2000)]
        assert abs(drawn.count(1) / 2000 - share) < 5 * (share * (1 - share) / 2000) ** 0.5


def test_bad_models_and_prompts_are_named(tmp_path, model):
    path = tmp_path / "x.gguf"
    with pytest.raises(ValueError, match="no such file"):
        EmbeddedModel(path)
    path.write_bytes(b"GGUF nonsense")
    with pytest.raises(ValueError, match="GGUF model"):
        EmbeddedModel(path)
    with pytest.raises(ValueError, match="loaded for 1024"):
        model.first_token("word " * 2000, 1)


def test_client_server_and_annotator_with_the_real_model(model, tmp_path):
    """End to end over HTTP: labels by log-probabilities, kept on disk, asked for once."""
    messages = [KILL, WALL, "You see here a sling."]
    with running_server(model) as url:
        client = ChatClient(url, timeout=60, max_concurrency=2)
        assert client.model == model.name
        reply = client.ask([{"role": "user", "content": "Say hello."}], 8, top_logprobs=3)
        assert reply.text and reply.first is not None and len(reply.first) == 3
        queue = AnnotationQueue(ServerJudge(client, Task(), "logprobs"), tmp_path / "c.sqlite")
        queue.submit(messages)
        assert queue.wait(240)
        labels = dict(queue.drain())
        assert set(labels) == set(messages) and all(0 <= s <= 1 for s in labels.values())
        assert labels[KILL] > labels[WALL]
        assert queue.stats()["asked"] == 3
        queue.close()
        again = AnnotationQueue(
            ServerJudge(ChatClient(url), Task(), "logprobs"), tmp_path / "c.sqlite"
        )
        again.submit(messages)
        assert again.wait(60) and again.stats()["asked"] == 0
        assert dict(again.drain()) == labels
        again.close()


def test_the_embedded_judge_takes_the_models_leaning_off(model):
    """Where .5 lies is what messages without content say; processors differ by some hundredths."""
    judge = EmbeddedJudge(Task(), model)
    scores = dict(judge.judge([KILL, WALL]))
    assert scores[KILL] > 0.6 and scores[KILL] > scores[WALL] + 0.2
    odds = [math.log(p / (1 - p)) for p in map(judge.score, Task().empty)]
    assert min(odds) < -0.1 and sum(odds) == pytest.approx(0.0, abs=1e-6)


def test_the_command_serves_until_it_is_interrupted():
    command = [sys.executable, "-m", "rewardzoo", "llm", "serve", "--port", "0", "--threads", "1"]
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background jobs inherit an ignored SIGINT, and the tests may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        name, _, url, *_ = server.stdout.readline().split()
        assert ChatClient(url, timeout=60).model == name == "SmolLM2-135M-Instruct.Q4_1"
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0 and server.stdout.read() == "stopped\n"
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"nonsense", "not JSON"),
        (b"[]", "no JSON object"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "king", "content": "x"}]}', "role"),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens=0"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": -1}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "stream": true}', "stream"),
    ],
)
def test_the_server_says_what_is_wrong_with_a_request(model, body, part):
    with running_server(model) as url:
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(url + "/chat/completions", body, timeout=30)
        assert error.value.code == 400
        assert part in json.loads(error.value.read())["error"]["message"]
        with pytest.raises(LLMError, match="404"):
            ChatClient(url + "/nowhere", retries=0).model  # noqa: B018
