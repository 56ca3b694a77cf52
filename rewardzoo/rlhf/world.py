"""What is given in the laboratory before anything is learned: a language, and the gold reward."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checkpoint import load_checkpoint, save_checkpoint
from .decoder import Decoder, DecoderConfig
from .pairs import RatingBatch
from .reward_models import RewardModel, train_reward_model
from .sequences import Sequences

BOS, EOS = 0, 1
_RATED = 16_384  # sequences that a network learns gold from, as often as three times


class Language(ABC):
    """Prompts, and how they go on.

    Attributes:
        vocab_size: V, BOS and EOS among them.
        prompt_length: P.
        new_tokens: T, of the longest response.
        name: differs where the language does, but for a seed.
    """

    name: str

    def __init__(self, vocab_size: int, prompt_length: int, new_tokens: int) -> None:
        self.vocab_size, self.prompt_length = vocab_size, prompt_length
        self.new_tokens = new_tokens

    @abstractmethod
    def prompts(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, P) int64."""

    @abstractmethod
    def corpus(self, n: int, generator: torch.Generator) -> Sequences:
        """Prompts with responses, which end with EOS or after T tokens."""


class Chain(Language):
    """A random order-1 Markov chain over tokens; prompts are uniform.

    Args:
        vocab_size: as in ``Language``.
        prompt_length: as in ``Language``.
        new_tokens: as in ``Language``.
        seed: of the chain.
    """

    name = "chain"

    def __init__(self, vocab_size: int, prompt_length: int, new_tokens: int, seed: int) -> None:
        super().__init__(vocab_size, prompt_length, new_tokens)
        generator = torch.Generator().manual_seed(seed * 7919 + 1)
        logits = 1.2 * torch.randn(vocab_size, vocab_size, generator=generator)
        logits[:, [BOS, EOS]] = -torch.inf
        self.next = 0.93 * torch.softmax(logits, 1)
        self.next[:, EOS] = 0.07

    def prompts(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, P) uniform content tokens."""
        return torch.randint(2, self.vocab_size, (n, self.prompt_length), generator=generator)

    def corpus(self, n: int, generator: torch.Generator) -> Sequences:
        """Prompts with responses of the chain."""
        prompts = self.prompts(n, generator)
        ids = [prompts]
        token = prompts[:, -1]
        running = torch.ones(n, dtype=torch.bool)
        masks = []
        for _ in range(self.new_tokens):
            token = torch.multinomial(self.next[token], 1, generator=generator).squeeze(1)
            token = torch.where(running, token, EOS)
            ids.append(token.unsqueeze(1))
            masks.append(running)
            running = running & (token != EOS)
        return Sequences(torch.cat(ids, 1), torch.stack(masks, 1))

    def entropy(self, batch: Sequences) -> Tensor:
        """Nats a token that the chain itself spends on a batch, a scalar."""
        before = batch.ids[:, batch.prompt_length - 1 : -1]
        p = self.next[before]
        each = -(torch.xlogy(p, p)).sum(-1)
        return (each * batch.completion_mask).sum() / batch.completion_mask.sum()


class Characters(Language):
    """The characters of a text; a prompt is what stands at a random place, a line's end is EOS.

    Args:
        file: of UTF-8 text.
        prompt_length: as in ``Language``.
        new_tokens: as in ``Language``.

    Raises:
        ValueError: if no line has more characters than a prompt.
    """

    def __init__(self, file: str | Path, prompt_length: int, new_tokens: int) -> None:
        text = Path(file).read_text(encoding="utf-8")
        self.name = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        self.characters = sorted(set(text) - {"\n"})
        super().__init__(2 + len(self.characters), prompt_length, new_tokens)
        number = {c: i for i, c in enumerate(self.characters, start=2)} | {"\n": EOS}
        ids = [number[c] for c in text] + [EOS] * new_tokens
        self.windows = torch.tensor(ids).unfold(0, prompt_length + new_tokens, 1)
        whole = (self.windows[:, : prompt_length + 1] != EOS).all(1)
        self.starts = whole.nonzero().squeeze(1)
        if not len(self.starts):
            raise ValueError(
                f"language={str(file)!r}: none of its lines has more than {prompt_length} "
                "characters, the length of a prompt; lower prompt_length"
            )

    def prompts(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, P), each of one line that goes on."""
        return self._draw(n, generator)[:, : self.prompt_length]

    def corpus(self, n: int, generator: torch.Generator) -> Sequences:
        """Prompts, and what follows them in the text."""
        ids = self._draw(n, generator)
        ended = (ids[:, self.prompt_length :] == EOS).cumsum(1)
        mask = torch.cat([torch.ones(n, 1, dtype=torch.bool), ended[:, :-1] == 0], 1)
        return Sequences(ids, mask)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without BOS and EOS."""
        return "".join(self.characters[i - 2] for i in ids if i > EOS)

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        at = torch.randint(len(self.starts), (n,), generator=generator)
        return self.windows[self.starts[at]]


class Gold:
    """What the human wants, in units of its standard deviation over a base policy's samples.

    Args:
        raw: scores (B,) of ``Sequences``.
    """

    def __init__(self, raw: Callable[[Sequences], Tensor]) -> None:
        self.raw = raw
        self.mean, self.std = 0.0, 1.0

    @torch.no_grad()
    def __call__(self, batch: Sequences) -> Tensor:
        """Gold, (B,)."""
        return (self.raw(batch) - self.mean) / self.std

    @torch.no_grad()
    def standardise(self, base: Sequences) -> None:
        """Take mean and standard deviation over a base policy's samples.

        Raises:
            ValueError: if all samples are worth the same, or one is worth no number.
        """
        raw = self.raw(base)
        self.mean, self.std = float(raw.mean()), float(raw.std())
        if not 0 < self.std < float("inf"):
            raise ValueError(
                f"gold: its standard deviation over a base policy's samples is {self.std}; "
                "expected finite scores that differ"
            )


class Formula:
    """Weights of tokens that saturate, a match with the prompt, bigrams and length.

        sum_v w_v (c_v - bend c_v (c_v - 1)) if w_v > 0 else w_v c_v
            + sum_v min(c_v, asked_v) + .5 sum_t B[y_t, y_t+1] - .02 max(0, n - 8)^2

    c_v counts token v in a response of n tokens, asked_v in its prompt; EOS counts nowhere.

    Args:
        vocab_size: V.
        bend: as above.
        seed: of w ~ N(0, 1) and B ~ N(0, .7^2).
    """

    def __init__(self, vocab_size: int, bend: float, seed: int) -> None:
        self.vocab_size, self.bend = vocab_size, bend
        generator = torch.Generator().manual_seed(seed * 7919 + 2)
        self.w = torch.randn(vocab_size, generator=generator)
        self.bigrams = 0.7 * torch.randn(vocab_size, vocab_size, generator=generator)

    def __call__(self, batch: Sequences) -> Tensor:
        """Scores, (B,)."""
        y = batch.completions
        content = batch.completion_mask & (y != EOS)
        hot = F.one_hot(y, self.vocab_size) * content.unsqueeze(-1)
        count = hot.sum(1).float()
        bent = count - self.bend * count * (count - 1)
        tokens = torch.where(self.w > 0, bent, count) @ self.w
        asked = F.one_hot(batch.prompts, self.vocab_size).sum(1).float()
        match = torch.minimum(count, asked).sum(1)
        both = content[:, 1:] & content[:, :-1]
        bigrams = 0.5 * (self.bigrams[y[:, :-1], y[:, 1:]] * both).sum(1)
        length = 0.02 * (content.sum(1) - 8).clamp(min=0).float() ** 2
        return tokens + match + bigrams - length


def learned_gold(
    formula: Formula,
    language: Language,
    width: int,
    layers: int,
    seed: int,
    file: Path | None = None,
) -> RewardModel:
    """A network fitted to a formula on a language: Gao et al.'s gold is a reward model too.

    Args:
        formula: what it learns; where the language does not go it may say something else.
        language: of the sequences that it learns from.
        width: of the network; Gao et al.'s is wider than any proxy.
        layers: of the network.
        seed: of its initial weights and of those sequences.
        file: where it is kept; if it exists it is read instead.
    """
    longest = language.prompt_length + language.new_tokens
    size = DecoderConfig(language.vocab_size, longest, width, layers)
    backbone = Decoder(size, seed=seed * 7919 + 4)
    if file and file.is_file():
        model = RewardModel(backbone)
        model.load_state_dict(load_checkpoint(file, "gold")["weights"])
        return model.eval()
    corpus = language.corpus(_RATED, torch.Generator().manual_seed(seed * 7919 + 4))
    scores = formula(corpus)
    ratings = ((scores - scores.mean()) / scores.std()).unsqueeze(1)
    rated = RatingBatch(corpus, ratings, torch.ones(_RATED))
    model = train_reward_model(rated, backbone, "regression", seed, score_l2=0.0)
    if file:
        save_checkpoint(file, "gold", {"weights": model.state_dict()})
    return model
