"""The gold-reward laboratory of Gao et al. (2023), with a language that takes a second to learn.

A known function plays the human (the gold reward, ``world.py``). Proxies are trained on pairs that
it labels, with noise; policies optimise the proxies; gold is only measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import load_checkpoint, save_checkpoint
from .decoder import Decoder, DecoderConfig, LanguageModel
from .pairs import PairBatch
from .reward_models import RewardModel, train_reward_model
from .sampling import sample
from .sequences import Sequences, completion_logits, gather_logps, sequence_kl
from .world import Chain, Characters, Formula, Gold, Language, learned_gold


@dataclass(frozen=True)
class LaboratoryConfig:
    """What is fixed before anything is learned.

    Args:
        language: "chain", a random one for each world, or the path of a text, whose characters
            are its tokens.
        gold: "formula"; "network", fitted to it, four times as wide as the models, which stand for
            the human by what they say where the formula was not seen.
        vocab_size: tokens, BOS and EOS among them; of a text, what it has.
        prompt_length: tokens of a prompt.
        new_tokens: longest response.
        bend: saturation of good tokens: repeating one pays less and less, then costs.
        label: "order", the response of higher gold is chosen; "bt", it is chosen with probability
            sigmoid of the difference of gold, as a Bradley-Terry human chooses.
        noise: probability that a pair's label is flipped then.
        n_pairs: pairs that proxies are trained on.
        length_bias: reward a token in labels, not in gold.
        width: of models.
        layers: of models.
        sft_steps: of supervised training, 128 sequences each; after 200 a model of this size is
            about .035 nats a token above the chain's entropy, and after 300 less than .03.
    """

    language: str = "chain"
    gold: str = "formula"
    vocab_size: int = 32
    prompt_length: int = 4
    new_tokens: int = 16
    bend: float = 0.12
    label: str = "order"
    noise: float = 0.25
    n_pairs: int = 1000
    length_bias: float = 0.0
    width: int = 64
    layers: int = 2
    sft_steps: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 0.5:
            raise ValueError(f"noise={self.noise}: expected a number in [0, .5)")
        if self.gold not in ("formula", "network"):
            raise ValueError(f"gold={self.gold!r}: expected formula or network")
        if self.label not in ("order", "bt"):
            raise ValueError(f"label={self.label!r}: expected order or bt")


class Laboratory:
    """One world: a language, a gold reward, a base policy, labelled pairs, proxies.

    Args:
        seed: of all that is learned and drawn.
        config: what is fixed.
        cache: folder where base policies and proxies are kept, so that arms share them.
        world: seed of the language and of gold; default: ``seed``.
        gold: scores (B,) of ``Sequences`` that stand for the human instead of the configured ones,
            as those of a judge that reads ``language.decode``.
    """

    def __init__(
        self,
        seed: int,
        config: LaboratoryConfig | None = None,
        cache: str | Path | None = None,
        world: int | None = None,
        gold: Callable[[Sequences], Tensor] | None = None,
    ) -> None:
        self.seed = seed
        self.world = seed if world is None else world
        self.config = c = config or LaboratoryConfig()
        self.language = self._language()
        self.config = replace(c, vocab_size=self.language.vocab_size)
        self.cache = None if cache is None else Path(cache)
        self.policy = self.sft(0)
        self.base = self.sample(self.policy, 4096, stream=3)
        # Proxies that somebody else's scores have labelled are kept nowhere: they have no name.
        self._proxies = self.cache if gold is None else None
        self.gold = Gold(gold or self._human())
        self.gold.standardise(self.base)

    def _language(self) -> Language:
        c = self.config
        if c.language == "chain":
            return Chain(c.vocab_size, c.prompt_length, c.new_tokens, self.world)
        return Characters(c.language, c.prompt_length, c.new_tokens)

    def _human(self) -> Callable[[Sequences], Tensor]:
        c = self.config
        formula = Formula(c.vocab_size, c.bend, self.world)
        if c.gold == "formula":
            return formula
        file = self.cache and self.cache / f"gold-{self.world}-{self._name(*asdict(c))}.pt"
        width = 4 * c.width
        return learned_gold(formula, self.language, width, c.layers, self.world, file).raw

    def _name(self, *fields: str) -> str:
        """Of a file whose content depends on these of the configuration."""
        values = {**asdict(self.config), "language": self.language.name}
        return "-".join(str(values[field]) for field in fields)

    def generator(self, stream: int) -> torch.Generator:
        """Randomness of this world's own; streams do not overlap."""
        return torch.Generator().manual_seed(self.seed * 7919 + 100 + stream)

    def prompts(self, n: int, stream: int) -> Tensor:
        """(n, P) prompts."""
        return self.language.prompts(n, self.generator(stream))

    def sample(self, model: LanguageModel, n: int, stream: int) -> Sequences:
        """Completions of ``n`` fresh prompts."""
        generator = self.generator(stream)
        prompts = self.language.prompts(n, generator)
        return sample(model, prompts, self.config.new_tokens, generator)

    def sft(self, member: int) -> Decoder:
        """A base policy: from initial weights and a corpus draw of its own for each ``member``."""
        c = self.config
        name = f"sft-{self.world}-{self.seed}-{member}-{self._name(*_TAUGHT)}.pt"
        file = self.cache and self.cache / name
        size = DecoderConfig(c.vocab_size, c.prompt_length + c.new_tokens, c.width, c.layers)
        model = Decoder(size, seed=self.seed * 7919 + member)
        generator = self.generator(1_000 + member)
        return fitted(model, self.language.corpus, c.sft_steps, generator, file)

    def pairs(self, n: int, noise: float, stream: int = 10) -> tuple[PairBatch, Tensor]:
        """Pairs of base samples as labelled, and which are not in the order of gold, (n,) bool."""
        generator = self.generator(stream)
        prompts = self.language.prompts(n, generator)
        both = sample(self.policy, prompts.repeat(2, 1), self.config.new_tokens, generator)
        label = self.gold(both) + self.config.length_bias * both.lengths
        first, second = label.chunk(2)
        wrong: float | Tensor = noise
        if self.config.label == "bt":
            doubt = torch.sigmoid(-(first - second).abs())
            wrong = doubt + noise * (1 - 2 * doubt)
        flipped = torch.rand(n, generator=generator) < wrong
        best = torch.where((first >= second) ^ flipped, 0, n) + torch.arange(n)
        other = (best + n) % (2 * n)
        pairs = PairBatch(both.rows(best), both.rows(other), (first - second).abs(), torch.ones(n))
        return pairs, flipped

    def reward_model(self, member: int = 0, pretrained: int = 0, n_pairs: int = 0) -> RewardModel:
        """A proxy on this world's noisy pairs.

        Args:
            member: seed of its head and data order.
            pretrained: which base policy its backbone comes from.
            n_pairs: to train on; 0 for the configured number.
        """
        c = self.config
        backbone = self.policy if pretrained == 0 else self.sft(pretrained)
        n = n_pairs or c.n_pairs
        of = f"{self.world}-{self.seed}-{member}-{pretrained}-{n}"
        file = self._proxies and self._proxies / f"rm-{of}-{self._name(*asdict(c))}.pt"
        if file and file.is_file():
            model = RewardModel(backbone)
            model.load_state_dict(load_checkpoint(file, "reward model")["weights"])
            return model.eval()
        data, _ = self.pairs(n, c.noise)
        model = train_reward_model(data, backbone, seed=member)
        model.fit_normaliser(self.base)
        if file:
            save_checkpoint(file, "reward model", {"weights": model.state_dict()})
        return model

    @torch.no_grad()
    def evaluate(
        self, policy: LanguageModel, proxy: Callable[[Sequences], Tensor], n: int = 1024
    ) -> dict[str, float]:
        """Gold, proxy, KL in nats a sequence, tokens and entropy on fresh prompts."""
        batch = self.sample(policy, n, stream=5)
        logits = completion_logits(policy, batch)
        ref = completion_logits(self.policy, batch)
        mask = batch.completion_mask
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
        return {
            "gold": float(self.gold(batch).mean()),
            "proxy": float(proxy(batch).mean()),
            "kl": float(sequence_kl(logits, ref, mask).mean()),
            "length": float(batch.lengths.float().mean()),
            "entropy": float((entropy * mask).sum() / mask.sum()),
        }


# What a base policy depends on.
_TAUGHT = (
    "language", "vocab_size", "prompt_length", "new_tokens", "width", "layers", "sft_steps",
)  # fmt: skip


def fitted(
    model: Decoder,
    corpus: Callable[[int, torch.Generator], Sequences],
    steps: int,
    generator: torch.Generator,
    file: Path | None = None,
) -> Decoder:
    """A base policy: ``model`` after supervised steps of 128 sequences of a corpus.

    Args:
        model: trained in place.
        corpus: (n, generator) to sequences.
        steps: of training, at a rate that rises to 3e-3 and falls again.
        generator: of the corpus.
        file: where the weights are kept; if it exists they are read instead.
    """
    if file and file.is_file():
        model.load_state_dict(load_checkpoint(file, "sft")["weights"])
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        supervised_step(model, corpus(128, generator), optimizer)
        schedule.step()
    if file:
        save_checkpoint(file, "sft", {"weights": model.state_dict()})
    return model.eval()


def supervised_step(
    model: LanguageModel, batch: Sequences, optimizer: torch.optim.Optimizer
) -> float:
    """One step of maximum likelihood on completions; nats a token before it."""
    logits = completion_logits(model, batch)
    logps = gather_logps(logits, batch.completions)
    loss = -(logps * batch.completion_mask).sum() / batch.completion_mask.sum()
    number = float(loss.detach())
    if not math.isfinite(number):
        raise ValueError(f"loss={number}: training diverged; lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return number
