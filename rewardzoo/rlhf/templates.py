"""Chat templates: messages as one text, once, the same in training and in scoring."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HH = (
    "{% for m in messages %}{{ '\n\nHuman: ' if m['role'] == 'user' else '\n\nAssistant: ' }}"
    "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}\n\nAssistant:{% endif %}"
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
        """The text of ``messages``, with the assistant's turn opened if ``generation``."""
        if not messages:
            raise ValueError("messages=[]: expected at least one")
        return str(
            _compiled(self.source).render(
                messages=list(messages),
                add_generation_prompt=generation,
                bos_token=self.bos,
                eos_token=self.eos,
            )
        )

    def check_same(self, other: ChatTemplate) -> None:
        """Raise ValueError unless a model trained with ``self`` may be used with ``other``."""
        if self != other:
            raise ValueError(
                f"template {other.source[:40]!r}...: the model was trained with "
                f"{self.source[:40]!r}...; give that one"
            )


@functools.lru_cache
def _compiled(source: str):  # type: ignore[no-untyped-def]
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True)
    return environment.from_string(source)
