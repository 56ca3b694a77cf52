"""``rewardzoo rlhf``: from small files to models, on from a checkpoint, and every error one line."""

from __future__ import annotations

import json
import random

import pytest
import torch
from typer.testing import CliRunner

from rewardzoo.checkpoint import load_checkpoint
from rewardzoo.rlhf.commands import app
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.folders import decode_bytes, encode_bytes, load_model, load_reward_model


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
    Decoder(DecoderConfig(258, 48, width=16, layers=1, heads=2), seed=0).save_pretrained(folder)
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
    return {
        name: write(folder / f"{name}.jsonl", rows)
        for name, rows in {"pairs": pairs, "ratings": ratings, "many": many}.items()
    }


def numbers(output):
    lines = [line.split(maxsplit=1) for line in output.splitlines() if line.strip()]
    return {name: float(value) for value, name in lines}


def reward_model(model, files, out, *more):
    given = ("--batch-size", 16, "--learning-rate", 0.01, "--max-length", 32)
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
    from rewardzoo.rlhf.sequences import pack

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


@pytest.mark.parametrize("algorithm", ["dpo", "rloo", "superhf"])
def test_every_kind_of_trainer_resumes(model, files, reward, tmp_path, algorithm):
    def train(out, steps, *more):
        call(
            "train-policy", "--model", model, "--data", files["pairs"], "--out", out,
            "--algorithm", algorithm, "--reward", reward, "--steps", steps, "--batch-size", 4,
            "--max-length", 32, "--new-tokens", 6, *more,
        )  # fmt: skip
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
    assert "96  rated responses, 2 ratings" in call("data", "check", files["ratings"]).output
    bad = write(tmp_path / "x.jsonl", [{"prompt": "a", "chosen": "b", "rejected": ""}])
    refused("x.jsonl, line 1, field 'rejected': ", "data", "check", bad)
    nan = write(tmp_path / "y.jsonl", [{"prompt": "a", "response": "b", "helpfulness": "much"}])
    refused("field 'helpfulness': 'much'", "data", "check", nan)


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


def test_text_of_any_language_survives_the_bytes():
    for text in ("", "plain", "Grüße, 世界 \n"):
        assert decode_bytes(encode_bytes(text)) == text
    assert load_model("decoder", max_length=16).model.max_length == 16


@pytest.mark.slow
def test_a_folder_of_transformers_is_trained_and_loads_there_again(files, tmp_path):
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
