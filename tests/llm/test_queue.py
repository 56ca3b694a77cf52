"""The queue: one question a message, no waiting, nothing lost, whatever the server does."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from rewardzoo.llm import (
    AnnotationQueue,
    ChatClient,
    InlineQueue,
    Judge,
    LLMError,
    RandomJudge,
    RuleJudge,
    ServerJudge,
    Task,
    queue_for,
)

WAIT = 30.0  # seconds: for a machine under load


class Scripted(Judge):
    """Helpful where the message says so; counts its questions; ``gate`` holds it up."""

    name, version, instant = "scripted", "1", False

    def __init__(self, errors=()):
        self.asked, self.batches, self.errors = [], [], list(errors)
        self.gate = threading.Event()
        self.gate.set()

    def judge(self, messages):
        self.gate.wait()
        self.batches.append(list(messages))
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        for message in messages:
            self.asked.append(message)
            yield message, None if "?" in message else float("good" in message)


def asking(judge, cache=None, **kwargs):
    return AnnotationQueue(judge, cache, pause=(0.01, 0.05), **kwargs)


def test_a_message_is_asked_about_once_however_often_it_is_seen():
    judge = Scripted()
    queue = asking(judge)
    judge.gate.clear()
    for _ in range(1000):
        queue.submit(["good", "bad"])
    judge.gate.set()
    assert queue.wait(WAIT)
    queue.submit(["good"])
    assert queue.wait(WAIT)
    assert sorted(judge.asked) == ["bad", "good"]
    assert dict(queue.drain()) == {"good": 1.0, "bad": 0.0} and queue.drain() == []
    assert queue.stats()["asked"] == 2
    queue.close()


def test_submitting_never_waits_for_the_judge_and_a_full_queue_drops_and_counts():
    judge = Scripted()
    judge.gate.clear()  # it never answers
    queue = asking(judge, batch_size=1, max_waiting=5)
    queue.submit([str(i) for i in range(20)])
    assert queue.drain() == []
    stats = queue.stats()
    # One may have been taken by the thread meanwhile.
    assert stats["dropped"] in (14, 15) and stats["dropped"] + stats["waiting"] == 20
    judge.gate.set()
    assert queue.wait(WAIT)
    queue.submit([str(i) for i in range(20)])  # what was dropped is taken when seen again
    assert queue.wait(WAIT)
    assert len(set(judge.asked)) == len(judge.asked)
    queue.close()


def test_the_newest_messages_are_asked_about_first():
    judge = Scripted()
    queue = asking(judge, batch_size=2)
    judge.gate.clear()
    queue.submit(["first"])
    while not queue._in_flight:
        time.sleep(0.001)
    queue.submit(["a", "b", "c", "d"])
    judge.gate.set()
    assert queue.wait(WAIT)
    assert judge.batches == [["first"], ["d", "c"], ["b", "a"]]
    queue.close()


def test_an_outage_is_said_once_and_nothing_is_lost(caplog):
    caplog.set_level(logging.WARNING, "rewardzoo.llm")
    away = LLMError("refused", "no connection")
    judge = Scripted([away] * 5)
    queue = asking(judge)
    queue.submit(["good", "bad"])
    assert queue.wait(WAIT)
    assert dict(queue.drain()) == {"good": 1.0, "bad": 0.0}
    assert [r.message.split(" (")[0] for r in caplog.records] == [
        "judge scripted is away",
        "judge scripted answers again",
    ]
    assert queue.stats()["outages"] == 1
    queue.close()


def test_an_answer_without_a_verdict_is_asked_for_three_times_and_invents_no_label():
    judge = Scripted()
    queue = asking(judge)
    queue.submit(["what?", "good"])
    assert queue.wait(WAIT)
    assert judge.asked.count("what?") == 3 and queue.drain() == [("good", 1.0)]
    assert queue.stats()["unparsed"] == 1
    queue.submit(["what?"])
    assert queue.wait(WAIT) and judge.asked.count("what?") == 3
    queue.close()


def test_a_defect_of_the_judge_ends_in_a_clear_error_not_in_a_hang():
    queue = asking(Scripted([ZeroDivisionError("oops")]))
    queue.submit(["good"])
    assert queue.wait(WAIT)
    with pytest.raises(RuntimeError, match=r"judge 'scripted' failed.*oops"):
        queue.drain()
    queue.close()


def test_closing_joins_the_thread_and_forgets():
    judge = Scripted()
    queue = asking(judge)
    queue.submit(["good"])
    assert queue.wait(WAIT)
    queue.close()
    assert not queue._thread.is_alive()
    queue.submit(["bad"])
    assert judge.asked == ["good"]


def test_runs_that_share_a_cache_ask_once(tmp_path):
    judges = [Scripted() for _ in range(3)]
    queues = [asking(judge, tmp_path / "c.sqlite", batch_size=7) for judge in judges]
    messages = [f"good {i}" for i in range(60)]
    for queue in queues:
        queue.submit(messages)
    assert all(queue.wait(WAIT) for queue in queues)
    asked = [m for judge in judges for m in judge.asked]
    assert sorted(asked) == sorted(messages)
    for queue in queues:
        assert dict(queue.drain()) == dict.fromkeys(messages, 1.0)
        queue.close()


RUN = """
import sys, time
from rewardzoo.llm import AnnotationQueue, Judge
class Slow(Judge):
    name, version, instant = "slow", "1", False
    def judge(self, messages):
        for m in messages:
            time.sleep(0.005)
            print(m, flush=True)
            yield m, 1.0
queue = AnnotationQueue(Slow(), sys.argv[1], lease=0.2)
queue.submit([str(i) for i in range(int(sys.argv[2]))])
queue.wait(60)
print("labelled", len(queue.drain()), flush=True)
"""


def test_killed_and_started_again_it_asks_only_what_was_not_answered(tmp_path):
    command = [sys.executable, "-c", RUN, str(tmp_path / "c.sqlite"), "120"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    asked = []
    for line in first.stdout:
        asked.append(line.strip())
        if len(asked) == 40:
            os.kill(first.pid, signal.SIGKILL)
            break
    asked += first.stdout.read().split()
    first.wait()
    second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    *again, _, labelled = second.stdout.split()
    assert labelled == "120"
    # The one that was being answered when it was killed may be asked again, no other.
    assert set(asked) & set(again) <= {asked[-1]}
    assert sorted({*asked, *again}, key=int) == [str(i) for i in range(120)]


@pytest.mark.parametrize(
    ("fault", "counter"),
    [
        ("500", "failures/server error"), ("429", "failures/busy"), ("html", "failures/not json"),
        ("garbage", "failures/not json"), ("empty", "failures/not json"),
        ("wrong json", "failures/wrong json"), ("huge", "failures/too large"),
        ("hang", "failures/timeout"), ("break off", "failures/broken off"),
        ("essay", "unparsed"), ("empty string", "unparsed"), ("code", "unparsed"),
    ],
)  # fmt: skip
def test_whatever_a_server_does_labels_come_when_it_recovers_and_counters_say_what_was(
    faulty, tmp_path, fault, counter
):
    """Three faulty answers, then right ones; essays, which are answers, for one message only."""
    spoilt = "You kill the spoilt newt!"

    def essay(body):
        return fault if spoilt in str(body["messages"][-1]) else "helpful"

    plan = [essay] if counter == "unparsed" else [fault, fault, fault, "helpful"]
    _, url = faulty(*plan)
    judge = ServerJudge(ChatClient(url, timeout=0.3, retries=0, max_concurrency=2), Task(), "text")
    queue = asking(judge, tmp_path / "c.sqlite")
    messages = ["You kill the newt!", spoilt]
    queue.submit(messages)
    assert queue.wait(WAIT)
    stats, labels = queue.stats(), dict(queue.drain())
    if counter == "unparsed":
        assert labels == {messages[0]: 1.0} and stats["unparsed"] == 1
    else:
        assert labels == dict.fromkeys(messages, 1.0) and stats[counter] >= 1
        assert stats["outages"] >= 1
    queue.close()


def test_a_server_that_comes_back_on_its_port_is_found_again(faulty):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    judge = ServerJudge(ChatClient(f"http://127.0.0.1:{port}/v1", "m", 0.3, 0), Task(), "text")
    queue = asking(judge)
    queue.submit(["You kill the newt!"])
    while not queue.stats()["outages"]:
        time.sleep(0.005)
    faulty("helpful", port=port)
    assert queue.wait(WAIT) and queue.drain() == [("You kill the newt!", 1.0)]
    queue.close()


def test_judges_that_answer_at_once_are_asked_inline_in_order():
    queue = queue_for(RuleJudge())
    assert isinstance(queue, InlineQueue)
    queue.submit(["It's a wall.", "You kill the newt!", "It's a wall."])
    queue.remember(["You see here a key."])
    queue.submit(["You see here a key."])
    assert queue.drain() == [("It's a wall.", 0.0), ("You kill the newt!", 1.0)]
    assert queue.stats() == {"asked": 2, "labelled": 2, "unparsed": 0}
    assert isinstance(queue_for(Scripted()), AnnotationQueue)
    assert not RandomJudge().failures
