"""Causal language models of Hugging Face folders and GGUF files, with LoRA."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..extras import require
from .decoder import LanguageModel, evaluating

# What some families' own forward does to the logits that their output embeddings give: a factor,
# which one family multiplies by and another of the same name divides by, then a soft cap.
FACTORS = ("logit_scale", "logits_scaling", "lm_head_multiplier")
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
# Layers of caches that hold keys and values alone, which can be copied row by row.
COPIED = {"DynamicLayer", "DynamicSlidingWindowLayer"}


@dataclass
class _Cache:
    keys_values: Any
    mask: Tensor | None  # (B, columns read so far and one more); None without padding


class HuggingFaceModel(LanguageModel):
    """A ``transformers`` causal language model behind this project's interface.

    Args:
        model: the model.
        eos: id of the token that ends a completion; None takes the model's.

    Raises:
        ValueError: for a family whose log-probabilities here, behind padding or from the cache
            would not be those that ``transformers`` gives; every model is tried when it comes.
    """

    def __init__(self, model: Any, eos: int | None = None) -> None:
        super().__init__()
        self.model, self.training = model, model.training
        config = model.config.get_text_config()
        ends = getattr(config, "eos_token_id", None) if eos is None else eos
        if ends is None:
            raise ValueError("eos=None: the model names no token that ends a completion; give one")
        self.eos = int(ends[0] if isinstance(ends, (list, tuple)) else ends)
        self.vocab_size, self.width = config.vocab_size, config.hidden_size
        self.max_length = getattr(config, "max_position_embeddings", 0) or 0
        # Newer versions of transformers call it cache.
        takes = inspect.signature(self._body().forward).parameters
        self._cache_name = "cache" if "cache" in takes else "past_key_values"
        self._factor, self._cap = 1.0, 0.0
        self._try()

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
            # Of a copy: adapters that are merged cannot be trained on, and taken out again they
            # leave the weights rounded.
            model = copy.deepcopy(model).merge_and_unload()
        model.save_pretrained(folder)

    def add_lora(
        self,
        rank: int = 8,
        targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    ) -> HuggingFaceModel:
        """Train low-rank adapters only (Hu et al. 2022); ``without_lora`` is the reference.

        Args:
            rank: of the adapters.
            targets: last names of the layers that get one.

        Raises:
            ValueError: if the model has no such layers.
        """
        peft = require("peft", "rlhf")
        names = [name for name, _ in self.model.named_modules()]
        if not any(f".{name}".endswith(f".{target}") for name in names for target in targets):
            raise ValueError(
                f"targets={', '.join(targets)}: {type(self.model).__name__} has no such layers; "
                f"its own are {', '.join(_layers(self.model))}"
            )
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
        told = _padding(mask, ids.shape[1])
        out: Tensor = self._body()(input_ids=ids, use_cache=False, **told).last_hidden_state
        return out

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size)."""
        logits: Tensor = self._plain().get_output_embeddings()(hidden)
        if self._factor != 1:
            logits = logits * self._factor
        if self._cap:
            logits = self._cap * torch.tanh(logits / self._cap)
        return logits

    def start(
        self, ids: Tensor, mask: Tensor | None, new_tokens: int, copies: int = 1
    ) -> tuple[Tensor, _Cache]:
        """Read prompts, each once if the family keeps nothing but keys and values."""
        out = self._body()(input_ids=ids, use_cache=True, **_padding(mask, ids.shape[1]))
        hidden, keys_values = out.last_hidden_state[:, -1], getattr(out, self._cache_name)
        if copies > 1:
            if mask is not None:
                mask = mask.repeat_interleave(copies, 0)
            kinds = {type(layer).__name__ for layer in getattr(keys_values, "layers", [None])}
            if not kinds <= COPIED:
                return self.start(ids.repeat_interleave(copies, 0), mask, new_tokens)
            keys_values.batch_repeat_interleave(copies)
            hidden = hidden.repeat_interleave(copies, 0)
        return hidden, _Cache(keys_values, _longer(mask))

    def advance(self, ids: Tensor, cache: _Cache) -> Tensor:
        """Read one token more of each row."""
        told = {self._cache_name: cache.keys_values, **_padding(cache.mask, 1)}
        out = self._body()(input_ids=ids.unsqueeze(1), use_cache=True, **told)
        cache.keys_values, cache.mask = getattr(out, self._cache_name), _longer(cache.mask)
        hidden: Tensor = out.last_hidden_state[:, -1]
        return hidden

    def _plain(self) -> Any:
        """The transformers model, with or without adapters inside its layers."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _body(self) -> Any:
        return self._plain().base_model

    def _try(self) -> None:
        """Raise unless log-probabilities are those of transformers, whichever way they are read."""
        name = type(self._plain()).__name__
        try:
            with evaluating(self), torch.no_grad():
                found = self._differences()
        except Exception as error:  # what a family cannot do, it says in a way of its own
            raise ValueError(
                f"model: {name} cannot be read as a causal language model with a key-value cache "
                f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            ) from error
        for how, (difference, allowed) in found.items():
            if not difference <= allowed:
                raise ValueError(
                    f"model: {name}'s log-probabilities {how} differ from transformers' own by "
                    f"{difference:.2g} nats; this family is not supported"
                )

    def _differences(self) -> dict[str, tuple[float, float]]:
        """By how it is read: the largest difference in nats, and how much rounding may explain.

        Sets what the family does to its logits, and both sizes, on the way.
        """
        ids = (7 * torch.arange(16, device=self.device) + 3).view(2, 8) % self.vocab_size
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[1, :3] = False
        rows = [ids[0:1], ids[1:2, 3:]]
        theirs = [self._plain()(input_ids=row).logits for row in rows]
        hidden = self.hidden(rows[0])
        self.vocab_size, self.width = theirs[0].shape[-1], hidden.shape[-1]
        self._factor, self._cap = self._scaling(hidden, theirs[0])
        whole, last = torch.cat(theirs, 1)[0], torch.cat([x[:, -4:] for x in theirs])
        pairs = {
            "read from its last hidden states": (
                torch.cat([self(row) for row in rows], 1)[0],
                whole,
            ),
            "behind padding": (self(ids, mask)[mask], whole),
            "read from its cache": (self._token_by_token(rows[0], None), last[:1]),
            "read from its cache behind padding": (self._token_by_token(ids, mask), last),
        }
        rounding = max(1e-4, 4 * torch.finfo(hidden.dtype).eps)
        allowed = rounding * max(1.0, float(whole.abs().max()))
        return {
            how: (float((a.log_softmax(-1) - b.log_softmax(-1)).abs().max()), allowed)
            for how, (a, b) in pairs.items()
        }

    def _scaling(self, hidden: Tensor, logits: Tensor) -> tuple[float, float]:
        """Factor and cap of the family; none where no name in its configuration explains them."""
        config = self._plain().config.get_text_config()
        named = [getattr(config, name, None) for name in FACTORS]
        factors = [1.0, *(f for x in named if x for f in (float(x), 1 / x))]
        # A cap's name comes first: on the small logits of new weights none would fit as well.
        caps = [*(float(x) for x in (getattr(config, name, None) for name in CAPS) if x), 0.0]
        allowed = max(1e-3, 4 * torch.finfo(logits.dtype).eps) * logits.abs().max()
        for self._cap in caps:
            for self._factor in factors:
                if (self.head(hidden) - logits).abs().max() <= allowed:
                    return self._factor, self._cap
        return 1.0, 0.0

    def _token_by_token(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Logits (B, 4, vocab_size) of the last four columns, as a sampler reads them."""
        prompt, after = ids.shape[1] - 3, range(ids.shape[1] - 3, ids.shape[1])
        hidden, cache = self.start(ids[:, :prompt], None if mask is None else mask[:, :prompt], 3)
        hiddens = [hidden, *(self.advance(ids[:, t], cache) for t in after)]
        return self.head(torch.stack(hiddens, 1))


class _WithoutLora(LanguageModel):
    """Dropout is off too: a reference says the same every time."""

    def __init__(self, adapted: HuggingFaceModel) -> None:
        super().__init__()
        self._adapted = [adapted]  # in a list, so that its parameters are not this model's
        self.vocab_size, self.width = adapted.vocab_size, adapted.width
        self.eos, self.max_length = adapted.eos, adapted.max_length

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        with self._off() as model:
            return model.hidden(ids, mask)

    def head(self, hidden: Tensor) -> Tensor:
        with self._off() as model:
            return model.head(hidden)

    def start(
        self, ids: Tensor, mask: Tensor | None, new_tokens: int, copies: int = 1
    ) -> tuple[Tensor, _Cache]:
        with self._off() as model:
            return model.start(ids, mask, new_tokens, copies)

    def advance(self, ids: Tensor, cache: _Cache) -> Tensor:
        with self._off() as model:
            return model.advance(ids, cache)

    @property
    def device(self) -> torch.device:
        return self._adapted[0].device

    @contextmanager
    def _off(self) -> Iterator[HuggingFaceModel]:
        with evaluating(self._adapted[0]), self._adapted[0].without_lora() as model:
            yield model


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


def _padding(mask: Tensor | None, read: int) -> dict[str, Tensor]:
    """What a model is told of padding when it reads the last ``read`` columns.

    Where there is none it is told nothing, for it would look whether there is any, and looking
    waits for a device.
    """
    if mask is None:
        return {}
    places = (mask.cumsum(1) - 1).clamp(min=0)
    return {"attention_mask": mask.long(), "position_ids": places[:, -read:]}


def _longer(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else torch.nn.functional.pad(mask, (0, 1), value=True)


def _layers(model: torch.nn.Module) -> list[str]:
    """Last names of the layers that are matrices, embeddings aside."""
    found: dict[str, None] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 2:
            if not isinstance(module, torch.nn.Embedding):
                found[name.rpartition(".")[2]] = None
    return list(found)
