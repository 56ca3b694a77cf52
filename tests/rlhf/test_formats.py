"""Data as it is published: files, folders, messages, templates, and formats other than pairs."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from rewardzoo.rlhf.answers import Answers, encode_answers, load_answers
from rewardzoo.rlhf.contrast import Contrast, encode_contrast, load_contrast
from rewardzoo.rlhf.data import Pair, load_pairs, load_prompts
from rewardzoo.rlhf.evaluation import contrast_consistency
from rewardzoo.rlhf.folders import load_model
from rewardzoo.rlhf.ratings import load_ratings
from rewardzoo.rlhf.records import DataError, read_records
from rewardzoo.rlhf.stepwise import Stepwise, encode_stepwise, load_stepwise
from rewardzoo.rlhf.templates import CHATML, HH, ChatTemplate

GOOD = {"prompt": "q", "chosen": "a", "rejected": "b"}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(rows))
    return path


def messages(*turns):
    return [{"role": r, "content": c} for r, c in turns]


Q, A, B = ("user", "q"), ("assistant", "a"), ("assistant", "b")
BOTH = {"chosen": messages(Q, A), "rejected": messages(Q, B)}
ANSWERS = {"chosen": messages(A), "rejected": messages(B)}


# -------------------------------------------------------------------------------------- messages

TALKS = {
    "whole conversations": BOTH,
    "text and whole conversations": {"prompt": "q", **BOTH, "score_chosen": 8.0},
    "text and answers": {"prompt": "q", **ANSWERS},
    "messages and answers": {"prompt": messages(Q), **ANSWERS},
    "messages and whole conversations": {"prompt": messages(Q), **BOTH},
    "messages and texts": {"prompt": messages(Q), "chosen": "a", "rejected": "b"},
    "messages, two answers": {
        "prompt": messages(Q),
        "response_1": "b",
        "response_2": "a",
        "preference_strength": 1,
    },
    "messages, ranked": {"prompt": messages(Q), "responses": ["a", "b"], "ranks": [1, 2]},
    "messages, one to many": {"problem": messages(Q), "chosen": "a", "rejected": ["b"]},
}


@pytest.mark.parametrize("name", TALKS)
def test_messages_and_text_are_the_same_pair_in_every_mixture(tmp_path, name):
    template = ChatTemplate(HH)
    (pair,) = load_pairs(write(tmp_path, TALKS[name]), template=template).pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (template(messages(Q)), "a", "b")
    assert load_prompts(write(tmp_path, TALKS[name]), template=template) == [pair.prompt]


def test_a_tool_may_answer_the_assistant_and_a_system_message_may_begin(tmp_path):
    prompt = messages(("system", "s"), Q, ("assistant", "call"), ("tool", "4"), ("tool", "5"))
    (pair,) = load_pairs(write(tmp_path, {"prompt": prompt, **ANSWERS}), template=str).pairs
    assert pair.prompt == str(prompt) and (pair.chosen, pair.rejected) == ("a", "b")


def test_ratings_are_read_with_messages_too(tmp_path):
    row = {"prompt": messages(Q), "completion": messages(A), "label": True}
    (rated,) = load_ratings(write(tmp_path, row), template=ChatTemplate(HH))
    assert rated.prompt == "\n\nHuman: q\n\nAssistant:" and rated.response == "a"
    assert rated.origin == "rows.jsonl, line 1"


def test_what_a_template_refuses_is_named_by_row(tmp_path):
    template = ChatTemplate("{{ raise_exception('no\nquestion') }}")
    with pytest.raises(DataError, match="rows.jsonl, line 1, field 'chosen': .*no question$"):
        load_pairs(write(tmp_path, BOTH), template=template)


# ------------------------------------------------------------------------------- files and folders


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_compressed_files_are_read(tmp_path, kind):
    text = {
        "jsonl": lines([GOOD]),
        "json": json.dumps([GOOD]),
        "csv": "prompt,chosen,rejected\nq,a,b\n",
    }[kind]
    path = tmp_path / f"train.{kind}.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert load_pairs(path).pairs == [Pair("q", "a", "b")]


def test_folders_of_datasets_are_read_split_by_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    parts = {
        name: datasets.Dataset.from_list([{**GOOD, "prompt": name}]) for name in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    assert [p.prompt for p in load_pairs(tmp_path / "d").pairs] == ["train"]
    (pair,) = load_pairs(tmp_path / "d", split="test").pairs
    assert pair.prompt == "test" and pair.origin == "d/test, line 1"
    assert load_pairs(tmp_path / "d" / "test").pairs == [pair]
    with pytest.raises(DataError, match="split='dev': d has test, train"):
        load_pairs(tmp_path / "d", split="dev")


def hub(tmp_path, *names):
    """A copy of a repository, of which each file has its name as the prompt."""
    (tmp_path / "README.md").write_text("# Data")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.json").write_text("{}")
    (tmp_path / "dataset_infos.json").write_text("{}")
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        content = lines([{**GOOD, "prompt": name}]).encode()
        file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return tmp_path


def prompts(path, **kwargs):
    return [record["prompt"] for record in read_records(path, **kwargs)]


def test_a_copy_of_a_repository_is_read_by_the_splits_that_names_and_folders_say(tmp_path):
    shards = [f"data/train_prefs-0000{i}-of-00002.jsonl" for i in range(2)]
    root = hub(tmp_path, *shards, "helpful/test.jsonl.gz", "harmless/test.jsonl.gz", "dev/x.jsonl")
    assert prompts(root, split="train_prefs") == shards
    assert prompts(root, split="test") == ["harmless/test.jsonl.gz", "helpful/test.jsonl.gz"]
    assert prompts(root, split="dev") == ["dev/x.jsonl"]
    with pytest.raises(DataError, match="it has dev, test, train_prefs; give split="):
        read_records(root)


def test_a_row_of_a_folder_is_named_with_its_files_place(tmp_path):
    root = hub(tmp_path, "helpful/train.jsonl.gz", "harmless/train.jsonl")
    (root / "harmless" / "train.jsonl").write_text(lines([{"prompt": "q", "rejected": "b"}]))
    with pytest.raises(DataError, match="harmless/train.jsonl, line 1, field 'chosen': missing"):
        load_pairs(root)


def test_train_is_read_unless_another_split_is_asked_for_and_never_mixed(tmp_path):
    root = hub(tmp_path, "a/train.jsonl", "a/test.jsonl", "b/train.jsonl")
    assert prompts(root) == ["a/train.jsonl", "b/train.jsonl"]
    (root / "more.jsonl").write_text(lines([GOOD]))
    with pytest.raises(DataError, match="it has files of none, test, train; give split="):
        read_records(root)
    with pytest.raises(DataError, match="train.jsonl is a file"):
        read_records(root / "a" / "train.jsonl", split="test")


def test_a_folder_of_parquet_shards_is_read(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    (tmp_path / "data").mkdir()
    for i in range(2):
        row = {"prompt": f"q{i}", **BOTH}
        name = f"train-0000{i}-of-00002.parquet"
        pq.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "data" / name)
    pairs = load_pairs(tmp_path, template=ChatTemplate(HH)).pairs
    assert [p.chosen for p in pairs] == ["a", "a"]
    assert pairs[1].origin == "data/train-00001-of-00002.parquet, line 1"


def test_a_folder_without_data_says_so(tmp_path):
    with pytest.raises(DataError, match="no file of .jsonl, .json, .csv, .parquet is in it"):
        read_records(hub(tmp_path))


# ------------------------------------------------------------------------------------- token ids


def test_columns_of_token_ids_are_read_everywhere(tmp_path):
    ids = {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}
    kept_text = {**ids, **GOOD}
    for row in (ids, kept_text):
        assert load_pairs(write(tmp_path, row)).pairs == [Pair([1], [2], [3])]
        assert load_prompts(write(tmp_path, row)) == [[1]]
    with pytest.raises(DataError, match="field 'rejected_ids': token 3: expected 0 to 2"):
        load_pairs(write(tmp_path, ids), vocab_size=3)
    with pytest.raises(DataError, match="field 'chosen': missing"):
        load_pairs(write(tmp_path, {"prompt_ids": [1], "rejected_ids": [3]}))
    rated = {"prompt_ids": [1], "completion_ids": [2, 3], "label": 0.5}
    assert load_ratings(write(tmp_path, rated))[0].response == [2, 3]
    problem = {"problem_ids": [1], "completions": [[2], [3]], "labels": [1, 0]}
    steps = load_stepwise(write(tmp_path, problem), {"prompt_ids": "problem_ids"})
    assert steps == [Stepwise([1], ([2], [3]), (1.0, 0.0))]


# ---------------------------------------------------------------------------------------- prompts


def test_prompts_are_those_of_the_pairs_whatever_the_format(tmp_path):
    hh = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    assert load_prompts(write(tmp_path, hh)) == ["\n\nHuman: q\n\nAssistant:"]
    assert load_prompts(write(tmp_path, {"prompt": "q"}, {"prompt": [4]})) == ["q", [4]]
    asked = {"instruction": "Add.", "input": "1 + 1"}
    assert load_prompts(write(tmp_path, asked)) == ["Add.\n1 + 1"]
    assert load_prompts(write(tmp_path, {"ask": "q"}), {"prompt": "ask"}) == ["q"]
    for row, field in (({"text": "q"}, "prompt"), ({"prompt": messages(Q, A)}, "prompt")):
        with pytest.raises(DataError, match=f"line 1, field '{field}'"):
            load_prompts(write(tmp_path, row), template=ChatTemplate())


# --------------------------------------------------------------------- steps, answers, contrasts

STEPS = {"prompt": "q", "completions": ["a", "bc"], "labels": [True, False]}
MANY = {"instruction": "q", "answers": ["a", "b"], "gold_scores": [1, 2], "proxy_scores": [3, 4.5]}
CONTRAST = {
    "query": "q",
    "retrieval": "r",
    "query_response_k": "a",
    "retrieval_response_k": "b",
    "query_response_j": "c",
}


def encode(text):
    return [ord(c) for c in text]


def test_stepwise_rows_become_tensors_with_the_end_of_each_step(tmp_path):
    data = load_stepwise(write(tmp_path, STEPS, {**STEPS, "completions": ["d"], "labels": [0.25]}))
    assert data[0] == Stepwise("q", ("a", "bc"), (1.0, 0.0))
    batch = encode_stepwise(data, encode, eos=1, separator=".")
    completion = [*encode("a."), *encode("bc."), 1]
    assert batch.responses.completions[0].tolist() == completion
    assert batch.ends.tolist() == [[1, 5], [2, 2]]
    assert [completion[i] for i in batch.ends[0].tolist()] == [ord("."), 1]
    assert batch.labels.tolist() == [[1.0, 0.0], [0.25, 0.0]]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert (batch.ends < batch.responses.lengths[:, None]).all()
    with pytest.raises(DataError, match="line 1, field 'completions': 7 tokens with the prompt"):
        encode_stepwise(data, encode, eos=1, separator=".", max_length=6)
    with pytest.raises(DataError, match="line 1, field 'prompt': 1 tokens, expected fewer"):
        encode_stepwise(data, encode, max_length=1)


def test_answers_become_rows_in_their_order(tmp_path):
    without = {k: v for k, v in MANY.items() if k != "proxy_scores"}
    data = load_answers(write(tmp_path, MANY, {**without, "input": "x"}))
    assert data == [
        Answers("q", ("a", "b"), (1.0, 2.0), (3.0, 4.5)),
        Answers("q\nx", ("a", "b"), (1.0, 2.0)),
    ]
    batch = encode_answers(data, encode, eos=1)
    assert batch.completions.tolist() == [[97, 1], [98, 1], [97, 1], [98, 1]]
    assert batch.prompts[2].tolist() == encode("q\nx")


def test_contrasting_instructions_are_scored_as_consistency_asks(tmp_path):
    data = load_contrast(write(tmp_path, CONTRAST))
    assert data == [Contrast(("q", "r"), ("a", "b"))]
    batch = encode_contrast(data, encode)
    assert batch.ids.tolist() == [encode(x) for x in ("qa", "qb", "ra", "rb")]
    # A model that knows which response is to which instruction, and one that knows the opposite.
    right = torch.tensor([r in ("qa", "rb") for r in ("qa", "qb", "ra", "rb")])
    for scores, expected in ((right, 1.0), (~right, 0.0)):
        found = contrast_consistency(np.asarray(scores).reshape(-1, 2, 2))
        assert found == {"response": expected, "instruction": expected}


UNUSABLE = {
    "fewer labels": (load_stepwise, {**STEPS, "labels": [True]}, "labels", "1 of them for 2 compl"),
    "a label of 2": (load_stepwise, {**STEPS, "labels": [1, 2]}, "labels", "item 1, 2: expected"),
    "one step": (load_stepwise, {**STEPS, "completions": "ab"}, "completions", "'ab': expected a"),
    "no step": (
        load_stepwise,
        {**STEPS, "completions": []},
        "completions",
        "[]: expected at least",
    ),
    "an empty step": (load_stepwise, {**STEPS, "completions": ["a", " "]}, "completions", "item 1"),
    "no label": (load_stepwise, {"prompt": "q", "completions": ["a"]}, "labels", "missing"),
    "more gold": (load_answers, {**MANY, "gold_scores": [1, 2, 3]}, "gold_scores", "3 of them for"),
    "less proxy": (load_answers, {**MANY, "proxy_scores": [1]}, "proxy_scores", "1 of them for 2"),
    "nan": (load_answers, {**MANY, "gold_scores": [1, None]}, "gold_scores", "item 1, None: exp"),
    "no gold": (load_answers, {"instruction": "q", "answers": ["a"]}, "gold_scores", "missing"),
    "a strange input": (load_answers, {**MANY, "input": 3}, "input", "3: expected text"),
    "no retrieval": (load_contrast, {"query": "q"}, "retrieval", "missing"),
    "no contrast": (load_contrast, {**CONTRAST, "retrieval": "q"}, "retrieval", "'q': equals the"),
    "one response": (
        load_contrast,
        {**CONTRAST, "retrieval_response_k": "a"},
        "retrieval_response_k",
        "'a': equals the",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_rows_that_cannot_be_used_are_named(tmp_path, name):
    load, row, field, message = UNUSABLE[name]
    good = {load_stepwise: STEPS, load_answers: MANY, load_contrast: CONTRAST}[load]
    with pytest.raises(DataError) as error:
        load(write(tmp_path, good, row))
    assert str(error.value).startswith(f"rows.jsonl, line 2, field {field!r}: {message}")
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------- templates

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "hh": HH,
    "zephyr": ZEPHYR,
    "llama 2": LLAMA2,
    "loop controls": (
        "{% for m in messages %}\n  {% if m['role'] == 'system' %}\n    {% continue %}\n"
        "  {% endif %}\n  {{ m['content'] }}|\n  {% if loop.index > 2 %}{% break %}{% endif %}\n"
        "{% endfor %}\n"
    ),
    "json": "{{ messages[-1] | tojson }}{{ {'z': '<é>', 'a': messages[0]} | tojson(indent=2) }}",
    "tools and documents": (
        "{% if tools is not none or documents is not none %}T{% endif %}"
        "{{ 'no pad' if pad_token is not defined }}{{ unk_token }}"
    ),
    "namespace": (
        "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- set ns.n = ns.n + 1 -%}"
        "{% endfor %}\n\n{{ ns.n }} {{ bos_token }}\n"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}\n{{ m.content }}"
        "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "date": "{{ strftime_now('%Y') }} {{ messages | length }}",
    "name": "{% for m in messages %}{{ m['name'] if 'name' in m else '-' }}{% endfor %}",
    "undefined": "{{ nothing.at.all }}",
}
CONVERSATIONS = (
    messages(("user", " hi ")),
    messages(("system", "Be brief."), ("user", "1 < 2?"), ("assistant", "yes"), ("user", "é\n")),
    messages(("user", "a"), ("user", "b"), ("assistant", "c")),
    [{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": "b"}],
)


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"w": 0}, unk_token="w"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>"
    )


def outcome(render):
    """What a template writes, or that it refuses."""
    from jinja2 import TemplateError

    try:
        return render()
    except (TemplateError, ValueError):
        return "refused"


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_transformers_renders_them(tokenizer, name):
    source = TEMPLATES[name]
    ours = ChatTemplate(source, bos="<s>", eos="</s>")
    seen = set()
    for talk in CONVERSATIONS:
        for generation in (True, False):
            theirs = outcome(
                lambda t=talk, g=generation: tokenizer.apply_chat_template(
                    t, chat_template=source, tokenize=False, add_generation_prompt=g
                )
            )
            assert outcome(lambda t=talk, g=generation: ours(t, g)) == theirs
            seen.add(theirs)
    assert ("refused" in seen) == (name in ("llama 2", "undefined"))


def test_a_template_that_refuses_or_is_none_says_so_in_one_line():
    with pytest.raises(ValueError, match=r"template .{{ raise_.*\.\.\.: no question$"):
        ChatTemplate("{{ raise_exception('no\nquestion') }}")(messages(Q))
    with pytest.raises(ValueError, match="template '{% for %}'...: "):
        ChatTemplate("{% for %}")(messages(Q))
    with pytest.raises(ValueError, match="messages="):
        ChatTemplate()([])


# ------------------------------------------------------------------------------------- vocabulary


def test_what_a_template_has_begun_is_not_begun_again_by_the_tokenizer(tmp_path):
    """A tokenizer that adds the first token to every text, and a template that writes it too."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"w": 0, "<s>": 1, "</s>": 2, "hi": 3}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    plain.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    own = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", unk_token="w"
    )
    own.save_pretrained(tmp_path)
    config = transformers.LlamaConfig(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    assert own.encode("hi") == [1, 3]
    text = load_model(str(tmp_path))
    template = ChatTemplate("{{ bos_token }} {{ messages[0]['content'] }}", bos="<s>")
    assert text.encode(template(messages(("user", "hi")))) == [1, 3]


def test_a_tokenizer_with_more_tokens_than_its_model_is_refused_at_load(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, eos_token_id=1, pad_token_id=0,
        bos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    for size, fits in ((128, True), (129, False)):
        words = {f"w{i}": i for i in range(size)}
        plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
        transformers.PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(tmp_path)
        if fits:
            assert load_model(str(tmp_path)).model.vocab_size == 128
        else:
            with pytest.raises(ValueError, match="vocabulary of 129, its model one of 128"):
                load_model(str(tmp_path))
