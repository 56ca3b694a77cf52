"""``rewardzoo rlhf``: preference files to reward models and policies, in folders of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..settings import parse_settings

if TYPE_CHECKING:
    from .data import PairData
    from .folders import TextModel
    from .templates import ChatTemplate
    from .trainer import Trainer

app = typer.Typer(
    no_args_is_help=True,
    help="Language models: from files of preferences to reward models and policies.",
    epilog="Example: rewardzoo rlhf train-policy --model DIR --data pairs.jsonl --algorithm dpo",
)
data_app = typer.Typer(no_args_is_help=True, help="Check files before training on them.")
app.add_typer(data_app, name="data")
console = Console(soft_wrap=True)

Model = Annotated[
    str, typer.Option(help="Folder of transformers or of a decoder; 'decoder' makes a new one.")
]
FILES = "jsonl, json, csv (each .gz too), parquet, or a folder of them or of datasets."
Data = Annotated[Path, typer.Option(help=FILES)]
Out = Annotated[Path, typer.Option(help="Folder for model, checkpoint and TensorBoard files.")]
Steps = Annotated[int, typer.Option(help="Updates in all.", min=1)]
BatchSize = Annotated[int, typer.Option(help="Pairs, ratings or prompts an update.", min=1)]
Rate = Annotated[float, typer.Option(help="Learning rate of AdamW.")]
MaxLength = Annotated[int, typer.Option(help="Longest sequence, in tokens.", min=2)]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Lora = Annotated[int, typer.Option(help="Rank of adapters to train alone; 0 trains all.", min=0)]
Resume = Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")]
SaveEvery = Annotated[int, typer.Option(help="Updates between checkpoints.", min=1)]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="Hyperparameter, name=value; repeatable.")
]
Template = Annotated[
    str, typer.Option(help="For rows of messages: chatml, hh, or model (the tokenizer's own).")
]
Split = Annotated[str | None, typer.Option(help="Of a folder with several; default: train.")]
NewTokens = Annotated[int, typer.Option(help="Longest sampled completion, in tokens.", min=1)]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:0.")]


@data_app.command("check")
def check(
    path: Annotated[Path, typer.Argument(help=FILES)],
    template: Template = "chatml",
    split: Split = None,
    vocab_size: Annotated[int | None, typer.Option(help="Of token ids in the file.")] = None,
) -> None:
    """Say what is in a file, or which row is wrong.

    It may hold pairs or ranked responses, ratings or labels of responses or of
    their steps, answers with gold scores, contrasting instructions, or prompts.

    Example: rewardzoo rlhf data check pairs.jsonl
    """
    from .contents import summary
    from .inputs import read_template

    for name, value in summary(path, read_template(template), vocab_size, split).items():
        typer.echo(f"{value:>10.4g}  {name}")


@app.command()
def sample(
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option(help="Text; repeatable.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="File of prompts, or of pairs whose prompts are taken.")
    ] = None,
    n: Annotated[int, typer.Option(help="Completions of each prompt.", min=1)] = 1,
    new_tokens: NewTokens = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0.0)] = 1.0,
    template: Annotated[
        str | None,
        typer.Option(
            help="chatml, hh, or model (the tokenizer's own): makes --prompt a user's message, and "
            "text of a file's messages. Without, --prompt stays as it is, and messages are chatml."
        ),
    ] = None,
    split: Split = None,
    batch_size: Annotated[int, typer.Option(help="Completions at once.", min=1)] = 64,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="jsonl to write; default: the terminal.")] = None,
) -> None:
    """Complete prompts.

    Example: rewardzoo rlhf sample --model DIR --prompt "Once upon a time" --n 4
    """
    import torch

    from ..functional import check_device
    from .completions import complete
    from .data import load_prompts
    from .folders import load_model
    from .inputs import ids_of, read_template

    place = check_device(device)
    text = load_model(model, seed=seed)
    text.model.to(place)
    given: list[Any] = list(prompt or [])
    if template is not None:
        as_message = read_template(template, text)
        given = [as_message([{"role": "user", "content": each}]) for each in given]
    if data is not None:
        written = read_template(template or "chatml", text)
        given += load_prompts(data, None, written, text.model.vocab_size, split)
    if not given:
        raise ValueError("--prompt: expected at least one, or --data")
    asked = [x for x in given for _ in range(n)]
    generator = torch.Generator().manual_seed(seed) if temperature else None
    answers = complete(
        text.model, ids_of(text, asked), new_tokens, generator, temperature or 1.0, batch_size
    )
    lines = []
    for question, ids in zip(asked, answers, strict=True):
        kept = [token for token in ids if token != text.model.eos]
        as_text = isinstance(question, str)
        lines.append({"prompt": question, "completion": text.decode(kept) if as_text else kept})
    if out is None:
        for line in lines:
            typer.echo(f"{line['prompt']}{line['completion']}\n")
    else:
        out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        typer.echo(f"{len(lines)} completions in {out}")


@app.command("train-reward")
def train_reward(
    model: Model,
    data: Data,
    out: Out,
    loss: Annotated[
        str, typer.Option(help="bt, margin, scaled_bt, soft_bt; regression, cross_entropy.")
    ] = "bt",
    steps: Steps = 200,
    batch_size: BatchSize = 32,
    learning_rate: Rate = 1e-4,
    max_length: MaxLength = 256,
    base_samples: Annotated[
        int,
        typer.Option(
            help="Completions of --model whose scores, when all is learned, get mean 0 and "
            "deviation 1; as long as the data's.",
            min=2,
        ),
    ] = 256,
    lora: Lora = 0,
    template: Template = "chatml",
    split: Split = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    save_every: SaveEvery = 100,
    setting: Setting = None,
) -> None:
    """Fit a reward model to pairs, or to rated responses (loss regression or cross_entropy).

    --set passes what the loss takes: label_smoothing=0.1, score_l2=0.001, centre=0.01, ties=drop.

    Example: rewardzoo rlhf train-reward --model DIR --data pairs.jsonl --out runs/reward
    """
    from ..functional import check_device
    from .folders import load_model, save_reward_model
    from .inputs import add_lora, longest, random_prompts, read_pairs, read_template
    from .pairs import PairBatch, RatingBatch, encode_pairs
    from .ratings import encode_ratings, load_ratings
    from .reward_losses import RATING_LOSSES
    from .reward_models import RewardModel, RewardTrainer
    from .standardise import standardise

    place = check_device(device)
    text = load_model(model, max_length, seed)
    text.model.to(place)
    add_lora(text, lora)
    chosen = read_template(template, text)
    rows: PairBatch | RatingBatch
    if loss in RATING_LOSSES:
        rated = load_ratings(data, (), None, text.model.vocab_size, chosen, split)
        rows = encode_ratings(rated, text.encode, text.model.eos, max_length)
    else:
        rows = encode_pairs(_shown(read_pairs(data, chosen, text, max_length, split)))
    written = rows.chosen if isinstance(rows, PairBatch) else rows.responses
    new_tokens = min(written.completion_mask.shape[1], longest(text, max_length) // 2)
    prompts = random_prompts(data, chosen, text, max_length, new_tokens, split)
    attributes = rows.ratings.shape[1] if isinstance(rows, RatingBatch) else 1
    reward = RewardModel(text.model, seed, attributes).to(place)
    given = {"batch_size": batch_size, "learning_rate": learning_rate, **parse_settings(setting)}
    trainer = RewardTrainer(reward, rows.to(place), loss, seed, **given)
    about = {"command": "train-reward", "model": model, "data": data, "loss": loss, "lora": lora}
    about.update(given, max_length=max_length, seed=seed)
    _run(trainer, steps, out, about, resume, save_every)
    console.print(f"the scale comes from {base_samples} samples of {model}")
    try:
        standardise(reward, text.model, prompts, base_samples, new_tokens, seed)
    finally:  # what was learned is worth keeping without a scale too
        save_reward_model(out, reward, text, chosen)
    console.print(f"saved {out}; measure it with: rewardzoo rlhf eval --reward {out} --data FILE")


@app.command("train-policy")
def train_policy(
    model: Model,
    data: Data,
    out: Out,
    algorithm: Annotated[
        str,
        typer.Option(
            help="On pairs: sft, dpo, chi_po, ipo, slic, simpo, cpo, rpo, vpo, mmdpo, dno. On own "
            "samples: "
            "rloo, grpo, ppo, p3o, p3o_joint, prime, superhf."
        ),
    ] = "dpo",
    reward: Annotated[
        str | None,
        typer.Option(
            help="Of own samples: a reward model's folder, or module:function, which takes "
            "prompts, completions and the file's other columns and returns a number each."
        ),
    ] = None,
    steps: Steps = 200,
    batch_size: BatchSize = 32,
    learning_rate: Rate = 1e-4,
    max_length: MaxLength = 256,
    new_tokens: NewTokens = 64,
    lora: Lora = 0,
    template: Template = "chatml",
    split: Split = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    save_every: SaveEvery = 100,
    setting: Setting = None,
) -> None:
    """Train a policy on pairs by a preference loss, or on its own samples by a reward.

    --set passes what the loss or algorithm takes: beta=0.05, gamma=1.0, kl=0.05, k=8.

    Example: rewardzoo rlhf train-policy --model DIR --data pairs.jsonl --out runs/dpo --set beta=.1
    """
    from ..functional import check_device
    from .algorithms import ALGORITHMS
    from .folders import load_model
    from .inputs import (
        add_lora,
        random_prompts,
        read_pairs,
        read_reward,
        read_template,
        reference_of,
    )
    from .losses import LOSSES
    from .offline import OfflineTrainer
    from .own_samples import own_samples
    from .pairs import encode_pairs

    online = (*ALGORITHMS, "superhf")
    if algorithm not in (*LOSSES, *online):
        names = ", ".join((*LOSSES, *online))
        raise ValueError(f"--algorithm {algorithm}: expected one of {names}")
    place = check_device(device)
    text = load_model(model, max_length, seed)
    text.model.to(place)
    written = read_template(template, text)
    given = {"learning_rate": learning_rate, **parse_settings(setting)}
    trainer: Trainer
    if algorithm in LOSSES:
        rows = _shown(read_pairs(data, written, text, max_length, split))
        add_lora(text, lora)  # adapters begin at nothing, so the policy is its own reference
        given = {"batch_size": batch_size, "seed": seed, **given}
        trainer = OfflineTrainer(text.model, text.model, encode_pairs(rows), algorithm, **given)
    elif reward is None:
        raise ValueError(
            f"--algorithm {algorithm}: needs --reward, a reward model's folder or module:function"
        )
    else:
        prompts = random_prompts(data, written, text, max_length, new_tokens, split)
        score = read_reward(reward, text, written, data, split, prompts.ids)
        add_lora(text, lora)
        given = {"new_tokens": new_tokens, "seed": seed, **given}
        ref = reference_of(text, lora)
        trainer = own_samples(algorithm, text.model, ref, score, prompts, batch_size, given)
    about = {"command": "train-policy", "model": model, "data": data, "algorithm": algorithm}
    about.update(reward=reward, batch_size=batch_size, learning_rate=learning_rate)
    about.update(max_length=max_length, new_tokens=new_tokens, lora=lora, seed=seed)
    about.update(parse_settings(setting))
    _run(trainer, steps, out, about, resume, save_every)
    text.save_pretrained(out)
    console.print(f"saved {out}; try it with: rewardzoo rlhf sample --model {out} --prompt TEXT")


@app.command("eval")
def evaluate(
    data: Data,
    reward: Annotated[Path | None, typer.Option(help="Folder of a reward model.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Policy: its log-ratio to --ref is the reward.")
    ] = None,
    ref: Annotated[str | None, typer.Option(help="Reference of --model.")] = None,
    train: Annotated[
        Path | None, typer.Option(help="File trained on: a prompt in both is an error.")
    ] = None,
    max_length: MaxLength = 256,
    template: Template = "chatml",
    split: Split = None,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
) -> None:
    """Measure a reward model, or the reward that a policy has implicitly, on a file.

    Of pairs: accuracy and calibration, by category where rows have a subset
    (RewardBench), and RewardMATH's metrics where they have several wrong answers.
    Of answers with gold scores: the best-of-n curve, from the file's own
    proxy_scores if no model is given. Of contrasting instructions: consistency.

    Example: rewardzoo rlhf eval --reward runs/reward --data held_out.jsonl --train pairs.jsonl
    """
    from ..functional import check_device
    from .assessment import assess
    from .contents import kind_of
    from .data import check_disjoint
    from .inputs import prompts_as_pairs, read_template
    from .item_assessment import assess_answers, assess_contrast
    from .records import read_records
    from .scorer import read_scorer

    place = check_device(device)
    kind = kind_of(read_records(data, split=split)[0])
    if train is not None:  # any template tells prompts apart; a model's own is not read for it
        written = read_template("chatml" if template == "model" else template)
        check_disjoint(prompts_as_pairs(train, written), prompts_as_pairs(data, written, split))

    def template_of(text: TextModel) -> ChatTemplate:
        return read_template(template, text)

    if kind == "answers" and reward is None and model is None:
        found = assess_answers(data, None, max_length, split)
    elif kind == "answers":
        scorer = read_scorer(reward, model, ref, template_of, place)
        found = assess_answers(data, scorer, max_length, split)
    elif kind == "contrast":
        scorer = read_scorer(reward, model, ref, template_of, place)
        found = assess_contrast(data, scorer, max_length, split)
    else:
        found = assess(data, reward, model, ref, max_length, template_of, split, place)
    for name, value in found.items():
        typer.echo(f"{value:>10.4g}  {name}")
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@app.command("import-gguf")
def import_gguf_command(
    file: Annotated[Path, typer.Argument(help="GGUF model.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
) -> None:
    """Write a GGUF file's model and tokenizer as a folder that loads at once, in float32.

    Example: rewardzoo rlhf import-gguf SmolLM2-135M-Instruct.Q4_1.gguf smollm2
    """
    from .huggingface import import_gguf

    typer.echo(f"wrote {import_gguf(file, folder)}")


def _run(
    trainer: Trainer, steps: int, out: Path, about: Mapping[str, Any], resume: bool, every: int
) -> None:
    from .session import Stopped, train

    try:
        train(trainer, steps, out, about, console, resume, save_every=every)
    except Stopped:
        console.print(f"stopped; saved {out}. Go on with the same command and --resume")
        raise typer.Exit(130) from None


def _shown(data: PairData) -> PairData:
    """The same pairs, once it is said how many there are and how many were left out."""
    left_out = "".join(f"; left out, {cause}: {n}" for cause, n in data.dropped.items())
    console.print(f"{len(data)} pairs{left_out}", highlight=False)
    return data
