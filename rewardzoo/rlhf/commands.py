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
    from .sampling import Prompts
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
Data = Annotated[Path, typer.Option(help="jsonl, json, csv, parquet, or a folder of them.")]
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


@data_app.command("check")
def check(
    path: Annotated[Path, typer.Argument(help="jsonl, json, csv, parquet, or a folder of them.")],
    template: Template = "chatml",
    vocab_size: Annotated[int | None, typer.Option(help="Of token ids in the file.")] = None,
) -> None:
    """Read a file of preferences or ratings and say what is in it, or which row is wrong.

    Example: rewardzoo rlhf data check pairs.jsonl
    """
    from .data import load_pairs
    from .ratings import load_ratings
    from .records import read_records

    if _rated(read_records(path)[0].fields):
        rated = load_ratings(path, vocab_size=vocab_size)
        typer.echo(f"{len(rated):>10}  rated responses, {len(rated[0].ratings)} ratings each")
        return
    data = load_pairs(
        path, template=_template(template), on_identical="drop", vocab_size=vocab_size
    )
    for name, value in data.report().items():
        typer.echo(f"{value:>10.4g}  {name}")


@app.command()
def sample(
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option(help="Text; repeatable.")] = None,
    data: Annotated[Path | None, typer.Option(help="File with a column prompt.")] = None,
    n: Annotated[int, typer.Option(help="Completions of each prompt.", min=1)] = 1,
    new_tokens: Annotated[int, typer.Option(help="Longest completion.", min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0.0)] = 1.0,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="jsonl to write; default: the terminal.")] = None,
) -> None:
    """Complete prompts.

    Example: rewardzoo rlhf sample --model DIR --prompt "Once upon a time" --n 4
    """
    import torch

    from .folders import load_model
    from .records import read_records
    from .sampling import sample as draw

    text = load_model(model, seed=seed)
    given: list[Any] = list(prompt or [])
    if data is not None:
        given += [record["prompt"] for record in read_records(data)]
    if not given:
        raise ValueError("--prompt: expected at least one, or --data")
    ids = [text.encode(x) if isinstance(x, str) else list(x) for x in given]
    rows = [x for x in range(len(ids)) for _ in range(n)]
    prompts, mask = _padded([ids[i] for i in rows])
    generator = torch.Generator().manual_seed(seed) if temperature else None
    batch = draw(text.model, prompts, new_tokens, generator, mask, temperature or 1.0)
    completions = batch.completions.tolist()
    lines = []
    for i, completion, length in zip(rows, completions, batch.lengths.tolist(), strict=True):
        kept = [token for token in completion[:length] if token != text.model.eos]
        as_text = isinstance(given[i], str)
        lines.append({"prompt": given[i], "completion": text.decode(kept) if as_text else kept})
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
    lora: Lora = 0,
    template: Template = "chatml",
    seed: Seed = 0,
    resume: Resume = False,
    save_every: SaveEvery = 100,
    setting: Setting = None,
) -> None:
    """Fit a reward model to pairs, or to rated responses (loss regression or cross_entropy).

    Example: rewardzoo rlhf train-reward --model DIR --data pairs.jsonl --out runs/reward
    """
    from .data import load_pairs
    from .folders import load_model, save_reward_model
    from .pairs import PairBatch, RatingBatch, encode_pairs
    from .ratings import encode_ratings, load_ratings
    from .reward_losses import RATING_LOSSES
    from .reward_models import RewardModel, RewardTrainer

    text = load_model(model, max_length, seed)
    _add_lora(text, lora)
    chosen = _template(template, text)
    limits = (text.encode, text.model.eos, max_length)
    rows: PairBatch | RatingBatch
    if loss in RATING_LOSSES:
        rows = encode_ratings(load_ratings(data, vocab_size=text.model.vocab_size), *limits)
    else:
        rows = encode_pairs(_pairs(load_pairs, data, chosen, text), *limits)
    attributes = rows.ratings.shape[1] if isinstance(rows, RatingBatch) else 1
    reward = RewardModel(text.model, seed, attributes)
    given = {"batch_size": batch_size, "learning_rate": learning_rate, **parse_settings(setting)}
    trainer = RewardTrainer(reward, rows, loss, seed, **given)
    about = {"command": "train-reward", "model": model, "data": data, "loss": loss, "lora": lora}
    about.update(given, max_length=max_length, seed=seed)
    _run(trainer, steps, out, about, resume, save_every)
    first = rows.chosen if isinstance(rows, PairBatch) else rows.responses
    reward.fit_normaliser(first)
    save_reward_model(out, reward, text, chosen)
    console.print(f"saved {out}; measure it with: rewardzoo rlhf eval --reward {out} --data FILE")


@app.command("train-policy")
def train_policy(
    model: Model,
    data: Data,
    out: Out,
    algorithm: Annotated[
        str, typer.Option(help="sft, dpo, ipo, slic, simpo, rpo, vpo, …; rloo, grpo, ppo, superhf.")
    ] = "dpo",
    reward: Annotated[
        Path | None, typer.Option(help="Folder of a reward model, for the algorithms that sample.")
    ] = None,
    steps: Steps = 200,
    batch_size: BatchSize = 32,
    learning_rate: Rate = 1e-4,
    max_length: MaxLength = 256,
    new_tokens: Annotated[int, typer.Option(help="Longest sampled completion.", min=1)] = 64,
    lora: Lora = 0,
    template: Template = "chatml",
    seed: Seed = 0,
    resume: Resume = False,
    save_every: SaveEvery = 100,
    setting: Setting = None,
) -> None:
    """Train a policy on pairs by a preference loss, or on its own samples by a reward model.

    --set passes what the loss or algorithm takes: beta=0.05, gamma=1.0, kl=0.05, k=8.

    Example: rewardzoo rlhf train-policy --model DIR --data pairs.jsonl --out runs/dpo --set beta=.1
    """
    import copy

    from .data import load_pairs
    from .folders import load_model, load_reward_model
    from .iterative import SuperHF
    from .losses import LOSSES
    from .offline import OfflineTrainer
    from .online import ALGORITHMS, OnlineConfig, OnlineTrainer
    from .pairs import encode_pairs

    online = (*ALGORITHMS, "superhf")
    if algorithm not in (*LOSSES, *online):
        names = ", ".join((*LOSSES, *online))
        raise ValueError(f"--algorithm {algorithm}: expected one of {names}")
    text = load_model(model, max_length, seed)
    given = parse_settings(setting)
    trainer: Trainer
    if algorithm in LOSSES:
        pairs = encode_pairs(
            _pairs(load_pairs, data, _template(template, text), text),
            text.encode,
            text.model.eos,
            max_length,
        )
        _add_lora(text, lora)  # adapters begin at nothing, so the policy is its own reference
        trainer = OfflineTrainer(
            text.model,
            text.model,
            pairs,
            algorithm,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            **given,
        )
    else:
        if reward is None:
            raise ValueError(f"--algorithm {algorithm}: needs --reward, a reward model's folder")
        score, other, _ = load_reward_model(reward)
        if other.model.vocab_size != text.model.vocab_size:
            raise ValueError(
                f"--reward {reward}: a vocabulary of {other.model.vocab_size}, the policy's is "
                f"{text.model.vocab_size}"
            )
        score.requires_grad_(False)
        ref = copy.deepcopy(text.model).requires_grad_(False)
        _add_lora(text, lora)
        prompts = _prompt_source(data, text, max_length - new_tokens)
        common: dict[str, Any] = {"new_tokens": new_tokens, "learning_rate": learning_rate}
        if algorithm == "superhf":
            common["batch_size"] = batch_size
            trainer = SuperHF(text.model, ref, score, prompts, seed=seed, **{**common, **given})
        else:
            common["prompts"] = batch_size
            config = OnlineConfig(algorithm=algorithm, seed=seed, **{**common, **given})
            trainer = OnlineTrainer(text.model, ref, score, prompts, config)
    about = {"command": "train-policy", "model": model, "data": data, "algorithm": algorithm}
    about.update(given, reward=reward, batch_size=batch_size, learning_rate=learning_rate)
    about.update(max_length=max_length, new_tokens=new_tokens, lora=lora, seed=seed)
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
    max_length: MaxLength = 256,
    template: Template = "chatml",
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
) -> None:
    """Accuracy and calibration of a reward model on pairs, by category where rows have a subset.

    Rows of one correct and several wrong answers (RewardMATH) get its metrics too.

    Example: rewardzoo rlhf eval --reward runs/reward --data held_out.jsonl
    """
    from .assessment import assess

    found = assess(data, reward, model, ref, max_length, lambda text: _template(template, text))
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


def _pairs(load: Any, path: Path, template: ChatTemplate, text: TextModel) -> PairData:
    size = text.model.vocab_size
    data: PairData = load(path, template=template, on_identical="drop", vocab_size=size)
    if not len(data):
        raise ValueError(f"--data {path}: no pair is left, {dict(data.dropped)} dropped")
    return data


def _prompt_source(path: Path, text: TextModel, room: int) -> Prompts:
    """Random prompts of a file, of which the last ``room`` tokens are kept."""
    import torch

    from .records import read_records

    if room < 1:
        raise ValueError("--new-tokens: leaves no room for a prompt within --max-length")
    given = [record["prompt"] for record in read_records(path)]
    ids = [(text.encode(x) if isinstance(x, str) else list(x))[-room:] for x in given]

    def prompts(n: int, generator: torch.Generator) -> Any:
        rows = torch.randint(len(ids), (n,), generator=generator).tolist()
        found, mask = _padded([ids[i] for i in rows])
        return found if mask is None else (found, mask)

    return prompts


def _padded(ids: list[list[int]]) -> tuple[Any, Any]:
    """Prompts (B, P) padded on the left, and their mask, None where there is no padding."""
    from .sequences import pack

    batch = pack(ids, [[0]] * len(ids))
    return batch.prompts, batch.prompt_mask


def _template(name: str, text: TextModel | None = None) -> ChatTemplate:
    from .templates import CHATML, HH, ChatTemplate

    known = {"chatml": CHATML, "hh": HH}
    if name == "model":
        source = getattr(getattr(text, "tokenizer", None), "chat_template", None)
        if source is None:
            raise ValueError("--template model: the model's tokenizer has no chat template")
        tokens = {"bos": text.tokenizer.bos_token, "eos": text.tokenizer.eos_token}  # type: ignore[union-attr]
        return ChatTemplate(source, **{k: v or "" for k, v in tokens.items()})
    if name not in known:
        raise ValueError(f"--template {name}: expected chatml, hh or model")
    return ChatTemplate(known[name])


def _add_lora(text: TextModel, rank: int) -> None:
    from .huggingface import HuggingFaceModel

    if not rank:
        return
    if not isinstance(text.model, HuggingFaceModel):
        raise ValueError(f"--lora {rank}: adapters are for models of transformers")
    text.model.add_lora(rank)


def _rated(row: Mapping[str, Any]) -> bool:
    return "chosen" not in row and ("response" in row or "label" in row)
