"""A compact decoder as ``transformers``' GPT-2: other software runs, trains or serves the same."""

from __future__ import annotations

from typing import Any

import torch

from ..extras import require
from .decoder import Block, Decoder


@torch.no_grad()
def to_gpt2(decoder: Decoder) -> Any:
    """A ``GPT2LMHeadModel`` with the same logits, in evaluation mode.

    GPT-2 has biases where the decoder has none: they are 0, and ask for no gradient, so that
    training it moves what training the decoder moves.

    Args:
        decoder: copied, not shared.

    Example:
        >>> from rewardzoo.rlhf.decoder import DecoderConfig
        >>> decoder = Decoder(DecoderConfig(vocab_size=8, max_length=6, width=16))
        >>> ids = torch.tensor([[0, 3, 2]])
        >>> bool(torch.allclose(to_gpt2(decoder)(ids).logits, decoder(ids), atol=1e-5))
        True
    """
    transformers = require("transformers", "rlhf")
    c = decoder.config
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=c.vocab_size,
            n_positions=c.max_length,
            n_embd=c.width,
            n_layer=c.layers,
            n_head=c.heads,
            activation_function="gelu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=c.eos,
            pad_token_id=c.eos,
        )
    )
    body = model.transformer
    body.wte.weight.copy_(decoder.embed.weight)
    body.wpe.weight.copy_(decoder.places.weight)
    body.ln_f.load_state_dict(decoder.norm.state_dict())
    for theirs, ours in zip(body.h, decoder.blocks, strict=True):
        assert isinstance(ours, Block)
        theirs.ln_1.load_state_dict(ours.norm1.state_dict())
        theirs.ln_2.load_state_dict(ours.norm2.state_dict())
        for layer, linear in (
            (theirs.attn.c_attn, ours.qkv),
            (theirs.attn.c_proj, ours.out),
            (theirs.mlp.c_fc, ours.up),
            (theirs.mlp.c_proj, ours.down),
        ):
            layer.weight.copy_(linear.weight.T)
            layer.bias.zero_().requires_grad_(False)
    return model.eval()
