"""What the commands are given by name, read and checked: models, templates, pairs, rewards."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from .data import Pair, PairData, load_pairs, load_prompts
from .decoder import LanguageModel
from .fields import Text
from .folders import TextModel, load_reward_model
from .huggingface import HuggingFaceModel
from .pairs import check_room, truncate_pairs
from .prompts import RandomPrompts, columns_by_ids
from .records import Record, read_records
from .reward_callables import CallableReward, load_callable
from .reward_models import RewardModel
from .sequences import Sequences
from .templates import CHATML, HH, ChatTemplate

_TEMPLATES = {"chatml": CHATML, "hh": HH}
_ALWAYS_GIVEN = ("prompts", "completions", "completion_ids")
_PROMPT = ("prompt", "prompt_ids", "instruction", "input", "problem")


def read_template(name: str, text: TextModel | None = None) -> ChatTemplate:
    """The chat template ``chatml``, ``hh``, or ``model``, the tokenizer's own."""
    if name == "model":
        source = getattr(getattr(text, "tokenizer", None), "chat_template", None)
        if source is None:
            raise ValueError("--template model: the model's tokenizer has no chat template")
        tokens = {"bos": text.tokenizer.bos_token, "eos": text.tokenizer.eos_token}  # type: ignore[union-attr]
        return ChatTemplate(source, **{k: v or "" for k, v in tokens.items()})
    if name not in _TEMPLATES:
        raise ValueError(f"--template {name}: expected {', '.join(_TEMPLATES)} or model")
    return ChatTemplate(_TEMPLATES[name])


def add_lora(text: TextModel, rank: int) -> None:
    """Adapters of a rank to train alone; 0 adds none."""
    if not rank:
        return
    if not isinstance(text.model, HuggingFaceModel):
        raise ValueError(f"--lora {rank}: adapters are for models of transformers")
    text.model.add_lora(rank)


def reference_of(text: TextModel, rank: int) -> LanguageModel:
    """The policy as it is now, frozen: with adapters the same weights with these switched off."""
    if rank:
        assert isinstance(text.model, HuggingFaceModel)  # add_lora has seen to it
        return text.model.reference()
    return copy.deepcopy(text.model).requires_grad_(False)


def read_pairs(
    path: Path, template: ChatTemplate, text: TextModel, max_length: int, split: str | None = None
) -> PairData:
    """The pairs of a file as token ids that fit into ``max_length``.

    Raises:
        ValueError: where none is left.
    """
    size = text.model.vocab_size
    data = load_pairs(path, None, template, on_identical="drop", vocab_size=size, split=split)
    return some_pairs(path, truncate_pairs(data, text.encode, text.model.eos, max_length))


def some_pairs(path: Path, data: PairData) -> PairData:
    """The pairs of a file; a ValueError where none is left."""
    if not len(data):
        causes = ", ".join(f"{n} {cause}" for cause, n in data.dropped.items())
        raise ValueError(f"{path}: no pair is left; dropped: {causes}")
    return data


def prompts_as_pairs(path: Path, template: ChatTemplate, split: str | None = None) -> PairData:
    """The prompts of a file of any kind, for ``check_disjoint``."""
    return PairData([Pair(x, "", "") for x in load_prompts(path, None, template, split=split)])


def ids_of(text: TextModel, prompts: Iterable[Text]) -> list[list[int]]:
    """Token ids of each prompt, at least one."""
    found = []
    for prompt in prompts:
        ids = text.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise ValueError(f"prompt {prompt!r}: empty, expected a text of at least one token")
        found.append(ids)
    return found


def longest(text: TextModel, max_length: int) -> int:
    """Tokens of the longest sequence: ``max_length``, or the model's own if that is less."""
    return min(max_length, text.model.max_length or max_length)


def random_prompts(
    path: Path,
    template: ChatTemplate,
    text: TextModel,
    max_length: int,
    new_tokens: int,
    split: str | None = None,
) -> RandomPrompts:
    """The prompts of a file, in its order, cut so that completions have room.

    Raises:
        ValueError: where no prompt has room beside a completion of ``new_tokens``, or for one that
            leaves no room for any completion.
    """
    most = longest(text, max_length)
    if new_tokens >= most:
        raise ValueError(
            f"--new-tokens {new_tokens}: leaves no room for a prompt within {most} tokens, the "
            "lesser of --max-length and the model's own"
        )
    ids = ids_of(text, load_prompts(path, None, template, text.model.vocab_size, split))
    for i, each in enumerate(ids, 1):
        check_room(f"{path.name}, row {i}", each, max_length)
    return RandomPrompts(ids, most - new_tokens)


def read_reward(
    name: str,
    text: TextModel,
    template: ChatTemplate,
    data: Path,
    split: str | None,
    ids: Sequence[Sequence[int]],
) -> Callable[[Sequences], Tensor]:
    """The reward of what a policy samples.

    Args:
        name: folder of a reward model, or ``module:function``.
        text: the policy.
        template: of its prompts, which a reward model must have been trained with.
        data: file of the prompts, whose other columns a function is given.
        split: of a folder.
        ids: the prompts' token ids, as they are completed.

    Raises:
        ValueError: if there is neither.
    """
    if Path(name).is_dir():
        return _reward_model(name, text, template)
    if ":" not in name:
        raise ValueError(
            f"--reward {name}: there is no such folder; expected a reward model's, or "
            "module:function"
        )
    return _reward_function(name, text, read_records(data, split=split), ids)


def _reward_model(folder: str, text: TextModel, template: ChatTemplate) -> RewardModel:
    """A folder's reward model, frozen, on the policy's device."""
    model, other, trained_with = load_reward_model(folder)
    if other.model.vocab_size != text.model.vocab_size:
        raise ValueError(
            f"--reward {folder}: a vocabulary of {other.model.vocab_size}, the policy's is "
            f"{text.model.vocab_size}"
        )
    trained_with.check_same(template)
    return model.requires_grad_(False).to(text.model.device)


def _reward_function(
    name: str, text: TextModel, rows: Sequence[Record], ids: Sequence[Sequence[int]]
) -> CallableReward:
    """A function of texts, refused if it cannot be called with what the rows have."""
    try:
        function = load_callable(name)
    except ValueError as error:
        raise ValueError(f"--reward {error}") from None
    left_out = (*_PROMPT, *_ALWAYS_GIVEN)
    fields = [{k: v for k, v in row.fields.items() if k not in left_out} for row in rows]
    columns = columns_by_ids(fields, ids)
    known = [*_ALWAYS_GIVEN, *next(iter(columns.values()))]
    try:
        inspect.signature(function).bind(**dict.fromkeys(known))
    except TypeError as error:
        raise ValueError(
            f"--reward {name}: {error}; it is given {', '.join(known)}, and names what it needs of "
            "them and **columns for the others"
        ) from None
    return CallableReward(function, text.decode, text.model.eos, columns)
