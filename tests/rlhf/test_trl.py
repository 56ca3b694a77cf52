"""Losses of DPO's family equal those of TRL's trainer on the same model, rows and masks."""

from __future__ import annotations

import copy

import pytest
import torch

from rewardzoo.rlhf import losses
from rewardzoo.rlhf.data import Pair, PairData
from rewardzoo.rlhf.huggingface import HuggingFaceModel
from rewardzoo.rlhf.losses import Scores
from rewardzoo.rlhf.pairs import encode_pairs
from rewardzoo.rlhf.reward_losses import bt, margin
from rewardzoo.rlhf.sequences import sequence_logps
from rewardzoo.rlhf.trl import as_dataset

from . import tiny_llama

pytest.importorskip("trl")

PAIRS = [
    Pair("w1 w2", " w3 w4 w5", " w6"),
    Pair("w7", " w8 w9", " w1 w1 w1 w2"),
    Pair("w3 w3 w4", " w5", " w2 w9"),
    Pair("w10 w11", " w12 w13", " w14 w15"),
]

EVEN = [Pair("w1 w2", " w3 w4", " w6 w5"), Pair("w7", " w8 w9", " w1 w1")]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_llama.tokenizer()


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    ref = tiny_llama.llama()
    policy = copy.deepcopy(ref)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return policy, ref


@pytest.mark.parametrize(
    ("pairs", "ours", "theirs"),
    [
        (PAIRS, lambda s: losses.dpo(s, 0.3), {"loss_type": ["sigmoid"]}),
        (PAIRS, lambda s: losses.slic(s, 0.3), {"loss_type": ["hinge"]}),
        (
            PAIRS,
            lambda s: losses.ipo(s, 0.3, length_normalised=True),
            {"loss_type": ["ipo"]},
        ),
        # TRL takes a mean over the batch's tokens and ours over sequences: the same at one length.
        (EVEN, losses.sft, {"loss_type": ["sft"]}),
        (
            EVEN,
            lambda s: losses.rpo(s, 0.3, eta=0.5),
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3 * 0.5 * 3]},
        ),
    ],
    ids=["dpo", "slic", "ipo", "sft", "rpo"],
)
def test_loss_and_gradient_equal_trl(tmp_path, tokenizer, models, pairs, ours, theirs):
    import datasets
    import trl

    policy, ref = copy.deepcopy(models[0]), copy.deepcopy(models[1])
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    args = trl.DPOConfig(
        output_dir=str(tmp_path),
        beta=0.3,
        per_device_train_batch_size=len(pairs),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_dropout=True,
        **theirs,
    )
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=ref,
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    expected_loss = trainer.compute_loss(trainer.model, batch)
    expected_loss.backward()
    expected = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()

    data = encode_pairs(PairData(pairs), lambda text: tokenizer.encode(text), eos=1)
    model, reference = HuggingFaceModel(policy), HuggingFaceModel(ref)
    chosen, rejected = sequence_logps(model, data.both).chunk(2)
    with torch.no_grad():
        ref_chosen, ref_rejected = sequence_logps(reference, data.both).chunk(2)
    lengths = data.chosen.lengths, data.rejected.lengths
    scores = Scores(chosen, rejected, ref_chosen, ref_rejected, *lengths, data.strength)
    loss = ours(scores).mean()
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=0)
    loss.backward()
    for p, grad in zip(policy.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("centre", [0.0, 0.1])
@pytest.mark.parametrize("with_margin", [False, True])
def test_reward_loss_and_gradient_equal_trl(tmp_path, tokenizer, models, centre, with_margin):
    import datasets
    import transformers
    import trl

    from rewardzoo.rlhf.reward_losses import bt, centring, margin
    from rewardzoo.rlhf.reward_models import RewardModel

    lm = copy.deepcopy(models[0])
    config = copy.deepcopy(lm.config)
    config.num_labels = 1
    theirs = transformers.LlamaForSequenceClassification(config)
    theirs.model.load_state_dict(lm.model.state_dict())
    rows = [
        {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "margin": 0.3 + i}
        for i, p in enumerate(PAIRS)
    ]
    if not with_margin:
        rows = [{k: v for k, v in row.items() if k != "margin"} for row in rows]
    args = trl.RewardConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        center_rewards_coefficient=centre or None,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_dropout=True,
    )
    trainer = trl.RewardTrainer(
        model=theirs,
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model, batch)
    expected.backward()

    model = RewardModel(HuggingFaceModel(lm))
    with torch.no_grad():
        model.value.weight.copy_(theirs.score.weight)
    data = encode_pairs(PairData(PAIRS), lambda text: tokenizer.encode(text), eos=1)
    chosen, rejected = model.raw(data.both).chunk(2)
    strength = torch.tensor([0.3 + i for i in range(4)])
    each = margin(chosen, rejected, strength) if with_margin else bt(chosen, rejected, strength)
    loss = each.mean() + centre * centring(chosen, rejected).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    loss.backward()
    for p, q in zip(
        model.backbone.model.model.parameters(), theirs.model.parameters(), strict=True
    ):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.value.weight.grad, theirs.score.weight.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strength", [None, 0.7])
def test_our_pairs_train_in_trls_reward_trainer_with_a_margin_only_if_they_have_one(
    tmp_path, tokenizer, strength
):
    import dataclasses

    import transformers
    import trl

    data = PairData([dataclasses.replace(p, strength=strength) for p in PAIRS])
    config = tiny_llama.llama().config
    config.num_labels = 1
    torch.manual_seed(0)
    trainer = trl.RewardTrainer(
        model=transformers.LlamaForSequenceClassification(config),
        args=trl.RewardConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            max_steps=1,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
        ),
        train_dataset=as_dataset(data),
        processing_class=tokenizer,
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        out = trainer.model(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        chosen, rejected = out.logits.squeeze(-1).chunk(2)
    given = torch.full_like(chosen, strength or 1.0)
    expected = (bt if strength is None else margin)(chosen, rejected, given).mean()
    trainer.train()
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert logged == [pytest.approx(float(expected), abs=1e-4)]


def test_pairs_of_which_only_some_have_a_strength_are_refused():
    with pytest.raises(ValueError, match="row 1: no strength"):
        as_dataset(PairData([Pair("w1", "w2", "w3", 2.0), Pair("w1", "w2", "w3")]))
