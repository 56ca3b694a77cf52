"""CALM's prompts are stable, its answers are read and never evaluated, its files are checked."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import pytest
import torch

from rewardzoo.llm import ChatClient, Judge
from rewardzoo.rewards.calm_detectors import DOOR, KEY, KeyRoomOracle
from rewardzoo.rewards.calm_evaluation import (
    always,
    by_chance,
    by_detector,
    by_judge,
    evaluate_findings,
    propose_subgoals,
)
from rewardzoo.rewards.calm_prompts import (
    _BLOCKS,
    ANY,
    OBSERVATIONS,
    Prompt,
    pack,
    read_findings,
    unpack,
)
from rewardzoo.rewards.calm_table import TableDetector
from rewardzoo.rewards.calm_transitions import (
    AnnotatedTransition,
    Seen,
    TransitionError,
    as_batch,
    read_transitions,
    shipped_transitions,
    write_transitions,
)

SET = shipped_transitions()
PLAYED = [t for t in SET if t.source == "oracle"]


def variants():
    """The default, and every other variant of every block in turn."""
    yield Prompt()
    for block, known in _BLOCKS.items():
        for name in known:
            yield Prompt(**{block: name})
    for observation, flag in itertools.product(
        OBSERVATIONS, ("action", "message", "spaced", "separated")
    ):
        yield Prompt(observation=observation, **{flag: False})


GOLDEN = "b39449ae6d8e3d2e"


def test_all_variants_render_and_are_byte_stable():
    """A changed prompt is another prompt: judgements kept on disk would be of the old one."""
    texts = []
    for prompt in dict.fromkeys(variants()):
        for item in (pack(KEY, PLAYED[0]), pack(ANY, PLAYED[20])):
            texts += [
                prompt.request(item),
                prompt.few_shot(item),
                json.dumps(prompt.dialogue(item)),
            ]
    assert hashlib.sha256("\x00".join(texts).encode()).hexdigest()[:16] == GOLDEN
    assert len({p.version for p in dict.fromkeys(variants())}) == len(set(variants()))


def test_the_prompts_are_those_of_the_golden_file():
    """One transition in the three forms of observation, for eyes; written by this same code."""
    item = pack(DOOR, next(t for t in PLAYED if t.kind == DOOR))
    parts = []
    for observation in OBSERVATIONS:
        prompt = Prompt(observation=observation)
        parts += [f"=== {observation}: request", prompt.request(item)]
        parts += [f"=== {observation}: few-shot", prompt.few_shot(item)]
    golden = Path(__file__).with_name("calm_prompts.txt")
    assert "\n".join([*parts, ""]) == golden.read_text(encoding="utf-8")


def test_ablations_leave_out_what_they_say():
    t = next(t for t in PLAYED if t.kind == KEY)
    whole = Prompt(spaced=False).record(t)
    assert (
        t.next_obs.message in whole and "PICKUP" in whole and t.obs.chars_crop[4].rstrip() in whole
    )
    assert t.next_obs.message not in Prompt(message=False).record(t)
    assert "PICKUP" not in Prompt(action=False).record(t)
    assert "Current observation" not in Prompt(observation="none").record(t)
    screen = Prompt(observation="gamescreen", spaced=False).record(t)
    assert "Dlvl:1" in screen and "Current message:" not in screen
    with pytest.raises(ValueError, match="keep_screen"):
        Prompt(observation="gamescreen").record(next(t for t in SET if t.source == "human"))


def test_unknown_variants_are_named():
    with pytest.raises(ValueError, match="role='king': expected generic"):
        Prompt(role="king")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('```python\n{"pick up the key": True}\n```', {"pick up the key": True}),
        ('{"a": true, "b": false}', {"a": True, "b": False}),
        ("First {'a': False}. On reflection: {'a': True}", {"a": True}),
        ("{'a': [0, 1], 'b': [0], 'c': []}", {"a": True, "b": False, "c": False}),
        ("{'a': 1, 'b': 0, 'c': None}", {"a": True, "b": False, "c": False}),
        ("{1: 'a', 0: 'b'}", {"a": True, "b": False}),
        ('{"1": ["a", "b"]}', {"a": True, "b": True}),
        ("none of them", None),
        ("", None),
        ("{'a': __import__('os').abort()}", None),
        ("{__import__('os').abort(): True}", None),
        ("{" * 100_000, None),
        ('{"a": "yes"}', None),
        ("{'a': {'b': True}}", {"b": True}),  # the innermost dictionary
    ],
)
def test_findings_are_read_from_any_form_and_never_evaluated(text, found):
    assert read_findings(text) == found
    want = None if found is None else float(any(found.values()))
    assert Prompt().parse(text) == want


def test_items_carry_all_that_is_shown_and_no_label():
    for t in (PLAYED[0], SET[-1]):
        subgoal, back = unpack(pack(DOOR, t))
        assert subgoal == DOOR and back == dataclasses.replace(
            t, id="", subgoals={}, source="human"
        )


# ---- files ---------------------------------------------------------------------------------------


def test_the_shipped_set_is_what_its_card_says(tmp_path):
    kinds = [t.kind for t in PLAYED]
    assert [kinds.count(k) for k in (KEY, DOOR, "none")] == [17, 17, 16]
    hard = [t for t in SET if t.source == "human"]
    assert len(hard) == 20 and sum(t.positive for t in hard) == 6
    write_transitions(tmp_path / "t.jsonl", SET)
    assert read_transitions(tmp_path / "t.jsonl") == SET


GOOD = {
    "id": "x", "action": "APPLY", "source": "human", "subgoals": {KEY: False},
    "obs": {"chars_crop": [" " * 9] * 9, "message": ""},
    "next_obs": {"chars_crop": [" " * 9] * 9, "message": ""},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"action": 6}, "action=6"),
        ({"action": "JUMP"}, "action='JUMP'"),
        ({"subgoals": {KEY: 1}}, "subgoals="),
        ({"subgoals": {}}, "subgoals="),
        ({"source": "dream"}, "source='dream'"),
        ({"obs": {"message": ""}}, "obs: expected chars_crop"),
        (
            {"obs": {"chars_crop": [" " * 9] * 8, "message": ""}},
            "chars_crop: expected 9 texts of 9",
        ),
        ({"next_obs": {**GOOD["obs"], "tty_chars": [" " * 79] * 24}}, "tty_chars: expected 24"),
        ({"obs": {**GOOD["obs"], "message": 3}}, "message=3"),
    ],
)
def test_bad_transitions_are_refused_with_the_line(tmp_path, change, part):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, **change}) + "\n")
    with pytest.raises(TransitionError, match=r"line 2.*"):
        read_transitions(path)
    with pytest.raises(TransitionError) as error:
        read_transitions(path)
    assert part in str(error.value)
    path.write_text(json.dumps({k: v for k, v in GOOD.items() if k != "obs"}))
    with pytest.raises(TransitionError, match=r"\['obs'\] missing"):
        read_transitions(path)


# ---- evaluation ----------------------------------------------------------------------------------


def test_the_oracle_is_right_about_all_and_constants_are_at_chance():
    oracle = evaluate_findings("oracle", SET, by_detector(KeyRoomOracle()))
    assert (oracle.f1, oracle.balanced_accuracy, oracle.unparsed) == (1.0, 1.0, 0)
    assert oracle.by_subgoal == {KEY: 1.0, DOOR: 1.0}
    yes = evaluate_findings("yes", SET, always(True))
    rate = sum(t.positive for t in SET) / len(SET)
    assert yes.recall == 1 and yes.precision == pytest.approx(rate) and yes.balanced_accuracy == 0.5
    assert yes.f1 == pytest.approx(2 * rate / (1 + rate))
    no = evaluate_findings("no", SET, always(False))
    assert (no.f1, no.balanced_accuracy) == (0.0, 0.5)
    chance = evaluate_findings("chance", SET, by_chance(0.5, 0))
    assert chance.tp + chance.tn + chance.fp + chance.fn == chance.n == len(SET)


class Reader(Judge):
    """Reads the message after the action; does not answer about one transition."""

    def __init__(self, silent):
        self.silent = silent

    def score(self, message):
        subgoal, t = unpack(message)
        if t.next_obs == self.silent.next_obs and t.obs == self.silent.obs:
            return None
        return float(subgoal != DOOR and " - a key named The" in t.next_obs.message)


def test_a_judge_is_asked_about_every_subgoal_and_silence_counts_as_no_and_is_counted():
    silent = next(t for t in PLAYED if t.kind == KEY)
    scores = evaluate_findings("reader", PLAYED, by_judge(Reader(silent)))
    assert scores.unparsed >= 1 and scores.by_subgoal[DOOR] == 0
    assert scores.tp == 17 - scores.unparsed and scores.fp == 0
    identified = evaluate_findings("reader", PLAYED, by_judge(Reader(silent), subgoals=()))
    assert (identified.tp, identified.fp) == (scores.tp, 0)


def test_a_table_of_annotations_pays_what_they_say_scaled_to_one():
    def seen(mark):
        return Seen((mark + " " * 8,) + (" " * 9,) * 8, "")

    def row(mark, action, *flags):
        labels = dict(zip((KEY, DOOR), flags, strict=True))
        return AnnotatedTransition("", action, seen(mark), seen("z"), labels, "human")

    given = [row("a", 4, True, True), row("b", 4, True, False), row("c", 1, False, False)]
    detector = TableDetector(given)
    asked = [*given, row("a", 5, True, True), row("d", 4, True, True)]
    assert detector.detect(as_batch(asked)).squeeze(1).tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]
    same = TableDetector([row("a", 4, True, False), row("b", 4, True, False)])
    assert same.detect(as_batch(given[:2])).squeeze(1).tolist() == [1.0, 1.0]
    assert torch.is_tensor(detector.state_dict()["keys"])


def test_subgoals_are_proposed_by_a_server_and_only_read(faulty_answer):
    url = faulty_answer('Sure! ["find the key", "find the key", " open the door "] Good luck.')
    assert propose_subgoals(ChatClient(url, timeout=5)) == ["find the key", "open the door"]
    for bad in ("I cannot.", "[__import__('os').abort()]", "[1, 2]"):
        with pytest.raises(ValueError, match="no list of subgoals"):
            propose_subgoals(ChatClient(faulty_answer(bad), timeout=5))


@pytest.fixture
def faulty_answer():
    """The address of a server that always says the same."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    servers = []

    def start(text):
        content = json.dumps({"choices": [{"message": {"content": text}}], "data": [{"id": "m"}]})

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content.encode())

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                self.do_GET()

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
