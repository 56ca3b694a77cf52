"""Reward functions as TRL's ``reward_funcs``: the same numbers, composed ones too, in its trainer."""

from __future__ import annotations

import pytest
import torch

from rewardzoo.rewards.clip import Clip
from rewardzoo.rlhf.reward_models import SequenceReward
from rewardzoo.rlhf.sequences import pack
from rewardzoo.rlhf.trl import as_reward_function

from . import tiny_llama
from .tiny_llama import EOS

PROMPTS, COMPLETIONS = ["w1 w2", "w3", "w4"], ["w5 w6 w7", "w8", "w9 w1"]


def encode(text):
    return [int(word[1:]) + 2 for word in text.split()]


def rising(batch):
    """Something that looks at prompts, completions, order and the end."""
    place = torch.arange(1.0, batch.completion_mask.shape[1] + 1)
    ended = (batch.completions == EOS).any(1)
    spoken = (batch.completions * place * batch.completion_mask).sum(1)
    return 0.1 * spoken + batch.prompts.sum(1) + ended


def direct():
    rows = [[*encode(y), EOS] for y in COMPLETIONS]
    return [float(rising(pack([encode(x)], [y]))) for x, y in zip(PROMPTS, rows, strict=True)]


def test_a_callable_for_trl_pays_what_the_reward_function_pays():
    reward = as_reward_function(SequenceReward(rising, EOS), encode, EOS)
    found = reward(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=None, other=[1, 2, 3])
    assert found == pytest.approx(direct())
    assert all(type(x) is float for x in found) and reward.__name__


def test_composed_reward_functions_are_callables_for_trl_too():
    one = SequenceReward(rising, EOS)
    total = 0.5 * one + Clip(one, -1.0, 10.0)
    composed = as_reward_function(total, encode, EOS)
    expected = [0.5 * x + min(x, 10.0) for x in direct()]
    assert composed(prompts=PROMPTS, completions=COMPLETIONS) == pytest.approx(expected)
    terms = {name: float(paid) for name, paid in total.terms().items()}  # of the last completion
    last = direct()[-1]
    assert terms == pytest.approx(
        {"sequence_reward": 0.5 * last, "clip(sequence_reward)": min(last, 10.0)}
    )


def test_a_completion_whose_tokens_do_not_end_is_scored_as_cut_off():
    seen = []

    class Recording(SequenceReward):
        def __call__(self, t):
            seen.append((bool(t.terminated), bool(t.truncated)))
            return super().__call__(t)

    reward = as_reward_function(Recording(rising, EOS), encode, EOS)
    ids = [[7, 8, 9], [10, EOS], [11, 3]]  # the first and the last are cut off
    found = reward(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=ids)
    packed = [rising(pack([encode(x)], [y])) for x, y in zip(PROMPTS, ids, strict=True)]
    assert found == pytest.approx([float(x) for x in packed])
    assert found[0] == pytest.approx(direct()[0] - 0.1 * 4 * EOS - 1)
    assert seen == [(False, True), (True, False), (False, True)]


def test_messages_are_written_by_the_template_and_read_as_text():
    def template(messages):
        assert [m["role"] for m in messages] == ["user"]
        return messages[0]["content"]

    def asked(text):
        return [{"role": "user", "content": text}]

    def said(text):
        return [{"role": "assistant", "content": text}]

    reward = as_reward_function(SequenceReward(rising, EOS), encode, EOS, template)
    prompts, completions = [asked(x) for x in PROMPTS], [said(y) for y in COMPLETIONS]
    assert reward(prompts=prompts, completions=completions) == pytest.approx(direct())
    ids = [[*encode(y), EOS] for y in COMPLETIONS]
    found = reward(prompts=prompts, completions=completions, completion_ids=ids)
    assert found == pytest.approx(direct())
    with pytest.raises(ValueError, match="give template="):
        as_reward_function(SequenceReward(rising, EOS), encode, EOS)(prompts, completions)
    with pytest.raises(ValueError, match="2 messages in one"):
        reward(prompts, [[*y, *y] for y in completions])


def test_trls_trainer_optimises_what_our_reward_function_pays(tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    torch.manual_seed(0)
    reward = as_reward_function(SequenceReward(rising, EOS), encode, EOS)
    seen = []

    def recorded(prompts, completions, **columns):
        paid = reward(prompts, completions, **columns)
        seen.extend(paid)
        return paid

    trainer = trl.GRPOTrainer(
        model=tiny_llama.llama(),
        reward_funcs=[recorded],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=4,
            max_steps=1,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": x} for x in PROMPTS]),
        processing_class=tiny_llama.tokenizer(),
    )
    trainer.train()
    logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert len(seen) == 4 and logged == [pytest.approx(sum(seen) / 4, rel=1e-4)]
