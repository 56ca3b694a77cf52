"""Prompts and responses of a row, whatever they are written as: text, token ids, or messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from .fields import Text, check_text, shown, text
from .records import Record

Messages = list[dict[str, str]]
Template = Callable[[Messages], str]
_NEXT = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def is_messages(value: Any) -> TypeGuard[Messages]:
    """Whether a value is a list of messages, not of tokens."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def read_prompt(
    record: Record,
    template: Template | None = None,
    vocab_size: int | None = None,
    name: str = "prompt",
) -> Text:
    """The prompt of a row; messages are written as text with the assistant's turn opened.

    Args:
        record: the row.
        template: writes messages as text.
        vocab_size: of the model that token ids are for.
        name: of the column.

    Raises:
        DataError: naming the field that cannot be used.
    """
    value = record.fields.get(name)
    if is_messages(value):
        check_roles(record, name, value, ("user", "tool"))
        return _rendered(record, name, template, value)
    return text(record, name, vocab_size)


def read_instruction(record: Record, vocab_size: int | None = None) -> Text:
    """The columns ``instruction`` and, where there is one, ``input`` on the line below it."""
    instruction = text(record, "instruction", vocab_size)
    given = record.fields.get("input")
    if not given:
        return instruction
    if not isinstance(instruction, str) or not isinstance(given, str):
        raise record.error("input", f"{shown(given)}: expected text, as instruction then has too")
    return f"{instruction}\n{given}"


def read_responses(
    record: Record,
    names: Sequence[str],
    template: Template | None = None,
    vocab_size: int | None = None,
) -> tuple[Text, list[Text]]:
    """The prompt of a row and its responses ``names``.

    Where the responses are messages they may be whole conversations, of which the last messages are
    the responses, or go on from ``prompt``, be it messages or the text of the user.

    Raises:
        DataError: naming the field that cannot be used.
    """
    if not any(is_messages(record.fields.get(name)) for name in names):
        prompt = read_prompt(record, template, vocab_size)
        return prompt, [text(record, name, vocab_size) for name in names]
    talks = [_conversation(record, name) for name in names]
    for name, talk in zip(names, talks, strict=True):
        if talk[:-1] != talks[0][:-1]:
            raise record.error(
                name, f"{shown(record[name])}: differs from {names[0]} before the last message"
            )
    prompt = _rendered(record, names[0], template, talks[0][:-1])
    answers = zip(names, talks, strict=True)
    return prompt, [check_text(record, name, talk[-1]["content"]) for name, talk in answers]


def check_roles(record: Record, name: str, messages: Sequence[Any], last: Sequence[str]) -> None:
    """Raise ``DataError`` unless the roles take turns and the last one is one of ``last``."""
    before = ""
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _NEXT or not role or not isinstance(message.get("content"), str):
            roles = ", ".join(x for x in _NEXT if x)
            raise record.error(
                name, f"message {shown(message)}: expected a role of {roles} and a text content"
            )
        if role not in _NEXT[before]:
            expected, after = " or ".join(_NEXT[before]), before or "nothing"
            raise record.error(name, f"role {role!r} after {after}: expected {expected}")
        before = role
    if before not in last:
        raise record.error(name, f"role {before!r} is the last: expected {' or '.join(last)}")


def _conversation(record: Record, name: str) -> Messages:
    """The conversation that a response ends, the response being its last message."""
    own = record[name]
    if not is_messages(own):
        raise record.error(name, f"{shown(own)}: expected messages, as the other response has")
    prompt = record.fields.get("prompt")
    whole = isinstance(own[0].get("role"), str) and own[0]["role"] in _NEXT[""]
    if prompt is None or (whole and not is_messages(prompt)):
        talk = own  # its messages hold the prompt
    elif whole:
        if own[: len(prompt)] != prompt:
            raise record.error(name, f"{shown(own)}: does not begin with the messages of prompt")
        talk = own
    elif is_messages(prompt):
        talk = [*prompt, *own]
    elif isinstance(prompt, str):
        talk = [{"role": "user", "content": prompt}, *own]
    else:
        raise record.error("prompt", f"{shown(prompt)}: expected text or messages, as {name} has")
    check_roles(record, name, talk, ("assistant",))
    return talk


def _rendered(record: Record, name: str, template: Template | None, messages: Messages) -> str:
    if template is None:
        raise record.error(name, "holds messages: give template=ChatTemplate(...)")
    try:
        return template(messages)
    except ValueError as error:
        raise record.error(name, f"{shown(messages)}: {error}") from None
