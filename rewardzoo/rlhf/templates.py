"""Chat templates: messages as one text, once, the same in training and in scoring.

They render as ``apply_chat_template`` of ``transformers`` does, without it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HH = (
    "{% for m in messages %}{{ '\n\nHuman: ' if m['role'] == 'user' else '\n\nAssistant: ' }}"
    "{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class ChatTemplate:
    r"""A Jinja chat template, as tokenizers keep them.

    Args:
        source: the template.
        bos: text of the token that begins every sequence, where the template asks for it.
        eos: text of the token that ends a turn, where the template asks for it.

    Example:
        >>> ChatTemplate(HH)([{"role": "user", "content": "Hi"}])
        '\n\nHuman: Hi\n\nAssistant:'
    """

    source: str = CHATML
    bos: str = ""
    eos: str = ""

    def __call__(self, messages: Sequence[Mapping[str, str]], generation: bool = True) -> str:
        """The text of ``messages``, with the assistant's turn opened if ``generation``.

        Raises:
            ValueError: for no messages, for messages that the template refuses, and for a source
                that is no template.
        """
        if not messages:
            raise ValueError("messages=[]: expected at least one")
        tokens = {"bos_token": self.bos, "eos_token": self.eos}
        from jinja2 import TemplateError

        try:
            text = _compiled(self.source).render(
                messages=[{k: v for k, v in m.items() if v is not None} for m in messages],
                add_generation_prompt=generation,
                tools=None,
                documents=None,
                # A template may ask whether a token is defined.
                **{name: token for name, token in tokens.items() if token},
            )
        except TemplateError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"template {self.source[:40]!r}...: {reason}") from None
        return str(text)

    def check_same(self, other: ChatTemplate) -> None:
        """Raise ValueError unless a model trained with ``self`` may be used with ``other``."""
        if self != other:
            raise ValueError(
                f"template {other.source[:40]!r}...: the model was trained with "
                f"{self.source[:40]!r}...; give that one"
            )


@functools.lru_cache
def _compiled(source: str) -> Any:
    """The template in an environment like the one that ``transformers`` renders templates in."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation()]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _generation() -> Any:
    """The tag ``{% generation %}`` around what the assistant says, which changes no text."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return Generation


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON for models: Jinja's own filter sorts keys, and escapes what HTML cannot hold."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
