"""The compact decoder and the GPT-2 that is made of it are one function, and learn alike."""

from __future__ import annotations

import pytest
import torch

from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.sequences import pack, sequence_logps

pytest.importorskip("transformers")

from rewardzoo.rlhf.gpt2 import to_gpt2
from rewardzoo.rlhf.huggingface import HuggingFaceModel

BATCH = pack([[2, 3], [4], [5, 6, 7]], [[3, 4, 1], [6, 1], [8, 9, 2, 2]])


def decoder() -> Decoder:
    model = Decoder(DecoderConfig(vocab_size=10, max_length=8, width=16, layers=2), seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as after training: no two weights alike
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return model


def test_one_function_behind_padding_too() -> None:
    ours = decoder()
    theirs = HuggingFaceModel(to_gpt2(ours))
    found = theirs(BATCH.ids, BATCH.attention_mask)[BATCH.attention_mask]
    torch.testing.assert_close(found, ours(BATCH.ids, BATCH.attention_mask)[BATCH.attention_mask])


def test_one_gradient_and_nothing_else_to_learn() -> None:
    ours = decoder()
    model = to_gpt2(ours)
    learned = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learned) == sum(p.numel() for p in ours.parameters())
    sequence_logps(HuggingFaceModel(model), BATCH).sum().backward()
    sequence_logps(ours, BATCH).sum().backward()
    block, twin = ours.blocks[1], model.transformer.h[1]
    torch.testing.assert_close(twin.attn.c_attn.weight.grad.T, block.qkv.weight.grad)
    torch.testing.assert_close(twin.mlp.c_proj.weight.grad.T, block.down.weight.grad)
    torch.testing.assert_close(model.transformer.wte.weight.grad, ours.embed.weight.grad)


def test_it_is_a_folder_that_transformers_reads(tmp_path) -> None:
    ours = decoder()
    to_gpt2(ours).save_pretrained(tmp_path)
    again = HuggingFaceModel.from_pretrained(tmp_path)
    ids = torch.tensor([[2, 3, 4, 5]])
    torch.testing.assert_close(again(ids), ours(ids))
