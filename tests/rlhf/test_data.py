"""Every format reads as the same pairs; every bad row is named by file, line and field."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
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
from rewardzoo.rlhf.pairs import encode_pairs, minibatches
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


BAD = {
    "chosen": ({"prompt": "q", "rejected": "b"}, "missing"),
    "rejected": ({**GOOD, "rejected": "a"}, "equals chosen"),
    "prompt": ({**GOOD, "prompt": " "}, "empty"),
    "margin": ({**GOOD, "margin": float("nan")}, "finite"),
    "preference_strength": ({**FORMATS["helpsteer2"], "preference_strength": 4}, "-3 to 3"),
    "scores": ({"prompt": "q", "responses": ["a", "b"], "scores": [1.0]}, "1 of them"),
    "completions": ({"instruction": "q", "completions": [{"response": "a"}]}, "overall_score"),
}


@pytest.mark.parametrize("field", BAD)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, field):
    row, message = BAD[field]
    with pytest.raises(DataError) as error:
        load_pairs(write(tmp_path, [GOOD, row]))
    text = str(error.value)
    assert "pairs.jsonl, line 2" in text and f"field {field!r}" in text and message in text
    assert "\n" not in text


def test_a_role_out_of_order_and_a_token_outside_the_vocabulary_are_refused(tmp_path):
    twice = messages(("user", "q"), ("user", "q"), ("assistant", "a"))
    row = {"chosen": twice, "rejected": twice}
    with pytest.raises(DataError, match="two messages of 'user'"):
        load_pairs(write(tmp_path, [row]), template=ChatTemplate())
    ids = {"prompt": [1], "chosen": [2], "rejected": [9]}
    with pytest.raises(DataError, match="field 'rejected': token 9"):
        load_pairs(write(tmp_path, [ids]), vocab_size=8)
    assert load_pairs(write(tmp_path, [ids]), vocab_size=10).pairs[0].rejected == [9]


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


def test_saved_pairs_load_again(tmp_path):
    data = flip(PairData([Pair("q", "a", "b", strength=2.0), Pair("r", "c", "d")]), 0.5, seed=3)
    save_pairs(data, tmp_path / "out.jsonl")
    assert load_pairs(tmp_path / "out.jsonl").pairs == data.pairs


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
    same = PairData([Pair([1], [5, 6, 7], [5, 6, 8])])
    with pytest.raises(DataError, match="row 0, field 'rejected': equals chosen"):
        encode_pairs(same, max_length=3)


def test_minibatches_go_on_from_any_step_and_see_each_row_once_an_epoch():
    whole = [i.tolist() for i in minibatches(10, 3, 7, 0, 9)]
    assert [i.tolist() for i in minibatches(10, 3, 7, 4, 9)] == whole[4:]
    assert len({x for i in whole[:3] for x in i}) == 9
