"""Every format reads as the same pairs; every bad row is named by file, line and field."""

from __future__ import annotations

import gzip
import json
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewardzoo.rlhf.data import (
    Pair,
    PairData,
    check_disjoint,
    flip,
    load_pairs,
    save_pairs,
    split,
)
from rewardzoo.rlhf.pairs import encode_pairs, minibatches, truncate_pairs
from rewardzoo.rlhf.ratings import Rated, encode_ratings, load_ratings
from rewardzoo.rlhf.records import DataError
from rewardzoo.rlhf.templates import CHATML, HH, ChatTemplate

GOOD = {"prompt": "q", "chosen": "a", "rejected": "b"}


def write(tmp_path, rows, name="pairs.jsonl"):
    path = tmp_path / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


def messages(*turns):
    return [{"role": r, "content": c} for r, c in turns]


FORMATS = {
    "plain": GOOD,
    "hh": {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    "messages": {
        "chosen": messages(("user", "q"), ("assistant", "a")),
        "rejected": messages(("user", "q"), ("assistant", "b")),
    },
    "ranked": {"prompt": "q", "responses": ["b", "a"], "ranks": [2, 1]},
    "ultrafeedback": {
        "instruction": "q",
        "completions": [
            {"response": "a", "overall_score": 5},
            {"response": "b", "overall_score": 1},
        ],
    },
    "helpsteer2": {
        "prompt": "q",
        "response_1": "b",
        "response_2": "a",
        "preference_strength": 2,
    },
    "one to many": {"problem": "q", "chosen": "a", "rejected": ["b", "c"]},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_better_response_first(tmp_path, name):
    data = load_pairs(write(tmp_path, [FORMATS[name]]), template=ChatTemplate(HH))
    first = data.pairs[0]
    assert (first.chosen.strip(), first.rejected.strip()) == ("a", "b")
    assert "q" in first.prompt and "a" not in first.prompt.replace("Human", "").replace(
        "Assistant", ""
    )
    assert len(data) == (2 if name == "one to many" else 1)


def test_words_that_both_responses_begin_with_are_theirs_not_the_prompts(tmp_path):
    """Conversations are cut where the last turn opens, however much more they have in common."""
    before = "\n\nHuman: q\n\nAssistant: Yes.\n\nHuman: r\n\nAssistant:"
    row = {"chosen": f"{before} The cat sat.", "rejected": f"{before} The cat slept."}
    (pair,) = load_pairs(write(tmp_path, [row])).pairs
    assert pair == Pair(before, " The cat sat.", " The cat slept.")


def test_a_report_counts_rows_causes_lengths_and_longer_choices(tmp_path):
    rows = [{**GOOD, "chosen": "a" * n, "rejected": "b" * 10} for n in range(1, 20)]
    rows += [{**GOOD, "rejected": "a"}, {**FORMATS["helpsteer2"], "preference_strength": 0}]
    data = load_pairs(write(tmp_path, rows), on_identical="drop")
    assert data.report() == {
        "rows": 19,
        "dropped, identical": 1,
        "dropped, no preference": 1,
        "length q5": 2,
        "length q50": 10,
        "length q95": 17,
        "chosen longer": 9 / 19,
    }


def test_strength_and_zero_preference_are_kept_and_counted(tmp_path):
    rows = [FORMATS["helpsteer2"], {**FORMATS["helpsteer2"], "preference_strength": 0}]
    data = load_pairs(write(tmp_path, rows))
    assert [p.strength for p in data.pairs] == [2.0]
    assert data.report()["dropped, no preference"] == 1


def test_ranked_rows_give_all_pairs_with_weights_that_sum_to_half_the_responses(tmp_path):
    row = {"prompt": "q", "responses": ["a", "b", "c"], "scores": [1.0, 3.0, 2.0]}
    pairs = load_pairs(write(tmp_path, [row])).pairs
    assert {(p.chosen, p.rejected) for p in pairs} == {("b", "a"), ("b", "c"), ("c", "a")}
    assert sum(p.weight for p in pairs) == 1.5


Q, A, B = ("user", "q"), ("assistant", "a"), ("assistant", "b")
RANKED, HELPSTEER = FORMATS["ranked"], FORMATS["helpsteer2"]


def talks(*before, **more):
    return {"chosen": messages(*before, A), "rejected": messages(*before, B), **more}


BAD = {
    "no chosen": ("chosen", {"prompt": "q", "rejected": "b"}, "missing"),
    "the same twice": ("rejected", {**GOOD, "rejected": "a"}, "'a': equals chosen"),
    "blank": ("prompt", {**GOOD, "prompt": " "}, "empty: expected text or token ids, not ' '"),
    "no token": ("chosen", {**GOOD, "chosen": []}, "empty"),
    "a number as text": ("chosen", {**GOOD, "chosen": 3}, "3: expected text or token ids"),
    "nan": ("margin", {**GOOD, "margin": float("nan")}, "nan: expected a finite number"),
    "huge": ("margin", {**GOOD, "margin": 10**400}, "expected a finite number"),
    "negative weight": ("weight", {**GOOD, "weight": -3}, "-3: expected a finite number >= 0"),
    "flipped": ("flipped", {**GOOD, "flipped": "perhaps"}, "'perhaps': expected"),
    "half flipped": ("flipped", {**GOOD, "flipped": 0.5}, "0.5: expected true or false"),
    "strong": ("preference_strength", {**HELPSTEER, "preference_strength": 4}, "from -3 to 3"),
    "broken": ("preference_strength", {**HELPSTEER, "preference_strength": 1.5}, "1.5: expected"),
    "few scores": ("ranks", {**RANKED, "ranks": [1.0]}, "1 of them for 2 responses"),
    "letters": ("ranks", {**RANKED, "ranks": ["x", 1]}, "item 0, 'x': expected a finite number"),
    "null": ("ranks", {**RANKED, "ranks": [1, None]}, "item 1, None: expected a finite number"),
    "one score": ("scores", {**RANKED, "scores": 3}, "3: expected a list"),
    "no score": ("ranks", {"prompt": "q", "responses": ["a", "b"]}, "missing"),
    "a string of responses": ("responses", {**RANKED, "responses": "ab"}, "'ab': expected a list"),
    "one response": ("responses", {**RANKED, "responses": ["a"], "ranks": [1]}, "at least two"),
    "an empty response": ("responses", {**RANKED, "responses": ["a", ""]}, "item 1, empty"),
    "no overall score": (
        "completions",
        {"instruction": "q", "completions": [{"response": "a"}]},
        "overall_score",
    ),
    "no completions": ("completions", {"instruction": "q", "completions": 3}, "expected a list"),
    "one correct, listed": (
        "chosen",
        {"problem": "q", "chosen": ["a"], "rejected": ["b"]},
        "['a']: expected text",
    ),
    "messages and text": ("rejected", {**talks(Q), "rejected": "b"}, "'b': expected messages"),
    "a message of words": ("chosen", talks(Q, ("user", None)), "and a text content"),
    "an unknown role": ("chosen", talks(("narrator", "q")), "expected a role of system, user"),
    "a list of texts": ("chosen", {**talks(Q), "chosen": [*messages(Q), "a"]}, "message 'a'"),
    "twice the user": ("chosen", talks(Q, Q), "role 'user' after user: expected assistant"),
    "the assistant first": ("chosen", talks(A, Q), "'assistant' after nothing: expected system"),
    "the assistant alone": ("chosen", talks(), "role 'assistant' after nothing"),
    "the system late": ("chosen", talks(Q, ("system", "s")), "role 'system' after user"),
    "no question": ("chosen", talks(("system", "s")), "role 'assistant' after system"),
    "no answer": ("chosen", {**talks(Q), "chosen": messages(Q)}, "role 'user' is the last"),
    "other questions": (
        "rejected",
        {**talks(Q), "rejected": messages(("user", "r"), B)},
        "differs from chosen before the last message",
    ),
    "another prompt": (
        "chosen",
        talks(Q, prompt=messages(("user", "r"))),
        "does not begin with the messages of prompt",
    ),
    "a prompt that answers": (
        "prompt",
        {**GOOD, "prompt": messages(Q, A)},
        "role 'assistant' is the last: expected user or tool",
    ),
    "no turn": ("chosen", {"chosen": "Human: q", "rejected": "Human: r"}, "no turns in common"),
    "no last turn": (
        "chosen",
        {"chosen": "q\n\nAssistant: a", "rejected": "q"},
        "give a column prompt",
    ),
    "an empty last turn": (
        "rejected",
        {"chosen": "q\n\nAssistant: a", "rejected": "q\n\nAssistant:"},
        "empty",
    ),
    "a list as conversation": ("prompt", {"chosen": [1], "rejected": [2]}, "must be text"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_by_file_line_field_and_value(tmp_path, name):
    field, row, message = BAD[name]
    with pytest.raises(DataError) as error:
        load_pairs(write(tmp_path, [GOOD, row]), template=ChatTemplate())
    text = str(error.value)
    assert "pairs.jsonl, line 2" in text and f"field {field!r}" in text and message in text
    assert "\n" not in text and len(text) < 250


BAD_RATINGS = {
    "label": ({"prompt": "q", "completion": "a", "label": 7}, "7: expected a finite number from 0"),
    "helpfulness": ({"prompt": "q", "response": "a", "helpfulness": "much"}, "'much': expected"),
    "response": ({"prompt": "q", "response": 3, "label": 1}, "3: expected text or token ids"),
}


@pytest.mark.parametrize("field", BAD_RATINGS)
def test_a_bad_rating_is_named_by_file_line_and_field(tmp_path, field):
    row, message = BAD_RATINGS[field]
    with pytest.raises(DataError) as error:
        load_ratings(write(tmp_path, [row]))
    assert str(error.value).startswith(f"pairs.jsonl, line 1, field {field!r}: {message}")


def test_messages_without_a_template_and_tokens_outside_the_vocabulary_are_refused(tmp_path):
    with pytest.raises(DataError, match="field 'chosen': holds messages: give template="):
        load_pairs(write(tmp_path, [FORMATS["messages"]]))
    ids = {"prompt": [1], "chosen": [2], "rejected": [9]}
    with pytest.raises(DataError, match="field 'rejected': token 9: expected 0 to 7"):
        load_pairs(write(tmp_path, [ids]), vocab_size=8)
    with pytest.raises(DataError, match="field 'rejected': token -9: expected >= 0"):
        load_pairs(write(tmp_path, [{**ids, "rejected": [-9]}]))
    assert load_pairs(write(tmp_path, [ids]), vocab_size=10).pairs[0].rejected == [9]


BROKEN = {
    "latin.jsonl": ('{"a": 1}\n{"a": "é"}\n'.encode("latin-1"), "line 2: byte 0xe9 is not UTF-8"),
    "latin.csv": ("a\né\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8"),
    "cut.jsonl.gz": (gzip.compress(b'{"a": 1}\n')[:-9], "not a whole gzip file"),
    "junk.json.gz": (b"junk", "not a whole gzip file"),
    "junk.parquet": (b"PAR1junk", "not a whole parquet file"),
    "long.csv": (b"a\n" + b"x" * 200_000, "line 1: not csv"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    content, message = BROKEN[name]
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        load_pairs(tmp_path / name)
    assert str(error.value).startswith(name) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_truth_of_a_csv_file_is_read_as_it_is_written(tmp_path):
    head, rows = (
        "prompt,chosen,rejected,flipped,margin,weight",
        ("q,a,b,False,2,.5", "q,a,b,True,1,1"),
    )
    (tmp_path / "a.csv").write_text("\ufeff" + "\n".join([head, *rows]) + "\n", encoding="utf-8")
    pairs = load_pairs(tmp_path / "a.csv").pairs
    assert pairs == [Pair("q", "a", "b", 2.0, 0.5), Pair("q", "a", "b", 1.0, 1.0, True)]
    (tmp_path / "b.csv").write_text("prompt,completion,label\nq,a,True\nq,b,false\n")
    assert [x.ratings for x in load_ratings(tmp_path / "b.csv")] == [(1.0,), (0.0,)]


def test_json_csv_parquet_and_folders_read_alike(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    write(tmp_path, [GOOD], "a.json")
    (tmp_path / "b.csv").write_text("prompt,chosen,rejected\nq,a,b\n")
    pq.write_table(pyarrow.Table.from_pylist([GOOD]), tmp_path / "c.parquet")
    each = [load_pairs(tmp_path / name).pairs for name in ("a.json", "b.csv", "c.parquet")]
    assert each[0] == each[1] == each[2] == [Pair("q", "a", "b")]
    assert load_pairs(tmp_path).pairs == sum(each, [])


def test_a_cut_off_line_is_named(tmp_path):
    path = write(tmp_path, [GOOD])
    path.write_text(path.read_text() + '{"prompt": "q", "cho\n')
    with pytest.raises(DataError, match="pairs.jsonl, line 2: not JSON"):
        load_pairs(path)


def test_columns_are_renamed_and_identical_rows_counted(tmp_path):
    rows = [{"question": "q", "chosen": "a", "rejected": r} for r in ("b", "a")]
    path = write(tmp_path, rows)
    data = load_pairs(path, columns={"prompt": "question"}, on_identical="drop")
    assert len(data) == 1 and data.dropped == {"identical": 1}


def test_a_mapped_column_takes_the_place_of_one_of_its_name(tmp_path):
    row = {"question": "right", "prompt": "wrong", "chosen": "b", "rejected": "a"}
    exchanged = {"prompt": "question", "chosen": "rejected", "rejected": "chosen"}
    assert load_pairs(write(tmp_path, [row]), exchanged).pairs == [Pair("right", "a", "b")]
    with pytest.raises(DataError, match="field 'ask': missing; columns= maps 'prompt' to it"):
        load_pairs(write(tmp_path, [row]), {"prompt": "ask"})


def test_the_report_of_a_file_without_a_pair_left_says_why(tmp_path):
    data = load_pairs(write(tmp_path, [{**GOOD, "rejected": "a"}]), on_identical="drop")
    assert data.report() == {"rows": 0, "dropped, identical": 1}


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers(0, 5))
def test_no_prompt_is_in_both_parts_of_a_split(prompts, seed):
    data = PairData([Pair(f"q{p}", f"a{i}", "b") for i, p in enumerate(prompts)])
    train, test = split(data, 0.3, seed)
    check_disjoint(train, test)
    assert len(train) + len(test) == len(data)


def test_a_prompt_in_both_parts_is_an_error():
    data = PairData([Pair("q", "a", "b")])
    with pytest.raises(DataError, match="row 0, field 'prompt'"):
        check_disjoint(data, data)


def test_noise_flips_the_asked_share_says_where_and_twice_with_certainty_is_nothing():
    data = PairData([Pair(f"q{i}", "a", "b") for i in range(4000)])
    noisy = flip(data, 0.25, seed=1)
    where = [p.flipped for p in noisy.pairs]
    assert abs(sum(where) - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert all((p.chosen == "b") == p.flipped for p in noisy.pairs)
    assert flip(flip(data, 1.0), 1.0).pairs == data.pairs


SAID = st.text(min_size=1).filter(str.strip) | st.lists(st.integers(0, 9), min_size=1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PAIRS = st.builds(
    Pair,
    prompt=SAID,
    chosen=SAID,
    rejected=SAID,
    strength=st.none() | FINITE,
    weight=FINITE.map(abs),
    flipped=st.booleans(),
    subset=st.text(),
    id=st.text(),
).filter(lambda p: p.chosen != p.rejected)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_saved_pairs_load_again_with_every_field(tmp_path, pairs):
    save_pairs(PairData(pairs), tmp_path / "out.jsonl")
    assert load_pairs(tmp_path / "out.jsonl").pairs == pairs


def test_a_margin_is_written_only_where_it_was_given(tmp_path):
    save_pairs(PairData([Pair("q", "a", "b"), Pair("q", "a", "b", 1.0)]), tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row.get("margin") for row in rows] == [None, 1.0] and "margin" not in rows[0]


def test_an_unknown_strength_counts_as_one():
    data = PairData([Pair([1], [2], [3]), Pair([1], [2], [3], strength=2.5, weight=0.5)])
    batch = encode_pairs(data)
    assert batch.strength.tolist() == [1.0, 2.5] and batch.weight.tolist() == [1.0, 0.5]


def test_ids_weights_and_categories_of_every_format_are_kept(tmp_path):
    for row in FORMATS.values():
        given = {**row, "id": 0, "subset": "chat", "weight": 3}
        pair = load_pairs(write(tmp_path, [GOOD, given]), template=ChatTemplate()).pairs[1]
        assert (pair.id, pair.subset, pair.weight) == ("0", "chat", 3.0)
        assert pair.origin == "pairs.jsonl, line 2"


def test_chat_templates_open_the_turn_once_and_refuse_another_template():
    text = ChatTemplate(CHATML)(messages(("user", "hi")))
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ValueError, match="trained with"):
        ChatTemplate(HH).check_same(ChatTemplate(CHATML))


def test_truncation_keeps_the_prompts_end_and_the_completions_begin():
    data = PairData([Pair([1, 2, 3, 4], [5, 6, 7], [8, 9])])
    batch = encode_pairs(data, max_length=5)
    assert batch.chosen.ids.tolist() == [[3, 4, 5, 6, 7]]
    assert batch.rejected.prompts.tolist() == [[3, 4]]


def test_pairs_made_the_same_by_truncation_are_left_out_and_counted():
    data = PairData(
        [Pair([1], [5, 6, 7], [5, 6, 8], id="x"), Pair([1], [5], [6], id="y")], {"identical": 2}
    )
    fitting = truncate_pairs(data, max_length=3)
    assert [pair.id for pair in fitting.pairs] == ["y"]
    assert fitting.dropped == {"identical": 2, "identical as tokens": 1}
    assert encode_pairs(fitting).chosen.ids.tolist() == [[1, 5]]
    with pytest.warns(UserWarning, match="1 of 2 pairs left out"):
        assert len(encode_pairs(data, max_length=3)) == 1
    with pytest.raises(DataError, match="no pair is left, .*'identical as tokens': 1"):
        encode_pairs(PairData(data.pairs[:1]), max_length=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(encode_pairs(data, max_length=4)) == 2


def test_truncated_pairs_are_the_tensors_of_one_step():
    data = PairData([Pair("abcd", "efg", "hi"), Pair("a", "bcdefghi", "x", strength=2.0)])
    encode, limits = (lambda text: [ord(c) for c in text]), (1, 6)
    whole = encode_pairs(data, encode, *limits)
    steps = encode_pairs(truncate_pairs(data, encode, *limits))
    for a, b in ((whole.chosen, steps.chosen), (whole.rejected, steps.rejected)):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.completion_mask.tolist() == b.completion_mask.tolist()
    assert whole.rejected.ids.tolist()[1] == [0, 97, 120, 1, 0]


def test_a_prompt_that_leaves_no_room_is_refused_by_its_row(tmp_path):
    rows = [GOOD, {**GOOD, "prompt": "qqqq"}]
    data = load_pairs(write(tmp_path, rows))
    encode = lambda text: [2] * len(text)  # noqa: E731
    with pytest.raises(DataError) as error:
        encode_pairs(data, encode, max_length=4)
    assert str(error.value) == (
        "pairs.jsonl, line 2, field 'prompt': 4 tokens, expected fewer than max_length=4; raise it "
        "or leave the row out"
    )
    assert len(truncate_pairs(PairData([Pair([1] * 4, [2], [3])]), max_length=5)) == 1
    with pytest.raises(DataError, match="row 1, field 'prompt': 3 tokens"):
        encode_ratings([Rated([1], [2], (1.0,)), Rated([1] * 3, [2], (1.0,))], max_length=3)


def test_minibatches_go_on_from_any_step_and_see_each_row_once_an_epoch():
    whole = [i.tolist() for i in minibatches(10, 3, 7, 0, 9)]
    assert [i.tolist() for i in minibatches(10, 3, 7, 4, 9)] == whole[4:]
    assert len({x for i in whole[:3] for x in i}) == 9
