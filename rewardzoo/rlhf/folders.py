"""Models in folders: policies with the text that they read, and reward models.

A policy is a folder of ``transformers``, or of the compact decoder, which reads text as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import load_checkpoint, save_checkpoint
from ..extras import require
from .decoder import Decoder, DecoderConfig, LanguageModel
from .huggingface import HuggingFaceModel
from .reward_models import RewardModel
from .templates import ChatTemplate

NEW = "decoder"
_FIRST_BYTE = 2  # ids 0 and 1 are padding and the end


@dataclass(frozen=True)
class TextModel:
    """A language model, and how text becomes its tokens.

    Args:
        model: the model.
        encode: text to ids, without special tokens.
        decode: ids to text.
        tokenizer: of ``transformers``, where there is one.
    """

    model: LanguageModel
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    tokenizer: Any = None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that ``load_model`` reads."""
        self.model.save_pretrained(folder)  # type: ignore[operator]
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


def encode_bytes(text: str) -> list[int]:
    """UTF-8 bytes as ids from 2 on."""
    return [b + _FIRST_BYTE for b in text.encode()]


def decode_bytes(ids: Sequence[int]) -> str:
    """The text of ids from 2 to 257; others are left out."""
    kept = bytes(i - _FIRST_BYTE for i in ids if _FIRST_BYTE <= i < 256 + _FIRST_BYTE)
    return kept.decode(errors="replace")


def load_model(name: str, max_length: int = 256, seed: int = 0) -> TextModel:
    """A policy from a folder, or a new one.

    Args:
        name: a folder, or ``decoder`` for a compact decoder that has learned nothing.
        max_length: of a new one.
        seed: of a new one.

    Raises:
        ValueError: for what is no folder of a model, and for a tokenizer whose tokens the model
            does not have.
    """
    folder = Path(name)
    if name == NEW and not folder.is_dir():
        config = DecoderConfig(256 + _FIRST_BYTE, max_length, width=128, layers=4)
        return TextModel(Decoder(config, seed), encode_bytes, decode_bytes)
    if (folder / "decoder.pt").is_file():
        return TextModel(Decoder.from_pretrained(folder).eval(), encode_bytes, decode_bytes)
    if (folder / "config.json").is_file():
        return _huggingface(folder)
    raise ValueError(
        f"model={name!r}: expected a folder with a config.json or a decoder.pt, or {NEW!r} for a "
        "new one"
    )


def save_reward_model(
    folder: str | Path, model: RewardModel, text: TextModel, template: ChatTemplate
) -> None:
    """Write a reward model with its backbone, and the template that its data were written with."""
    TextModel(model.backbone, text.encode, text.decode, text.tokenizer).save_pretrained(folder)
    content = {
        "weights": {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.")},
        "template": json.dumps(asdict(template)),
    }
    save_checkpoint(Path(folder) / "reward.pt", "reward model", content)


def load_reward_model(folder: str | Path) -> tuple[RewardModel, TextModel, ChatTemplate]:
    """Read what ``save_reward_model`` wrote."""
    content = load_checkpoint(Path(folder) / "reward.pt", "reward model")
    text = load_model(str(folder))
    weights = content["weights"]
    model = RewardModel(text.model, attributes=len(weights["weights"]))
    model.load_state_dict(weights, strict=False)
    return model, text, ChatTemplate(**json.loads(content["template"]))


def _huggingface(folder: Path) -> TextModel:
    transformers = require("transformers", "rlhf")

    model = HuggingFaceModel.from_pretrained(folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError):  # a model without one reads token ids

        def needed(_: Any) -> Any:
            raise ValueError(f"model={str(folder)!r}: it has no tokenizer; give token ids")

        return TextModel(model, needed, needed)
    known = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if known > model.vocab_size:
        raise ValueError(
            f"model={str(folder)!r}: its tokenizer has a vocabulary of {known}, its model one of "
            f"{model.vocab_size}; give the tokenizer that the model was trained with"
        )

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    return TextModel(model, encode, lambda ids: str(tokenizer.decode(list(ids))), tokenizer)
