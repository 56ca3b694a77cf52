"""Judges and what they are asked: verdicts in texts and log-probabilities, never evaluated."""

from __future__ import annotations

import math

import pytest

from rewardzoo.llm import (
    PAIR,
    ChatClient,
    LabelError,
    LLMError,
    PairJudge,
    RandomJudge,
    RuleJudge,
    ServerJudge,
    TableJudge,
    Task,
    make_judge,
    read_labels,
    shipped_messages,
)
from rewardzoo.llm.tasks import WANTED, label_score

ONE, TWO = Task(), Task(pairs=True)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("A newt died.\nVERDICT: HELPFUL", 1.0),
        ("Verdict: **neutral**", 0.0),
        ("HELPFUL at first sight, yet a wall. VERDICT: NEUTRAL", 0.0),  # the tag counts
        ("VERDICT: HELPFUL? No. VERDICT: NEUTRAL", 0.0),  # the last one
        ("It is HELPFUL.", 1.0),  # one code word, no tag
        ("This is not helpful", None),  # no code word
        ("HELPFUL or NEUTRAL?", None),
        ("", None),
        ("VERDICT: FIRST", None),  # of the other task
        ("__import__('os').abort()", None),
    ],
)
def test_a_verdict_is_the_last_tag_else_the_only_code_word_else_none(text, score):
    assert ONE.parse(text) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [("VERDICT: FIRST", 1.0), ("VERDICT: SECOND", 0.0), ("VERDICT: NONE", 0.5), ("no idea", None)],
)
def test_verdicts_about_pairs(text, score):
    assert TWO.parse(text) == score


def test_label_scores_from_log_probabilities():
    p = {"Yes": math.log(0.6), " yes": math.log(0.2), "No": math.log(0.1), "Maybe": math.log(0.1)}
    assert label_score(p, ("Yes", "No")) == pytest.approx(0.8 / 0.9)
    assert label_score({"Maybe": -0.1}, ("Yes", "No")) is None
    # A missing label is as unlikely as the least likely token.
    one_sided = {"Y": math.log(0.9), "Maybe": math.log(0.1)}
    assert label_score(one_sided, ("Yes", "No")) == pytest.approx(0.9)


def test_every_goal_asks_something_else_and_only_the_end_depends_on_the_message():
    assert len({Task(goal, pairs).version for goal in WANTED for pairs in (False, True)}) == 12
    a, b = ONE.few_shot("aaa"), ONE.few_shot("bbb")
    assert a.replace("aaa", "bbb") == b and a.index("aaa") > 0.8 * len(a)
    with pytest.raises(ValueError, match="goal="):
        Task("glory")


def test_rules_by_goal():
    kill, gold, key = "You kill the newt!", "$ - 5 gold pieces.", "g - a key named X."
    for goal, helpful in (
        ("score", {kill, gold}),
        ("combat", {kill}),
        ("gold", {gold}),
        ("key", {key}),
    ):
        assert {m for m in (kill, gold, key, "It's a wall.") if RuleJudge(goal).score(m)} == helpful
    assert len({RuleJudge(g).version for g in ("score", "combat", "gold", "stairs", "key")}) == 5


def test_chance_is_the_same_for_the_same_message_and_has_its_rate():
    messages = [str(i) for i in range(4000)]
    scores = [RandomJudge(0.3, 1).score(m) for m in messages]
    assert scores == [RandomJudge(0.3, 1).score(m) for m in messages]
    assert abs(sum(scores) / 4000 - 0.3) < 5 * (0.21 / 4000) ** 0.5
    assert scores != [RandomJudge(0.3, 2).score(m) for m in messages]


def test_pairs_are_compared_by_single_scores_with_a_margin_for_ties():
    judge = PairJudge(TableJudge({"a": 1.0, "b": 0.0, "c": 0.98}), margin=0.05)
    pairs = ["a" + PAIR + "b", "b" + PAIR + "a", "a" + PAIR + "c", "a" + PAIR + "unknown"]
    assert [score for _, score in judge.judge(pairs)] == [1.0, 0.0, 0.5, None]


def test_a_server_with_log_probabilities_is_asked_for_one_token(faulty):
    server, url = faulty("yes")
    judge = ServerJudge(ChatClient(url, timeout=2), ONE)
    answers = dict(judge.judge(["a", "b", "c"]))
    want = math.exp(-0.1) / (math.exp(-0.1) + math.exp(-3.0))
    assert answers == pytest.approx(dict.fromkeys("abc", want))
    assert [body["max_tokens"] for body in server.asked] == [1, 1, 1]


def test_a_server_without_them_is_asked_for_a_text(faulty):
    server, url = faulty("helpful")
    assert dict(ServerJudge(ChatClient(url, timeout=2), ONE).judge(["a"])) == {"a": 1.0}
    assert [body["max_tokens"] for body in server.asked] == [1, 512]


def test_what_was_answered_before_an_outage_is_kept(faulty):
    _, url = faulty("helpful", "helpful", "500")
    judge = ServerJudge(ChatClient(url, timeout=2, retries=0, max_concurrency=1), ONE, "text")
    kept = []
    with pytest.raises(LLMError):
        kept.extend(iter_into(kept, judge.judge(list("abcdef"))))
    assert kept == [("a", 1.0), ("b", 1.0)]


def iter_into(kept, answers):
    for answer in answers:
        kept.append(answer)
    return []


def test_one_message_that_the_server_refuses_has_no_verdict_and_all_refused_is_an_outage(faulty):
    def only_b(body):
        return "404" if "'b'" in body["messages"][-1]["content"] else "neutral"

    _, url = faulty(only_b)
    judge = ServerJudge(ChatClient(url, timeout=2), ONE, "text")
    assert dict(judge.judge(["a", "b"])) == {"a": 0.0, "b": None}
    with pytest.raises(LLMError):
        list(judge.judge(["b"]))


def test_judges_by_name(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('{"good": 1, "bad": 0}')
    assert dict(make_judge(str(path), ONE).judge(["good", "x"])) == {"good": 1.0, "x": None}
    assert isinstance(make_judge("rules", TWO), PairJudge)
    assert make_judge("random:7", ONE).version == "0.5-7"
    assert make_judge("http://h/v1", ONE).client.base_url == "http://h/v1"
    for bad in ("gpt", "random:x"):
        with pytest.raises(ValueError, match="annotator="):
            make_judge(bad, ONE)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"message": "a", "label": 2}', "line 1: label=2"),
        ('{"message": "a", "label": true}', "label=True"),
        ('{"message": 3, "label": 1}', "expected a text"),
        ('{"message": "a", "label": 1}\nnonsense', "line 2"),
        ('{"message": "a", "label": 1}\n{"message": "a", "label": 0}', "another label above"),
        ('{"a": "x", "b": "y", "choice": 3}', "choice=3"),
        ('{"x": 0.5}', "key 'x'"),
        ("", "no labels"),
        ('{"message": "' + "x" * 300 + '", "label": 1}', "more than 256 bytes"),
    ],
)
def test_bad_files_of_labels_are_refused_with_the_line(tmp_path, text, part):
    path = tmp_path / "labels.jsonl"
    path.write_text(text)
    with pytest.raises(LabelError, match=part):
        read_labels(path)


def test_good_files_of_labels_are_read(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"message": "a", "label": 1}\n\n{"a": "x", "b": "y", "choice": null}\n')
    assert read_labels(path) == {"a": 1.0, "x" + PAIR + "y": 0.5}


def test_the_shipped_messages_are_many_and_of_both_kinds():
    labels = shipped_messages()
    assert len(labels) >= 200 and 0.2 < sum(labels.values()) / len(labels) < 0.5
    assert labels[""] == 0 and all(len(m.encode()) <= 256 for m in labels)
