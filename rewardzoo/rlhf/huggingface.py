"""Causal language models of Hugging Face folders and GGUF files, with LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..extras import require
from .decoder import LanguageModel


@dataclass
class _Cache:
    keys_values: Any
    mask: Tensor  # (B, columns read so far and one more)


class HuggingFaceModel(LanguageModel):
    """A ``transformers`` causal language model behind this project's interface.

    Args:
        model: the model.
        eos: id of the token that ends a completion; None takes the model's.
    """

    def __init__(self, model: Any, eos: int | None = None) -> None:
        super().__init__()
        self.model = model
        config = model.config
        ends = config.eos_token_id if eos is None else eos
        self.eos = int(ends[0] if isinstance(ends, (list, tuple)) else ends)
        self.vocab_size, self.width = config.vocab_size, config.hidden_size
        self.max_length = getattr(config, "max_position_embeddings", 0) or 0

    @classmethod
    def from_pretrained(cls, folder: str | Path, eos: int | None = None) -> HuggingFaceModel:
        """Read a folder that ``save_pretrained`` wrote."""
        transformers = require("transformers", "rlhf")
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(f"model={str(folder)!r}: expected a folder with a config.json")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return cls(model.eval(), eos)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that ``transformers`` reads, adapters merged into the weights."""
        model = self.model
        if hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        model.save_pretrained(folder)

    def add_lora(
        self,
        rank: int = 8,
        targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    ) -> HuggingFaceModel:
        """Train low-rank adapters only (Hu et al. 2022); ``without_lora`` is the reference."""
        peft = require("peft", "rlhf")
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.0,
            target_modules=list(targets),
            task_type="CAUSAL_LM",
        )
        self.model = peft.get_peft_model(self.model, config)
        return self

    @contextmanager
    def without_lora(self) -> Iterator[HuggingFaceModel]:
        """The model as it was before its adapters: a reference that needs no second copy."""
        with self.model.disable_adapter():
            yield self

    def reference(self) -> LanguageModel:
        """The same weights with the adapters off, for a trainer's ``ref``."""
        return _WithoutLora(self)

    def adapters(self) -> Adapters:
        """The adapters alone, for a trainer's checkpoints."""
        return Adapters(self)

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Last hidden states (B, L, width)."""
        if mask is None:
            mask = torch.ones_like(ids, dtype=torch.bool)
        out: Tensor = self._body()(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        return out

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size)."""
        out: Tensor = self._plain().get_output_embeddings()(hidden)
        return out

    def start(self, ids: Tensor, mask: Tensor | None, new_tokens: int) -> tuple[Tensor, _Cache]:
        """Read a prompt."""
        if mask is None:
            mask = torch.ones_like(ids, dtype=torch.bool)
        out = self._body()(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
        )
        return out.last_hidden_state[:, -1], _Cache(out.past_key_values, _longer(mask))

    def advance(self, ids: Tensor, cache: _Cache) -> Tensor:
        """Read one token more of each row."""
        out = self._body()(
            input_ids=ids.unsqueeze(1),
            attention_mask=cache.mask.long(),
            position_ids=(cache.mask.sum(1, keepdim=True) - 1),
            past_key_values=cache.keys_values,
            use_cache=True,
        )
        cache.keys_values, cache.mask = out.past_key_values, _longer(cache.mask)
        hidden: Tensor = out.last_hidden_state[:, -1]
        return hidden

    def _plain(self) -> Any:
        """The transformers model, with or without adapters inside its layers."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _body(self) -> Any:
        return self._plain().base_model


class _WithoutLora(LanguageModel):
    def __init__(self, adapted: HuggingFaceModel) -> None:
        super().__init__()
        self._adapted = [adapted]  # in a list, so that its parameters are not this model's
        self.vocab_size, self.width = adapted.vocab_size, adapted.width
        self.eos, self.max_length = adapted.eos, adapted.max_length

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        with self._adapted[0].without_lora() as model:
            return model.hidden(ids, mask)

    def head(self, hidden: Tensor) -> Tensor:
        return self._adapted[0].head(hidden)


class Adapters:
    """What LoRA trains, as something that is saved and loaded: a hundredth of the model.

    Args:
        model: with adapters.
    """

    def __init__(self, model: HuggingFaceModel) -> None:
        self._named = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """The adapters by name."""
        return {name: p.detach() for name, p in self._named.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state_dict``."""
        for name, p in self._named.items():
            p.copy_(state[name])


def import_gguf(file: str | Path, folder: str | Path) -> Path:
    """Write the model and tokenizer of a GGUF file as a folder that loads at once.

    The weights are de-quantised to float32.

    Raises:
        ValueError: if there is no such file.
    """
    source = Path(file)
    if not source.is_file():
        raise ValueError(f"file={str(file)!r}: there is no such file; expected a GGUF model")
    transformers = require("transformers", "rlhf")
    where = {"gguf_file": source.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(source.parent), dtype=torch.float32, **where
    )
    # The model is marked as quantised, and a quantised model refuses to be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(str(source.parent), **where).save_pretrained(folder)
    return Path(folder)


def _longer(mask: Tensor) -> Tensor:
    return torch.nn.functional.pad(mask, (0, 1), value=True)
