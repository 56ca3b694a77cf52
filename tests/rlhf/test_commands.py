"""``rewardzoo rlhf``: from small files to models, on from a checkpoint, and every error one line."""

from __future__ import annotations

import json
import random
import sys

import pytest
import torch
from typer.testing import CliRunner

from rewardzoo.checkpoint import load_checkpoint
from rewardzoo.rlhf.algorithms import ALGORITHMS
from rewardzoo.rlhf.commands import app
from rewardzoo.rlhf.completions import complete
from rewardzoo.rlhf.data import load_pairs
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.evaluation import bon_curve
from rewardzoo.rlhf.folders import decode_bytes, encode_bytes, load_model, load_reward_model
from rewardzoo.rlhf.losses import LOSSES
from rewardzoo.rlhf.online import OnlineTrainer
from rewardzoo.rlhf.sequences import pack
from rewardzoo.rlhf.templates import ChatTemplate


def call(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def refused(match, *args):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert isinstance(result.exception, ValueError)
    assert match in str(result.exception) and "\n" not in str(result.exception)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A compact decoder that has learned nothing, small enough for a test."""
    folder = tmp_path_factory.mktemp("model")
    Decoder(DecoderConfig(258, 64, width=16, layers=1, heads=2), seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pairs whose chosen response says yes, ratings, and problems with three wrong answers."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    questions = ["".join(rng.choices("abcdef ", k=rng.randint(3, 9))) + "?" for _ in range(48)]
    pairs = [
        {"prompt": q, "chosen": " yes", "rejected": " no", "subset": "easy" if i % 3 else "hard"}
        for i, q in enumerate(questions)
    ]
    ratings = [
        {"prompt": q, "response": f" {a}", "helpfulness": 4 * (a == "yes"), "verbosity": 2}
        for q in questions
        for a in ("yes", "no")
    ]
    many = [{"problem": q, "chosen": " yes", "rejected": [" no", " nn", " on"]} for q in questions]
    hh = [
        {k: f"\n\nHuman: {q}\n\nAssistant: {a}" for k, a in (("chosen", "yes"), ("rejected", "no"))}
        for q in questions
    ]
    chat = [
        {
            "prompt": [{"role": "user", "content": q}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for q in questions
    ]
    prompts = [{"prompt": q, "answer": len(q)} for q in questions]
    answers = [
        {"instruction": q, "answers": [" yes", " no", " nn"], "gold_scores": [1, 0, 0.25]}
        for q in questions
    ]
    contrast = [
        {
            "query": q,
            "retrieval": f"{q}?",
            "query_response_k": " yes",
            "retrieval_response_k": " no",
        }
        for q in questions
    ]
    return {
        name: write(folder / f"{name}.jsonl", rows)
        for name, rows in {
            "pairs": pairs, "ratings": ratings, "many": many, "hh": hh, "chat": chat,
            "prompts": prompts, "answers": answers, "contrast": contrast,
        }.items()
    }  # fmt: skip


RULES = """
seen = []

def near(prompts, completions, answer, **columns):
    seen.extend(zip(prompts, answer, strict=True))
    return [-abs(len(c) - a) for c, a in zip(completions, answer, strict=True)]

def even(completions, **columns):
    return [float(len(c) % 2) for c in completions]

def half(completions, **columns):
    return [0.5 for _ in completions]

def plain(prompts, completions):
    return [0.0 for _ in completions]
"""


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """The name of a module of rewards in the working directory."""
    name = f"rules_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def policy(model, data, out, algorithm, *more):
    call(
        "train-policy", "--model", model, "--data", data, "--out", out, "--algorithm", algorithm,
        "--batch-size", 4, "--max-length", 48, "--new-tokens", 6, *more,
    )  # fmt: skip


def numbers(output):
    lines = [line.split(maxsplit=1) for line in output.splitlines() if line.strip()]
    return {name: float(value) for value, name in lines}


def reward_model(model, files, out, *more):
    given = ("--batch-size", 16, "--learning-rate", 0.01, "--max-length", 32, "--base-samples", 64)
    call("train-reward", "--model", model, "--data", files, "--out", out, *given, *more)


@pytest.fixture(scope="module")
def reward(model, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("reward") / "rm"
    reward_model(model, files["pairs"], out, "--steps", 25)
    return out


def test_a_reward_model_of_a_file_ranks_its_answers(reward, files, tmp_path):
    out = tmp_path / "metrics.json"
    call("eval", "--reward", reward, "--data", files["pairs"], "--out", out)
    found = json.loads(out.read_text())
    assert found["accuracy"] == found["subset easy"] == found["score"] == 1.0
    assert found["log_loss"] < 0.1 and found["pairs"] == 48
    shown = numbers(call("eval", "--reward", reward, "--data", files["many"]).output)
    assert shown["pairs"] == 144 and shown["one-to-many one_to_one"] == 1.0
    assert shown["one-to-many accuracy"] <= shown["one-to-many mrr"]


def test_events_and_checkpoint_lie_in_the_folder(reward):
    assert list(reward.glob("events.out.tfevents.*"))
    assert load_checkpoint(reward / "checkpoint.pt", "reward trainer")["num_steps"] == 25


def test_a_run_that_is_resumed_ends_with_the_same_weights(model, files, reward, tmp_path):
    reward_model(model, files["pairs"], tmp_path / "x", "--steps", 10)
    reward_model(model, files["pairs"], tmp_path / "x", "--steps", 25, "--resume")
    # A model that transformers saves has a config.json of its own there.
    assert (tmp_path / "x/run.json").is_file() and not (tmp_path / "x/config.json").exists()
    whole, part = (load_reward_model(f)[0].state_dict() for f in (reward, tmp_path / "x"))
    for name, value in whole.items():
        assert torch.equal(part[name], value), name


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(model, files, reward, tmp_path):
    reward_model(model, files["pairs"], tmp_path / "x", "--steps", 10)
    last = tmp_path / "x" / "checkpoint.pt"
    (tmp_path / "x" / "checkpoint.previous.pt").write_bytes(last.read_bytes())
    last.write_bytes(last.read_bytes()[:100])
    with pytest.warns(UserWarning, match="going on from checkpoint.previous.pt"):
        reward_model(model, files["pairs"], tmp_path / "x", "--steps", 25, "--resume")
    whole, part = (load_reward_model(f)[0].state_dict() for f in (reward, tmp_path / "x"))
    for name, value in whole.items():
        assert torch.equal(part[name], value), name
    kept = {path.name for path in (tmp_path / "x").glob("*.pt")}
    assert {"checkpoint.damaged.pt", "checkpoint.pt"} <= kept
    assert "checkpoint.previous.pt" not in kept
    last.write_bytes(b"")
    given = ("train-reward", "--model", model, "--data", files["pairs"], "--out", tmp_path / "x")
    with pytest.warns(UserWarning, match="no whole one is left to go on from"):
        refused("no checkpoint to resume", *given, "--resume")


def test_another_runs_folder_is_refused(model, files, reward, tmp_path):
    given = ("train-reward", "--model", model, "--data", files["pairs"], "--out")
    refused("it holds a run", *given, reward)
    refused("loss is 'margin'", *given, reward, "--resume", "--loss", "margin")
    refused("no checkpoint to resume", *given, tmp_path / "new", "--resume")


def test_attributes_are_regressed(model, files, tmp_path):
    reward_model(
        model, files["ratings"], tmp_path / "rm", "--loss", "regression", "--steps", 60,
        "--set", "score_l2=0.0",
    )  # fmt: skip
    learned, text, _ = load_reward_model(tmp_path / "rm")
    batch = pack([text.encode("abc?")] * 2, [[*text.encode(f" {a}"), 1] for a in ("yes", "no")])
    with torch.no_grad():
        yes, no = learned.attributes(batch).tolist()
    assert yes == pytest.approx([4, 2], abs=0.7) and no == pytest.approx([0, 2], abs=0.7)


def test_a_policy_learns_the_chosen_answers_and_samples_them(model, files, tmp_path):
    policy = tmp_path / "sft"
    call(
        "train-policy", "--model", model, "--data", files["pairs"], "--out", policy,
        "--algorithm", "sft", "--steps", 60, "--learning-rate", 0.01, "--max-length", 32,
    )  # fmt: skip
    out = call(
        "sample", "--model", policy, "--prompt", "abc?", "--temperature", 0, "--new-tokens", 9
    ).output
    assert out.strip() == "abc? yes"
    found = numbers(
        call("eval", "--model", policy, "--ref", model, "--data", files["pairs"]).output
    )
    assert found["accuracy"] == 1.0


@pytest.mark.parametrize("algorithm", ["dpo", "rloo", "prime", "superhf"])
def test_every_kind_of_trainer_resumes(model, files, reward, rules, tmp_path, algorithm):
    pays = f"{rules}:even" if algorithm == "prime" else reward

    def train(out, steps, *more):
        given = ("--reward", pays, "--steps", steps, "--learning-rate", 0.01)
        policy(model, files["pairs"], out, algorithm, *given, *more)
        return Decoder.from_pretrained(out).state_dict()

    whole = train(tmp_path / "a", 4)
    train(tmp_path / "b", 2)
    part = train(tmp_path / "b", 4, "--resume")
    start = Decoder.from_pretrained(model).state_dict()
    for name, value in whole.items():
        assert torch.equal(part[name], value), name
    assert any(not torch.equal(start[name], value) for name, value in whole.items())


def test_samples_go_to_a_file_and_a_seed_fixes_them(model, files, tmp_path):
    for name in ("a", "b"):
        call(
            "sample", "--model", model, "--data", files["pairs"], "--n", 2, "--new-tokens", 5,
            "--out", tmp_path / name,
        )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert len(rows) == 96 and rows[0]["prompt"] == rows[1]["prompt"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_a_good_file_is_described_and_a_bad_row_is_named(files, tmp_path):
    shown = numbers(call("data", "check", files["pairs"]).output)
    assert shown["rows"] == 48 and shown["chosen longer"] == 1.0
    found = numbers(call("data", "check", files["ratings"]).output)
    assert found == {"rated responses": 96, "ratings each": 2}
    assert numbers(call("data", "check", files["prompts"]).output) == {"prompts": 48}
    found = numbers(call("data", "check", files["answers"]).output)
    assert found == {"prompts": 48, "answers": 144}
    found = numbers(call("data", "check", files["contrast"]).output)
    assert found == {"pairs of instructions": 48}
    steps = {"prompt": "a", "completions": ["b", "c"], "labels": [True, False]}
    found = numbers(call("data", "check", write(tmp_path / "steps.jsonl", [steps])).output)
    assert found == {"completions": 1, "steps": 2}
    bad = write(tmp_path / "x.jsonl", [{"prompt": "a", "chosen": "b", "rejected": ""}])
    refused("x.jsonl, line 1, field 'rejected': ", "data", "check", bad)
    nan = write(tmp_path / "y.jsonl", [{"prompt": "a", "response": "b", "helpfulness": "much"}])
    refused("field 'helpfulness': 'much'", "data", "check", nan)
    same = write(tmp_path / "z.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}] * 3)
    refused("z.jsonl: no pair is left; dropped: 3 identical", "data", "check", same)


def test_bad_choices_are_refused_by_name(model, files, reward, tmp_path):
    given = ("train-policy", "--model", model, "--data", files["pairs"], "--out", tmp_path / "x")
    refused("--algorithm dpoo", *given, "--algorithm", "dpoo")
    refused("needs --reward", *given, "--algorithm", "rloo")
    refused("beta=-1", *given, "--set", "beta=-1")
    refused("--lora 2", *given, "--lora", 2)
    refused("leaves no room", *given, "--algorithm", "rloo", "--reward", reward, "--max-length", 9)
    refused("model='nowhere'", "sample", "--model", "nowhere", "--prompt", "a")
    refused("--prompt", "sample", "--model", model)
    refused("--reward", "eval", "--data", files["pairs"])
    refused("trained with", "eval", "--reward", reward, "--data", files["pairs"],
            "--template", "hh")  # fmt: skip
    refused("loss='dpo'", "train-reward", "--model", model, "--data", files["pairs"], "--out",
            tmp_path / "y", "--loss", "dpo")  # fmt: skip


@pytest.mark.parametrize("name", ["pairs", "chat", "hh", "many"])
def test_what_is_sampled_from_are_the_prompts_of_the_pairs(model, files, tmp_path, name, rules):
    pairs = load_pairs(files[name], template=ChatTemplate())
    expected = list(dict.fromkeys(pair.prompt for pair in pairs.pairs))
    out = tmp_path / "samples.jsonl"
    call("sample", "--model", model, "--data", files[name], "--new-tokens", 2, "--out", out)
    shown = [json.loads(line)["prompt"] for line in out.read_text().splitlines()]
    assert list(dict.fromkeys(shown)) == expected
    rows = [{**json.loads(line), "answer": 3} for line in files[name].read_text().splitlines()]
    data = write(tmp_path / "data.jsonl", rows)
    given = ("--reward", f"{rules}:near", "--max-length", 64, "--new-tokens", 2, "--steps", 1)
    policy(model, data, tmp_path / "x", "rloo", *given)
    assert {prompt for prompt, _ in sys.modules[rules].seen} <= set(expected)


def test_a_template_makes_a_message_of_a_prompt(model):
    plain = call("sample", "--model", model, "--prompt", "hi", "--new-tokens", 2).output
    assert plain.startswith("hi")
    chat = call("sample", "--model", model, "--prompt", "hi", "--new-tokens", 2, "--template", "hh")
    assert chat.output.startswith("\n\nHuman: hi\n\nAssistant:")


def test_completions_are_the_same_in_batches_of_any_size(model):
    text = load_model(str(model))
    prompts = [text.encode(x) for x in ("a", "bcd", "ef", "ghij", "k")]
    few, all_ = (list(complete(text.model, prompts, 5, batch_size=n)) for n in (2, 5))
    assert few == all_ and len(few) == 5


def test_a_function_is_given_the_columns_of_its_prompts(model, files, rules, tmp_path):
    given = ("--reward", f"{rules}:near", "--steps", 2)
    policy(model, files["prompts"], tmp_path / "x", "rloo", *given)
    seen = sys.modules[rules].seen
    assert len(seen) == 2 * 4 * 4 and all(answer == len(prompt) for prompt, answer in seen)


def test_a_function_that_cannot_be_called_is_refused(model, files, reward, rules, tmp_path):
    given = ("train-policy", "--model", model, "--out", tmp_path / "x", "--new-tokens", 6)
    online = (*given, "--algorithm", "rloo", "--data", files["pairs"], "--reward")
    refused("missing a required argument: 'answer'", *online, f"{rules}:near")
    refused("unexpected keyword argument 'completion_ids'", *online, f"{rules}:plain")
    refused(f"--reward '{rules}:none'", *online, f"{rules}:none")
    refused("expected module:function", *online, "nowhere:none")
    refused("--reward nowhere: there is no such folder", *online, "nowhere")
    twice = [{"prompt": "a?", "answer": 1}, {"prompt": "a?", "answer": 2}]
    data = write(tmp_path / "twice.jsonl", twice)
    refused(
        "missing a required argument: 'answer'", *given, "--algorithm", "rloo", "--data", data,
        "--reward", f"{rules}:near",
    )  # fmt: skip
    prime = (*given, "--algorithm", "prime", "--data", files["pairs"], "--reward")
    refused("prime needs a verifier, module:function", *prime, reward)
    refused("half paid 0.5; prime expects 1 or 0", *prime, f"{rules}:half")


def test_a_reward_model_is_asked_in_its_own_template_only(model, files, reward, tmp_path):
    refused(
        "trained with", "train-policy", "--model", model, "--data", files["hh"], "--out",
        tmp_path / "x", "--algorithm", "rloo", "--reward", reward, "--template", "hh",
        "--new-tokens", 6,
    )  # fmt: skip


def test_scores_have_mean_0_and_deviation_1_on_the_base_policys_samples(model, files, reward):
    learned, text, _ = load_reward_model(reward)
    base = load_model(str(model)).model
    prompts = [text.encode(pair.prompt) for pair in load_pairs(files["pairs"]).pairs] * 8
    answers = list(complete(base, prompts, 5, torch.Generator().manual_seed(9)))
    with torch.no_grad():
        scores = learned(pack(prompts, answers))
        chosen = learned(pack(prompts[:48], [[*text.encode(" yes"), 1]] * 48))
    # 64 samples gave the scale: the error of a mean is 1/8, that of a deviation about 1/11.
    assert abs(float(scores.mean())) < 5 / 8 and abs(float(scores.std()) - 1) < 5 / 11
    assert float(chosen.mean()) > 1


def test_a_model_is_kept_if_its_scale_cannot_be_found(model, files, tmp_path, monkeypatch):
    def fails(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("rewardzoo.rlhf.standardise.standardise", fails)
    given = ("train-reward", "--model", model, "--data", files["pairs"], "--out", tmp_path / "x")
    result = CliRunner().invoke(app, [str(a) for a in (*given, "--steps", 2, "--max-length", 32)])
    assert "out of memory" in str(result.exception)
    assert float(load_reward_model(tmp_path / "x")[0].std) == 1


def test_no_prompt_of_training_is_measured_on(files, reward, tmp_path):
    given = ("eval", "--reward", reward, "--data", files["pairs"], "--train")
    refused("it is in the training part too", *given, files["pairs"])
    refused("it is in the training part too", *given, files["ratings"])
    other = {"prompt": "another?", "chosen": " yes", "rejected": " no"}
    call(*given, write(tmp_path / "other.jsonl", [other]))


def test_best_of_n_is_measured_by_a_model_or_by_scores_in_the_file(files, reward, tmp_path):
    found = numbers(call("eval", "--reward", reward, "--data", files["answers"]).output)
    assert found["prompts"] == 48 and found["answers"] == 144
    assert found["best of 1, gold"] == pytest.approx(1.25 / 3, abs=1e-4)
    assert found["best of 2, gold"] > found["best of 1, gold"]  # it has learned to prefer yes
    assert found["best of 2, proxy"] > found["best of 1, proxy"]
    assert found["best of 2, KL"] == pytest.approx(0.1931, abs=1e-4)
    refused("field 'proxy_scores': missing; give --reward", "eval", "--data", files["answers"])
    rows = [json.loads(line) for line in files["answers"].read_text().splitlines()]
    scored = write(tmp_path / "scored.jsonl", [{**x, "proxy_scores": [0, 2, 1]} for x in rows])
    found = numbers(call("eval", "--data", scored).output)
    curve = bon_curve([1, 0, 0.25], [0, 2, 1], [1, 2])
    assert [found["best of 1, gold"], found["best of 2, gold"]] == pytest.approx(curve, abs=1e-4)


def test_consistency_is_measured_on_contrasting_instructions(files, reward):
    found = numbers(call("eval", "--reward", reward, "--data", files["contrast"]).output)
    # It says yes to every instruction, so it is right about one of the two.
    assert found["pairs of instructions"] == 48 and found["consistency, response"] == 0.5
    assert 0 <= found["consistency, instruction"] <= 1


def test_every_command_refuses_a_device_that_is_not_there(model, files, tmp_path):
    given = ("--model", model, "--data", files["pairs"], "--device", "gpu")
    refused("device='gpu'", "sample", *given)
    refused("device='gpu'", "train-reward", *given, "--out", tmp_path / "x")
    refused("device='gpu'", "train-policy", *given, "--out", tmp_path / "x")
    refused("device='gpu'", "eval", *given, "--ref", model)


def test_help_names_every_loss_and_algorithm():
    shown = call("train-policy", "--help").output.replace("│", " ").split()
    words = {word.strip(".,;:") for word in shown}
    assert {*LOSSES, *ALGORITHMS, "superhf"} <= words


def test_text_of_any_language_survives_the_bytes():
    for text in ("", "plain", "Grüße, 世界 \n"):
        assert decode_bytes(encode_bytes(text)) == text
    assert load_model("decoder", max_length=16).model.max_length == 16


@pytest.mark.slow
def test_a_folder_of_transformers_is_trained_and_loads_there_again(
    files, rules, tmp_path, monkeypatch
):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("peft")
    words = {w: i for i, w in enumerate(["<pad>", "</s>", "yes", "no", *"abcdef?"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path / "llama"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<pad>"
    ).save_pretrained(folder)
    out = tmp_path / "dpo"
    call(
        "train-policy", "--model", folder, "--data", files["pairs"], "--out", out, "--lora", 2,
        "--steps", 20, "--learning-rate", 0.05, "--batch-size", 16,
    )  # fmt: skip
    again = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert again.config.vocab_size == len(words)
    metrics = tmp_path / "metrics.json"
    call("eval", "--model", out, "--ref", folder, "--data", files["pairs"], "--out", metrics)
    assert json.loads(metrics.read_text())["accuracy"] == 1.0
    refs = []
    own = OnlineTrainer.__init__

    def noted(self, policy, ref, *more):
        refs.append(ref)
        own(self, policy, ref, *more)

    monkeypatch.setattr(OnlineTrainer, "__init__", noted)
    given = ("--reward", f"{rules}:even", "--lora", 2, "--steps", 2)
    policy(folder, files["pairs"], tmp_path / "rloo", "rloo", *given)
    assert not list(refs[0].parameters())  # the policy without its adapters, no second copy
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, extra_special_tokens=["<more>"]
    ).save_pretrained(folder)
    refused("vocabulary of 12, its model one of 11", "sample", "--model", folder, "--prompt", "a")
