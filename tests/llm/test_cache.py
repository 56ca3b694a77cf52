"""The cache on disk: shared, claimed once, whole after a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from rewardzoo.llm import JudgementCache


def test_what_was_stored_is_found_under_its_model_and_prompt_alone(tmp_path):
    cache = JudgementCache(tmp_path / "a.sqlite", "m", "p")
    cache.store({"x": 0.25, "ünï\x00code": 1.0})
    assert cache.look_up(["x", "ünï\x00code", "y"]) == {"x": 0.25, "ünï\x00code": 1.0}
    for model, prompt in (("m", "q"), ("n", "p")):
        assert JudgementCache(tmp_path / "a.sqlite", model, prompt).look_up(["x"]) == {}
    assert len(cache) == 2


def test_more_messages_than_one_query_takes(tmp_path):
    cache = JudgementCache(tmp_path / "a.sqlite", "m", "p")
    scores = {str(i): i / 3000 for i in range(3000)}
    cache.store(scores)
    assert cache.look_up(list(scores)) == scores


def test_a_message_is_claimed_by_one_run_until_stored_released_or_run_out(tmp_path):
    one, two = (JudgementCache(tmp_path / "a.sqlite", "m", "p", lease=60) for _ in range(2))
    assert one.claim(["x", "y"]) == ["x", "y"]
    assert two.claim(["x", "y", "z"]) == ["z"] and two.look_up(["x"]) == {}
    one.release(["x"])
    assert two.claim(["x"]) == ["x"]
    one.store({"y": 1.0})
    assert two.claim(["y"]) == [] and two.look_up(["y"]) == {"y": 1.0}
    late = JudgementCache(tmp_path / "a.sqlite", "m", "p", lease=0)
    assert late.claim(["w"]) == ["w"]
    time.sleep(0.002)
    assert two.claim(["w"]) == ["w"]  # its lease was over


def test_threads_that_claim_at_once_share_the_messages_out(tmp_path):
    names = [str(i) for i in range(200)]
    claimed = []

    def run():
        claimed.extend(JudgementCache(tmp_path / "a.sqlite", "m", "p").claim(names))

    threads = [threading.Thread(target=run) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(claimed) == sorted(names)


WRITER = """
import sys
from rewardzoo.llm.cache import JudgementCache
cache = JudgementCache(sys.argv[1], "m", "p", lease=0.0)
i = 0
while True:
    cache.claim([str(i)])
    cache.store({str(i): 1.0})
    print(i, flush=True)
    i += 1
"""


def test_after_a_kill_all_that_was_stored_is_there(tmp_path):
    path = tmp_path / "a.sqlite"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    for line in process.stdout:
        if int(line) >= 50:
            os.kill(process.pid, signal.SIGKILL)
            break
    rest = [int(line) for line in process.stdout.read().split()]
    process.wait()
    stored = max([50, *rest])
    cache = JudgementCache(path, "m", "p")
    assert set(cache.look_up([str(i) for i in range(stored + 1)])) == {
        str(i) for i in range(stored + 1)
    }
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    path = tmp_path / "a.sqlite"
    path.write_text("hello " * 1000)
    with pytest.raises(ValueError, match="expected a cache of judgements"):
        JudgementCache(path, "m", "p")
