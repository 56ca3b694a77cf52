"""Training tokens a second: DPO here and in TRL, on the same model, pairs, batch and core.

Both train a Llama of the same random weights with AdamW for the same steps; TRL gets a tokenised
data set. The compact decoder of the same width and depth is read beside them. Sampling is compared
with ``transformers``' ``generate``, which TRL's trainers sample with. An ensemble of five reward
models is compared with one of them.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from .timing import REPEATS, Row, interleave, missing, one_thread, ratio, seconds_per_call

WIDTH, LAYERS, VOCABULARY = 64, 2, 32
PAIRS, BATCH, PROMPT, COMPLETION = 512, 64, 4, 16
MEMBERS, SCORED = 5, 128


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: twice TRL in training, twice ``generate`` in sampling, five models for three."""
    with one_thread():
        say(f"scores of {SCORED} completions by {MEMBERS} reward models, width {WIDTH}")
        rows = _scoring()
    try:
        import datasets  # noqa: F401
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ModuleNotFoundError:
        return [*rows, missing("RLHF", 'pip install "rewardzoo[rlhf]" trl')]
    with one_thread():
        say(f"DPO on {BATCH} pairs of {PROMPT + COMPLETION} tokens, width {WIDTH}")
        return [*rows, *_training(), *_sampling()]


def llama() -> Any:
    """With random weights, the same ones each time."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        eos_token_id=1,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def _pairs() -> Any:
    from rewardzoo.rlhf.data import Pair, PairData

    g = torch.Generator().manual_seed(0)
    ids = torch.randint(2, VOCABULARY, (PAIRS, PROMPT + 2 * COMPLETION), generator=g).tolist()
    end = PROMPT + COMPLETION
    return PairData([Pair(x[:PROMPT], x[PROMPT:end], x[end:]) for x in ids])


def _training() -> list[Row]:
    from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
    from rewardzoo.rlhf.huggingface import HuggingFaceModel
    from rewardzoo.rlhf.offline import OfflineTrainer
    from rewardzoo.rlhf.pairs import encode_pairs

    data = encode_pairs(_pairs(), eos=1)
    steps = PAIRS // BATCH
    tokens = 2 * PAIRS * (PROMPT + COMPLETION + 1)  # TRL appends the end, so do we
    losses: dict[str, float] = {}

    def ours(name: str, model: Any) -> Callable[[], float]:
        def read() -> float:
            policy = copy.deepcopy(model)
            start = time.perf_counter()  # the reference's pass over the pairs is part of the time
            trainer = OfflineTrainer(policy, model, data, "dpo", batch_size=BATCH)
            trainer.train(steps)
            seconds = time.perf_counter() - start
            losses[name] = _loss(policy, model, data)
            return tokens / seconds

        return read

    contenders = {
        "rewardzoo, same Llama": ours("rewardzoo, same Llama", HuggingFaceModel(llama())),
        "rewardzoo, decoder": ours(
            "rewardzoo, decoder", Decoder(DecoderConfig(VOCABULARY, 64, WIDTH, LAYERS))
        ),
        "TRL": _trl(steps, tokens, losses),
    }
    readings = interleave(contenders)
    note = "loss on all pairs after training: " + ", ".join(
        f"{k} {v:.3f}" for k, v in losses.items()
    )
    return [
        ratio(
            "DPO tokens/s, compact decoder vs TRL",
            readings,
            "tokens/s",
            "rewardzoo, decoder",
            "TRL",
            bar=2.0,
            note=note,
        ),
        ratio(
            "DPO tokens/s, the same Llama vs TRL",
            readings,
            "tokens/s",
            "rewardzoo, same Llama",
            "TRL",
            note=note,
        ),
    ]


@torch.no_grad()
def _loss(policy: Any, ref: Any, data: Any) -> float:
    """DPO's loss on all pairs, by one and the same code for every contender."""
    from rewardzoo.rlhf.losses import Scores, dpo
    from rewardzoo.rlhf.offline import reference_logps

    now, before = reference_logps(policy, data), reference_logps(ref, data)
    return float(
        dpo(Scores(*now, *before, data.chosen.lengths, data.rejected.lengths, data.strength)).mean()
    )


def _trl(steps: int, tokens: int, losses: dict[str, float]) -> Callable[[], float]:
    import datasets
    import tokenizers
    import transformers
    import trl

    from rewardzoo.rlhf.huggingface import HuggingFaceModel
    from rewardzoo.rlhf.pairs import encode_pairs

    datasets.disable_progress_bars()
    words = {f"w{i}": i for i in range(VOCABULARY)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="w0", eos_token="w1", unk_token="w0"
    )

    def text(ids: Any) -> str:
        return "".join(f" w{i}" for i in ids)

    rows = [
        {"prompt": text(p.prompt), "chosen": text(p.chosen), "rejected": text(p.rejected)}
        for p in _pairs().pairs
    ]
    model = llama()

    def read() -> float:
        with tempfile.TemporaryDirectory() as folder:
            args = trl.DPOConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=BATCH,
                learning_rate=1e-3,
                lr_scheduler_type="constant",
                report_to="none",
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                save_strategy="no",
                logging_steps=steps,
                disable_tqdm=True,
            )
            trainer = trl.DPOTrainer(
                model=copy.deepcopy(model),
                ref_model=copy.deepcopy(model),
                args=args,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=tokenizer,
            )
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
            policy, ref = HuggingFaceModel(trainer.model), HuggingFaceModel(model)
            losses["TRL"] = _loss(policy, ref, encode_pairs(_pairs(), eos=1))
            return tokens / seconds

    return read


def _sampling() -> list[Row]:
    readings = interleave(samplers(128, times=8))
    return [
        ratio(
            f"sampling tokens/s, {name} vs transformers' generate",
            readings,
            "tokens/s",
            name,
            "generate",
            bar=2.0 if name == "rewardzoo, decoder" else None,
            note=f"128 prompts, {COMPLETION} tokens, 8 times, {REPEATS} repeats",
        )
        for name in ("rewardzoo, decoder", "same Llama")
    ]


def samplers(count: int, times: int = 1) -> dict[str, Callable[[], float]]:
    """Readings of tokens sampled a second, completing so many prompts at a time, so many times."""
    from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
    from rewardzoo.rlhf.huggingface import HuggingFaceModel
    from rewardzoo.rlhf.sampling import sample

    model, decoder = llama().eval(), Decoder(DecoderConfig(VOCABULARY, 64, WIDTH, LAYERS))
    prompts = torch.randint(2, VOCABULARY, (count, PROMPT))

    def own(model: Any) -> Callable[[], float]:
        def read() -> float:
            generator = torch.Generator().manual_seed(0)
            return rate(lambda: sample(model, prompts, COMPLETION, generator).lengths.sum())

        return read

    def generate() -> torch.Tensor:
        ids = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            max_new_tokens=COMPLETION,
        )
        ends = ids[:, PROMPT:] == 1
        return ((ends.cumsum(1) - ends.long()) == 0).sum()

    def rate(tokens: Callable[[], torch.Tensor]) -> float:
        start = time.perf_counter()
        total = sum(int(tokens()) for _ in range(times))
        return total / (time.perf_counter() - start)

    return {
        "rewardzoo, decoder": own(decoder),
        "same Llama": own(HuggingFaceModel(model)),
        "generate": lambda: rate(generate),
    }


@torch.no_grad()
def _scoring() -> list[Row]:
    """Five reward models against one, on completions of the laboratory's language and longer."""
    from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
    from rewardzoo.rlhf.ensembles import Ensemble
    from rewardzoo.rlhf.reward_models import RewardModel
    from rewardzoo.rlhf.scoring import decoder_scores
    from rewardzoo.rlhf.world import Chain

    decoder = Decoder(DecoderConfig(VOCABULARY, PROMPT + COMPLETION, WIDTH, LAYERS))
    members = [RewardModel(decoder, seed) for seed in range(MEMBERS)]
    ensemble, one = Ensemble(members), members[0]
    alone = {name: tensor.unsqueeze(0) for name, tensor in one.state_dict().items()}
    language = Chain(VOCABULARY, PROMPT, COMPLETION, 0)
    batch = language.corpus(SCORED, torch.Generator().manual_seed(0))
    longest = batch._replace(completion_mask=torch.ones_like(batch.completion_mask))
    five = "five"
    readings = interleave(
        {
            five: seconds_per_call(lambda: ensemble(batch)),
            "one": seconds_per_call(lambda: one(batch)),
            "one, as the five are read": seconds_per_call(
                lambda: decoder_scores(decoder, alone, batch)
            ),
        }
    )
    whole = interleave(
        {
            five: seconds_per_call(lambda: ensemble(longest)),
            "one": seconds_per_call(lambda: one(longest)),
        }
    )
    lengths = f"{SCORED} completions, {float(batch.lengths.float().mean()):.1f} tokens on average"
    name = "seconds a batch, five reward models vs"
    return [
        ratio(f"{name} one", readings, "s", five, "one", bar=3.0, at_most=True, note=lengths),
        ratio(
            f"{name} one that is read as they are",
            readings,
            "s",
            five,
            "one, as the five are read",
            note=lengths,
        ),
        ratio(
            f"{name} one, no completion ends early",
            whole,
            "s",
            five,
            "one",
            note=f"{SCORED} completions of {COMPLETION} tokens",
        ),
    ]
