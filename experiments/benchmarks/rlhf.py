"""Language models: training and sampling here and in TRL, of one model, on one core.

The model is the compact decoder; TRL, and ``transformers``' ``generate``, with which TRL samples,
get the same function of the same weights as a GPT-2 (``rewardzoo.rlhf.gpt2``). DPO trains both on
the same pairs, for as many steps of AdamW at the same rate, RLOO on as many completions for the
same reward. (TRL reads the reference only where there is a penalty on KL; here it is always read,
for the KL is logged.) The same GPT-2 behind this project's interface is read beside them. An
ensemble of five reward models is compared with one of them.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from .timing import (
    REPEATS,
    Row,
    interleave,
    missing,
    one_thread,
    peak_megabytes,
    ratio,
    seconds_per_call,
)

SIZES = ((64, 2), (128, 4))  # width and layers
VOCABULARY, LENGTH = 32, 64
PAIRS, BATCH, PROMPT, COMPLETION = 512, 64, 4, 16
PROMPTS, K, UPDATES = 32, 4, 8
WANTED = 5  # the token that RLOO's reward counts
KLS = (0.0, 0.05)  # RLOO without a penalty, and with what TRL takes by default
MEMBERS, SCORED = 5, 128
OURS, THROUGH, TRL, GENERATE = "rewardzoo", "rewardzoo, transformers' GPT-2", "TRL", "generate"


def run(say: Callable[[str], None]) -> list[Row]:
    """The bars: twice TRL in training, twice ``generate`` in sampling, five models for three."""
    with one_thread():
        say(f"scores of {SCORED} completions by {MEMBERS} reward models")
        rows = _scoring()
    try:
        import datasets  # noqa: F401
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ModuleNotFoundError:
        return [*rows, missing("RLHF", 'pip install "rewardzoo[rlhf]" trl')]
    with one_thread():
        for width, layers in SIZES:
            model, size = decoder(width, layers), f"width {width}, {layers} layers"
            say(f"DPO on {BATCH} pairs of {PROMPT + COMPLETION} tokens, {size}")
            rows += _dpo(model, size)
            say(f"RLOO on {PROMPTS} prompts, {K} completions each, {size}")
            for kl in KLS:
                rows += _rloo(model, size, kl)
            say(f"sampling, {size}")
            rows += _sampling(model, size)
    return rows


def decoder(width: int, layers: int) -> Any:
    """With random weights, the same ones each time."""
    from rewardzoo.rlhf.decoder import Decoder, DecoderConfig

    return Decoder(DecoderConfig(VOCABULARY, LENGTH, width, layers))


# ---- training ------------------------------------------------------------------------------------


def _pairs() -> Any:
    from rewardzoo.rlhf.data import Pair, PairData

    g = torch.Generator().manual_seed(0)
    ids = torch.randint(2, VOCABULARY, (PAIRS, PROMPT + 2 * COMPLETION), generator=g).tolist()
    end = PROMPT + COMPLETION
    return PairData([Pair(x[:PROMPT], x[PROMPT:end], x[end:]) for x in ids])


def _dpo(model: Any, size: str) -> list[Row]:
    from rewardzoo.rlhf.gpt2 import to_gpt2
    from rewardzoo.rlhf.huggingface import HuggingFaceModel
    from rewardzoo.rlhf.offline import OfflineTrainer
    from rewardzoo.rlhf.pairs import encode_pairs

    data = encode_pairs(_pairs(), eos=1)
    steps = PAIRS // BATCH
    tokens = 2 * PAIRS * (PROMPT + COMPLETION + 1)  # TRL appends the end, so do we
    losses: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}

    def ours(name: str, model: Any) -> Callable[[], float]:
        def read() -> float:
            policy = copy.deepcopy(model)

            def work() -> None:  # the reference's pass over the pairs is part of it
                OfflineTrainer(policy, model, data, "dpo", batch_size=BATCH).train(steps)

            seconds = _timed(work, name, peaks)
            losses.setdefault(name, []).append(_loss(policy, model, data))
            return tokens / seconds

        return read

    def theirs() -> float:
        with tempfile.TemporaryDirectory() as folder:
            trainer = _quiet(_trl_dpo(to_gpt2(model), folder, steps))
            seconds = _timed(trainer.train, TRL, peaks)
            policy, ref = (HuggingFaceModel(m) for m in (trainer.model, to_gpt2(model)))
            losses.setdefault(TRL, []).append(_loss(policy, ref, data))
            return tokens / seconds

    rows = _beside_trl("DPO", size, model, ours, theirs, f"one epoch of {PAIRS} pairs", peaks)
    return [
        *rows,
        ratio(
            f"DPO loss after training vs TRL's, {size}",
            losses,
            "nats",
            OURS,
            TRL,
            bar=1.02,
            at_most=True,
            note="on all pairs, by the same code; the pairs come in other orders",
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


def _trl_dpo(model: Any, folder: str, steps: int) -> Any:
    import datasets
    import trl

    datasets.disable_progress_bars()
    rows = [
        {"prompt": _text(p.prompt), "chosen": _text(p.chosen), "rejected": _text(p.rejected)}
        for p in _pairs().pairs
    ]
    args = trl.DPOConfig(per_device_train_batch_size=BATCH, **_trl_settings(folder, steps))
    return trl.DPOTrainer(
        model=model.train(),
        ref_model=copy.deepcopy(model),
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=_tokenizer(),
    )


def _rloo(model: Any, size: str, kl: float) -> list[Row]:
    from rewardzoo.rlhf.gpt2 import to_gpt2
    from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer

    peaks: dict[str, float] = {}

    def ours(name: str, model: Any) -> Callable[[], float]:
        def read() -> float:
            seen: list[torch.Tensor] = []

            def reward(batch: Any) -> torch.Tensor:
                seen.append(batch.completion_mask.sum())
                wanted = (batch.completions == WANTED) & batch.completion_mask
                return wanted.sum(1).float()

            def prompts(n: int, generator: torch.Generator) -> torch.Tensor:
                return torch.randint(2, VOCABULARY, (n, PROMPT), generator=generator)

            config = OnlineConfig(
                k=K, prompts=PROMPTS, new_tokens=COMPLETION, learning_rate=1e-3, kl=kl
            )
            trainer = OnlineTrainer(copy.deepcopy(model), model, reward, prompts, config)
            seconds = _timed(lambda: trainer.train(UPDATES), name, peaks)
            return int(sum(seen)) / seconds

        return read

    def theirs() -> float:
        seen: list[int] = []

        def reward(completion_ids: Any, **columns: Any) -> list[float]:
            seen.append(sum(len(ids) for ids in completion_ids))
            return [float(sum(i == WANTED for i in ids)) for ids in completion_ids]

        with tempfile.TemporaryDirectory() as folder:
            trainer = _quiet(_trl_rloo(to_gpt2(model), reward, folder, kl))
            seconds = _timed(trainer.train, TRL, peaks)
        return sum(seen) / seconds

    note = f"completion tokens, {UPDATES} updates"
    name = f"RLOO with KL {kl}" if kl else "RLOO"
    return _beside_trl(name, size, model, ours, theirs, note, peaks)


def _trl_rloo(model: Any, reward: Any, folder: str, kl: float) -> Any:
    import datasets
    import transformers
    import trl

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(f"{folder}/model")  # from which TRL reads the reference too
    _tokenizer().save_pretrained(f"{folder}/model")
    ids = torch.randint(2, VOCABULARY, (PROMPTS * UPDATES, PROMPT))
    args = trl.RLOOConfig(
        per_device_train_batch_size=PROMPTS * K,
        num_generations=K,
        max_completion_length=COMPLETION,
        beta=kl,
        **_trl_settings(folder, UPDATES),
    )
    return trl.RLOOTrainer(
        model=f"{folder}/model",
        reward_funcs=[reward],
        args=args,
        train_dataset=datasets.Dataset.from_list([{"prompt": _text(x)} for x in ids.tolist()]),
        processing_class=_tokenizer(),
    )


def _beside_trl(
    what: str,
    size: str,
    model: Any,
    ours: Callable[[str, Any], Callable[[], float]],
    theirs: Callable[[], float],
    note: str,
    peaks: dict[str, float],
) -> list[Row]:
    """The decoder, and the GPT-2 that it is too, beside TRL with that GPT-2."""
    from rewardzoo.rlhf.gpt2 import to_gpt2
    from rewardzoo.rlhf.huggingface import HuggingFaceModel

    through = ours(THROUGH, HuggingFaceModel(to_gpt2(model)))
    readings = interleave({OURS: ours(OURS, model), THROUGH: through, TRL: theirs})
    most = ", ".join(f"{name} {peak:.0f} MB" for name, peak in peaks.items())
    note = f"{note}; most memory beyond what was held before: {most}"
    name = f"{what} tokens/s"
    return [
        ratio(f"{name} vs TRL, {size}", readings, "tokens/s", OURS, TRL, bar=2.0, note=note),
        ratio(f"{name} by GPT-2 vs TRL, {size}", readings, "tokens/s", THROUGH, TRL),
    ]


def _trl_settings(folder: str, steps: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": steps,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": steps,
        "disable_tqdm": True,
    }


def _quiet(trainer: Any) -> Any:
    """Without the callback that prints its metrics among the benchmarks' rows."""
    import transformers

    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _tokenizer() -> Any:
    """Of words between spaces, each of them a token's number."""
    import tokenizers
    import transformers

    words = {f"w{i}": i for i in range(VOCABULARY)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="w0", eos_token="w1", unk_token="w0"
    )


def _text(ids: Any) -> str:
    return "".join(f" w{i}" for i in ids)


def _timed(work: Callable[[], Any], name: str, peaks: dict[str, float]) -> float:
    """Seconds of some work; notes the most memory that a contender took."""
    start = time.perf_counter()
    peak = peak_megabytes(work)
    seconds = time.perf_counter() - start
    peaks[name] = max(peak, peaks.get(name, 0.0))
    return seconds


# ---- sampling and scoring ------------------------------------------------------------------------


def _sampling(model: Any, size: str) -> list[Row]:
    readings = interleave(samplers(128, times=8, model=model))
    name = "sampling tokens/s"
    note = f"128 prompts, {COMPLETION} tokens, 8 times, {REPEATS} repeats"
    return [
        ratio(
            f"{name} vs generate, {size}",
            readings,
            "tokens/s",
            OURS,
            GENERATE,
            bar=2.0,
            note=note,
        ),
        ratio(f"{name} by GPT-2 vs generate, {size}", readings, "tokens/s", THROUGH, GENERATE),
    ]


def samplers(count: int, times: int = 1, model: Any = None) -> dict[str, Callable[[], float]]:
    """Readings of tokens sampled a second, completing so many prompts at a time, so many times."""
    from rewardzoo.rlhf.gpt2 import to_gpt2
    from rewardzoo.rlhf.huggingface import HuggingFaceModel
    from rewardzoo.rlhf.sampling import sample

    model = decoder(*SIZES[0]) if model is None else model
    twin = to_gpt2(model)
    prompts = torch.randint(2, VOCABULARY, (count, PROMPT))

    def own(model: Any) -> Callable[[], float]:
        def read() -> float:
            generator = torch.Generator().manual_seed(0)
            return rate(lambda: sample(model, prompts, COMPLETION, generator).lengths.sum())

        return read

    def generate() -> torch.Tensor:
        ids = twin.generate(
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
        OURS: own(model),
        THROUGH: own(HuggingFaceModel(twin)),
        GENERATE: lambda: rate(generate),
    }


@torch.no_grad()
def _scoring() -> list[Row]:
    """Five reward models against one, on completions of the laboratory's language and longer."""
    from rewardzoo.rlhf.ensembles import Ensemble
    from rewardzoo.rlhf.reward_models import RewardModel
    from rewardzoo.rlhf.scoring import decoder_scores
    from rewardzoo.rlhf.world import Chain

    backbone = decoder(*SIZES[0])
    members = [RewardModel(backbone, seed) for seed in range(MEMBERS)]
    language = Chain(VOCABULARY, PROMPT, COMPLETION, 0)
    batch = language.corpus(SCORED, torch.Generator().manual_seed(0))
    for member in members:
        member.fit_normaliser(batch)
    ensemble, one = Ensemble(members), members[0]
    alone = {name: tensor.unsqueeze(0) for name, tensor in one.state_dict().items()}
    longest = batch._replace(completion_mask=torch.ones_like(batch.completion_mask))
    five = "five"
    readings = interleave(
        {
            five: seconds_per_call(lambda: ensemble(batch)),
            "one": seconds_per_call(lambda: one(batch)),
            "one, as the five are read": seconds_per_call(
                lambda: decoder_scores(backbone, alone, batch)
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
