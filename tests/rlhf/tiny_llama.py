"""A Llama of a few thousand weights and its tokenizer of twenty words, for comparisons with TRL."""

from __future__ import annotations

from typing import Any

PAD, EOS = 0, 1
VOCABULARY = {"<pad>": PAD, "</s>": EOS, **{f"w{i}": i + 2 for i in range(20)}}


def tokenizer() -> Any:
    """Of words between spaces."""
    import tokenizers
    import transformers

    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, unk_token="<pad>"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<pad>"
    )


def llama(**config: Any) -> Any:
    """With random weights; ``config`` is what differs."""
    import transformers

    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            eos_token_id=EOS,
            pad_token_id=PAD,
            **config,
        )
    )
